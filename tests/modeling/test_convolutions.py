"""Convolutions computed in another way than Keras does: same results, where they are chosen."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from official_maskrcnn.modeling import convolutions


def _values_and_gradients(model, inputs):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = model(inputs)
        loss = tf.reduce_sum(tf.sin(outputs))
    return outputs, *tape.gradient(loss, [inputs, *model.trainable_variables])


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5, 7, (7, 3)])
def test_convolution_over_blocks_equals_that_over_pixels(kernel_size):
    conv = tf_keras.layers.Conv2D(5, kernel_size, 2, padding="same", bias_initializer="ones")
    inputs = tf_keras.Input([12, 16, 3])
    model = tf_keras.Model(inputs, conv(inputs))
    images = tf.random.normal([2, 12, 16, 3], seed=1)

    expected = _values_and_gradients(model, images)
    convolutions.suit_tpu(model)
    assert isinstance(conv, convolutions._BlockwiseConv2D)
    for got, value in zip(_values_and_gradients(model, images), expected, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-5)


def _model(side, dtype="float32", **options):
    inputs = tf_keras.Input([side, side, 128])
    conv = tf_keras.layers.Conv2D(
        **({"filters": 128, "kernel_size": 3, "padding": "same", "dtype": dtype} | options)
    )
    return tf_keras.Model(inputs, conv(inputs)), conv


def _counts_transforms(monkeypatch):
    calls = []
    conv3x3 = convolutions.fourier_conv.conv3x3
    monkeypatch.setattr(
        convolutions.fourier_conv, "conv3x3", lambda *args: calls.append(1) or conv3x3(*args)
    )
    return calls


def test_convolution_of_rois_by_transforms_equals_keras(monkeypatch):
    model, _ = _model(7, activation="relu", bias_initializer="ones")
    rois = tf.random.normal([9, 7, 7, 128], seed=1)
    expected = _values_and_gradients(model, rois)
    names = [variable.name for variable in model.variables]

    convolutions.suit_cpu(model, many=True)
    calls = _counts_transforms(monkeypatch)
    got = _values_and_gradients(model, rois)

    assert calls
    assert [variable.name for variable in model.variables] == names
    for value, right in zip(got, expected, strict=True):
        np.testing.assert_allclose(value, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "side, dtype, uses_transforms",
    [(60, "mixed_bfloat16", True), (54, "mixed_bfloat16", False), (60, "float32", False)],
)
def test_only_large_maps_in_16_bits_use_transforms(side, dtype, uses_transforms, monkeypatch):
    model, _ = _model(side, dtype)
    convolutions.suit_cpu(model)
    calls = _counts_transforms(monkeypatch)
    model(tf.random.normal([1, side, side, 128]))
    assert bool(calls) == uses_transforms


@pytest.mark.parametrize(
    "options",
    [
        {"filters": 64},
        {"kernel_size": 1},
        {"kernel_size": 5},
        {"strides": 2},
        {"dilation_rate": 2},
        {"groups": 2, "filters": 256},
        {"padding": "valid"},
    ],
)
def test_other_convolutions_stay(options):
    model, conv = _model(7, **options)
    convolutions.suit_cpu(model, many=True)
    assert type(conv) is tf_keras.layers.Conv2D
