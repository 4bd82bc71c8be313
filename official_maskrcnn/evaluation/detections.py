"""The detections that an evaluation has seen: one entry an image, on disk, masks as RLE."""

import collections
import dataclasses
import itertools
import os
import pickle
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from official_maskrcnn.data.annotations import encode_segmentation
from official_maskrcnn.data.ids import as_int, image_number
from official_maskrcnn.errors import UserError
from official_maskrcnn.evaluation import pasting
from official_maskrcnn.evaluation.ground_truth import GroundTruth

_MAX_SHOWN = 200  # characters of a faulty result


@dataclasses.dataclass(frozen=True, slots=True)
class StoredMasks:
    """The masks of an image, as n compressed RLE strings that are read when asked for.

    Attributes:
      file: where they lie, one after the other.
      limits: int64 [n + 1] where each begins; at last where the last one ends.
    """

    file: BinaryIO
    limits: np.ndarray

    def __len__(self) -> int:
        return len(self.limits) - 1

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end = self.limits[index : index + 2].tolist()
        self.file.seek(start)
        return self.file.read(end - start)

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))


@dataclasses.dataclass(frozen=True, slots=True)
class ImageDetections:
    """Detections of one image.

    Attributes:
      boxes: float64 [n, 4] (x, y, width, height) in pixels of the image.
      classes: int64 [n] category ids.
      scores: float64 [n].
      masks: n of the image's size, as compressed RLE strings, or None without masks.
      mask_areas: [n] of the masks in pixels, or None.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    masks: Sequence[bytes] | StoredMasks | None = None
    mask_areas: np.ndarray | None = None


class StoredDetections(Mapping[int, ImageDetections]):
    """Detections by image id, in an unnamed temporary file (see TMPDIR). Picklable.

    In memory is only where each image's lie.

    Attributes:
      num_detections: of all images together.
    """

    def __init__(self, content: bytes = b"", places: Mapping[int, int] | None = None) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as self)
        self._file.write(content)
        self._places = dict(places or {})
        self.num_detections = sum(len(found.classes) for found in self.values())

    def add(self, image_id: int, found: ImageDetections) -> None:
        """Writes an image's detections."""
        start = self._file.seek(0, os.SEEK_END)
        limits = None
        if found.masks is not None:
            masks = list(found.masks)
            limits = start + np.cumsum([0, *map(len, masks)])
            self._file.write(b"".join(masks))
        self._places[image_id] = self._file.tell()
        pickle.dump(
            (found.boxes, found.classes, found.scores, limits, found.mask_areas), self._file
        )
        self.num_detections += len(found.classes)

    def __getitem__(self, image_id: int) -> ImageDetections:
        self._file.seek(self._places[image_id])
        boxes, classes, scores, limits, mask_areas = pickle.load(self._file)
        masks = None if limits is None else StoredMasks(self._file, limits)
        return ImageDetections(boxes, classes, scores, masks, mask_areas)

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, image_id: object) -> bool:  # the inherited one would read the file
        return image_id in self._places

    def __reduce__(self) -> tuple[Any, ...]:
        self._file.seek(0)
        return StoredDetections, (self._file.read(), self._places)


class _Result(NamedTuple):
    """An entry of COCO's results format.

    Attributes:
      place: in the list.
      image_id: of its image.
      category_id: of its class.
      score: may be NaN.
      box: (x, y, width, height), or None.
      segmentation: as it is.
    """

    place: int
    image_id: int
    category_id: int
    score: float
    box: list[float] | None
    segmentation: Any

    @classmethod
    def read(cls, place: int, entry: Any) -> "_Result":
        """Checks an entry.

        Raises:
          UserError: a field is missing, or is not what it should be.
        """
        if not isinstance(entry, Mapping):
            raise UserError(f"result {place} is no object: {str(entry)[:_MAX_SHOWN]}")
        image_id = image_number(entry.get("image_id"))
        category_id = as_int(entry.get("category_id"))
        score, box = _as_float(entry.get("score")), entry.get("bbox")
        numbers = [_as_float(value) for value in box] if isinstance(box, Collection) else []
        own_box = [value for value in numbers if value is not None]
        if (
            image_id is None
            or category_id is None
            or score is None
            or (box is not None and not len(own_box) == len(numbers) == 4)
        ):
            raise UserError(
                f"result {place} needs an image_id, a category_id and a score that are numbers "
                f"(image_ids may be texts too), and a bbox of four numbers or none; got "
                f"{str(dict(entry))[:_MAX_SHOWN]}"
            )
        return cls(place, image_id, category_id, score, own_box or None, entry.get("segmentation"))


