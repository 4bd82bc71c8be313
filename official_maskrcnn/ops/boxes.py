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


def _centers_and_sizes(boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * sizes, sizes


def encode(
    boxes: tf.Tensor, anchors: tf.Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> tf.Tensor:
    """Regression targets that lead from anchors to boxes (R-CNN, arXiv 1311.2524, appendix C).

    Args:
      boxes: [..., 4].
      anchors: [..., 4], broadcastable to boxes.
      weights: factors of (dy, dx, dh, dw).

    Returns:
      [..., 4] of (dy, dx, log dh, log dw).
    """
    box_centers, box_sizes = _centers_and_sizes(boxes)
    anchor_centers, anchor_sizes = _centers_and_sizes(anchors)
    anchor_sizes += _EPSILON
    shifts = (box_centers - anchor_centers) / anchor_sizes
    scales = tf.math.log((box_sizes + _EPSILON) / anchor_sizes)
    return tf.concat([shifts, scales], axis=-1) * tf.constant(weights, boxes.dtype)


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


def area(boxes: tf.Tensor) -> tf.Tensor:
    """Areas [...] of boxes [..., 4]; 0 where the sides are reversed."""
    sizes = tf.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return sizes[..., 0] * sizes[..., 1]


def pairwise_iou(boxes: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Intersection over union of every box [..., n, 4] with every other [..., m, 4]: [..., n, m].

    0 where both are empty.
    """
    # Coordinate by coordinate: slices of [..., n, m, 2] would be copies.
    top, left, bottom, right = tf.unstack(boxes[..., :, None, :], axis=-1)  # [..., n, 1]
    others_top, others_left, others_bottom, others_right = tf.unstack(
        others[..., None, :, :], axis=-1
    )  # [..., 1, m]
    height = tf.minimum(bottom, others_bottom) - tf.maximum(top, others_top)  # [..., n, m]
    width = tf.minimum(right, others_right) - tf.maximum(left, others_left)
    intersection = tf.maximum(height, 0.0) * tf.maximum(width, 0.0)
    union = area(boxes)[..., :, None] + area(others)[..., None, :] - intersection
    return tf.math.divide_no_nan(intersection, union)
