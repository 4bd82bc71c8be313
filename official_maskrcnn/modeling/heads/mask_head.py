"""Mask heads: a registry of convolution networks between RoI features and mask logits.

A new mask head is one class and one line:

    @MASK_HEADS.register("my_head")
    class MyMaskNetwork(MaskNetwork):
        roi_size_multiple = 8
        def __init__(self, config, options): ...
        def call(self, features, training=None, weights=None): ...

after which `task.model.mask_head.convnet_variant=my_head` selects it.
"""

from typing import Any

import tensorflow as tf
import tf_keras

from official_maskrcnn.configs.model import DeepMaskHead
from official_maskrcnn.configs.registry import Registry
from official_maskrcnn.errors import UserError
from official_maskrcnn.modeling.heads.conv import LayerOptions, he_fan_out


class MaskNetwork(tf_keras.layers.Layer):
    """The contract of a registered mask head.

    It is built from a `DeepMaskHead` configuration and `LayerOptions`, and its `call` takes RoI
    features [m, s, s, c] to features [m, s, s, c'] of the same side; `weights` is None, or 0 for
    RoIs that are padding and must stay out of batch statistics ([m], or a scalar for all of them):
    hand it to every `BatchNorm`. The call becomes part of a graph as it stands, without AutoGraph:
    what depends on values of tensors is written as `tf.where` or `tf.cond`.

    Attributes:
      roi_size_multiple: the side of the RoI must be a multiple of this.
    """

    roi_size_multiple = 1

    def __init__(self, config: DeepMaskHead, options: LayerOptions):
        super().__init__()

    def model_garden_parts(self) -> dict[str, Any]:
        """Parts by their attribute names in tf-models-official's head, to read its weights."""
        return {}


MASK_HEADS: Registry[type[MaskNetwork]] = Registry("mask head")


@MASK_HEADS.register("default")
class ConvMaskNetwork(MaskNetwork):
    """`num_convs` 3x3 convolutions with batch norm (Mask R-CNN, arXiv 1703.06870, figure 4)."""

    def __init__(self, config: DeepMaskHead, options: LayerOptions):
        super().__init__(config, options)
        self._activation = tf_keras.activations.get(options.activation)
        self.convs = [
            options.conv(config.num_filters, 3, f"mask-conv_{i}") for i in range(config.num_convs)
        ]
        self.norms = [options.batch_norm(f"mask-conv-bn_{i}") for i in range(config.num_convs)]

    def call(
        self,
        features: tf.Tensor,
        training: bool | None = None,
        weights: tf.Tensor | None = None,
    ) -> tf.Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            features = norm(conv(features), training=training, weights=weights)
            features = self._activation(features)
        return features

    def model_garden_parts(self) -> dict[str, Any]:
        return {"_convs": self.convs, "_conv_norms": self.norms}


class _ClassLogits(tf_keras.layers.Layer):
    """1x1 convolution of which each RoI computes only the output channel of its own class."""

    def __init__(self, num_classes: int, options: LayerOptions, name: str):
        super().__init__(name=name)
        self._num_classes = num_classes
        self._options = options

    def build(self, input_shape: tf.TensorShape) -> None:
        def kernel(name: str, outputs: int) -> tf.Variable:
            return self.add_weight(
                name,
                [1, 1, input_shape[-1], outputs],
                initializer=he_fan_out(),
                regularizer=self._options.regularizer,
            )

        if self._options.separable:
            self.depthwise_kernel = kernel("depthwise_kernel", 1)
            self.pointwise_kernel = kernel("pointwise_kernel", self._num_classes)
        else:
            self.kernel = kernel("kernel", self._num_classes)
        self.bias = self.add_weight("bias", [self._num_classes], initializer="zeros")

    def call(self, features: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """Logits [m, h, w] of features [m, h, w, c], each RoI for its class [m]."""
        if self._num_classes == 1:
            classes = tf.zeros_like(classes)
        if self._options.separable:
            kernel = self.depthwise_kernel[0, 0] * self.pointwise_kernel[0, 0]  # [c, classes]
        else:
            kernel = self.kernel[0, 0]
        # Not by tf.gather, whose gradient would be sparse: momentum would then skip other classes.
        selector = tf.one_hot(classes, self._num_classes, dtype=kernel.dtype)  # [m, classes]
        kernel = tf.matmul(selector, kernel, transpose_b=True)  # [m, c]
        bias = tf.linalg.matvec(selector, self.bias)  # [m]
        logits = tf.einsum("mhwc,mc->mhw", features, tf.cast(kernel, features.dtype))
        return logits + tf.cast(bias, logits.dtype)[:, None, None]


class MaskHead(tf_keras.layers.Layer):
    """A registered network, then upsampling by a transposed convolution, then one logit map.

    The names of its attributes are tf-models-official's, so that its checkpoints can be read.
    """

    def __init__(
        self,
        config: DeepMaskHead,
        num_classes: int,
        options: LayerOptions,
        network_options: LayerOptions | None = None,
    ):
        """Builds the head.

        Args:
          config: which network, and its numbers.
          num_classes: background included.
          options: of all layers, unless the network has its own.
          network_options: of the registered network.
        """
        super().__init__(name="mask_head")
        network = MASK_HEADS.get(config.convnet_variant)(config, network_options or options)
        for attribute, part in network.model_garden_parts().items():
            setattr(self, attribute, part)
        self._network = network
        self._activation = tf_keras.activations.get(options.activation)
        self._deconv = tf_keras.layers.Conv2DTranspose(
            config.num_filters,
            config.upsample_factor,
            strides=config.upsample_factor,
            kernel_initializer=he_fan_out(),
            kernel_regularizer=options.regularizer,
            name="mask-upsampling",
        )
        self._deconv_bn = options.batch_norm("mask-deconv-bn")
        logit_channels = 1 if config.class_agnostic else num_classes
        self._mask_regressor = _ClassLogits(logit_channels, options, "mask-logits")

    def call(
        self,
        features: tf.Tensor,
        classes: tf.Tensor,
        training: bool | None = None,
        weights: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Runs the head on a packed set of RoIs.

        Args:
          features: [m, s, s, c].
          classes: int32 [m]; not used by a class-agnostic head.
          training: whether batch norm uses the batch's statistics.
          weights: [m], 0 for padding; a scalar if all or none are padding; None for none.

        Returns:
          Mask logits [m, s * upsample_factor, s * upsample_factor].
        """
        x = self._network(features, training=training, weights=weights)
        x = self._deconv_bn(self._deconv(x), training=training, weights=weights)
        return self._mask_regressor(self._activation(x), classes)


def check_roi_size(config: DeepMaskHead, crop_size: int) -> None:
    """Raises `UserError` if the mask head cannot take RoIs of this side."""
    multiple = MASK_HEADS.get(config.convnet_variant).roi_size_multiple
    if crop_size % multiple:
        raise UserError(
            f"task.model.mask_roi_aligner.crop_size ({crop_size}) must be a multiple of {multiple} "
            f"for task.model.mask_head.convnet_variant {config.convnet_variant}"
        )
