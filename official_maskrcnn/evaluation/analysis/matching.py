"""Every detection and every object of an evaluation in a table: what is right, what is an error.

Matching is COCO's at an IoU of 0.5, so that the AP of these tables is COCO's AP50. Errors are those
of TIDE (Bolya et al., arXiv 2008.08115), with its IoU thresholds of 0.5 and 0.1.

None of it depends on a score threshold: a detection is matched, or is an error of its kind, by
those of higher scores alone. What a threshold changes is which objects are found.
"""

import dataclasses
import enum
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from official_maskrcnn.evaluation.average_precision import IouType
from official_maskrcnn.evaluation.detections import ImageDetections
from official_maskrcnn.evaluation.ground_truth import GroundTruth

MATCH_IOU = 0.5
BACKGROUND_IOU = 0.1
_MAX_DETECTIONS = 100  # of a category in an image, as in COCO's AP


class Outcome(enum.IntEnum):
    """What a detection turned out to be. MISSED alone is said of objects."""

    CLASS = 0  # on an object of another class
    LOCALISATION = 1  # of the right class, with an IoU of 0.1 to 0.5
    BOTH = 2  # neither the right class nor an IoU of 0.5
    DUPLICATE = 3  # on an object that a higher score has found
    BACKGROUND = 4  # on nothing
    MISSED = 5  # an object that no detection finds, not even by a class or localisation error
    CORRECT = 6
    IGNORED = 7  # on a crowd


ERRORS = tuple(Outcome)[: Outcome.CORRECT]
# Errors that lie on an object which they would find if they were right.
ON_OBJECT = (Outcome.CLASS, Outcome.LOCALISATION)

FOUND = np.dtype(
    [
        ("image", np.int32),  # place in Matches.image_ids
        ("number", np.int32),  # of the detection in its ImageDetections
        ("category", np.int64),
        ("score", np.float64),
        ("outcome", np.int8),
        ("object", np.int64),  # row of the object that it finds, or is an error on; -1 for none
        ("iou", np.float64),  # with that object
    ]
)
OBJECT = np.dtype(
    [
        ("image", np.int32),
        ("number", np.int64),  # place in GroundTruth.annotations
        ("category", np.int64),
        ("area", np.float64),  # in pixels, as annotated
        ("overlap", np.float64),  # largest box IoU with another object of the image
        ("score", np.float64),  # of the detection that finds it; -inf for none
        ("error_score", np.float64),  # highest of class and localisation errors on it; -inf
    ]
)
PAIR = np.dtype([("found", np.int64), ("object", np.int64), ("iou", np.float64)])


@dataclasses.dataclass(frozen=True)
class Matches:
    """The tables.

    Attributes:
      image_ids: ascending.
      found: FOUND [d], detections: by image, then by descending score.
      objects: OBJECT [n], without crowds: by image.
      confusions: PAIR [p], detections and objects of another class with an IoU of at least 0.5.
    """

    image_ids: np.ndarray
    found: np.ndarray
    objects: np.ndarray
    confusions: np.ndarray

    def counted(self) -> np.ndarray:
        """Bool [d]: detections that count, which those on crowds do not."""
        return self.found["outcome"] != Outcome.IGNORED

    def correct(self) -> np.ndarray:
        """Bool [d]."""
        return self.found["outcome"] == Outcome.CORRECT

    def missed(self, score: float = -np.inf) -> np.ndarray:
        """Bool [n]: objects without a detection of that score, not even one in error."""
        best = np.maximum(self.objects["score"], self.objects["error_score"])
        return ~((best > -np.inf) & (best >= score))


