"""Convolutions of built models, computed in a way that suits the device: same weights and results.

A layer of Keras gets another class: Model Garden's models build their layers themselves.
"""

import tensorflow as tf
import tf_keras

from official_maskrcnn.ops import fourier_conv

_LEAST_CHANNELS = 128  # from here on, fewer products count for more than the transforms
_LEAST_TILES = 100  # of a map; those share the transform of the kernel


def suit_tpu(backbone: tf_keras.Model) -> None:
    """Lays the first convolution of stride 2 out in blocks of pixels."""
    for layer in backbone.layers:
        if _BlockwiseConv2D.replaces(layer) and layer.input is backbone.input:
            layer.__class__ = _BlockwiseConv2D


def suit_cpu(part: tf.Module, many: bool = False) -> None:
    """Has 3x3 convolutions use Fourier transforms where that pays.

    Args:
      part: any built model or layer.
      many: it runs on hundreds of maps, such as RoIs. Else it does on a few, which have to be large
        then, and to be computed in 16 bits: in float32, what a training step needs for the
        transforms adds 5 % to its memory.
    """
    for layer in part.submodules:
        if _FourierConv2D.replaces(layer) and (many or tf.as_dtype(layer.compute_dtype).size < 4):
            layer.__class__ = _FourierConv2D
            layer.least_tiles = 1 if many else _LEAST_TILES


class _FourierConv2D(tf_keras.layers.Conv2D):
    """A 3x3 convolution of stride 1 that uses Fourier transforms on maps of enough tiles."""

    least_tiles: int

    @staticmethod
    def replaces(layer: tf.Module) -> bool:
        """Whether a layer, built into a model, can become one of these."""
        return (
            type(layer) is tf_keras.layers.Conv2D
            and layer.kernel_size == (3, 3)
            and layer.strides == (1, 1)
            and layer.dilation_rate == (1, 1)
            and layer.groups == 1
            and layer.padding == "same"
            and min(layer.kernel.shape[2:]) >= _LEAST_CHANNELS
        )

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        height, width = inputs.shape[1:3]
        if not height or not width or fourier_conv.num_tiles(height, width) < self.least_tiles:
            return super().convolution_op(inputs, kernel)
        return fourier_conv.conv3x3(inputs, tf.convert_to_tensor(kernel))


class _BlockwiseConv2D(tf_keras.layers.Conv2D):
    """A convolution of stride 2 over images, as one of stride 1 over their blocks of 2 x 2 pixels.

    A TPU pads the 3 channels of an image to 128, four times as often as the 12 of the blocks.
    """

    @staticmethod
    def replaces(layer: tf_keras.layers.Layer) -> bool:
        """Whether a layer, built into a model, can become one of these."""
        return (
            type(layer) is tf_keras.layers.Conv2D
            and layer.strides == (2, 2)
            and layer.dilation_rate == (1, 1)
            and layer.groups == 1
            and layer.padding == "same"
            and all(side is not None and side % 2 == 0 for side in layer.input_shape[1:3])
        )

    def call(self, images: tf.Tensor) -> tf.Tensor:
        kernel_pads, block_pads = zip(*map(_blockwise_padding, self.kernel_size), strict=True)
        kernel = tf.pad(self.kernel, [*kernel_pads, (0, 0), (0, 0)])
        height, width, channels, filters = kernel.shape
        kernel = tf.reshape(kernel, [height // 2, 2, width // 2, 2, channels, filters])
        kernel = tf.transpose(kernel, [0, 2, 1, 3, 4, 5])
        kernel = tf.reshape(kernel, [height // 2, width // 2, 4 * channels, filters])
        # tf.nn.space_to_depth has the TPU write padded copies.
        blocks = tf.concat([images[:, y::2, x::2] for y in (0, 1) for x in (0, 1)], axis=-1)
        outputs = tf.nn.conv2d(blocks, kernel, 1, [(0, 0), *block_pads, (0, 0)])
        if self.use_bias:
            outputs = tf.nn.bias_add(outputs, self.bias)
        return self.activation(outputs)


def _blockwise_padding(size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Zeros to put around a kernel's `size` cells, and blocks around the image's."""
    before = max(size - 2, 0) // 2  # the padding of "same" that comes first, in pixels
    first, last = -before // 2, (size - 1 - before) // 2  # block of each end, from the output's
    return (-before - 2 * first, 2 * last + 1 - (size - 1 - before)), (-first, last)
