"""The convolution and normalisation layers that all heads are made of."""

import dataclasses
from typing import Any

import tf_keras

from official_maskrcnn.modeling.batch_norm import BatchNorm


@dataclasses.dataclass(frozen=True)
class LayerOptions:
    """What the layers of one head have in common.

    Attributes:
      activation: name of a Keras activation.
      momentum: of the batch norms' moving statistics, in Keras' sense.
      epsilon: of the batch norms.
      synchronized: batch statistics over all replicas.
      regularizer: of all kernels.
      separable: depthwise-separable convolutions.
    """

    activation: str = "relu"
    momentum: float = 0.997
    epsilon: float = 1e-4
    synchronized: bool = False
    regularizer: tf_keras.regularizers.Regularizer | None = None
    separable: bool = False

    def batch_norm(self, name: str) -> BatchNorm:
        """A batch norm over the last axis."""
        return BatchNorm(
            momentum=self.momentum, epsilon=self.epsilon, synchronized=self.synchronized, name=name
        )

    def conv(
        self, filters: int, kernel_size: int, name: str, **kwargs: Any
    ) -> tf_keras.layers.Layer:
        """A convolution with "same" padding and He initialisation over the fan-out."""
        if self.separable:
            return tf_keras.layers.SeparableConv2D(
                filters,
                kernel_size,
                padding="same",
                depthwise_initializer=he_fan_out(),
                pointwise_initializer=he_fan_out(),
                depthwise_regularizer=self.regularizer,
                pointwise_regularizer=self.regularizer,
                name=name,
                **kwargs,
            )
        return tf_keras.layers.Conv2D(
            filters,
            kernel_size,
            padding="same",
            kernel_initializer=he_fan_out(),
            kernel_regularizer=self.regularizer,
            name=name,
            **kwargs,
        )


def he_fan_out() -> tf_keras.initializers.Initializer:
    """He initialisation over the fan-out (arXiv 1502.01852)."""
    return tf_keras.initializers.VarianceScaling(
        scale=2.0, mode="fan_out", distribution="untruncated_normal"
    )
