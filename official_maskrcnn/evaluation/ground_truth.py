"""COCO ground truth, read once, checked, and kept compactly: every mask as compressed RLE."""

import collections
import dataclasses
import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from official_maskrcnn.errors import UserError
from official_maskrcnn.evaluation.files import read_json
from official_maskrcnn.ops import rle

_logger = logging.getLogger(__name__)
_MAX_IDS_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """What detections are compared with.

    Attributes:
      image_sizes: (height, width) in pixels by image id, in ascending order of the ids.
      categories: unique display names by category id, in ascending order of the ids.
      annotations: COCO annotations {id, image_id, category_id, bbox [x, y, width, height], area,
        iscrowd, segmentation}; ids count from 1, as COCO's matching takes id 0 for "no match";
        segmentation is a compressed RLE, or None where there is a box but no mask.
    """

    image_sizes: Mapping[int, tuple[int, int]]
    categories: Mapping[int, str]
    annotations: Sequence[dict[str, Any]]


def load_ground_truth(source: Mapping[str, Any] | str | os.PathLike[str]) -> GroundTruth:
    """Reads a COCO dict or annotation file.

    Missing `iscrowd` counts as 0; missing `area` and `bbox` are taken from the mask. Annotations
    without a usable mask keep their box. What cannot be used at all (unknown image or category,
    neither box nor mask) is left out. Both are counted in the log.

    Args:
      source: {"images", "annotations", "categories"}, or the path of a JSON file.

    Raises:
      UserError: the file cannot be read or is not a COCO file, or images have no usable id or size.
    """
    dataset = source if isinstance(source, Mapping) else read_json(source)
    name = "ground truth" if isinstance(source, Mapping) else os.fspath(source)
    if not isinstance(dataset, Mapping) or not isinstance(dataset.get("images"), Sequence):
        raise UserError(f"{name}: not a COCO annotation file, it has no list of images")
    annotations = dataset.get("annotations") or []
    image_sizes = _image_sizes(dataset["images"], name)
    categories = _category_names(dataset.get("categories") or [], annotations)

    kept: list[dict[str, Any]] = []
    faults: collections.Counter[str] = collections.Counter()
    for annotation in annotations:
        image_id = as_id(annotation.get("image_id"))
        if image_id not in image_sizes:
            faults["left out: their image is not in the file"] += 1
        elif annotation.get("category_id") not in categories:
            faults["left out: their category is not in the file"] += 1
        elif (mended := _mend(annotation, image_sizes[image_id])) is None:
            faults["left out: neither a box nor a mask"] += 1
        else:
            if mended["segmentation"] is None:
                faults["without a usable mask: they count in box AP only"] += 1
            kept.append(mended | {"id": len(kept) + 1, "image_id": image_id})
    for fault, count in faults.items():
        _logger.warning("%s: %d of %d annotations %s", name, count, len(annotations), fault)
    return GroundTruth(image_sizes, categories, kept)


def segmentation_to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any] | None:
    """COCO polygons, or compressed or uncompressed RLE, as compressed RLE.

    Polygons of fewer than three points or with an odd number of coordinates are left out.

    Returns:
      {"size": [height, width], "counts": bytes}, or None if nothing is left, or the RLE is of
      another size or damaged.
    """
    if isinstance(segmentation, Mapping):
        if segmentation.get("size") not in ([height, width], (height, width)):
            return None
        try:
            return rle.compressed(segmentation.get("counts"), height, width)
        except ValueError:
            return None
    if isinstance(segmentation, Sequence) and not isinstance(segmentation, str):
        polygons = [polygon for polygon in segmentation if _is_polygon(polygon)]
        if polygons:
            return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return None


def as_id(value: Any) -> int | None:
    """An image id as an integer; numbers given as text are accepted, None if it is not a number."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _image_sizes(images: Sequence[Mapping[str, Any]], name: str) -> dict[int, tuple[int, int]]:
    bad_ids = [image.get("id") for image in images if as_id(image.get("id")) is None]
    no_size = [
        image.get("id")
        for image in images
        if not all(_is_positive(image.get(side)) for side in ("height", "width"))
    ]
    faults = []
    if bad_ids:
        faults.append(f"{len(bad_ids)} images have an id that is not a number: {_shown(bad_ids)}")
    if no_size:
        faults.append(f"{len(no_size)} images have no height and width: ids {_shown(no_size)}")
    if faults:
        raise UserError("\n".join(f"{name}: {fault}" for fault in faults))
    sizes = {int(image["id"]): (int(image["height"]), int(image["width"])) for image in images}
    return dict(sorted(sizes.items()))


def _category_names(
    categories: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]]
) -> dict[int, str]:
    names = {category["id"]: str(category.get("name", category["id"])) for category in categories}
    if not names:  # a file of annotations only
        ids = {a["category_id"] for a in annotations if a.get("category_id") is not None}
        names = {category_id: str(category_id) for category_id in ids}
    uses = collections.Counter(names.values())
    return {
        category_id: name if uses[name] == 1 else f"{name} ({category_id})"
        for category_id, name in sorted(names.items())
    }


def _mend(annotation: Mapping[str, Any], image_size: tuple[int, int]) -> dict[str, Any] | None:
    """The annotation with all of COCO's keys except ids; None if it says not where it is."""
    segmentation = segmentation_to_rle(annotation.get("segmentation"), *image_size)
    mask_area = 0 if segmentation is None else int(coco_mask.area(segmentation))
    if mask_area == 0:
        segmentation = None
    box: Any = annotation.get("bbox")
    if not _is_box(box):
        if segmentation is None:
            return None
        box = coco_mask.toBbox(segmentation).tolist()
    area = annotation.get("area")
    if not isinstance(area, int | float) or not math.isfinite(area):
        area = mask_area or box[2] * box[3]
    return {
        "category_id": annotation["category_id"],
        "bbox": [float(value) for value in box],
        "area": float(area),
        "iscrowd": int(bool(annotation.get("iscrowd", 0))),
        "segmentation": segmentation,
    }


def _is_polygon(polygon: Any) -> bool:
    return (
        isinstance(polygon, Sequence)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and _are_numbers(polygon)
    )


def _is_box(box: Any) -> bool:
    return isinstance(box, Sequence) and len(box) == 4 and _are_numbers(box)


def _are_numbers(values: Sequence[Any]) -> bool:
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        return False
    return array.ndim == 1 and array.dtype.kind in "iuf" and bool(np.isfinite(array).all())


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def _shown(ids: Sequence[Any]) -> str:
    text = ", ".join(str(image_id) for image_id in ids[:_MAX_IDS_SHOWN])
    return text + (", ..." if len(ids) > _MAX_IDS_SHOWN else "")
