"""Suppression: both implementations against a greedy loop."""

import numpy as np
import pytest
import tensorflow as tf

from official_maskrcnn.ops import nms


def _random_boxes(seed: int, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    starts = rng.uniform(0, 100, (*shape, 2))
    return np.concatenate([starts, starts + rng.uniform(5, 60, (*shape, 2))], -1).astype("f")


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    height, width = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if height <= 0 or width <= 0:
        return 0.0
    areas = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])
    return height * width / (areas - height * width)


def _greedy(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if scores[i] >= 0 and all(_iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(int(i))
    return kept


@pytest.mark.parametrize("static_shapes", [False, True])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_suppress_equals_a_greedy_loop(static_shapes, threshold):
    boxes = _random_boxes(1, 3, 200)
    scores = np.random.default_rng(2).uniform(0, 1, (3, 200)).astype("f")
    scores[1, 150:] = -1.0  # padding
    scores[2] = -1.0  # an image without candidates
    run = tf.function(nms.suppress, jit_compile=static_shapes)
    indices, real = run(boxes, scores, threshold, 50, static_shapes=static_shapes)
    for image in range(3):
        expected = _greedy(boxes[image], scores[image], threshold)[:50]
        assert indices[image].numpy()[real[image].numpy()].tolist() == expected
    assert not np.any(real[2])


def test_suppress_pads_when_fewer_boxes_than_outputs():
    boxes, scores = _random_boxes(3, 1, 5), np.linspace(0.1, 0.9, 5, dtype="f")[None]
    for static_shapes in (False, True):
        indices, real = nms.suppress(boxes, scores, 0.99, 8, static_shapes=static_shapes)
        assert indices.shape == (1, 8)
        assert indices[0].numpy()[real[0].numpy()].tolist() == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("static_shapes", [False, True])
@pytest.mark.parametrize("shared_boxes", [False, True])
def test_suppress_per_class_equals_a_greedy_loop_in_each_class(static_shapes, shared_boxes):
    num_classes = 4
    boxes = _random_boxes(4, 2, 80, 1 if shared_boxes else num_classes)
    scores = np.random.default_rng(5).uniform(0, 1, (2, 80, num_classes)).astype("f")
    scores[1] *= 0.04  # everything below the threshold
    run = tf.function(nms.suppress_per_class, jit_compile=static_shapes)
    got_boxes, got_scores, got_classes, count = run(
        boxes, scores, 0.5, 0.05, 30, 1000, static_shapes=static_shapes
    )
    expected = []
    for k in range(num_classes):
        class_boxes = boxes[0, :, 0 if shared_boxes else k]
        candidates = np.where(scores[0, :, k] > 0.05, scores[0, :, k], -1.0)
        expected += [
            (scores[0, i, k], k, *class_boxes[i]) for i in _greedy(class_boxes, candidates, 0.5)
        ]
    expected = np.array(sorted(expected, reverse=True)[:30])
    assert count.numpy().tolist() == [30, 0]
    np.testing.assert_allclose(got_scores[0], expected[:, 0], atol=1e-6)
    np.testing.assert_array_equal(got_classes[0], expected[:, 1])
    np.testing.assert_allclose(got_boxes[0], expected[:, 2:], atol=1e-5)
    assert not np.any(got_scores[1]) and not np.any(got_boxes[1])


def test_soft_nms_lowers_scores_instead_of_removing_boxes():
    boxes = np.array([[[0, 0, 10, 10], [0, 0, 10, 8], [50, 50, 60, 60]]], "f")[:, :, None]
    scores = np.array([[[0.9], [0.8], [0.7]]], "f")
    _, got, _, count = nms.suppress_per_class(boxes, scores, 1.0, 0.05, 5, 100, soft_nms_sigma=0.5)
    assert count.numpy().tolist() == [3]
    # Gaussian decay exp(-iou^2 / sigma) of the paper, with TensorFlow's sigma = 1 / (2 sigma).
    decayed = 0.8 * np.exp(-0.5 * 0.8**2 / 0.5)
    np.testing.assert_allclose(got[0, :3], [0.9, 0.7, decayed], rtol=1e-5)
    with pytest.raises(ValueError, match="XLA"):
        nms.suppress_per_class(
            boxes, scores, 0.5, 0.05, 5, 100, soft_nms_sigma=0.5, static_shapes=True
        )
