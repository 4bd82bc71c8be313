"""Sampling and packing."""

import numpy as np
import pytest
import tensorflow as tf

from official_maskrcnn.ops import sampling

_SEEDS = tf.constant([3, 1, 2], tf.uint32)


def test_balanced_sampling_counts():
    foreground = np.zeros((3, 100), bool)
    background = np.zeros((3, 100), bool)
    foreground[0, :40], background[0, 40:] = True, True  # plenty of both
    foreground[1, :3], background[1, 50:] = True, True  # little foreground
    background[2, :5] = True  # little of anything
    fg, bg = sampling.sample_balanced(
        tf.constant(foreground), tf.constant(background), 32, 0.25, _SEEDS[:3]
    )
    assert fg.numpy().sum(1).tolist() == [8, 3, 0]
    assert bg.numpy().sum(1).tolist() == [24, 29, 5]
    assert not np.any(fg & ~foreground) and not np.any(bg & ~background)


def test_sampling_is_random_but_reproducible():
    mask = tf.ones([1, 1000], tf.bool)

    def draw(seed):
        return sampling.sample_indices(~mask, mask, 10, 0.5, seed).numpy()

    np.testing.assert_array_equal(draw(_SEEDS[:1]), draw(_SEEDS[:1]))
    assert np.any(draw(_SEEDS[:1]) != draw(_SEEDS[1:2]))


def test_indices_put_foreground_first_and_never_pad():
    foreground = np.zeros((2, 20), bool)
    background = np.zeros((2, 20), bool)
    foreground[0, :2], background[0, 2:] = True, True
    foreground[1, 5], background[1, 6:8] = True, True  # 3 candidates for 8 samples
    indices = sampling.sample_indices(
        tf.constant(foreground), tf.constant(background), 8, 0.25, _SEEDS[:2]
    ).numpy()
    assert sorted(indices[0, :2]) == [0, 1] and len(set(indices[0])) == 8
    assert set(indices[1]) == {5, 6, 7}
    assert indices[1, 0] == 5


def test_all_candidates_foreground_fill_the_sample():
    foreground = tf.ones([1, 30], tf.bool)
    indices = sampling.sample_indices(foreground, ~foreground, 16, 0.25, _SEEDS[:1])
    assert len(set(indices.numpy()[0])) == 16


def test_pack_takes_what_is_there():
    chosen = tf.constant([[True, False, True], [False, False, False], [False, True, False]])
    packed = sampling.pack(chosen)
    assert packed.batch_indices.numpy().tolist() == [0, 0, 2]
    assert packed.slots.numpy().tolist() == [0, 2, 1]
    grid = tf.reshape(tf.range(9), [3, 3])
    assert packed.gather(grid).numpy().tolist() == [0, 2, 7]
    assert packed.weights.numpy().tolist() == [1, 1, 1]
    empty = sampling.pack(tf.zeros([2, 3], tf.bool))
    assert empty.weights.shape == (0,)
    assert sampling.pack(tf.zeros([2, 3], tf.bool), min_size=1).weights.numpy().tolist() == [0.0]


@pytest.mark.parametrize(("capacity", "dropped"), [(5, 0), (2, 1)])
def test_static_pack_counts_what_has_no_room(capacity, dropped):
    chosen = tf.constant([[True, False, True], [False, True, False]])
    packed = tf.function(sampling.pack, jit_compile=True)(chosen, capacity)
    assert packed.weights.numpy().tolist() == [1.0] * min(3, capacity) + [0.0] * max(
        0, capacity - 3
    )
    assert int(packed.num_dropped) == dropped
