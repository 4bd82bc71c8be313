"""Boxes as tensors [..., 4] of (ymin, xmin, ymax, xmax) in pixels."""

import math
from collections.abc import Sequence

import tensorflow as tf

# Regression targets of RoIs are scaled by these (Fast R-CNN's 1/0.1 and 1/0.2), those of the
# second and third cascade stage by more, because the boxes are nearer (arXiv 1712.00726).
CASCADE_REGRESSION_WEIGHTS = (
    (10.0, 10.0, 5.0, 5.0),
    (20.0, 20.0, 10.0, 10.0),
    (30.0, 30.0, 15.0, 15.0),
)
_MAX_LOG_SCALE = math.log(1000.0 / 16.0)  # a regressed box grows at most to this many times
_EPSILON = 1e-8


def _centers_and_sizes(boxes: tf.Tensor, axis: int = -1) -> tuple[tf.Tensor, tf.Tensor]:
    starts, ends = tf.split(boxes, 2, axis=axis)
    sizes = ends - starts
    return starts + 0.5 * sizes, sizes


def encode(
    boxes: tf.Tensor,
    anchors: tf.Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    axis: int = -1,
) -> tf.Tensor:
    """Regression targets that lead from anchors to boxes (R-CNN, arXiv 1311.2524, appendix C).

    Args:
      boxes: [..., 4].
      anchors: [..., 4], broadcastable to boxes.
      weights: factors of (dy, dx, dh, dw).
      axis: negative; where the 4 coordinates lie.

    Returns:
      [..., 4] of (dy, dx, log dh, log dw).
    """
    box_centers, box_sizes = _centers_and_sizes(boxes, axis)
    anchor_centers, anchor_sizes = _centers_and_sizes(anchors, axis)
    anchor_sizes += _EPSILON
    shifts = (box_centers - anchor_centers) / anchor_sizes
    scales = tf.math.log((box_sizes + _EPSILON) / anchor_sizes)
    weights = tf.reshape(tf.constant(weights, boxes.dtype), [4] + [1] * (-axis - 1))
    return tf.concat([shifts, scales], axis=axis) * weights


def decode(
    deltas: tf.Tensor, anchors: tf.Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> tf.Tensor:
    """Boxes [..., 4] that regression outputs [..., 4] make of anchors; inverse of `encode`."""
    deltas = tf.cast(deltas, anchors.dtype) / tf.constant(weights, anchors.dtype)
    centers, sizes = _centers_and_sizes(anchors)
    centers += deltas[..., :2] * sizes
    sizes *= tf.exp(tf.minimum(deltas[..., 2:], _MAX_LOG_SCALE))
    starts = centers - 0.5 * sizes
    return tf.concat([starts, starts + sizes], axis=-1)


def clip(boxes: tf.Tensor, image_size: tf.Tensor) -> tf.Tensor:
    """Boxes [b, ..., 4] cut at the edges of images of (height, width) [b, 2]."""
    limit = tf.concat([image_size, image_size], axis=-1)  # [b, 4]
    limit = tf.reshape(limit, [-1] + [1] * (boxes.shape.rank - 2) + [4])
    return tf.clip_by_value(boxes, 0.0, tf.cast(limit, boxes.dtype))


def enlarge(boxes: tf.Tensor, scale: float, image_size: tf.Tensor) -> tf.Tensor:
    """Boxes [b, n, 4] scaled about their centres and cut at the edges of the images [b, 2]."""
    if scale == 1.0:
        return boxes
    centers, sizes = _centers_and_sizes(boxes)
    half = 0.5 * scale * sizes
    return clip(tf.concat([centers - half, centers + half], axis=-1), image_size)


def pairwise_iou(boxes: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Intersection over union of every box [..., n, 4] with every other [..., m, 4]: [..., n, m].

    0 where both are empty.
    """
    return iou(
        tf.unstack(boxes[..., :, None, :], axis=-1), tf.unstack(others[..., None, :, :], axis=-1)
    )


def iou(boxes: Sequence[tf.Tensor], others: Sequence[tf.Tensor]) -> tf.Tensor:
    """Intersection over union of boxes with others, both as their four coordinates.

    0 where both are empty. The coordinates' shapes broadcast to that of the result. Slices of boxes
    in one array would be copies.
    """
    top, left, bottom, right = boxes
    others_top, others_left, others_bottom, others_right = others
    height = tf.minimum(bottom, others_bottom) - tf.maximum(top, others_top)
    width = tf.minimum(right, others_right) - tf.maximum(left, others_left)
    intersection = tf.maximum(height, 0.0) * tf.maximum(width, 0.0)
    union = _area(boxes) + _area(others) - intersection
    return tf.math.divide_no_nan(intersection, union)


def _area(box: Sequence[tf.Tensor]) -> tf.Tensor:
    """Of boxes as their four coordinates; 0 where the sides are reversed."""
    top, left, bottom, right = box
    return tf.maximum(bottom - top, 0.0) * tf.maximum(right - left, 0.0)
