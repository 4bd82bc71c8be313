"""Losses of Mask R-CNN, by the names and values of tf-models-official.

Each loss is normalised by a count over the examples of all replicas, so that the mean over
replicas equals the loss of the whole batch.
"""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from official_maskrcnn.configs.task import Losses
from official_maskrcnn.modeling.outputs import BoxStage, MaskOutputs

_EPSILON = 0.01  # against division by zero, added to counts


def _normalizer(count: tf.Tensor) -> tf.Tensor:
    """A count over all replicas, and not zero, as the share of a replica."""
    context = tf.distribute.get_replica_context()
    mean = context.all_reduce(tf.distribute.ReduceOp.MEAN, count)
    return mean + _EPSILON / context.num_replicas_in_sync


def _huber(errors: tf.Tensor, delta: float) -> tf.Tensor:
    size = tf.abs(errors)
    return tf.where(size <= delta, 0.5 * tf.square(size), delta * size - 0.5 * delta**2)


def rpn_score_loss(
    logits: Mapping[str, tf.Tensor], targets: Mapping[str, tf.Tensor], num_samples: int
) -> tf.Tensor:
    """Cross-entropy of objectness over the sampled anchors, per `num_samples` and image.

    Args:
      logits: level to [b, a_l].
      targets: level to int32 [b, a_l], 1 or 0, or -1 where not sampled.
      num_samples: the normaliser of each image. tf-models-official puts the number of sampled RoIs
        of the second stage here, not that of sampled anchors.
    """
    total = 0.0
    for level in logits:
        loss = tf.nn.sigmoid_cross_entropy_with_logits(
            tf.cast(tf.maximum(targets[level], 0), tf.float32), tf.cast(logits[level], tf.float32)
        )
        total += tf.reduce_sum(tf.where(targets[level] >= 0, loss, 0.0))
    batch = tf.shape(next(iter(logits.values())))[0]
    return total / tf.cast(batch * num_samples, tf.float32)


def rpn_box_loss(
    deltas: Mapping[str, tf.Tensor],
    targets: Mapping[str, tf.Tensor],
    foreground: Mapping[str, tf.Tensor],
    delta: float,
) -> tf.Tensor:
    """Huber loss of the foreground anchors: the sum over levels of each level's mean.

    Args:
      deltas: level to [b, 4, a_l].
      targets: level to [b, 4, a_l].
      foreground: level to [b, a_l] bool.
      delta: where the Huber loss turns linear.
    """
    total = 0.0
    for level in deltas:
        weights = tf.cast(foreground[level], tf.float32)[:, None]  # [b, 1, a_l]
        errors = targets[level] - tf.cast(deltas[level], tf.float32)
        count = _normalizer(4.0 * tf.reduce_sum(weights))
        total += tf.reduce_sum(_huber(errors, delta) * weights) / count
    return total


def box_class_loss(stage: BoxStage, config: Losses) -> tf.Tensor:
    """Cross-entropy of the box head's classes over all RoIs.

    `frcnn_class_loss_top_k_percent` below 1 keeps only that share of highest losses.
    """
    logits, classes = stage.class_logits, stage.labels.classes
    num_classes = logits.shape[-1]
    weights: Sequence[float] = config.class_weights or [1.0] * num_classes
    one_hot = tf.one_hot(classes, num_classes)
    if config.frcnn_class_use_binary_cross_entropy:
        loss = tf.nn.sigmoid_cross_entropy_with_logits(one_hot, logits) * tf.constant(weights)
    else:
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
        loss *= tf.linalg.matvec(one_hot, tf.constant(weights))
    share = config.frcnn_class_loss_top_k_percent
    if share >= 1.0:
        return tf.reduce_mean(loss)
    loss = tf.reshape(loss, [-1])
    count = tf.cast(share * tf.cast(tf.size(loss), tf.float32), tf.int32)
    hardest = tf.math.top_k(loss, k=count).values
    return tf.reduce_sum(hardest) / (tf.cast(count, tf.float32) + 1e-5)


def box_regression_loss(stage: BoxStage, delta: float) -> tf.Tensor:
    """Huber loss of the foreground RoIs' boxes, each of its own class."""
    classes = stage.labels.classes  # [b, k]
    outputs = stage.box_outputs  # [b, k, classes or 1, 4]
    if outputs.shape[2] == 1:
        outputs = outputs[:, :, 0]
    else:
        outputs = tf.gather(outputs, classes, axis=2, batch_dims=2)  # [b, k, 4]
    weights = tf.cast(classes > 0, tf.float32)[..., None]  # [b, k, 1]
    count = _normalizer(4.0 * tf.reduce_sum(weights))
    errors = stage.labels.box_targets - outputs
    return tf.reduce_sum(_huber(errors, delta) * weights) / count


def mask_loss(masks: MaskOutputs) -> tf.Tensor:
    """Cross-entropy per pixel of the packed masks."""
    loss = tf.nn.sigmoid_cross_entropy_with_logits(masks.targets, masks.logits)  # [m, s, s]
    pixels = tf.cast(masks.logits.shape[1] * masks.logits.shape[2], tf.float32)
    count = _normalizer(tf.reduce_sum(masks.weights) * pixels)
    return tf.reduce_sum(loss * masks.weights[:, None, None]) / count
