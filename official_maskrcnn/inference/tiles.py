"""A very large image, seen in overlapping tiles whose detections are merged."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from official_maskrcnn.evaluation import pasting
from official_maskrcnn.inference.detections import Detections
from official_maskrcnn.inference.predictor import Predictor

# Two detections are of one object if their masks agree so far where both tiles look.
_SAME_OBJECT_IOU = 0.5


def predict_tiles(
    predictor: Predictor,
    image: np.ndarray,
    tile_size: int,
    overlap: float = 0.25,
    batch_size: int = 1,
) -> Detections:
    """Looks at an image tile by tile, each fitted into the network input.

    An object that several tiles see is one detection: its masks are united, and its score is the
    highest. An object that no tile sees as a whole is put together from its parts if these agree
    where the tiles overlap, so the overlap should be wider than what is thin in the image.

    Args:
      predictor: the model.
      image: uint8 [h, w, 3], RGB.
      tile_size: side of the square tiles in pixels of the image.
      overlap: of neighbouring tiles, at least this fraction of their side.
      batch_size: tiles through the model at a time.

    Returns:
      Detections with masks of the image's size; those of an image that is not larger than a tile
      are as `predictor` gives them.
    """
    height, width = image.shape[:2]
    if max(height, width) <= tile_size:
        return predictor(image)
    windows = [
        (y, x, min(y + tile_size, height), min(x + tile_size, width))
        for y in tile_starts(height, tile_size, overlap)
        for x in tile_starts(width, tile_size, overlap)
    ]
    found: list[Detections] = []
    for start in range(0, len(windows), batch_size):
        part = windows[start : start + batch_size]
        found += predictor.predict([image[y1:y2, x1:x2] for y1, x1, y2, x2 in part])
    return merge_tiles(found, np.array(windows), (height, width))


def tile_starts(length: int, tile_size: int, overlap: float) -> list[int]:
    """Evenly spread starts of as few tiles as cover `length` with at least that overlap."""
    if length <= tile_size:
        return [0]
    step = max(1.0, tile_size * (1.0 - overlap))
    count = int(np.ceil((length - tile_size) / step)) + 1
    return np.linspace(0, length - tile_size, count).round().astype(int).tolist()


def merge_tiles(
    found: list[Detections], windows: np.ndarray, image_size: tuple[int, int]
) -> Detections:
    """Detections of an image out of those of its tiles.

    Args:
      found: of each tile, in pixels of the tile.
      windows: int [tiles, 4] (ymin, xmin, ymax, xmax) of each tile in the image.
      image_size: height and width of the image.
    """
    shifts = np.tile(windows[:, :2], 2).astype(np.float32)
    boxes = np.concatenate([f.boxes + shift for f, shift in zip(found, shifts, strict=True)])
    classes = np.concatenate([f.class_ids for f in found])
    scores = np.concatenate([f.scores for f in found])
    tiles = np.repeat(np.arange(len(found)), [len(f) for f in found])
    rles = [
        rle
        for f, shift in zip(found, shifts, strict=True)
        for rle in _rles_in_image(f, shift, image_size)
    ]
    groups: list[list[int]] = []  # of detections of one object, the most certain first
    for i in np.argsort(-scores, kind="stable").tolist():

        def is_same(other: int, i: int = i) -> bool:
            return (
                classes[i] == classes[other]
                and tiles[i] != tiles[other]
                and _agree(rles[i], rles[other], windows[tiles[i]], windows[tiles[other]])
            )

        group = next((group for group in groups if any(map(is_same, group))), None)
        if group is None:
            groups.append([i])
        else:
            group.append(i)
    first = [group[0] for group in groups]
    united = [
        np.concatenate([boxes[group, :2].min(axis=0), boxes[group, 2:].max(axis=0)])
        for group in groups
    ]
    masks = [coco_mask.merge([rles[i] for i in group]) for group in groups]
    return Detections(
        np.array(united, np.float32).reshape(-1, 4),
        classes[first],
        scores[first],
        found[0].class_names,
        image_size,
        merged_masks=masks if found[0].has_masks else None,
    )


def _rles_in_image(
    found: Detections, shift: np.ndarray, image_size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Masks of a tile's detections, or their boxes, in the image; `shift` [4] is the tile's."""
    boxes = found.boxes + shift
    if found.mask_crops is not None:
        outer = boxes if found.mask_boxes is None else found.mask_boxes + shift
        return pasting.rle_from_crops(found.mask_crops, outer, *image_size)
    return [_rectangle(box, image_size) for box in boxes]


def _rectangle(box: np.ndarray, image_size: tuple[int, int]) -> dict[str, Any]:
    y1, x1, y2, x2 = box
    return coco_mask.frPyObjects(np.array([[x1, y1, x2 - x1, y2 - y1]], float), *image_size)[0]


def _agree(
    rle: dict[str, Any], other: dict[str, Any], window: np.ndarray, other_window: np.ndarray
) -> bool:
    """Whether two masks are much the same where both windows [4] look."""
    top_left = np.maximum(window[:2], other_window[:2])
    bottom_right = np.minimum(window[2:], other_window[2:])
    if (bottom_right <= top_left).any():
        return False
    common = _rectangle(np.concatenate([top_left, bottom_right]), tuple(rle["size"]))
    seen = [coco_mask.merge([mask, common], intersect=True) for mask in (rle, other)]
    return bool(coco_mask.iou(seen[:1], seen[1:], [False])[0, 0] >= _SAME_OBJECT_IOU)
