"""One COCO annotation -> an instance that can be trusted, and the faults that it had."""

import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from official_maskrcnn.data.faults import Outcome
from official_maskrcnn.ops import rle as rle_ops

_EDGE_TOLERANCE = 1e-6  # pixels, for boxes computed in floating point
Problem = tuple[str, Outcome]
_Note = Callable[[str, Outcome], None]


class Instance(NamedTuple):
    """A usable instance.

    Attributes:
      category_id: of its class.
      box: (ymin, xmin, ymax, xmax) in pixels, inside of the image, with a positive area.
      area: pixels, positive; of the mask as annotated.
      is_crowd: whether it stands for many objects.
      mask: {"size": [h, w], "counts": bytes}, a compressed RLE with at least one pixel; or None.
      bbox: [x, y, width, height] in pixels as annotated, be it over the edge of the image; the
        mask's where the annotated one is of no use.
    """

    category_id: int
    box: tuple[float, float, float, float]
    area: float
    is_crowd: bool
    mask: dict[str, Any] | None
    bbox: list[float]


def mend_annotation(
    annotation: dict[str, Any], height: int, width: int
) -> tuple[Instance | None, list[Problem]]:
    """Mends an annotation of an image of that size; never raises, whatever it holds.

    Returns:
      The instance, or None if it has neither a usable box nor a usable mask; and its faults. In
      the latter case exactly one of them has the outcome that the annotation is left out.
    """
    problems: list[Problem] = []

    def note(kind: str, outcome: Outcome) -> None:
        if (kind, outcome) not in problems:
            problems.append((kind, outcome))

    is_crowd = _is_crowd(annotation, note)
    mask = _mask(annotation.get("segmentation"), is_crowd, height, width, note)
    boxes = _boxes(annotation.get("bbox"), mask, height, width, note)
    if boxes is None:
        return None, problems
    box, bbox = boxes
    if mask is not None and not _overlap(box, _mask_box(mask)):
        note("mask_outside_bbox", Outcome.MASK_DROPPED)
        mask = None
    area = _area(annotation.get("area"), mask, box, note)
    return Instance(annotation["category_id"], box, area, is_crowd, mask, bbox), problems


def encode_segmentation(
    segmentation: Any, height: int, width: int, note: _Note = lambda kind, outcome: None
) -> dict[str, Any] | None:
    """Compressed RLE of any segmentation that COCO files have, or None if it is of no use.

    Args:
      segmentation: polygons, or compressed or uncompressed RLE; or anything else.
      height: of the image in pixels.
      width: of the image in pixels.
      note: called with the faults that are found.

    Returns:
      {"size": [height, width], "counts": bytes}, which may be without a pixel.
    """
    if segmentation is None:
        note("missing_segmentation", Outcome.MASK_DROPPED)
    elif isinstance(segmentation, list | tuple | dict) and not segmentation:
        note("empty_segmentation", Outcome.MASK_DROPPED)
    elif isinstance(segmentation, dict):
        return _from_rle(segmentation, height, width, note)
    elif isinstance(segmentation, list | tuple):
        return _from_polygons(segmentation, height, width, note)
    else:
        note("invalid_segmentation", Outcome.MASK_DROPPED)
    return None


def _is_crowd(annotation: dict[str, Any], note: _Note) -> bool:
    value = annotation.get("iscrowd")
    if value is None:
        note("missing_iscrowd", Outcome.MENDED)
    elif value not in (0, 1):
        note("invalid_iscrowd", Outcome.MENDED)
    return value == 1


def _mask(
    segmentation: Any, is_crowd: bool, height: int, width: int, note: _Note
) -> dict[str, Any] | None:
    """Compressed RLE that has a pixel."""
    if segmentation and isinstance(segmentation, dict) and not is_crowd:
        note("single_rle", Outcome.KEPT)
    elif segmentation and isinstance(segmentation, list | tuple) and is_crowd:
        note("crowd_polygon", Outcome.KEPT)
    mask = encode_segmentation(segmentation, height, width, note)
    if mask is not None and not coco_mask.area(mask):
        note("empty_mask", Outcome.MASK_DROPPED)
        return None
    return mask


