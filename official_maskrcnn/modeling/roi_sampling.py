"""Training examples of the second stage: RoIs, and what each of them should become."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from official_maskrcnn.configs.model import ROISampler
from official_maskrcnn.ops import boxes as box_ops
from official_maskrcnn.ops import sampling


class LabelledRoIs(NamedTuple):
    """RoIs with their targets.

    Attributes:
      rois: [b, k, 4].
      classes: int32 [b, k]; 0 for background.
      gt_indices: int32 [b, k], the best instance of each RoI, whatever its class says.
      box_targets: [b, k, 4], encoded with the stage's regression weights; 0 for background.
    """

    rois: tf.Tensor
    classes: tf.Tensor
    gt_indices: tf.Tensor
    box_targets: tf.Tensor


def sample_rois(
    proposals: tf.Tensor,
    proposal_valid: tf.Tensor,
    gt_boxes: tf.Tensor,
    gt_classes: tf.Tensor,
    config: ROISampler,
    regression_weights: Sequence[float],
    seeds: tf.Tensor,
) -> LabelledRoIs:
    """Draws foreground and background RoIs (Fast R-CNN, arXiv 1504.08083, section 2.3).

    Args:
      proposals: [b, p, 4].
      proposal_valid: [b, p] bool.
      gt_boxes: [b, n, 4], padding below 0.
      gt_classes: int32 [b, n], padding below 0.
      config: numbers and thresholds; k = num_sampled_rois.
      regression_weights: of the box targets.
      seeds: uint32 [b].
    """
    if config.mix_gt_boxes:
        proposals = tf.concat([proposals, gt_boxes], axis=1)
        proposal_valid = tf.concat([proposal_valid, gt_classes > 0], axis=1)
    best_iou, gt_indices = _match(proposals, gt_boxes, gt_classes)
    foreground = proposal_valid & (best_iou >= config.foreground_iou_threshold)
    background = (
        proposal_valid
        & ~foreground
        & (best_iou < config.background_iou_high_threshold)
        & (best_iou >= config.background_iou_low_threshold)
    )
    chosen = sampling.sample_indices(
        foreground, background, config.num_sampled_rois, config.foreground_fraction, seeds
    )  # [b, k]

    def take(values: tf.Tensor) -> tf.Tensor:
        return tf.gather(values, chosen, batch_dims=1)

    return _label(
        take(proposals),
        take(foreground),
        take(gt_indices),
        gt_boxes,
        gt_classes,
        regression_weights,
    )


def label_rois(
    rois: tf.Tensor,
    gt_boxes: tf.Tensor,
    gt_classes: tf.Tensor,
    iou_threshold: float,
    regression_weights: Sequence[float],
) -> LabelledRoIs:
    """Labels RoIs [b, k, 4] as they are, for a later stage of a cascade (arXiv 1712.00726)."""
    best_iou, gt_indices = _match(rois, gt_boxes, gt_classes)
    foreground = best_iou >= iou_threshold
    return _label(rois, foreground, gt_indices, gt_boxes, gt_classes, regression_weights)


def _match(
    rois: tf.Tensor, gt_boxes: tf.Tensor, gt_classes: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """IoU [b, k] with, and index [b, k] of, the best instance; IoU 0 where there is none."""
    iou = box_ops.pairwise_iou(rois, gt_boxes)  # [b, k, n]
    iou = tf.where((gt_classes > 0)[:, None, :], iou, 0.0)
    iou = tf.pad(iou, [[0, 0], [0, 0], [0, 1]])  # so that images without instance slots work
    indices = tf.argmax(iou, axis=-1, output_type=tf.int32)
    return tf.reduce_max(iou, axis=-1), tf.minimum(
        indices, tf.maximum(tf.shape(gt_boxes)[1] - 1, 0)
    )


def _label(
    rois: tf.Tensor,
    foreground: tf.Tensor,
    gt_indices: tf.Tensor,
    gt_boxes: tf.Tensor,
    gt_classes: tf.Tensor,
    regression_weights: Sequence[float],
) -> LabelledRoIs:
    classes = tf.where(foreground, tf.gather(gt_classes, gt_indices, batch_dims=1), 0)
    targets = box_ops.encode(
        tf.gather(gt_boxes, gt_indices, batch_dims=1), rois, regression_weights
    )
    targets = tf.where(foreground[..., None], targets, 0.0)
    return LabelledRoIs(rois, classes, gt_indices, targets)
