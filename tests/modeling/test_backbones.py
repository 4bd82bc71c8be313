"""Backbones on a TPU."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from official_maskrcnn.modeling import backbones


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5, 7, (7, 3)])
def test_convolution_over_blocks_equals_that_over_pixels(kernel_size):
    conv = tf_keras.layers.Conv2D(5, kernel_size, 2, padding="same", bias_initializer="ones")
    inputs = tf_keras.Input([12, 16, 3])
    model = tf_keras.Model(inputs, conv(inputs))
    images = tf.random.normal([2, 12, 16, 3], seed=1)

    def run():
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = model(images)
            loss = tf.reduce_sum(tf.sin(outputs))
        return outputs, *tape.gradient(loss, [images, *conv.trainable_variables])

    expected = run()
    assert backbones._BlockwiseConv2D.replaces(conv)
    conv.__class__ = backbones._BlockwiseConv2D
    for got, value in zip(run(), expected, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-5)
