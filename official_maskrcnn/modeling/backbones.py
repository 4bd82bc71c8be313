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
) -> tf_keras.Model:
    """Model from images [b, height, width, channels] to a dict of level name to feature map.

    Its stochastic depth draws by `stochastic_depth.seeded`.
    """
    backbone = backbone_factory.build_backbone(
        input_specs=tf_keras.layers.InputSpec(shape=[None, *config.input_size]),
        backbone_config=config.backbone,
        norm_activation_config=norm,
        l2_regularizer=regularizer,
    )
    stochastic_depth.seed_layers(backbone)
    return backbone


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
    decoder = decoder_factory.build_decoder(
        input_specs=backbone_shapes, model_config=model, l2_regularizer=regularizer
    )
    # Keras casts what a functional model is called on to the dtype of its inputs: float32.
    for tensor in decoder.inputs:
        tensor._type_spec = tf.TensorSpec(tensor.shape, decoder.compute_dtype)
    return decoder
