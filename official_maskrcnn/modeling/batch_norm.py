"""Batch normalisation that leaves padding out of its statistics, is part of a convolution, or is
frozen.
"""

import tensorflow as tf
import tf_keras

from official_maskrcnn.ops.scheduling import compiled_by_xla


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


class _Folded(tf_keras.layers.Layer):
    """Batch normalisation that, where its statistics are fixed, is part of the convolution before.

    The kernel takes the scale, and the bias the rest: no map is read again, or kept for the
    gradient. After anything else, a bias alone is part of it. Normalised by its own statistics, a
    map is the same without the bias, whose gradient is zero.
    """

    def call(
        self,
        inputs: tf.Tensor,
        training: bool | None = None,
        weights: tf.Tensor | None = None,
    ) -> tf.Tensor:
        if training and self.trainable:
            if weights is not None:
                return super().call(inputs, training=training, weights=weights)
            # XLA adds it within the convolution, and keeps 5 % more for a step without (TPU v3).
            if _comes_from("BiasAdd", inputs) and not compiled_by_xla():
                inputs, bias = inputs.op.inputs
                bias = tf.stop_gradient(tf.cast(bias, self.moving_mean.dtype))
                self.moving_mean.assign_add((1.0 - self.momentum) * bias)
            return super().call(inputs, training=training)
        # Fixed for the tape too, which would keep the inputs for its gradient.
        scale = tf.stop_gradient(self.gamma * tf.math.rsqrt(self.moving_variance + self.epsilon))
        offset = self.beta
        if _comes_from("BiasAdd", inputs):
            inputs, bias = inputs.op.inputs
            offset = offset + tf.cast(bias, scale.dtype) * scale
        after_convolution = _comes_from("Conv2D", inputs)
        if inputs.shape.rank == 4 and not training and not after_convolution:
            return tf.compat.v1.nn.fused_batch_norm(
                inputs,
                self.gamma,
                offset,
                self.moving_mean,
                self.moving_variance,
                epsilon=self.epsilon,
                is_training=False,
            )[0]
        offset = offset - self.moving_mean * scale
        scale, offset = (tf.cast(v, inputs.dtype) for v in (scale, offset))
        if after_convolution:
            return tf.nn.bias_add(_scaled(inputs.op, scale), offset)
        return inputs * scale + offset


def _comes_from(operation: str, tensor: tf.Tensor) -> bool:
    return not tf.executing_eagerly() and tensor.op.type == operation


def _scaled(convolution: tf.Operation, scale: tf.Tensor) -> tf.Tensor:
    """A second such convolution [n, h, w, c], times `scale` [c]; the first is left unused."""
    images, kernel = convolution.inputs
    names = ("strides", "padding", "explicit_paddings", "dilations")
    options = {name: convolution.get_attr(name) for name in names}
    return tf.raw_ops.Conv2D(input=images, filter=kernel * scale, **options)


class _FoldedBatchNormalization(_Folded, tf_keras.layers.BatchNormalization):
    pass


class _FoldedSyncBatchNormalization(_Folded, tf_keras.layers.experimental.SyncBatchNormalization):
    pass


class _FoldedBatchNorm(_Folded, BatchNorm):
    pass


_FOLDED = {
    tf_keras.layers.BatchNormalization: _FoldedBatchNormalization,
    tf_keras.layers.experimental.SyncBatchNormalization: _FoldedSyncBatchNormalization,
    BatchNorm: _FoldedBatchNorm,
}
BATCH_NORMS = (
    tf_keras.layers.BatchNormalization,
    tf_keras.layers.experimental.SyncBatchNormalization,  # not a subclass of the first
)


def fold_batch_norm(model: tf_keras.Model) -> None:
    """Makes every batch normalisation of a built model part of the convolution before it.

    Where that has a kernel of its own in the graph, and the statistics are fixed: in inference,
    and frozen.
    """
    for layer in model.submodules:
        # In place, as Model Garden's blocks know only Keras' layers.
        if type(layer) in _FOLDED and layer.scale and layer.center:
            layer.__class__ = _FOLDED[type(layer)]


def freeze_batch_norm(model: tf_keras.Model) -> None:
    """Makes every batch normalisation of a built model a fixed scale and offset, folded."""
    fold_batch_norm(model)
    for layer in model.submodules:
        if isinstance(layer, BATCH_NORMS):
            layer.trainable = False
