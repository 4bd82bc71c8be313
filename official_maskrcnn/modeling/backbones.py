"""Backbones and decoders of tf-models-official, built from the model's configuration."""

from collections.abc import Mapping

import tensorflow as tf
import tf_keras

from official_maskrcnn.configs.model import DeepMaskHeadRCNN
from official_maskrcnn.errors import UserError
from official_maskrcnn.model_garden import light_imports
from official_maskrcnn.modeling import stochastic_depth

with light_imports():
    from official.modeling import hyperparams
    from official.vision.configs import decoders as decoder_configs
    from official.vision.modeling.backbones import (
        efficientnet,
        mobiledet,
        mobilenet,
        resnet,
        revnet,
        spinenet,
        spinenet_mobile,
    )
    from official.vision.modeling.backbones import factory as backbone_factory
    from official.vision.modeling.decoders import factory as decoder_factory
    from official.vision.modeling.decoders import fpn, nasfpn  # noqa: F401 - each registers itself

_DECODERS = ("fpn", "identity", "nasfpn")

# The models of each type of backbone that gives a pyramid of feature maps.
BACKBONE_MODELS: dict[str, tuple[int | str, ...]] = {
    "efficientnet": tuple(efficientnet.SCALING_MAP),
    "mobiledet": tuple(mobiledet.SUPPORTED_SPECS_MAP),
    "mobilenet": tuple(mobilenet.SUPPORTED_SPECS_MAP),
    "resnet": tuple(resnet.RESNET_SPECS),
    "revnet": tuple(revnet.REVNET_SPECS),
    "spinenet": tuple(spinenet.SCALING_MAP),
    "spinenet_mobile": tuple(spinenet_mobile.SCALING_MAP),
}


def decoder_names() -> list[str]:
    """Types of decoder that give a pyramid of feature maps."""
    return sorted(set(_DECODERS) & set(decoder_configs.Decoder.__dataclass_fields__))


def build_backbone(
    config: DeepMaskHeadRCNN,
    norm: hyperparams.Config,
    regularizer: tf_keras.regularizers.Regularizer | None,
    static_shapes: bool = False,
) -> tf_keras.Model:
    """Model from images [b, height, width, channels] to a dict of level name to feature map.

    With `static_shapes`, for a TPU, its first convolution is laid out for that. Its stochastic
    depth draws by `stochastic_depth.seeded`.
    """
    backbone = backbone_factory.build_backbone(
        input_specs=tf_keras.layers.InputSpec(shape=[None, *config.input_size]),
        backbone_config=config.backbone,
        norm_activation_config=norm,
        l2_regularizer=regularizer,
    )
    stochastic_depth.seed_layers(backbone)
    if static_shapes:
        for layer in backbone.layers:
            if _BlockwiseConv2D.replaces(layer) and layer.input is backbone.input:
                layer.__class__ = _BlockwiseConv2D  # Model Garden's models build Keras' layer
    return backbone


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


def build_decoder(
    config: DeepMaskHeadRCNN,
    backbone_shapes: Mapping[str, tf.TensorShape],
    norm: hyperparams.Config,
    regularizer: tf_keras.regularizers.Regularizer | None,
) -> tf_keras.Model | None:
    """Model from the backbone's feature maps to those of levels min_level to max_level.

    None for the identity.

    Raises:
      UserError: the backbone has no level from which the decoder could start.
    """
    if config.decoder.type == "identity":
        missing = [
            str(level)
            for level in range(config.min_level, config.max_level + 1)
            if str(level) not in backbone_shapes
        ]
        if missing:
            raise UserError(
                f"task.model.backbone ({config.backbone.type}) gives levels "
                f"{', '.join(sorted(backbone_shapes))}, but with the identity decoder the model "
                f"needs level {', '.join(missing)} too: use the fpn decoder, or other levels"
            )
        return None
    if str(config.min_level) not in backbone_shapes:
        raise UserError(
            f"task.model.min_level is {config.min_level}, but the backbone "
            f"({config.backbone.type}) gives levels {', '.join(sorted(backbone_shapes))}"
        )
    model = config.replace(norm_activation=norm)
    return decoder_factory.build_decoder(
        input_specs=backbone_shapes, model_config=model, l2_regularizer=regularizer
    )
