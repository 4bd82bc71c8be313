"""Boxes: coding, clipping, overlap."""

import numpy as np
import tensorflow as tf

from official_maskrcnn.ops import boxes


def _boxes(seed: int, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    starts = rng.uniform(0, 80, (*shape, 2))
    return np.concatenate([starts, starts + rng.uniform(1, 60, (*shape, 2))], -1).astype("f")


def test_decode_inverts_encode():
    targets, anchors = _boxes(1, 2, 50), _boxes(2, 2, 50)
    for weights in boxes.CASCADE_REGRESSION_WEIGHTS:
        decoded = boxes.decode(boxes.encode(targets, anchors, weights), anchors, weights)
        np.testing.assert_allclose(decoded, targets, atol=1e-3)


def test_encode_of_a_known_pair():
    encoded = boxes.encode(tf.constant([[5.0, 0, 25, 40]]), tf.constant([[0.0, 0, 10, 20]]))
    np.testing.assert_allclose(encoded, [[1.0, 0.5, np.log(2), np.log(2)]], rtol=1e-5)


def test_decode_limits_growth():
    decoded = boxes.decode(tf.constant([[0.0, 0, 100, 0]]), tf.constant([[0.0, 0, 16, 16]]))
    np.testing.assert_allclose(decoded[0, 2] - decoded[0, 0], 1000.0, rtol=1e-4)


def test_clip_uses_each_image_s_own_size():
    clipped = boxes.clip(
        tf.constant([[[-5.0, -5, 50, 50]]] * 2), tf.constant([[40.0, 60], [10, 20]])
    )
    np.testing.assert_array_equal(clipped[:, 0], [[0, 0, 40, 50], [0, 0, 10, 20]])
    per_class = boxes.clip(tf.fill([2, 3, 4, 4], 99.0), tf.constant([[40.0, 60], [10, 20]]))
    np.testing.assert_array_equal(per_class[1, 2, 3], [10, 20, 10, 20])


def test_enlarge_keeps_centres_and_the_image_s_edges():
    enlarged = boxes.enlarge(
        tf.constant([[[10.0, 10, 30, 20], [0, 0, 10, 10]]]), 2.0, tf.constant([[100.0, 100]])
    )
    np.testing.assert_array_equal(enlarged[0], [[0, 5, 40, 25], [0, 0, 15, 15]])


def test_pairwise_iou():
    a = tf.constant([[0.0, 0, 10, 10], [0, 0, 0, 0], [-1, -1, -1, -1]])
    b = tf.constant([[0.0, 0, 10, 10], [0, 5, 10, 15], [20, 20, 30, 30], [0, 0, 0, 0]])
    expected = [[1, 1 / 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(boxes.pairwise_iou(a, b), expected, rtol=1e-6)