def _from_rle(rle: dict[str, Any], height: int, width: int, note: _Note) -> dict[str, Any] | None:
    size, counts = rle.get("size"), rle.get("counts")
    if size not in ([height, width], (height, width)):
        note("wrong_size_rle", Outcome.MASK_DROPPED)
        return None
    try:
        return rle_ops.compressed(counts, height, width)
    except ValueError:
        note("invalid_rle", Outcome.MASK_DROPPED)
        return None


def _from_polygons(
    polygons: Sequence[Any], height: int, width: int, note: _Note
) -> dict[str, Any] | None:
    if not any(isinstance(polygon, list | tuple) for polygon in polygons):
        note("flat_polygon", Outcome.MENDED)
        polygons = [polygons]
    faults = [_polygon_fault(polygon) for polygon in polygons]
    usable = [polygon for polygon, fault in zip(polygons, faults, strict=True) if fault is None]
    for kind in filter(None, faults):
        note(kind, Outcome.MENDED if usable else Outcome.MASK_DROPPED)
    if not usable:
        return None
    # Rasterising takes time and memory with the distance from the image: stay near it.
    limit = 10.0 * max(height, width)
    clipped = [np.clip(np.asarray(p, np.float64), -limit, limit).tolist() for p in usable]
    return coco_mask.merge(coco_mask.frPyObjects(clipped, height, width))


def _polygon_fault(polygon: Any) -> str | None:
    if not isinstance(polygon, list | tuple):
        return "invalid_polygon"
    if len(polygon) < 6:
        return "short_polygon"
    if len(polygon) % 2:
        return "odd_polygon"
    return None if _are_finite(polygon) else "invalid_polygon"


def _boxes(
    bbox: Any, mask: dict[str, Any] | None, height: int, width: int, note: _Note
) -> tuple[tuple[float, float, float, float], list[float]] | None:
    """An instance's `box` and `bbox`."""
    kind, box = _clip_bbox(bbox, height, width)
    if box is not None:
        if kind:
            note(kind, Outcome.MENDED)
        return box, list(map(float, bbox))
    assert kind is not None
    if mask is not None:
        note(kind, Outcome.MENDED)
        return _mask_box(mask), coco_mask.toBbox(mask).tolist()
    note(kind, Outcome.ANNOTATION_LEFT_OUT)
    return None


def _clip_bbox(
    bbox: Any, height: int, width: int
) -> tuple[str | None, tuple[float, float, float, float] | None]:
    """What is wrong with a bbox [x, y, width, height], and the usable box if there is one."""
    if bbox is None:
        return "missing_bbox", None
    if not (isinstance(bbox, list | tuple) and len(bbox) == 4 and all(map(_is_number, bbox))):
        return "invalid_bbox", None
    if not _are_finite(bbox):
        return "nonfinite_bbox", None
    x, y, box_width, box_height = map(float, bbox)
    if box_width <= 0 or box_height <= 0:
        return "zero_area_bbox", None
    whole = (y, x, y + box_height, x + box_width)
    inside = (max(y, 0.0), max(x, 0.0), min(whole[2], float(height)), min(whole[3], float(width)))
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        return "bbox_outside", None
    excess = max(abs(a - b) for a, b in zip(whole, inside, strict=True))
    return ("bbox_over_edge" if excess > _EDGE_TOLERANCE else None), inside


def _area(
    value: Any,
    mask: dict[str, Any] | None,
    box: tuple[float, float, float, float],
    note: _Note,
) -> float:
    if _are_finite([value]) and value > 0:
        return float(value)
    note("missing_area" if value is None else "invalid_area", Outcome.MENDED)
    if mask is not None:
        return float(coco_mask.area(mask))
    return (box[2] - box[0]) * (box[3] - box[1])


def _mask_box(mask: dict[str, Any]) -> tuple[float, float, float, float]:
    x, y, width, height = coco_mask.toBbox(mask).tolist()
    return y, x, y + height, x + width


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _are_finite(values: Sequence[Any]) -> bool:
    # Polygons have many values, and JSON only two types of numbers.
    are_numbers = set(map(type, values)) <= {int, float} or all(map(_is_number, values))
    try:
        return are_numbers and bool(np.isfinite(np.asarray(values, float)).all())
    except OverflowError:  # an integer that no float can hold
        return False
