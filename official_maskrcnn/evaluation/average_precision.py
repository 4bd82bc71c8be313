"""COCO's average precision and recall, one group of categories at a time.

The matching and the sums are faster-coco-eval's or pycocotools'. Both want every detection as a
dict, about a kilobyte each. Precision is computed per category, so it is enough to make the dicts
of a few categories at a time, over the images that have any of them.
"""

import contextlib
import dataclasses
import functools
import gc
import io
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

from official_maskrcnn.evaluation.detections import ImageDetections
from official_maskrcnn.evaluation.ground_truth import GroundTruth

IouType = Literal["bbox", "segm"]
BACKENDS = ("faster_coco_eval", "pycocotools")

_logger = logging.getLogger(__name__)
_MAX_DETECTIONS_AT_A_TIME = 20_000
# Positions in the result arrays: all areas, small, medium, large; at most 1, 10, 100 detections.
_AREAS = {"s": 1, "m": 2, "l": 3}
_MAX_DETECTIONS = {"1": 0, "10": 1, "100": 2}


@dataclasses.dataclass(frozen=True)
class PrecisionRecall:
    """COCO's result arrays; -1 stands for "no ground truth".

    Attributes:
      category_ids: K ids, ascending: the categories with ground truth.
      precision: [10 IoU thresholds, 101 recall thresholds, K, 4 areas, 3 maximum detections].
      recall: [10 IoU thresholds, K, 4 areas, 3 maximum detections].
    """

    category_ids: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    def average_precision(
        self, category_ids: Collection[int] | None = None, iou: float | None = None, area: str = ""
    ) -> float | None:
        """Mean precision over IoU 0.50:0.95, or at one IoU; None if there is no ground truth.

        Args:
          category_ids: to average over; None: all.
          iou: one of 0.50, 0.55, ..., 0.95.
          area: "" for all, or "s", "m" or "l".
        """
        precision = self.precision[..., _AREAS.get(area, 0), -1]
        if category_ids is not None:
            precision = precision[:, :, np.isin(self.category_ids, list(category_ids))]
        if iou is not None:
            precision = precision[round((iou - 0.5) / 0.05)]
        return _mean(precision)

    def average_recall(self, max_detections: str = "100", area: str = "") -> float | None:
        """Mean of the recall over IoU 0.50:0.95; None if there is no ground truth.

        Args:
          max_detections: of an image and category that count: "1", "10" or "100".
          area: "" for all, or "s", "m" or "l".
        """
        return _mean(self.recall[..., _AREAS.get(area, 0), _MAX_DETECTIONS[max_detections]])


