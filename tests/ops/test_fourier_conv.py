"""Convolutions by Fourier transforms against TensorFlow's."""

import numpy as np
import pytest
import tensorflow as tf

from official_maskrcnn.ops import fourier_conv

_SHAPES = [  # maps, of which the first three are smaller than a tile
    (5, 7, 7),
    (2, 4, 6),
    (3, 1, 1),
    (2, 8, 8),
    (1, 12, 13),
    (2, 3, 20),
    (9, 6, 18),
]


def _both(maps, kernel, of_outputs):
    def run(conv):
        @tf.function(input_signature=[tf.TensorSpec([None, *maps.shape[1:]], maps.dtype)])
        def graph(maps):
            with tf.GradientTape() as tape:
                tape.watch([maps, kernel])
                outputs = conv(maps, kernel)
            return outputs, *tape.gradient(outputs, [maps, kernel], of_outputs)

        return [tf.cast(value, tf.float32).numpy() for value in graph(maps)]

    plain = run(lambda maps, kernel: tf.nn.conv2d(maps, kernel, 1, "SAME"))
    return run(fourier_conv.conv3x3), plain


def _random(shape, channels, filters, dtype=tf.float32):
    draw = np.random.default_rng(1)
    shapes = ([*shape, channels], [3, 3, channels, filters], [*shape, filters])
    return [tf.cast(draw.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize("shape", _SHAPES, ids=str)
@pytest.mark.parametrize("channels, filters", [(8, 8), (3, 5)])
def test_equals_the_sum_over_the_kernel(shape, channels, filters):
    got, expected = _both(*_random(shape, channels, filters))
    for value, right in zip(got, expected, strict=True):
        assert value.shape == right.shape
        np.testing.assert_allclose(value, right, rtol=1e-5, atol=3e-6 * np.abs(right).max())


@pytest.mark.parametrize("shape", [(64, 7, 7), (1, 20, 21)], ids=str)
def test_rounds_no_worse_in_float32_and_little_in_bfloat16(shape):
    maps, kernel, of_outputs = _random(shape, 64, 64)
    exact = tf.nn.conv2d(tf.cast(maps, tf.float64), tf.cast(kernel, tf.float64), 1, "SAME").numpy()

    def error(value):
        return np.linalg.norm(value - exact) / np.linalg.norm(exact)

    got, plain = _both(maps, kernel, of_outputs)
    assert error(got[0]) < 1.2 * error(plain[0]) + 1e-7

    halves = (tf.cast(tensor, tf.bfloat16) for tensor in (maps, kernel, of_outputs))
    for value, right in zip(*_both(*halves), strict=True):
        assert np.linalg.norm(value - right) < 0.01 * np.linalg.norm(right)


@pytest.mark.parametrize("side", [7, 20])
def test_no_maps(side):
    got, _ = _both(*_random((0, side, side), 8, 4))
    assert got[0].shape == (0, side, side, 4)
    assert got[1].shape == (0, side, side, 8)
    assert not got[2].any()


@pytest.mark.parametrize("size, tiles", [((7, 7), 1), ((8, 8), 4), ((7, 8), 4), ((60, 54), 90)])
def test_tiles_of_a_map(size, tiles):
    assert fourier_conv.num_tiles(*size) == tiles
