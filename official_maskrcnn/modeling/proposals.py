"""Proposals: the boxes of the region proposal network that the second stage looks at."""

from collections.abc import Mapping

import tensorflow as tf

from official_maskrcnn.configs.model import ROIGenerator
from official_maskrcnn.ops import boxes as box_ops
from official_maskrcnn.ops import nms


def generate_proposals(
    logits: Mapping[str, tf.Tensor],
    deltas: Mapping[str, tf.Tensor],
    anchors: Mapping[str, tf.Tensor],
    image_size: tf.Tensor,
    config: ROIGenerator,
    training: bool,
    static_shapes: bool,
    keep_empty: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Best boxes of each level, thinned by NMS, then the best over all levels.

    Faster R-CNN (arXiv 1506.01497, section 3.3), level by level as in FPN (arXiv 1612.03144).

    Args:
      logits: level to objectness logits [b, a_l].
      deltas: level to box outputs [b, 4, a_l].
      anchors: level to [4, a_l].
      image_size: [b, 2], (height, width) of the images within the network input.
      config: numbers and thresholds, of which those with `test_` hold when not training.
      training: see config.
      static_shapes: use operations that XLA compiles.
      keep_empty: let boxes without area, beyond the image, be proposals, as Model Garden does.

    Returns:
      Boxes [b, p, 4] and scores [b, p], best first; p is `num_proposals`, or less if there are
      fewer anchors. Missing proposals are boxes of 0 with score -1.
    """
    prefix = "" if training else "test_"
    top_k = getattr(config, f"{prefix}pre_nms_top_k")
    score_threshold = getattr(config, f"{prefix}pre_nms_score_threshold")
    min_side = getattr(config, f"{prefix}pre_nms_min_size_threshold")
    iou_threshold = getattr(config, f"{prefix}nms_iou_threshold")
    num_proposals = getattr(config, f"{prefix}num_proposals")

    all_boxes, all_scores = [], []
    for level in sorted(logits, key=int):
        num_anchors = anchors[level].shape[1]
        level_logits, indices = tf.math.top_k(
            tf.cast(logits[level], tf.float32), k=min(top_k, num_anchors)
        )  # [b, k]
        scores = tf.sigmoid(level_logits)
        level_deltas = tf.gather(deltas[level], indices, axis=2, batch_dims=1)  # [b, 4, k]
        boxes = box_ops.decode(
            tf.cast(tf.linalg.matrix_transpose(level_deltas), tf.float32),
            tf.gather(anchors[level].T, indices),
        )
        boxes = box_ops.clip(boxes, image_size)  # [b, k, 4]
        sides = boxes[..., 2:] - boxes[..., :2]
        usable = tf.reduce_all(sides >= min_side, -1)
        if not keep_empty:
            usable &= tf.reduce_all(sides > 0.0, -1)
        scores = tf.where(usable & (scores >= score_threshold), scores, -1.0)
        if iou_threshold > 0.0:
            kept, real = nms.suppress(
                boxes, scores, iou_threshold, min(num_proposals, num_anchors), static_shapes
            )
            boxes = tf.gather(boxes, kept, batch_dims=1)
            scores = tf.where(real, tf.gather(scores, kept, batch_dims=1), -1.0)
        all_boxes.append(boxes)
        all_scores.append(scores)

    boxes, scores = tf.concat(all_boxes, axis=1), tf.concat(all_scores, axis=1)
    scores, best = tf.math.top_k(scores, k=min(num_proposals, scores.shape[1]))  # [b, p]
    boxes = tf.gather(boxes, best, batch_dims=1)
    return tf.where(scores[..., None] >= 0.0, boxes, 0.0), scores
