"""Mask probabilities relative to a box -> binary masks of the image, as COCO run-length encoding.

A pixel (x, y) belongs to the mask if its centre lies in the box and the probability there, read
from the crop by bilinear interpolation with half-pixel centres, is at least 0.5. No box is rounded.

COCO's encoding runs down the columns. Down a column, the interpolated probability is a straight
line between two rows of the crop, so it crosses 0.5 at most once there. The ends of the runs
follow from these crossings: the work grows with (box width * crop height), not with the area of
the box, and no full-size image is ever made.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from pycocotools import mask as coco_mask

THRESHOLD = 0.5
# Interpolated values held at a time: bounds the memory for 100 boxes of a very large image.
_MAX_VALUES = 1 << 20


def rle_from_crops(masks: np.ndarray, boxes: np.ndarray, height: int, width: int) -> list[dict]:
    """Pastes mask crops into an image.

    Args:
      masks: [n, mask_height, mask_width] probabilities relative to the boxes; NaN counts as 0.
      boxes: [n, 4] (ymin, xmin, ymax, xmax) in pixels of the image, not rounded; may lie partly or
        wholly outside. A box that contains no pixel centre gives an empty mask.
      height: of the image in pixels.
      width: of the image in pixels.

    Returns:
      n compressed encodings {"size": [height, width], "counts": bytes}, equal to what
      pycocotools.mask.encode makes of the dense masks.
    """
    masks = np.nan_to_num(np.asarray(masks, np.float32))
    boxes = np.asarray(boxes, np.float64)
    first, last = _pixel_ranges(boxes, height, width)
    num_columns = np.where(last[:, 0] > first[:, 0], last[:, 1] - first[:, 1], 0)  # [n]
    rles: list[dict] = []
    for part in _parts(num_columns * masks.shape[1]):
        owner, x = _columns(first[part, 1], num_columns[part])
        values = _interpolate_across(masks[part], boxes[part], owner, x)
        column, y = _run_ends(values, boxes[part], first[part, 0], last[part, 0], owner)
        positions = x[column] * height + y
        counts = _counts(owner[column], positions, len(num_columns[part]), height * width)
        encodings = [{"size": [height, width], "counts": count} for count in counts]
        rles += coco_mask.frPyObjects(encodings, height, width)
    return rles


def rle_from_crop(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> dict:
    """`rle_from_crops` for one mask [mask_height, mask_width] and its box [4]."""
    return rle_from_crops(np.asarray(mask)[None], np.asarray(box)[None], height, width)[0]


def paste_crop(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask of `rle_from_crop` as an image, uint8 [height, width] of 0 and 1."""
    return coco_mask.decode(rle_from_crop(mask, box, height, width))


def _pixel_ranges(boxes: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """First and one-past-last pixel (y, x), int [n, 2], whose centres lie in the boxes."""
    boxes = np.where(np.isfinite(boxes).all(-1, keepdims=True), boxes, 0.0)
    limits = [height, width, height, width]
    pixels = np.clip(np.ceil(boxes - 0.5), 0, limits).astype(np.int64)  # [n, 4]
    first, last = pixels[:, :2], pixels[:, 2:]
    return first, np.maximum(first, last)


def _parts(num_values: np.ndarray) -> Iterator[slice]:
    """Consecutive slices of the detections, each of about _MAX_VALUES values at most."""
    if len(num_values) == 0:
        return
    part = np.cumsum(num_values) // _MAX_VALUES
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(num_values)], strict=True):
        yield slice(start, end)


