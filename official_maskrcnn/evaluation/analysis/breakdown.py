"""AP and recall of a part of the data: small or large objects, empty or crowded images."""

import collections
import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np

from official_maskrcnn.evaluation.analysis.matching import Matches
from official_maskrcnn.evaluation.average_precision import (
    IouType,
    PrecisionRecall,
    precision_recall,
)
from official_maskrcnn.evaluation.detections import ImageDetections
from official_maskrcnn.evaluation.ground_truth import GroundTruth

_AREAS = {"s": "small, to 32²", "m": "medium, to 96²", "l": "large"}
_AREA_LIMITS = [32**2, 96**2]
_NUMBER_LIMITS = [1, 2, 4, 8, 16]  # objects in an image
_OVERLAP_LIMITS = [1e-9, 0.1, 0.3, 0.5]
_OVERLAPS = ("none", "to 0.1", "0.1 to 0.3", "0.3 to 0.5", "0.5 and more")


@dataclasses.dataclass(frozen=True)
class Group:
    """Some of the objects.

    Attributes:
      name: which.
      images: that they are in.
      objects: how many.
      recall: the share of them that is found at a score, at an IoU of 0.5; None of no objects.
      average_precision: COCO's AP, and that at an IoU of 0.5; None where wrong detections cannot
        be told to belong to the group, or there are no objects.
    """

    name: str
    images: int
    objects: int
    recall: float | None
    average_precision: tuple[float | None, float | None] | None


def by_size(matches: Matches, result: PrecisionRecall, score: float) -> list[Group]:
    """Objects of COCO's three sizes.

    Args:
      matches: all of them.
      result: COCO's, of all images.
      score: of detections that find objects.
    """
    sizes = np.digitize(matches.objects["area"], _AREA_LIMITS)
    averages = [
        (result.average_precision(area=area), result.average_precision(iou=0.5, area=area))
        for area in _AREAS
    ]
    return [
        _group(name, matches, sizes == i, score, averages[i])
        for i, name in enumerate(_AREAS.values())
    ]


def by_number(
    matches: Matches,
    ground_truth: GroundTruth,
    detections: Mapping[int, ImageDetections],
    iou_type: IouType,
    score: float,
) -> list[Group]:
    """Images by the number of objects in them; each group is evaluated by itself."""
    uses = collections.Counter(
        annotation["image_id"]
        for annotation in ground_truth.annotations
        if not annotation["iscrowd"]
    )
    numbers = np.array([uses[image_id] for image_id in matches.image_ids.tolist()])
    bins = np.digitize(numbers, _NUMBER_LIMITS)
    groups = []
    for i, name in enumerate(_number_names()):
        image_ids = set(matches.image_ids[bins == i].tolist())
        if image_ids:
            result = precision_recall(ground_truth, detections, iou_type, image_ids=image_ids)
            averages = (result.average_precision(), result.average_precision(iou=0.5))
            own = bins[matches.objects["image"]] == i
            group = _group(name, matches, own, score, averages)
            groups.append(dataclasses.replace(group, images=len(image_ids)))
    return groups


def by_overlap(matches: Matches, score: float) -> list[Group]:
    """Objects by the largest IoU of their box with that of another object in the image."""
    bins = np.digitize(matches.objects["overlap"], _OVERLAP_LIMITS)
    return [_group(name, matches, bins == i, score, None) for i, name in enumerate(_OVERLAPS)]


def _number_names() -> list[str]:
    ranges = itertools.pairwise(_NUMBER_LIMITS)
    names = [str(first) if end == first + 1 else f"{first} to {end - 1}" for first, end in ranges]
    return ["none", *names, f"{_NUMBER_LIMITS[-1]} and more"]


def _group(
    name: str,
    matches: Matches,
    own: np.ndarray,
    score: float,
    averages: tuple[float | None, float | None] | None,
) -> Group:
    """A group of objects, bool [n]."""
    objects = matches.objects[own]
    found = (objects["score"] > -np.inf) & (objects["score"] >= score)
    recall = float(found.mean()) if len(objects) else None
    return Group(name, len(np.unique(objects["image"])), len(objects), recall, averages)
