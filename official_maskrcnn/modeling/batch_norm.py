"""Batch normalisation that leaves padding out of its statistics, or is frozen."""

import tensorflow as tf
import tf_keras


class BatchNorm(tf_keras.layers.BatchNormalization):
    """Keras' batch normalisation over the last axis, for packed sets that end in padding.

    With `weights` [m], only entries of weight 1 enter the mean and variance, over all replicas if
    `synchronized`; when there is none at all, the moving statistics are used and stay as they are.
    A scalar is the weight of all entries: with 0 they are normalised by their own statistics, which
    is as good for values that nobody looks at, and the moving statistics stay as they are.
    """

    def call(
        self,
        inputs: tf.Tensor,
        training: bool | None = None,
        weights: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Normalises [m, ..., c]; `weights` of 0 and 1, or None when nothing is padding."""
        if weights is None or not training or not self.trainable:
            return super().call(inputs, training=training)
        if weights.shape.rank == 0:
            return self._normalize_all(inputs, weights)
        x, weights = tf.cast(inputs, self.dtype), tf.cast(weights, self.dtype)
        axes = list(range(1, inputs.shape.rank - 1))
        cells = tf.cast(tf.reduce_prod(tf.shape(inputs)[1:-1]), self.dtype)
        w = weights[:, None]
        sums = [
            tf.reduce_sum(w * tf.reduce_sum(x, axes), 0),
            tf.reduce_sum(w * tf.reduce_sum(tf.square(x), axes), 0),
            tf.reduce_sum(weights) * cells,
        ]
        if self.synchronized:
            context = tf.distribute.get_replica_context()
            sums = context.all_reduce(tf.distribute.ReduceOp.SUM, sums)
        total, total_squared, count = sums
        mean = total / tf.maximum(count, 1.0)
        variance = tf.maximum(total_squared / tf.maximum(count, 1.0) - tf.square(mean), 0.0)

        update = tf.cast(count > 0.0, self.dtype) * (1.0 - self.momentum)
        self._move_statistics(mean, variance, update)
        mean = tf.where(count > 0.0, mean, self.moving_mean)
        variance = tf.where(count > 0.0, variance, self.moving_variance)
        outputs = tf.nn.batch_normalization(x, mean, variance, self.beta, self.gamma, self.epsilon)
        return tf.cast(outputs, inputs.dtype)

    def _normalize_all(self, inputs: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """Of one replica: [m, h, w, c] by its own statistics; `weight` is 0 or 1."""
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )
        self._move_statistics(mean, variance, (1.0 - self.momentum) * weight)
        return outputs

    def _move_statistics(self, mean: tf.Tensor, variance: tf.Tensor, step: tf.Tensor) -> None:
        self.moving_mean.assign_sub((self.moving_mean - mean) * step)
        self.moving_variance.assign_sub((self.moving_variance - variance) * step)


BATCH_NORMS = (
    tf_keras.layers.BatchNormalization,
    tf_keras.layers.experimental.SyncBatchNormalization,  # not a subclass of the first
)


class _FrozenBatchNorm(tf_keras.layers.BatchNormalization):
    """A fixed scale and offset. Unlike Keras' layer, it keeps no inputs for the gradient."""

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, weights: tf.Tensor | None = None
    ) -> tf.Tensor:
        scale = self.gamma * tf.math.rsqrt(self.moving_variance + self.epsilon)
        offset = self.beta - self.moving_mean * scale
        scale, offset = (tf.cast(tf.stop_gradient(v), inputs.dtype) for v in (scale, offset))
        return inputs * scale + offset


def freeze_batch_norm(model: tf_keras.Model) -> None:
    """Makes every batch normalisation of a model, once built, a fixed scale and offset."""
    for layer in model.submodules:
        if isinstance(layer, BATCH_NORMS):
            layer.trainable = False
            layer.__class__ = _FrozenBatchNorm  # Model Garden's blocks know only Keras' layers