def precision_recall(
    ground_truth: GroundTruth,
    detections: Mapping[int, ImageDetections],
    iou_type: IouType,
    *,
    image_ids: Collection[int],
    backend: str = "faster_coco_eval",
) -> PrecisionRecall:
    """Compares detections with ground truth on the given images, whether detected in or not.

    A detection is small, medium or large by the area of its mask for "segm" and of its box for
    "bbox". Ground truth without a mask does not count for "segm".
    """
    annotations: dict[int, list[dict[str, Any]]] = {}
    for annotation in ground_truth.annotations:
        if annotation["image_id"] in image_ids and (
            iou_type == "bbox" or annotation["segmentation"] is not None
        ):
            annotations.setdefault(annotation["category_id"], []).append(annotation)
    category_ids = np.array(sorted(annotations), np.int64)

    table = _Table(detections, image_ids, ground_truth, with_masks=iou_type == "segm")
    rows = [table.rows_of(category_id) for category_id in category_ids]
    precisions, recalls = [], []
    with _collector_paused():
        for group in _groups([len(category_rows) for category_rows in rows]):
            group_ids = category_ids[group].tolist()
            group_annotations = [entry for i in group_ids for entry in annotations[i]]
            annotated = {(entry["image_id"], entry["category_id"]) for entry in group_annotations}
            group_detections = table.as_coco(np.concatenate(rows[group]), annotated)
            precision, recall = _evaluate(
                group_annotations, group_detections, ground_truth, group_ids, iou_type, backend
            )
            precisions.append(precision)
            recalls.append(recall)
    if not precisions:
        return PrecisionRecall(category_ids, np.empty((10, 101, 0, 4, 3)), np.empty((10, 0, 4, 3)))
    return PrecisionRecall(
        category_ids, np.concatenate(precisions, axis=2), np.concatenate(recalls, axis=1)
    )


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Python's search for cycles, of which the dicts have none, would take half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Table:
    """All detections in some images, one a row, sorted by category and then by image id."""

    def __init__(
        self,
        detections: Mapping[int, ImageDetections],
        image_ids: Collection[int],
        ground_truth: GroundTruth,
        with_masks: bool,
    ) -> None:
        used = sorted(image_id for image_id in detections if image_id in image_ids)
        found = [detections[image_id] for image_id in used]
        classes = np.concatenate([np.empty(0, np.int64), *(f.classes for f in found)])
        order = np.argsort(classes, kind="stable")
        self._classes = classes[order]
        self._images = np.repeat(np.array(used, np.int64), [len(f.classes) for f in found])[order]
        self._boxes = np.concatenate([np.empty((0, 4)), *(f.boxes for f in found)])[order]
        self._scores = np.concatenate([np.empty(0), *(f.scores for f in found)])[order]
        numbers = [np.arange(len(f.classes)) for f in found]
        self._numbers = np.concatenate([np.empty(0, np.int64), *numbers])[order]  # in the image
        self._masks = {i: f.masks for i, f in zip(used, found, strict=True)} if with_masks else {}
        if with_masks:
            areas = [f.mask_areas for f in found]
            self._areas = np.concatenate([np.empty(0), *areas])[order]
        else:
            self._areas = self._boxes[:, 2] * self._boxes[:, 3]
        self._sizes = {image_id: ground_truth.image_sizes[image_id] for image_id in used}

    def rows_of(self, category_id: int) -> np.ndarray:
        """Indices of a category's rows."""
        start, end = np.searchsorted(self._classes, [category_id, category_id + 1])
        return np.arange(start, end)

    def as_coco(
        self, rows: np.ndarray, annotated: Collection[tuple[int, int]]
    ) -> list[dict[str, Any]]:
        """COCO annotations of rows; their area is that of the mask, or of the box without masks.

        Those whose (image id, category id) is not among `annotated` have nothing that they could
        overlap: in place of their masks, which take long to read, they get one without a pixel.
        """
        entries: list[dict[str, Any]] = []
        for entry_id, (image_id, number, category_id, box, score, area) in enumerate(
            zip(
                self._images[rows].tolist(),
                self._numbers[rows].tolist(),
                self._classes[rows].tolist(),
                self._boxes[rows].tolist(),
                self._scores[rows].tolist(),
                self._areas[rows].tolist(),
                strict=True,
            ),
            start=1,
        ):
            entry = {
                "id": entry_id,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": box,
                "area": area,
                "iscrowd": 0,
                "score": score,
            }
            masks = self._masks.get(image_id)
            if masks is not None:
                size = self._sizes[image_id]
                entry["segmentation"] = (
                    {"size": list(size), "counts": masks[number]}
                    if (image_id, category_id) in annotated
                    else _empty_mask(*size)
                )
            entries.append(entry)
        return entries


@functools.cache
def _empty_mask(height: int, width: int) -> dict[str, Any]:
    rle = {"size": [height, width], "counts": [height * width]}
    return coco_mask.frPyObjects(rle, height, width)


def _groups(sizes: Sequence[int]) -> Iterator[slice]:
    """Consecutive slices of the categories, of about _MAX_DETECTIONS_AT_A_TIME each."""
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > _MAX_DETECTIONS_AT_A_TIME:
            yield slice(start, index)
            start, total = index, 0
        total += size
    if sizes:
        yield slice(start, len(sizes))


def _evaluate(
    annotations: Sequence[dict[str, Any]],
    detections: Sequence[dict[str, Any]],
    ground_truth: GroundTruth,
    category_ids: Sequence[int],
    iou_type: IouType,
    backend: str,
) -> tuple[np.ndarray, np.ndarray]:
    """The backend's precision and recall arrays for some categories."""
    image_ids = sorted({entry["image_id"] for entry in (*annotations, *detections)})
    sizes = ground_truth.image_sizes
    header = {
        "images": [{"id": i, "height": sizes[i][0], "width": sizes[i][1]} for i in image_ids],
        "categories": [{"id": category_id} for category_id in category_ids],
    }
    annotations = [dict(entry) for entry in annotations]  # the backends write notes into them
    coco_class, evaluation_class, quiet = _backend(backend)
    with quiet:
        sides = []
        for entries in (annotations, detections):
            side = coco_class()
            side.dataset = header | {"annotations": entries}
            side.createIndex()
            sides.append(side)
        evaluation = evaluation_class(*sides, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _backend(name: str) -> tuple[Any, Any, contextlib.AbstractContextManager[Any]]:
    """The backend's two classes, and a context in which it prints nothing."""
    if name == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval, contextlib.redirect_stdout(io.StringIO())
    from faster_coco_eval import COCO, COCOeval_faster

    # Its threads would wait for each other: the IoUs of an image and category are quickly computed.
    evaluation_class = functools.partial(
        COCOeval_faster, print_function=_logger.debug, rle_iou_max_workers=1
    )
    return COCO, evaluation_class, contextlib.nullcontext()


def _mean(values: np.ndarray) -> float | None:
    values = values[values > -1]
    return float(values.mean()) if values.size else None
