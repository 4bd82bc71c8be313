import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from official_maskrcnn.modeling.batch_norm import BatchNorm, fold_batch_norm, freeze_batch_norm

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


_NORMS = [
    tf_keras.layers.BatchNormalization,
    tf_keras.layers.experimental.SyncBatchNormalization,
    BatchNorm,
]


def _convolution(norm: type[tf_keras.layers.Layer], use_bias: bool, **options) -> tf_keras.Model:
    convolution = tf_keras.layers.Conv2D(
        5, 3, strides=2, use_bias=use_bias, bias_initializer="normal", **options
    )
    model = tf_keras.Sequential([convolution, norm(epsilon=1e-3)])
    model.build((None, *_SHAPE[1:]))
    for seed, weight in enumerate(model.layers[1].weights):
        weight.assign(tf.random.stateless_uniform([5], [seed, 3], 0.5, 2.0))
    return model


def _traced(model: tf_keras.Model, training: bool):
    """A function of images: outputs, and a sum's gradients of the images and the convolution."""

    @tf.function
    def run(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = model(images, training=training)
            total = tf.reduce_sum(tf.sin(outputs))
        return outputs, tape.gradient(total, [images, *model.layers[0].trainable_variables])

    return run


def _assert_close(got: list[tf.Tensor], expected: list[tf.Tensor]) -> None:
    """To a part in 10,000 of each tensor's largest value: its entries are sums that cancel."""
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())


def _types(function, images: tf.Tensor) -> list[str]:
    """Types of the operations that the outputs need."""
    graph = function.get_concrete_function(images).graph
    wanted = tf.compat.v1.graph_util.extract_sub_graph(
        graph.as_graph_def(), [graph.outputs[0].op.name]
    )
    return [node.op for node in wanted.node]


@pytest.mark.parametrize("training", [False, True], ids=["inference", "frozen"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("use_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("kind", _NORMS)
def test_folded_it_is_what_it_was_after_the_convolution(kind, use_bias, padding, training):
    model = _convolution(kind, use_bias, padding=padding)
    images = _inputs()
    outputs, gradients = _traced(model, training=False)(images)
    (freeze_batch_norm if training else fold_batch_norm)(model)
    function = _traced(model, training)
    folded, folded_gradients = function(images)
    np.testing.assert_allclose(folded, outputs, atol=2e-5)
    _assert_close(folded_gradients, gradients)
    types = _types(function, images)
    assert types.count("Conv2D") == types.count("BiasAdd") == 1
    assert not any("BatchNorm" in name for name in types)


@pytest.mark.parametrize("use_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("kind", _NORMS)
def test_folded_it_still_moves_its_statistics_in_training(kind, use_bias):
    models = [_convolution(kind, use_bias) for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    fold_batch_norm(models[1])
    functions = [_traced(model, training=True) for model in models]
    (expected, gradients), (got, folded_gradients) = (run(_inputs()) for run in functions)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    _assert_close(folded_gradients[:2], gradients[:2])
    for a, b in zip(models[0].weights, models[1].weights, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4)
    assert "BiasAdd" not in _types(functions[1], _inputs())
    if use_bias:  # of which the first has a zero that is rounded
        np.testing.assert_allclose(gradients[2], np.zeros(5), atol=1e-5)
        assert folded_gradients[2] is None


@pytest.mark.parametrize("training", [False, True], ids=["inference", "frozen"])
@pytest.mark.parametrize("units", [[], [4, 4]], ids=["vectors", "maps"])
def test_after_anything_else_it_takes_the_bias(units, training):
    dense = tf_keras.layers.Dense(5, bias_initializer="normal")
    model = tf_keras.Sequential([dense, BatchNorm(epsilon=1e-3)])
    inputs = tf.random.stateless_normal([6, *units, 3], [7, 7])
    model(inputs)
    outputs, gradients = _traced(model, training=False)(inputs)
    (freeze_batch_norm if training else fold_batch_norm)(model)
    folded, folded_gradients = _traced(model, training)(inputs)
    np.testing.assert_allclose(folded, outputs, atol=2e-5)
    _assert_close(folded_gradients, gradients)
    assert _types(_traced(model, training), inputs).count("BiasAdd") == 0