def _columns(first: np.ndarray, num_columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pixel columns of all boxes: which detection each is of [c], and its x [c]."""
    owner = np.repeat(np.arange(len(num_columns)), num_columns)
    skipped = first - (np.cumsum(num_columns) - num_columns)
    return owner, np.arange(len(owner)) + skipped[owner]


def _interpolate_across(
    masks: np.ndarray, boxes: np.ndarray, owner: np.ndarray, x: np.ndarray
) -> np.ndarray:
    """Probabilities [c, rows] at the crop's rows, for each pixel column."""
    _, rows, columns = masks.shape
    _, x1, _, x2 = boxes.T
    u = (x + 0.5 - x1[owner]) / (x2 - x1)[owner] * columns - 0.5
    u = np.clip(u, 0, columns - 1)
    left = u.astype(np.int64)
    fraction = (u - left).astype(np.float32)[:, None]
    by_column = np.ascontiguousarray(masks.swapaxes(1, 2))  # [n, columns, rows]
    slopes = np.diff(by_column, axis=1, append=by_column[:, -1:]).reshape(-1, rows)
    left += owner * columns
    values = slopes.take(left, axis=0)  # [c, rows]
    values *= fraction
    values += by_column.reshape(-1, rows).take(left, axis=0)
    return values


def _run_ends(
    values: np.ndarray, boxes: np.ndarray, top: np.ndarray, bottom: np.ndarray, owner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where runs begin and where they have ended, as (column, y) in order of columns, then y.

    A run begins or ends where neighbouring values lie on either side of the threshold, and at the
    top and bottom of the box.
    """
    num_columns, rows = values.shape
    # A separator before each column, and one at the end, stand for the outside.
    inside = np.zeros(num_columns * (rows + 1) + 1, bool)
    np.greater_equal(values, THRESHOLD, out=inside[:-1].reshape(-1, rows + 1)[:, 1:])
    changes = np.flatnonzero(inside[1:] != inside[:-1])
    column, row = np.divmod(changes, rows + 1)
    at_top, at_bottom = row == 0, row == rows
    below = changes - column  # index into the values, which have no separators
    below[at_bottom] -= 1
    end = values.take(below)
    below[~at_top] -= 1
    start = values.take(below)
    slope = end - start
    slope[slope == 0] = 1  # at top and bottom, where there is no crossing
    crossing = row - 0.5 + (THRESHOLD - start) / slope  # in rows, from the edge of the crop

    box = owner[column]
    y1, _, y2, _ = boxes.T
    crossing = crossing * ((y2 - y1) / rows)[box] + (y1 - 0.5)[box]  # in pixels
    begins = inside[changes + 1]
    y = np.where(begins, np.ceil(crossing), np.floor(crossing) + 1)
    y = np.where(at_top, top[box], np.where(at_bottom, bottom[box], y))
    return column, np.clip(y, top[box], bottom[box]).astype(np.int64)


def _counts(
    owner: np.ndarray, positions: np.ndarray, num_detections: int, size: int
) -> list[np.ndarray]:
    """Run lengths of each detection's mask, beginning with those outside.

    Args:
      owner: [k] which detection a run begins or ends in, ascending.
      positions: [k] where, ascending within a detection; `size` is the end of the mask.
      num_detections: n.
      size: number of pixels of a mask.
    """
    # A run between two pixel centres is empty, and one that goes on in the next column does not
    # end: equal positions cancel in pairs.
    is_new = np.ones(len(positions), bool)
    is_new[1:] = (positions[1:] != positions[:-1]) | (owner[1:] != owner[:-1])
    groups = np.flatnonzero(is_new)
    kept = groups[np.diff(groups, append=len(positions)) % 2 == 1]
    owner, positions = owner[kept], positions[kept]

    # Lay the masks one behind the other: the run that crosses into the next mask is cut there.
    cuts = np.searchsorted(owner, np.arange(num_detections + 1))
    bounds = np.insert(owner * size + positions, cuts, np.arange(num_detections + 1) * size)
    lengths = np.diff(bounds)
    cuts += np.arange(num_detections + 1)
    counts = [lengths[start:end] for start, end in itertools.pairwise(cuts)]
    # The encoding has no last run of length 0.
    return [count[:-1] if len(count) > 1 and count[-1] == 0 else count for count in counts]
