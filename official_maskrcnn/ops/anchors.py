"""Anchors of a feature pyramid and their training labels.

Of anchors there are a quarter of a million: their coordinates come first, since a TPU pads the last
dimension of an array to 128.
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from official_maskrcnn.ops import boxes as box_ops
from official_maskrcnn.ops import sampling


def pyramid_anchors(
    image_size: tuple[int, int],
    min_level: int,
    max_level: int,
    num_scales: int,
    aspect_ratios: Sequence[float],
    anchor_size: float,
) -> dict[str, np.ndarray]:
    """Anchors of each level, centred on its cells.

    Args:
      image_size: height and width of the network input.
      min_level: finest level; level l has stride 2**l.
      max_level: coarsest level.
      num_scales: anchor sides grow in this many steps to the octave.
      aspect_ratios: width / height.
      anchor_size: side of the smallest anchor, in strides.

    Returns:
      Level name to float32 [4, num_scales * len(aspect_ratios) * height_l * width_l], anchors of
      one scale and aspect ratio side by side.
    """
    ratios = np.sqrt(np.tile(aspect_ratios, num_scales))  # [a]
    scales = np.repeat(2.0 ** (np.arange(num_scales) / num_scales), len(aspect_ratios))  # [a]
    anchors = {}
    for level in range(min_level, max_level + 1):
        sides = anchor_size * 2**level * scales
        half = np.stack([sides / ratios, sides * ratios], axis=-1) / 2  # [a, 2]
        cells = [math.ceil(length / 2**level) for length in image_size]
        y, x = (
            (np.arange(n) + 0.5) * length / n for n, length in zip(cells, image_size, strict=True)
        )
        centers = np.stack(np.meshgrid(y, x, indexing="ij"))[:, None]  # [2, 1, h, w]
        half = half.T[..., None, None]  # [2, a, 1, 1]
        level_anchors = np.concatenate([centers - half, centers + half])  # [4, a, h, w]
        anchors[str(level)] = level_anchors.reshape(4, -1).astype(np.float32)
    return anchors


def label_anchors(
    anchors: tf.Tensor,
    gt_boxes: tf.Tensor,
    gt_valid: tf.Tensor,
    seeds: tf.Tensor,
    match_threshold: float = 0.7,
    unmatched_threshold: float = 0.3,
    num_samples: int = 256,
    foreground_fraction: float = 0.5,
    static_shapes: bool = False,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Targets of the region proposal network (Faster R-CNN, arXiv 1506.01497, section 3.1.2).

    An anchor is foreground if its best IoU reaches `match_threshold`, or if it is the best anchor
    of some instance; background below `unmatched_threshold`. Of these, `num_samples` an image are
    drawn for the score loss.

    Args:
      anchors: [4, a].
      gt_boxes: [b, n, 4].
      gt_valid: [b, n] bool, False on padding.
      seeds: uint32 [b] of the random draw.
      match_threshold: IoU.
      unmatched_threshold: IoU.
      num_samples: per image.
      foreground_fraction: at most this share of the samples is foreground.
      static_shapes: in a way that suits XLA; the results are the same.

    Returns:
      score_targets int32 [b, a]: 1 foreground, 0 background, -1 not sampled.
      box_targets [b, 4, a], encoded; 0 where not foreground.
      foreground [b, a] bool, sampled or not: where the box loss applies.
    """
    gt_boxes = tf.where(gt_valid[..., None], gt_boxes, 0.0)  # padding overlaps nothing
    anchor = tf.unstack(anchors)  # [a] each
    instance = tf.unstack(gt_boxes, axis=-1)  # [b, n] each
    iou = box_ops.iou([c[:, None] for c in anchor], [c[:, None, :] for c in instance])  # [b, a, n]
    matched = tf.argmax(iou, axis=-1, output_type=tf.int32)  # [b, a]

    # The best anchor of each instance is foreground whatever its IoU, and belongs to it.
    num_anchors, num_instances = tf.shape(iou)[1], tf.shape(iou)[2]
    best_anchor = tf.argmax(iou, axis=1, output_type=tf.int32)  # [b, n]
    has_anchor = box_ops.iou([tf.gather(c, best_anchor) for c in anchor], instance) > 0.0
    best_anchor = tf.where(has_anchor, best_anchor, num_anchors)  # one more column takes the rest
    rows = tf.repeat(tf.range(tf.shape(iou)[0])[:, None], num_instances, axis=1)  # [b, n]
    columns = tf.repeat(tf.range(num_instances)[None], tf.shape(iou)[0], axis=0)  # [b, n]
    forced = tf.tensor_scatter_nd_min(
        tf.fill([tf.shape(iou)[0], num_anchors + 1], num_instances),
        tf.stack([rows, best_anchor], axis=-1),
        columns,
    )[:, :-1]  # [b, a], num_instances where no instance forces the anchor
    is_forced = forced < num_instances
    matched = tf.where(is_forced, forced, matched)
    boxes = _select(instance, matched, static_shapes)  # [b, a] each
    # Of the matches alone: the maximum over all pairs would be one more pass over them.
    best_iou = box_ops.iou(anchor, boxes)  # [b, a]

    foreground = (best_iou >= match_threshold) | is_forced
    background = (best_iou < unmatched_threshold) & ~foreground
    sampled_foreground, sampled_background = sampling.sample_balanced(
        foreground, background, num_samples, foreground_fraction, seeds
    )
    score_targets = tf.where(sampled_foreground, 1, tf.where(sampled_background, 0, -1))
    box_targets = box_ops.encode(tf.stack(boxes, axis=1), anchors[None], axis=-2)
    box_targets = tf.where(foreground[:, None], box_targets, 0.0)
    return score_targets, box_targets, foreground


def _select(
    coordinates: Sequence[tf.Tensor], indices: tf.Tensor, static_shapes: bool
) -> list[tf.Tensor]:
    """Coordinates [b, a] each of the boxes of given indices [b, a], out of coordinates [b, n]."""
    if static_shapes:
        # A TPU gathers boxes as rows of 4, padded to 128. XLA fuses these sums into a pass over the
        # indices; elsewhere each would be an array [b, a, n].
        chosen = indices[..., None] == tf.range(tf.shape(coordinates[0])[1])  # [b, a, n]
        return [tf.reduce_sum(tf.where(chosen, c[:, None], 0.0), axis=-1) for c in coordinates]
    return tf.unstack(tf.gather(tf.stack(coordinates, 1), indices, axis=2, batch_dims=1), axis=1)
