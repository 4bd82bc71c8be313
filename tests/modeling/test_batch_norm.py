import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from official_maskrcnn.modeling.batch_norm import BatchNorm, freeze_batch_norm

_SHAPE = (6, 4, 4, 3)


def _inputs(seed: int = 0) -> tf.Tensor:
    return tf.random.stateless_normal(_SHAPE, [seed, 1], mean=2.0, stddev=3.0)


def _built(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
    layer.build(_SHAPE)
    channels = _SHAPE[-1:]
    for seed, weight in enumerate(layer.weights, 10):
        weight.assign(tf.random.stateless_uniform(channels, [seed, 2], 0.5, 2.0))
    return layer


def _run(layer: tf_keras.layers.Layer, x: tf.Tensor, **options) -> tuple[np.ndarray, np.ndarray]:
    """Outputs in training, and the gradient of a sum that sees each of them differently."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True, **options)
        total = tf.reduce_sum(y * _inputs(5))
    return y.numpy(), tape.gradient(total, x).numpy()


@pytest.mark.parametrize("weights", [tf.constant(1.0), tf.ones(_SHAPE[0])], ids=["scalar", "each"])
def test_weights_of_one_are_kerass_batch_norm(weights):
    keras, ours = (
        _built(kind(momentum=0.9, epsilon=1e-3))
        for kind in (tf_keras.layers.BatchNormalization, BatchNorm)
    )
    expected, got = _run(keras, _inputs()), _run(ours, _inputs(), weights=weights)
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_allclose(b, a, atol=2e-5)
    np.testing.assert_allclose(ours.moving_mean, keras.moving_mean, rtol=1e-5)
    # Keras' fused kernel moves towards the unbiased variance, n / (n - 1) of the batch's.
    np.testing.assert_allclose(ours.moving_variance, keras.moving_variance, rtol=0.02)


@pytest.mark.parametrize("weights", [tf.constant(0.0), tf.zeros(_SHAPE[0])], ids=["scalar", "each"])
def test_padding_alone_moves_no_statistics(weights):
    layer = _built(BatchNorm(momentum=0.9))
    before = [weight.numpy() for weight in layer.weights]
    outputs, gradient = _run(layer, _inputs(), weights=weights)
    for weight, value in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert np.isfinite(outputs).all() and np.isfinite(gradient).all()


def test_padding_stays_out_of_the_statistics():
    weights = tf.constant([1.0, 1, 1, 1, 0, 0])
    x = tf.concat([_inputs()[:4], tf.fill([2, *_SHAPE[1:]], 1e3)], axis=0)
    whole, part = _built(BatchNorm()), _built(BatchNorm())
    outputs = whole(x, training=True, weights=weights)
    expected = part(x[:4], training=True, weights=tf.ones(4))
    np.testing.assert_allclose(outputs[:4], expected, atol=1e-5)
    np.testing.assert_allclose(whole.moving_mean, part.moving_mean, rtol=1e-6)


@pytest.mark.parametrize("kind", [tf_keras.layers.BatchNormalization, BatchNorm])
def test_frozen_it_is_what_it_was_in_inference(kind):
    layer = _built(kind(epsilon=1e-3))
    with tf.GradientTape() as tape:
        x = _inputs()
        tape.watch(x)
        expected = layer(x, training=False)
        total = tf.reduce_sum(expected * _inputs(5))
    model = tf_keras.Sequential([layer])
    freeze_batch_norm(model)
    outputs, gradient = _run(layer, _inputs())
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    np.testing.assert_allclose(gradient, tape.gradient(total, x), atol=1e-5)
    assert layer.trainable_weights == []