def _as_float(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


@dataclasses.dataclass
class DetectionStore:
    """All detections so far, and counts of what was not taken. Picklable, and can be merged.

    Attributes:
      images: by image id; images without detections have an entry too.
      repeated_images: how often an image came that is there already; the first one counts.
      unknown_images: how often an image came that is not in the ground truth, by id.
      unknown_categories: detections left out as their category is not in the ground truth, by id.
      not_finite: detections left out as their box or score is NaN or infinite.
    """

    images: StoredDetections = dataclasses.field(default_factory=StoredDetections)
    repeated_images: int = 0
    unknown_images: collections.Counter[int] = dataclasses.field(
        default_factory=collections.Counter
    )
    unknown_categories: collections.Counter[int] = dataclasses.field(
        default_factory=collections.Counter
    )
    not_finite: int = 0

    def add_image(
        self,
        ground_truth: GroundTruth,
        image_id: int,
        boxes: np.ndarray,
        classes: np.ndarray,
        scores: np.ndarray,
        mask_crops: np.ndarray | None,
        mask_boxes: np.ndarray | None = None,
    ) -> None:
        """Takes one image's detections, unless the image is unknown or there already.

        Args:
          ground_truth: which images and categories there are.
          image_id: the image.
          boxes: [n, 4] (ymin, xmin, ymax, xmax) in pixels of the image.
          classes: [n] category ids.
          scores: [n].
          mask_crops: [n, mask_height, mask_width] probabilities, or None.
          mask_boxes: [n, 4] that the crops are relative to; None for the boxes.
        """
        if not self._is_new(ground_truth, image_id):
            return
        boxes, scores = np.asarray(boxes, np.float64), np.asarray(scores, np.float64)
        classes = np.asarray(classes, np.int64)
        kept = self._usable(ground_truth, boxes, classes, scores)
        boxes = boxes[kept]
        rles = None
        if mask_crops is not None:
            height, width = ground_truth.image_sizes[image_id]
            own = boxes if mask_boxes is None else np.asarray(mask_boxes, np.float64)[kept]
            rles = pasting.rle_from_crops(mask_crops[kept], own, height, width)
        boxes = np.concatenate([boxes[:, 1::-1], (boxes[:, 2:] - boxes[:, :2])[:, ::-1]], axis=1)
        self.images.add(image_id, _with_masks(boxes, classes[kept], scores[kept], rles))

    def add_results(
        self, ground_truth: GroundTruth, results: Iterable[Mapping[str, Any]], include_mask: bool
    ) -> None:
        """Takes detections in COCO's results format.

        Raises:
          UserError: a result lacks a field, or its mask is not one of its image's size.
        """
        by_image: dict[int, list[_Result]] = {}
        for place, entry in enumerate(results):
            result = _Result.read(place, entry)
            by_image.setdefault(result.image_id, []).append(result)
        for image_id, image_results in by_image.items():
            if self._is_new(ground_truth, image_id):
                self._add_image_results(ground_truth, image_id, image_results, include_mask)

    def merge(self, other: "DetectionStore") -> None:
        """Takes over what another store has; images in both count once, as they are here."""
        self.repeated_images += other.repeated_images + len(self.images.keys() & other.images)
        for image_id in other.images.keys() - self.images:
            self.images.add(image_id, other.images[image_id])
        self.unknown_images += other.unknown_images
        self.unknown_categories += other.unknown_categories
        self.not_finite += other.not_finite

    def results(self, ground_truth: GroundTruth) -> Iterator[dict[str, Any]]:
        """The detections in COCO's results format, RLE as text, by ascending image id."""
        for image_id in sorted(self.images):
            found = self.images[image_id]
            size = list(ground_truth.image_sizes[image_id])
            for i, box in enumerate(found.boxes.tolist()):
                result: dict[str, Any] = {
                    "image_id": image_id,
                    "category_id": int(found.classes[i]),
                    "bbox": box,
                    "score": float(found.scores[i]),
                }
                if found.masks is not None:
                    counts = found.masks[i].decode("ascii")
                    result["segmentation"] = {"size": size, "counts": counts}
                yield result

    def _is_new(self, ground_truth: GroundTruth, image_id: int) -> bool:
        if image_id not in ground_truth.image_sizes:
            self.unknown_images[image_id] += 1
            return False
        if image_id in self.images:
            self.repeated_images += 1
            return False
        return True

    def _usable(
        self, ground_truth: GroundTruth, boxes: np.ndarray, classes: np.ndarray, scores: np.ndarray
    ) -> np.ndarray:
        """Which detections [n] count; counts the others."""
        known = np.isin(classes, list(ground_truth.categories))
        finite = np.isfinite(boxes).all(axis=-1) & np.isfinite(scores)
        self.unknown_categories.update(classes[~known].tolist())
        self.not_finite += int(np.count_nonzero(known & ~finite))
        return known & finite

    def _add_image_results(
        self,
        ground_truth: GroundTruth,
        image_id: int,
        results: list[_Result],
        include_mask: bool,
    ) -> None:
        height, width = ground_truth.image_sizes[image_id]
        image_boxes: list[Any] = []
        rles: list[dict[str, Any]] = []
        for result in results:
            rle = encode_segmentation(result.segmentation, height, width)
            if rle is None and (include_mask or result.box is None):
                what = "mask" if include_mask else "bbox, and no mask"
                raise UserError(
                    f"result {result.place}, of image {image_id}, has no {what} of its size, "
                    f"{height} x {width}"
                )
            image_boxes.append(coco_mask.toBbox(rle) if result.box is None else result.box)
            if include_mask and rle is not None:
                rles.append(rle)
        boxes = np.array(image_boxes, np.float64).reshape(-1, 4)
        classes = np.array([result.category_id for result in results], np.int64)
        scores = np.array([result.score for result in results], np.float64)
        kept = self._usable(ground_truth, boxes, classes, scores)
        masks = list(itertools.compress(rles, kept)) if include_mask else None
        self.images.add(image_id, _with_masks(boxes[kept], classes[kept], scores[kept], masks))


def _with_masks(
    boxes: np.ndarray, classes: np.ndarray, scores: np.ndarray, rles: list[dict[str, Any]] | None
) -> ImageDetections:
    if rles is None:
        return ImageDetections(boxes, classes, scores)
    areas = np.asarray(coco_mask.area(rles), np.int64)
    return ImageDetections(boxes, classes, scores, [rle["counts"] for rle in rles], areas)
