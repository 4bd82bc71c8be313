"""Hourglass mask heads: deep encoder-decoders on RoI features.

Hourglass networks are arXiv 1603.06937; as mask heads, single-stage, without initial downsampling,
arXiv 2104.00613. The names of attributes are tf-models-official's, so that its checkpoints can be
read.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from official_maskrcnn.configs.model import DeepMaskHead
from official_maskrcnn.modeling.heads.conv import LayerOptions
from official_maskrcnn.modeling.heads.mask_head import MASK_HEADS, MaskNetwork


def _conv(
    filters: int, kernel_size: int, stride: int, options: LayerOptions
) -> tf_keras.layers.Layer:
    return tf_keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=stride,
        padding="same" if stride == 1 or kernel_size == 1 else "valid",
        use_bias=False,
        kernel_regularizer=options.regularizer,
    )


class _ConvBlock(tf_keras.layers.Layer):
    """Convolution, batch norm and, unless told otherwise, ReLU."""

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        options: LayerOptions,
        stride: int = 1,
        relu: bool = True,
    ):
        super().__init__()
        self.conv = _conv(filters, kernel_size, stride, options)
        self.norm = options.batch_norm("batchnorm")
        self._relu = relu

    def call(
        self, x: tf.Tensor, training: bool | None = None, weights: tf.Tensor | None = None
    ) -> tf.Tensor:
        if self.conv.padding == "valid":
            # Padding that is the same on all sides: "same" would shift a strided convolution.
            x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
        x = self.norm(self.conv(x), training=training, weights=weights)
        return tf.nn.relu(x) if self._relu else x


class _ResidualBlock(tf_keras.layers.Layer):
    """Two 3x3 convolutions beside an identity, or a 1x1 convolution where the shape changes."""

    def __init__(
        self, filters: int, options: LayerOptions, stride: int = 1, skip_conv: bool = False
    ):
        super().__init__()
        self.conv_block = _ConvBlock(filters, 3, options, stride=stride)
        self.conv = _conv(filters, 3, 1, options)
        self.norm = options.batch_norm("batchnorm")
        self.skip: _ConvBlock | None = None
        if skip_conv:
            self.skip = _ConvBlock(filters, 1, options, stride=stride, relu=False)

    def call(
        self, x: tf.Tensor, training: bool | None = None, weights: tf.Tensor | None = None
    ) -> tf.Tensor:
        skip = x if self.skip is None else self.skip(x, training=training, weights=weights)
        x = self.conv_block(x, training=training, weights=weights)
        x = self.norm(self.conv(x), training=training, weights=weights)
        return tf.nn.relu(x + skip)


class _InputBlock(tf_keras.layers.Layer):
    """From RoI features to the first stage, at full resolution."""

    def __init__(self, conv_filters: int, filters: int, options: LayerOptions):
        super().__init__()
        self.conv_block = _ConvBlock(conv_filters, 3, options)
        self.residual_block = _ResidualBlock(filters, options, skip_conv=True)

    def call(
        self, x: tf.Tensor, training: bool | None = None, weights: tf.Tensor | None = None
    ) -> tf.Tensor:
        x = self.conv_block(x, training=training, weights=weights)
        return self.residual_block(x, training=training, weights=weights)


class _EncoderDecoder(tf_keras.layers.Layer):
    """One stage: a shortcut at this resolution, and at half of it the next stage or the bottom."""

    def __init__(self, channels: Sequence[int], blocks: Sequence[int], options: LayerOptions):
        super().__init__()
        outer, inner = channels[:2]
        self.encoder_block1 = [_ResidualBlock(outer, options) for _ in range(blocks[0])]
        self.encoder_block2 = [_ResidualBlock(inner, options, stride=2, skip_conv=True)]
        self.encoder_block2 += [_ResidualBlock(inner, options) for _ in range(blocks[0] - 1)]
        self.inner_block: list[tf_keras.layers.Layer]
        if len(channels) > 2:
            self.inner_block = [_EncoderDecoder(channels[1:], blocks[1:], options)]
        else:
            self.inner_block = [_ResidualBlock(inner, options) for _ in range(blocks[1])]
        self.decoder_block = [_ResidualBlock(inner, options) for _ in range(blocks[0] - 1)]
        changes = blocks[0] > 1 and inner != outer
        self.decoder_block += [_ResidualBlock(outer, options, skip_conv=changes)]

    def call(
        self, x: tf.Tensor, training: bool | None = None, weights: tf.Tensor | None = None
    ) -> tf.Tensor:
        shortcut = x
        for block in self.encoder_block1:
            shortcut = block(shortcut, training=training, weights=weights)
        for block in (*self.encoder_block2, *self.inner_block, *self.decoder_block):
            x = block(x, training=training, weights=weights)
        return shortcut + upsample_nearest(x)


def upsample_nearest(x: tf.Tensor) -> tf.Tensor:
    """[m, h, w, c] to [m, 2h, 2w, c] by repetition.

    Written so that XLA compiles the gradient, which it does not for Keras' layer, and that the
    gradient is a sum of slices: that of a broadcast is ten times as slow on a CPU.
    """
    _, height, width, channels = x.shape
    x = tf.concat([x, x], axis=-1)  # a cell and its right neighbour
    x = tf.reshape(x, [-1, height, 2 * width * channels])
    x = tf.concat([x, x], axis=-1)  # a row and the one below
    return tf.reshape(x, [-1, 2 * height, 2 * width, channels])


class HourglassMaskNetwork(MaskNetwork):
    """A single-stage hourglass; subclasses give its depth and width.

    Attributes:
      blocks_per_stage: residual blocks of each stage, the bottom last.
      width_per_stage: channels of each stage, in multiples of `num_filters`.
    """

    blocks_per_stage: tuple[int, ...]
    width_per_stage: tuple[int, ...]

    def __init__(self, config: DeepMaskHead, options: LayerOptions):
        super().__init__(config, options)
        channels = [config.num_filters * width for width in self.width_per_stage]
        self.conv_input = _InputBlock(config.num_filters, channels[0], options)
        self.hourglass_network = [_EncoderDecoder(channels, self.blocks_per_stage, options)]
        self.output_conv = [_ConvBlock(channels[0], 3, options)]

    def call(
        self,
        features: tf.Tensor,
        training: bool | None = None,
        weights: tf.Tensor | None = None,
    ) -> tf.Tensor:
        parts: list[tf_keras.layers.Layer] = [self.conv_input, *self.hourglass_network]
        for part in [*parts, *self.output_conv]:
            features = part(features, training=training, weights=weights)
        return features

    def model_garden_parts(self) -> dict[str, Any]:
        return {"_hourglass": self}


@MASK_HEADS.register("hourglass20")
class Hourglass20(HourglassMaskNetwork):
    """Two stages, 20 convolutions deep."""

    roi_size_multiple = 4
    blocks_per_stage = (1, 2, 2)
    width_per_stage = (2, 2, 3)


@MASK_HEADS.register("hourglass52")
class Hourglass52(HourglassMaskNetwork):
    """Five stages, 52 convolutions deep: the head of the published results."""

    roi_size_multiple = 32
    blocks_per_stage = (2, 2, 2, 2, 2, 4)
    width_per_stage = (2, 2, 3, 3, 3, 4)


@MASK_HEADS.register("hourglass100")
class Hourglass100(HourglassMaskNetwork):
    """Five stages, 100 convolutions deep."""

    roi_size_multiple = 32
    blocks_per_stage = (4, 4, 4, 4, 4, 8)
    width_per_stage = (2, 2, 3, 3, 3, 4)
