"""Anchors and their labels."""

import numpy as np
import tensorflow as tf

from official_maskrcnn.model_garden import light_imports
from official_maskrcnn.ops import anchors

with light_imports():
    from official.vision.ops import anchor as reference


def test_anchors_are_those_of_model_garden():
    ratios = [0.5, 1.0, 2.0]
    got = anchors.pyramid_anchors((96, 160), 3, 7, 3, ratios, 4.0)
    expected = reference.Anchor(3, 7, 3, ratios, 4.0, (96, 160)).multilevel_boxes
    assert list(got) == list(expected)
    for level, boxes in expected.items():
        h, w, _ = boxes.shape
        cells_first = got[level].reshape(4, -1, h, w).transpose(2, 3, 1, 0)
        np.testing.assert_allclose(cells_first.reshape(h, w, -1), boxes, atol=1e-4)


def _labels(gt_boxes, gt_valid, **kwargs):
    levels = anchors.pyramid_anchors((128, 128), 2, 6, 1, [0.5, 1.0, 2.0], 8.0)
    all_anchors = tf.concat(list(levels.values()), 1)
    run = tf.function(anchors.label_anchors)
    outputs = run(
        all_anchors,
        tf.constant(gt_boxes, tf.float32),
        tf.constant(gt_valid),
        tf.cast(tf.range(len(gt_boxes)), tf.uint32),
        **kwargs,
    )
    return all_anchors.numpy(), [o.numpy() for o in outputs]


def test_every_instance_gets_an_anchor_and_samples_are_counted():
    gt_boxes = [
        [[10, 10, 60, 70], [40, 30, 120, 120], [3, 3, 6, 6], [-1, -1, -1, -1]],
        [[-1, -1, -1, -1]] * 4,
    ]
    gt_valid = [[True, True, True, False], [False] * 4]
    all_anchors, (scores, boxes, foreground) = _labels(gt_boxes, gt_valid, num_samples=64)
    assert set(np.unique(scores)) == {-1, 0, 1}
    assert (scores >= 0).sum(1).tolist() == [64, 64]
    assert (scores[1] == 1).sum() == 0 and not foreground[1].any()
    assert 3 <= (scores[0] == 1).sum() <= 32
    assert np.all(foreground[0][scores[0] == 1])
    # The 3-pixel instance overlaps no anchor by 0.3 and still has one, with its own box as target.
    centers = (all_anchors[:2] + all_anchors[2:]) / 2
    sizes = all_anchors[2:] - all_anchors[:2]
    decoded = centers + boxes[0][:2] * sizes
    tiny = np.abs(decoded - 4.5).max(0) < 1e-3
    assert np.sum(tiny & foreground[0]) == 1
    assert np.all(boxes[0][:, ~foreground[0]] == 0)


def test_foreground_is_capped_by_its_fraction():
    # At this threshold nearly every anchor matches the box that fills the image.
    _, (scores, _, foreground) = _labels(
        [[[0, 0, 128, 128]]],
        [[True]],
        match_threshold=0.001,
        unmatched_threshold=0.0005,
        num_samples=16,
    )
    assert foreground.sum() > 100
    assert (scores == 1).sum() == 8


def test_static_shapes_change_nothing():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, [2, 9, 2])
    gt_boxes = np.concatenate([corners, corners + rng.uniform(2, 60, [2, 9, 2])], axis=-1)
    gt_valid = rng.random([2, 9]) < 0.7
    _, expected = _labels(gt_boxes, gt_valid)
    _, got = _labels(gt_boxes, gt_valid, static_shapes=True)
    for values, others in zip(got, expected, strict=True):
        np.testing.assert_array_equal(values, others)
