"""Blocks that are computed twice train as blocks that are computed once."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from official_maskrcnn.model_garden import light_imports
from official_maskrcnn.modeling import stochastic_depth
from official_maskrcnn.modeling.rematerialization import rematerialize

with light_imports():
    from official.vision.modeling.backbones import resnet
    from official.vision.modeling.layers import nn_layers


def _backbone(model_id, drop_rate):
    tf_keras.utils.set_random_seed(1)
    backbone = resnet.ResNet(
        model_id,
        input_specs=tf_keras.layers.InputSpec(shape=[None, 32, 32, 3]),
        depth_multiplier=0.125,
        norm_momentum=0.9,
        init_stochastic_depth_rate=drop_rate,
    )
    stochastic_depth.seed_layers(backbone)
    return backbone


def _train(backbone, compiled, seed=5):
    """Features, gradients and, after the step, all variables."""
    images = tf.random.stateless_normal([4, 32, 32, 3], [1, 2])
    seeds = tf.range(seed, seed + 4)

    def step():
        depth = stochastic_depth.seeded(tf.cast(seeds, tf.uint32))
        with tf.GradientTape() as tape, depth:
            features = backbone(images, training=True)
            loss = sum(tf.reduce_mean(tf.sin(f)) for f in features.values())
        return features, tape.gradient(loss, backbone.trainable_variables)

    outputs = tf.function(step, jit_compile=True)() if compiled else step()
    return [v.numpy() for v in [*tf.nest.flatten(outputs), *backbone.variables]]


@pytest.mark.parametrize(
    ("model_id", "drop_rate", "compiled"),
    [(18, 0.0, False), (18, 0.0, True), (50, 0.0, False), (18, 0.6, False)],
)
def test_blocks_computed_twice_train_alike(model_id, drop_rate, compiled):
    expected = _train(_backbone(model_id, drop_rate), compiled)
    backbone = _backbone(model_id, drop_rate)
    rematerialize(backbone)
    for got, value in zip(_train(backbone, compiled), expected, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-4)


def test_stochastic_depth_was_at_work():
    runs = [_train(_backbone(18, 0.6), compiled=False, seed=seed) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert not np.allclose(runs[0][0], runs[2][0])


def test_layers_of_stochastic_depth_draw_each_for_itself():
    layers = [nn_layers.StochasticDepth(0.5) for _ in range(2)]
    inputs = tf_keras.Input([1])
    model = tf_keras.Model(inputs, [layer(inputs) for layer in layers])
    stochastic_depth.seed_layers(model)
    with stochastic_depth.seeded(tf.cast(tf.range(4000), tf.uint32)):
        one, other = (np.array(kept) for kept in model(tf.ones([4000, 1]), training=True))
    assert set(np.unique(one)) == {0.0, 2.0}
    assert abs(np.mean(one) - 1.0) < 0.1  # 6 standard deviations
    assert abs(np.corrcoef(one[:, 0], other[:, 0])[0, 1]) < 0.1
    np.testing.assert_array_equal(model(tf.ones([2, 1]), training=False)[0], 1.0)
