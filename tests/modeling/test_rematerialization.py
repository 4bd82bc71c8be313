"""Blocks that are computed twice train as blocks that are computed once."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from official_maskrcnn.model_garden import light_imports
from official_maskrcnn.modeling.rematerialization import rematerialize

with light_imports():
    from official.vision.modeling.backbones import resnet


def _backbone(model_id, stochastic_depth):
    tf_keras.utils.set_random_seed(1)
    return resnet.ResNet(
        model_id,
        input_specs=tf_keras.layers.InputSpec(shape=[None, 32, 32, 3]),
        depth_multiplier=0.125,
        norm_momentum=0.9,
        init_stochastic_depth_rate=stochastic_depth,
    )


def _train(backbone, compiled, seed=5):
    """Features, gradients and, after the step, all variables."""
    tf.random.set_seed(seed)
    images = tf.random.normal([4, 32, 32, 3])

    def step():
        with tf.GradientTape() as tape:
            features = backbone(images, training=True)
            loss = sum(tf.reduce_mean(tf.sin(f)) for f in features.values())
        return features, tape.gradient(loss, backbone.trainable_variables)

    outputs = tf.function(step, jit_compile=True)() if compiled else step()
    return [v.numpy() for v in [*tf.nest.flatten(outputs), *backbone.variables]]


@pytest.mark.parametrize(
    ("model_id", "stochastic_depth", "compiled"),
    [(18, 0.0, False), (18, 0.0, True), (50, 0.0, False), (18, 0.6, False)],
)
def test_blocks_computed_twice_train_alike(model_id, stochastic_depth, compiled):
    expected = _train(_backbone(model_id, stochastic_depth), compiled)
    backbone = _backbone(model_id, stochastic_depth)
    rematerialize(backbone)
    for got, value in zip(_train(backbone, compiled), expected, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-4)


def test_stochastic_depth_was_at_work():
    runs = [_train(_backbone(18, 0.6), compiled=False, seed=seed) for seed in (5, 6)]
    assert not np.allclose(runs[0][0], runs[1][0])
