"""Many images through a predictor, into files; stopped and started again, it goes on."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from official_maskrcnn.data import parallel
from official_maskrcnn.data.images import ImageFault
from official_maskrcnn.data.locks import only_process
from official_maskrcnn.errors import UserError
from official_maskrcnn.files import require_local, write_json, write_json_list
from official_maskrcnn.inference import images as image_files
from official_maskrcnn.inference.boxes_file import BoxesFile, GivenBoxes
from official_maskrcnn.inference.detections import Detections
from official_maskrcnn.inference.image_list import ImageFile
from official_maskrcnn.inference.journal import IMAGES, SUBMISSION, Journal
from official_maskrcnn.inference.picture_files import is_written, mask_folder, overlay_path
from official_maskrcnn.inference.predictor import Predictor, have_area
from official_maskrcnn.inference.tiles import predict_tiles
from official_maskrcnn.ops import drawing

_READERS = 2  # threads that decode images ahead of the model
_READ_AHEAD = 4  # images


@dataclasses.dataclass(frozen=True)
class Options:
    """What is kept of the detections, and how they are written.

    Attributes:
      score: detections of a lower score are left out.
      class_ids: those of other classes are left out; None for none.
      overlay_score: detections of a lower score are not drawn, and get no PNG.
      overlays: whether to draw each image, into overlays/.
      mask_pngs: whether to write each mask as a PNG of the image's size, into masks/.
      tile_size: side of overlapping tiles in pixels of the image, in which a larger image is looked
        at; None for the whole image at once.
      tile_overlap: by which neighbouring tiles overlap, as a fraction of their side.
      batch_size: images through the model at a time.
    """

    score: float = 0.0
    class_ids: tuple[int, ...] | None = None
    overlay_score: float = 0.5
    overlays: bool = True
    mask_pngs: bool = False
    tile_size: int | None = None
    tile_overlap: float = 0.25
    batch_size: int = 1


@dataclasses.dataclass
class Outcome:
    """What came of it.

    Attributes:
      images: how many were looked at, earlier starts included.
      detections: how many there are in submission.json.
      empty: those of them whose mask is empty.
      unlisted: images that were left out, as the file of the boxes does not list them.
      faults: kind by path, of images that could not be read.
    """

    images: int = 0
    detections: int = 0
    empty: int = 0
    unlisted: int = 0
    faults: dict[str, str] = dataclasses.field(default_factory=dict)


def predict_files(
    predictor: Predictor,
    images: Sequence[ImageFile],
    output: str,
    options: Options,
    boxes: BoxesFile | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> Outcome:
    """Predicts images and writes what is found.

    Writes submission.json (COCO's results), images.json (COCO's list of the images, with the
    categories), and what the options ask for. predictions.jsonl grows by a line an image; another
    call with the same model and options goes on, with the same images or others.

    Args:
      predictor: the model.
      images: what to look at.
      output: folder, created if need be.
      options: see there.
      boxes: in place of the model's own: only masks are predicted, of the images that they are of.
        A box that has no area within its image gets an empty mask.
      limit: the first so many images only.
      progress: whether to show it.

    Raises:
      UserError: the folder holds predictions of another model, of other boxes or with other
        options, holds the images where pictures are written, or cannot be written to; or the boxes
        are not of the images.
    """
    require_local(output)
    if own := [image.path for image in images if is_written(image.path, output)]:
        raise UserError(f"{own[0]} lies where pictures are written: give another --output")
    asked = images
    if boxes is not None:
        images = boxes.match(images)
    outcome = Outcome(unlisted=len(asked) - len(images))
    images = images[:limit]
    folder = pathlib.Path(output)
    header = {
        "model": predictor.path,
        "checkpoint": predictor.checkpoint,
        "precision": predictor.precision,
        "boxes": None if boxes is None else boxes.digest(),
        **json.loads(json.dumps(dataclasses.asdict(options))),
    }
    names = boxes.class_names if boxes and boxes.class_names else predictor.class_names
    with (
        _readable_faults(output),
        only_process(_created(folder), f"{{owner}} is predicting into {output}"),
    ):
        journal = Journal(folder)
        journal.start(header)
        left = [image for image in images if image not in journal]
        found = _Run(predictor, folder, options, boxes, names).predict(left, outcome.faults)
        for image, detections in parallel.track(found, len(left), "Predicting", progress):
            journal.add(image, detections)
        _write_results(folder, journal, images, names, outcome)
    return outcome


class _Run:
    def __init__(
        self,
        predictor: Predictor,
        folder: pathlib.Path,
        options: Options,
        boxes: BoxesFile | None,
        class_names: Mapping[int, str],
    ):
        self._predictor, self._folder, self._options = predictor, folder, options
        self._boxes, self._class_names = boxes, class_names

    def predict(
        self, images: Sequence[ImageFile], faults: dict[str, str]
    ) -> Iterator[tuple[ImageFile, Detections]]:
        """Each image that can be read, with what is in it; its pictures are written."""
        readable = (pair for pair in _read_ahead(images, faults))
        while batch := list(itertools.islice(readable, self._options.batch_size)):
            found = self._detect([pixels for _, pixels in batch], [image for image, _ in batch])
            for (image, pixels), detections in zip(batch, found, strict=True):
                self._draw(image, pixels, detections)
                yield image, detections

    def _detect(
        self, pixels: Sequence[np.ndarray], images: Sequence[ImageFile]
    ) -> Iterable[Detections]:
        options = self._options
        if self._boxes is not None:
            given = [self._boxes.by_image.get(image.key) for image in images]
            return [self._segment(p, boxes) for p, boxes in zip(pixels, given, strict=True)]
        if options.tile_size is None:
            found = self._predictor.predict(pixels)
        else:
            found = [
                predict_tiles(
                    self._predictor, p, options.tile_size, options.tile_overlap, options.batch_size
                )
                for p in pixels
            ]
        return map(self._choose, found)

    def _segment(self, pixels: np.ndarray, given: GivenBoxes | None) -> Detections:
        if given is None:
            return self._predictor.segment(pixels, [])
        usable = have_area(given.boxes, pixels.shape[:2])
        needs_classes = not self._predictor.config.mask_head.class_agnostic
        classes = list(itertools.compress(given.classes, usable)) if needs_classes else None
        found = self._predictor.segment(pixels, given.boxes[usable], classes)
        empty = coco_mask.encode(np.zeros(pixels.shape[:2], np.uint8, order="F"))
        masks = iter(found.rles)
        return Detections(
            given.boxes,
            given.category_ids,
            given.scores,
            self._class_names,
            found.image_size,
            merged_masks=[next(masks) if is_usable else empty for is_usable in usable],
        )

    def _choose(self, found: Detections) -> Detections:
        chosen = found.scores >= self._options.score
        if self._options.class_ids is not None:
            chosen &= np.isin(found.class_ids, self._options.class_ids)
        return found.select(chosen)

    def _draw(self, image: ImageFile, pixels: np.ndarray, detections: Detections) -> None:
        options = self._options
        shown = detections.above(options.overlay_score)
        if options.overlays:
            path = overlay_path(self._folder, image.name)
            drawing.write_image(str(_created(path.parent) / path.name), shown.draw(pixels))
        if options.mask_pngs and shown.has_masks:
            folder = _created(mask_folder(self._folder, image.name))
            for number, (name, rle) in enumerate(zip(shown.names, shown.rles, strict=True), 1):
                mask = coco_mask.decode(rle)[..., None].repeat(3, axis=2) * 255
                drawing.write_image(str(folder / f"{number:03}_{_file_name(name)}.png"), mask)


def _read_ahead(
    images: Iterable[ImageFile], faults: dict[str, str]
) -> Iterator[tuple[ImageFile, np.ndarray]]:
    """Images with their pixels, in order; those that cannot be read go to `faults`."""

    def read(image: ImageFile) -> tuple[ImageFile, np.ndarray | str]:
        try:
            encoded = image_files.read_file(image.path)
            return image, image_files.decode(encoded, upright=not image.is_annotated)
        except ImageFault as fault:
            return image, fault.kind

    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        pending: collections.deque[concurrent.futures.Future[Any]] = collections.deque()
        source = iter(images)
        while True:
            for image in itertools.islice(source, _READ_AHEAD - len(pending)):
                pending.append(pool.submit(read, image))
            if not pending:
                return
            image, pixels = pending.popleft().result()
            if isinstance(pixels, str):
                faults[image.path] = pixels
            else:
                yield image, pixels


def _write_results(
    folder: pathlib.Path,
    journal: Journal,
    images: Sequence[ImageFile],
    class_names: Mapping[int, str],
    outcome: Outcome,
) -> None:
    """Writes submission.json and images.json, and counts what is in them."""
    listed: list[dict[str, Any]] = []

    def results() -> Iterator[dict[str, Any]]:
        for image, height, width, own in journal.predictions(images):
            entry = {"id": image.id, "file_name": image.name, "height": height, "width": width}
            listed.append(entry)
            outcome.detections += len(own)
            masks = [result["segmentation"] for result in own if "segmentation" in result]
            outcome.empty += sum(not coco_mask.area(mask) for mask in masks)
            yield from own

    write_json_list(folder / SUBMISSION, results())
    outcome.images = len(listed)
    categories = [{"id": i, "name": name} for i, name in class_names.items()]
    write_json(folder / IMAGES, {"images": listed, "annotations": [], "categories": categories})


def _created(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _readable_faults(output: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error}") from error


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in text)
