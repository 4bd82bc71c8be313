"""Detections as JSON, and the forms that a mask can have in it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from official_maskrcnn.evaluation import pasting
from official_maskrcnn.inference.annotate import mask_to_polygons
from official_maskrcnn.inference.detections import Detections
from official_maskrcnn.inference.serving.options import MaskForm

_BOX_DIGITS = 6  # a hundredth of a pixel, in an image of 10000
_CROP_DIGITS = 3


def to_answer(detections: Detections, form: MaskForm) -> list[dict[str, Any]]:
    """One entry an object, the most certain first.

    Args:
      detections: of an image.
      form: of `mask`: "crop", rows of probabilities that fill `mask_box`; "rle", COCO's compressed
        run lengths of the whole image; "polygon", COCO's outlines [x1, y1, x2, y2, ...] in pixels;
        "none" leaves it out.

    Returns:
      {class, label, confidence, bounding_box, maybe mask, maybe mask_box}; boxes are (ymin, xmin,
      ymax, xmax) as fractions of the image's height and width.
    """
    entries: list[dict[str, Any]] = [
        {"class": number, "label": name, "confidence": score, "bounding_box": box}
        for number, name, score, box in zip(
            detections.class_ids.tolist(),
            detections.names,
            detections.scores.astype(np.float64).round(6).tolist(),
            _normalize(detections.boxes, detections.image_size),
            strict=True,
        )
    ]
    for name, values in _masks(detections, form).items():
        for entry, value in zip(entries, values, strict=True):
            entry[name] = value
    return entries


def _normalize(boxes: np.ndarray, size: tuple[int, int]) -> list[list[float]]:
    fractions = boxes.astype(np.float64) / [*size, *size]
    return fractions.round(_BOX_DIGITS).tolist()


def _masks(detections: Detections, form: MaskForm) -> dict[str, Sequence[Any]]:
    """Values of all entries, by key."""
    if form == "none":
        return {}
    if form == "rle":
        return {"mask": detections.rles}
    assert detections.mask_crops is not None
    boxes = detections.boxes if detections.mask_boxes is None else detections.mask_boxes
    if form == "crop":
        crops = detections.mask_crops.astype(np.float64).round(_CROP_DIGITS)
        return {"mask": crops.tolist(), "mask_box": _normalize(boxes, detections.image_size)}
    return {
        "mask": [
            _polygons(crop, box, detections.image_size)
            for crop, box in zip(detections.mask_crops, boxes, strict=True)
        ]
    }


def _polygons(crop: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> list[list[float]]:
    """Outlines of a mask, which is pasted into the part of the image that its box covers."""
    first = np.clip(np.floor(box[:2]), 0, size).astype(int)
    last = np.clip(np.ceil(box[2:]), first, size).astype(int)
    height, width = (last - first).tolist()
    if not height or not width:
        return []
    rle = pasting.rle_from_crop(crop, box - np.tile(first, 2), height, width)
    outlines = mask_to_polygons(coco_mask.decode(rle))
    y, x = first.tolist()
    corner = np.array([x, y])
    return [(np.reshape(o, [-1, 2]) + corner).round(2).ravel().tolist() for o in outlines]
