"""Random numbers of images: reproducible, independent of the batch, and uniform."""

import numpy as np
import pytest
import tensorflow as tf

from official_maskrcnn.ops import random


def _seeds(ids, step=0, seed=0):
    return random.image_seeds(tf.constant(ids, tf.int64), tf.constant(step, tf.int64), seed)


def test_an_image_draws_the_same_in_any_batch():
    ids = [5, 2**40 + 5, 7]
    together = random.uniform(_seeds(ids, 3, 9), 100).numpy()
    for i, number in enumerate(ids):
        alone = random.uniform(_seeds([number], 3, 9), 60).numpy()
        np.testing.assert_array_equal(alone[0], together[i, :60])


def test_seed_step_and_image_all_count():
    draws = [
        random.uniform(_seeds([number], step, seed), 8).numpy().tobytes()
        for number in (0, 1, 2**32, -1)
        for step in (0, 1, 2)
        for seed in (0, 1, 2**31)
    ]
    assert len(set(draws)) == len(draws) == 36


@pytest.mark.parametrize("compiled", [False, True])
def test_on_every_compiler_the_same(compiled):
    draw = tf.function(lambda: random.uniform(_seeds([0, 1, 2]), 5), jit_compile=compiled)
    np.testing.assert_array_equal(draw(), random.uniform(_seeds([0, 1, 2]), 5))


def _assert_uniform(values):
    """By the chi-squared statistic of 64 equal bins, whose spread is sqrt(2 * 63) = 11."""
    counts = np.histogram(values, bins=64, range=(0.0, 1.0))[0]
    expected = values.size / 64
    assert np.sum((counts - expected) ** 2 / expected) < 63 + 5 * 11.2


def test_numbers_are_uniform_and_unrelated():
    values = random.uniform(_seeds(range(500)), 2000).numpy()
    assert values.min() >= 0.0 and values.max() < 1.0
    _assert_uniform(values)
    _assert_uniform(values[:, 0])  # of consecutive images
    _assert_uniform(
        np.stack([random.uniform(_seeds([1], step), 20).numpy() for step in range(500)])
    )
    pairs = [(values[:, 1:], values[:, :-1]), (values[1:], values[:-1])]
    first, second = random.split(_seeds(range(500)), 2)
    pairs.append((random.uniform(first, 2000).numpy(), random.uniform(second, 2000).numpy()))
    for one, other in pairs:
        correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 5 / np.sqrt(one.size)
