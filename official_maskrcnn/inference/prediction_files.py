"""Many images through a predictor, into files; stopped and started again, it goes on."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
from pycocotools import mask as coco_mask

from official_maskrcnn.data import parallel
from official_maskrcnn.data.images import ImageFault
from official_maskrcnn.data.locks import only_process
from official_maskrcnn.errors import UserError
from official_maskrcnn.evaluation.files import write_json_list
from official_maskrcnn.inference import images as image_files
from official_maskrcnn.inference.boxes_file import GivenBoxes
from official_maskrcnn.inference.detections import Detections
from official_maskrcnn.inference.image_list import ImageFile
from official_maskrcnn.inference.predictor import Predictor
from official_maskrcnn.inference.tiles import predict_tiles
from official_maskrcnn.ops import drawing

JOURNAL = "predictions.jsonl"  # what is done so far, an image a line
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
      faults: kind by path, of images that could not be read.
    """

    images: int = 0
    detections: int = 0
    faults: dict[str, str] = dataclasses.field(default_factory=dict)


def predict_files(
    predictor: Predictor,
    images: Sequence[ImageFile],
    output: str,
    options: Options,
    boxes: Mapping[int | str, GivenBoxes] | None = None,
    progress: bool = True,
) -> Outcome:
    """Predicts images and writes what is found.

    Writes submission.json (COCO's results), images.json (COCO's list of the images, with the
    model's categories), and what the options ask for. predictions.jsonl grows by a line an image;
    another call with the same arguments goes on behind its last whole line.

    Args:
      predictor: the model.
      images: what to look at.
      output: folder, created if need be.
      options: see there.
      boxes: by image id, in place of the model's own: only masks are predicted.
      progress: whether to show it.

    Raises:
      UserError: the folder holds predictions of another model or with other options, or cannot be
        written to.
    """
    folder = pathlib.Path(output)
    header = {
        "model": predictor.path,
        "checkpoint": predictor.checkpoint,
        "precision": predictor.precision,
        "boxes": boxes is not None,
        **json.loads(json.dumps(dataclasses.asdict(options))),
    }
    outcome = Outcome()
    run = _Run(predictor, folder, options, boxes)
    with (
        _readable_faults(output),
        only_process(_created(folder), f"{{owner}} is predicting into {output}"),
        run.journal(header) as (file, done),
    ):
        left = [image for image in images if image.path not in done]
        written = run.predict(left, outcome.faults)
        for line in parallel.track(written, len(left), "Predicting", progress):
            file.write(json.dumps(line) + "\n")
            file.flush()
        outcome.images, outcome.detections = _write_results(folder, predictor)
    return outcome


class _Run:
    def __init__(
        self,
        predictor: Predictor,
        folder: pathlib.Path,
        options: Options,
        boxes: Mapping[int | str, GivenBoxes] | None,
    ):
        self._predictor, self._folder, self._options = predictor, folder, options
        self._boxes = boxes

    @contextlib.contextmanager
    def journal(self, header: dict[str, Any]) -> Iterator[tuple[IO[str], set[str]]]:
        """The file of what is done, to write on, and the paths that are in it."""
        path = self._folder / JOURNAL
        done: set[str] = set()
        whole = 0  # bytes of the file that are whole lines
        for number, (entry, end) in enumerate(read_journal(path)):
            if number:
                done.add(entry["path"])
            elif differing := [name for name in header if entry.get(name) != header[name]]:
                raise UserError(
                    f"{self._folder} holds predictions with another {' and '.join(differing)}: "
                    "give another --output, or delete it"
                )
            whole = end
        with path.open("a", encoding="utf-8") as file:
            file.truncate(whole)
            if not whole:
                file.write(json.dumps(header) + "\n")
            yield file, done

    def predict(
        self, images: Sequence[ImageFile], faults: dict[str, str]
    ) -> Iterator[dict[str, Any]]:
        """A line of the journal for each image that can be read."""
        readable = (pair for pair in _read_ahead(images, faults))
        while batch := list(itertools.islice(readable, self._options.batch_size)):
            found = self._detect([pixels for _, pixels in batch], [image for image, _ in batch])
            for (image, pixels), detections in zip(batch, found, strict=True):
                yield self._write(image, pixels, detections)

    def _detect(
        self, pixels: Sequence[np.ndarray], images: Sequence[ImageFile]
    ) -> Iterable[Detections]:
        options = self._options
        if self._boxes is not None:
            given = [self._boxes.get(image.id) for image in images]
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
        needs_classes = not self._predictor.config.mask_head.class_agnostic
        classes = given.classes if needs_classes else None
        found = self._predictor.segment(pixels, given.boxes, classes)
        return dataclasses.replace(found, class_ids=given.category_ids, scores=given.scores)

    def _choose(self, found: Detections) -> Detections:
        chosen = found.scores >= self._options.score
        if self._options.class_ids is not None:
            chosen &= np.isin(found.class_ids, self._options.class_ids)
        return found.select(chosen)

    def _write(
        self, image: ImageFile, pixels: np.ndarray, detections: Detections
    ) -> dict[str, Any]:
        options = self._options
        shown = detections.above(options.overlay_score)
        if options.overlays:
            path = self._folder / "overlays" / pathlib.PurePath(image.name).with_suffix(".jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            drawing.write_image(str(path), shown.draw(pixels))
        if options.mask_pngs and shown.has_masks:
            path = self._folder / "masks" / pathlib.PurePath(image.name).with_suffix("")
            path.mkdir(parents=True, exist_ok=True)
            for number, (name, rle) in enumerate(zip(shown.names, shown.rles, strict=True), 1):
                mask = coco_mask.decode(rle)[..., None].repeat(3, axis=2) * 255
                drawing.write_image(str(path / f"{number:03}_{_file_name(name)}.png"), mask)
        height, width = detections.image_size
        return {
            "path": image.path,
            "image": {
                "id": image.id,
                "file_name": image.name,
                "height": height,
                "width": width,
            },
            "results": detections.to_coco(image.id),
        }


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


def read_journal(path: pathlib.Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Entries of a journal that are whole, each with the place in the file behind it."""
    end = 0
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):  # killed while it was written
                    return
                end += len(line)
                yield json.loads(line), end


def _write_results(folder: pathlib.Path, predictor: Predictor) -> tuple[int, int]:
    """Writes submission.json and images.json; gives the numbers of images and detections."""
    counts = {"images": 0, "detections": 0}
    listed: list[dict[str, Any]] = []

    def results() -> Iterator[dict[str, Any]]:
        for entry, _ in itertools.islice(read_journal(folder / JOURNAL), 1, None):
            counts["images"] += 1
            counts["detections"] += len(entry["results"])
            listed.append(entry["image"])
            yield from entry["results"]

    write_json_list(folder / "submission.json", results())
    categories = [{"id": i, "name": name} for i, name in predictor.class_names.items()]
    text = json.dumps({"images": listed, "annotations": [], "categories": categories}, indent=1)
    (folder / "images.json").write_text(text, encoding="utf-8")
    return counts["images"], counts["detections"]


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