class Matcher:
    """Makes the tables, image by image, in ascending order of the ids."""

    def __init__(self, ground_truth: GroundTruth, iou_type: IouType):
        """Prepares; "segm" leaves out objects without a mask."""
        self._iou_type = iou_type
        self._sizes = ground_truth.image_sizes
        self._annotations: dict[int, list[tuple[int, dict[str, Any]]]] = {}
        for number, annotation in enumerate(ground_truth.annotations):
            own = self._annotations.setdefault(annotation["image_id"], [])
            own.append((number, annotation))
        self._image_ids: list[int] = []
        self._found, self._objects = [np.empty(0, FOUND)], [np.empty(0, OBJECT)]
        self._confusions = [np.empty(0, PAIR)]
        self._num_found = self._num_objects = 0

    def add(self, image_id: int, detections: ImageDetections | None) -> None:
        """Matches the detections of an image; None for none."""
        annotations = self._annotations.get(image_id, [])
        crowds = [a for _, a in annotations if a["iscrowd"] and self._counts(a)]
        annotations = [pair for pair in annotations if not pair[1]["iscrowd"]]
        objects = _objects(annotations, len(self._image_ids))
        counted = [self._counts(annotation) for _, annotation in annotations]
        objects = objects[np.array(counted, bool)]
        truth = [a for (_, a), counts in zip(annotations, counted, strict=True) if counts]
        found, ious, crowd_ious = self._found_in(image_id, detections, truth, crowds)
        found["image"] = len(self._image_ids)
        on_crowd = np.zeros(len(found), bool)
        if crowds:
            same = found["category"][:, None] == [a["category_id"] for a in crowds]
            on_crowd = ((crowd_ious >= MATCH_IOU) & same).any(axis=1)
        _match(found, objects, ious, on_crowd)
        different = found["category"][:, None] != objects["category"]
        rows, columns = np.nonzero((ious >= MATCH_IOU) & different & ~on_crowd[:, None])
        pairs = np.empty(len(rows), PAIR)
        pairs["found"], pairs["object"] = rows + self._num_found, columns + self._num_objects
        pairs["iou"] = ious[rows, columns]
        found["object"] += np.where(found["object"] >= 0, self._num_objects, 0)
        self._image_ids.append(image_id)
        self._found.append(found)
        self._objects.append(objects)
        self._confusions.append(pairs)
        self._num_found += len(found)
        self._num_objects += len(objects)

    def result(self) -> Matches:
        """The tables of all images so far."""
        return Matches(
            np.array(self._image_ids, np.int64),
            np.concatenate(self._found),
            np.concatenate(self._objects),
            np.concatenate(self._confusions),
        )

    def _found_in(
        self,
        image_id: int,
        detections: ImageDetections | None,
        truth: list[dict[str, Any]],
        crowds: list[dict[str, Any]],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """FOUND [d] without its outcomes; IoU [d, n] with the objects, and with the crowds."""
        if detections is None or not len(detections.scores):
            return np.empty(0, FOUND), np.empty([0, len(truth)]), np.empty([0, len(crowds)])
        numbers = _highest(detections)
        found = np.zeros(len(numbers), FOUND)
        found["number"] = numbers
        found["category"] = detections.classes[numbers]
        found["score"] = detections.scores[numbers]
        own: Any = detections.boxes[numbers]
        if self._iou_type == "segm":
            assert detections.masks is not None, "masks are evaluated, but there are none"
            size = list(self._sizes[image_id])
            own = [{"size": size, "counts": detections.masks[i]} for i in numbers.tolist()]
        return found, self._ious(own, truth, 0), self._ious(own, crowds, 1)

    def _counts(self, annotation: dict[str, Any]) -> bool:
        return self._iou_type == "bbox" or annotation["segmentation"] is not None

    def _ious(self, own: Any, annotations: list[dict[str, Any]], iscrowd: int) -> np.ndarray:
        if not annotations:
            return np.empty([len(own), 0])
        others: Any
        if self._iou_type == "segm":
            others = [a["segmentation"] for a in annotations]
        else:
            others = np.array([a["bbox"] for a in annotations], np.float64)
        return np.asarray(coco_mask.iou(own, others, [iscrowd] * len(annotations)))


def _highest(detections: ImageDetections) -> np.ndarray:
    """Indices by descending score, without those that are too many of their category."""
    order = np.argsort(-detections.scores, kind="stable")
    classes = detections.classes[order]
    by_class = np.argsort(classes, kind="stable")
    first = np.searchsorted(classes[by_class], classes[by_class])
    rank = np.empty(len(order), np.int64)
    rank[by_class] = np.arange(len(order)) - first
    return order[rank < _MAX_DETECTIONS]


def _objects(annotations: list[tuple[int, dict[str, Any]]], image: int) -> np.ndarray:
    """OBJECT [n], found by nothing yet."""
    objects = np.zeros(len(annotations), OBJECT)
    objects["image"] = image
    objects["score"] = objects["error_score"] = -np.inf
    if annotations:
        objects["number"] = [number for number, _ in annotations]
        objects["category"] = [a["category_id"] for _, a in annotations]
        objects["area"] = [a["area"] for _, a in annotations]
        boxes = np.array([a["bbox"] for _, a in annotations], np.float64)
        ious = np.array(coco_mask.iou(boxes, boxes, [0] * len(boxes)))
        np.fill_diagonal(ious, 0.0)
        objects["overlap"] = ious.max(axis=1)
    return objects


def _match(found: np.ndarray, objects: np.ndarray, ious: np.ndarray, on_crowd: np.ndarray) -> None:
    """Fills in the outcomes of an image's detections, and what finds its objects."""
    same = found["category"][:, None] == objects["category"]
    same_ious, other_ious = np.where(same, ious, 0.0), np.where(same, 0.0, ious)
    free_ious = same_ious.copy()
    for i in range(len(found)):
        j = _last_argmax(free_ious[i])
        if j >= 0 and free_ious[i, j] >= MATCH_IOU:
            free_ious[:, j] = 0.0
            objects["score"][j] = found["score"][i]
            outcome = Outcome.CORRECT
        elif on_crowd[i]:
            outcome, j = Outcome.IGNORED, -1
        else:
            outcome, j = _error(same_ious[i], other_ious[i])
            if outcome in ON_OBJECT:
                scores = objects["error_score"]
                scores[j] = max(scores[j], found["score"][i])
        found["outcome"][i], found["object"][i] = outcome, j
        found["iou"][i] = ious[i, j] if j >= 0 else 0.0


def _error(same_ious: np.ndarray, other_ious: np.ndarray) -> tuple[Outcome, int]:
    """The kind of an unmatched detection, and the object that it lies on; tested in TIDE's order.

    Args:
      same_ious: [n] with objects of its class, else 0.
      other_ious: [n] with objects of other classes, else 0.
    """
    same, other = _last_argmax(same_ious), _last_argmax(other_ious)
    same_iou, other_iou = same_ious.max(initial=0.0), other_ious.max(initial=0.0)
    if BACKGROUND_IOU <= same_iou < MATCH_IOU:
        return Outcome.LOCALISATION, same
    if other_iou >= MATCH_IOU:
        return Outcome.CLASS, other
    if same_iou >= MATCH_IOU:
        return Outcome.DUPLICATE, same
    if other_iou >= BACKGROUND_IOU:
        return Outcome.BOTH, other
    return Outcome.BACKGROUND, -1


def _last_argmax(values: np.ndarray) -> int:
    """The last of the largest, which is the one that COCO's matching takes; -1 of none."""
    return len(values) - 1 - int(values[::-1].argmax()) if len(values) else -1
