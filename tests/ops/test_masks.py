"""Mask targets: aligned to a pixel, binary, the same from image or instance. Pasted masks."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from official_maskrcnn.evaluation import pasting
from official_maskrcnn.ops import masks


def _area_oracle(mask: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """Covered fraction of each cell [size, size], by counting points of a dense grid."""
    points = 64
    positions = (np.arange(size * points) + 0.5) / (size * points)
    rows = np.floor(box[0] + positions * (box[2] - box[0])).astype(int)
    columns = np.floor(box[1] + positions * (box[3] - box[1])).astype(int)
    padded = np.pad(mask, 1)
    rows, columns = (
        np.clip(index, -1, side) + 1
        for index, side in zip((rows, columns), mask.shape, strict=True)
    )
    dense = padded[np.ix_(rows, columns)].astype(float)
    return dense.reshape(size, points, size, points).mean((1, 3))


@pytest.mark.parametrize("value", [1, 255])
@pytest.mark.parametrize("corner", [(0, 0), (7, 13), (60, 59)])
def test_a_tight_square_gives_all_ones(corner, value):
    crop = tf.function(masks.crop_mask, reduce_retracing=True)
    for side in range(1, 41):
        mask = np.zeros([100, 100], np.uint8)
        top, left = corner
        mask[top : top + side, left : left + side] = value
        box = np.array([top, left, top + side, left + side], np.float32)
        for noise in (0.0, 1e-4, -1e-4):  # boxes went through normalised coordinates
            assert np.all(crop(mask, box + noise, 112) == 1), side


@given(
    st.integers(0, 2**31), st.sampled_from([7, 14, 28, 112]), st.floats(0.5, 40), st.floats(0.5, 40)
)
@settings(max_examples=60)
def test_a_cell_is_one_where_the_mask_covers_half_of_it(seed, size, height, width):
    rng = np.random.default_rng(seed)
    mask = (rng.uniform(size=[30, 25]) < 0.6).astype(np.uint8)
    top, left = rng.uniform(-5, 25, 2)  # boxes over the edges too
    box = np.array([top, left, top + height, left + width], np.float32)
    covered = _area_oracle(mask, box, size)
    target = masks.crop_mask(mask, box, size).numpy()
    clear = np.abs(covered - 0.5) > 0.05  # farther from the threshold than the oracle's error
    np.testing.assert_array_equal(target[clear], (covered >= 0.5)[clear])
    assert set(np.unique(target)) <= {0, 1}


def test_crop_outside_of_the_image_or_of_no_size_is_empty():
    mask = np.ones([10, 10], np.uint8)
    for box in ([20.0, 20, 30, 30], [-9.0, 2, -1, 8], [5.0, 5, 5, 5]):
        assert not np.any(masks.crop_mask(mask, np.array(box, np.float32), 8))


def test_half_outside_of_the_image_is_half_zero():
    target = masks.crop_mask(np.ones([10, 10], np.uint8), np.array([-5.0, 0, 5, 10], "f"), 8)
    np.testing.assert_array_equal(target, np.repeat([[0], [1]], 4, axis=0).repeat(8, axis=1))


def test_threshold_of_stored_values():
    mask = np.array([[0, 100, 128, 255]], np.uint8)
    box = np.array([0, 0, 1, 4], np.float32)
    assert masks.crop_mask(mask, box, 4, threshold=127.5).numpy()[0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_resampling_to_the_same_box_changes_nothing(jit_compile):
    rng = np.random.default_rng(0)
    crops = (rng.uniform(size=[5, 28, 28]) < 0.5).astype(np.uint8)
    starts = rng.uniform(0, 900, [5, 2])
    boxes = np.concatenate([starts, starts + rng.uniform(0.3, 100, [5, 2])], 1).astype("f")
    resample = tf.function(masks.resample_mask_targets, jit_compile=jit_compile)
    np.testing.assert_array_equal(resample(crops, boxes, boxes, 28), crops)


def test_resampling_agrees_with_cropping_from_the_image():
    yy, xx = np.mgrid[:200, :200]
    image_mask = ((yy - 90) ** 2 / 50**2 + (xx - 100) ** 2 / 70**2 < 1).astype(np.uint8)
    instance = np.array([40, 30, 140, 170], np.float32)
    crop = masks.crop_mask(image_mask, instance, 112)
    rois = np.array([[40, 30, 140, 170], [20, 60, 110, 190], [80, 80, 100, 100]], np.float32)
    targets = masks.resample_mask_targets(
        np.repeat(crop[None], 3, 0), np.repeat(instance[None], 3, 0), rois, 28
    )
    assert targets.shape == (3, 28, 28) and targets.dtype == tf.float32
    for roi, target in zip(rois, targets, strict=True):
        direct = masks.crop_mask(image_mask, roi, 28).numpy()
        assert np.mean(target.numpy() != direct) < 0.01  # cells cut by the outline may differ


def test_resampling_is_zero_outside_of_the_instance_box():
    ones = np.ones([1, 112, 112], np.uint8)
    source = np.array([[10, 10, 20, 20]], np.float32)
    roi = np.array([[10, 5, 20, 25]], np.float32)
    target = masks.resample_mask_targets(ones, source, roi, 8).numpy()[0]
    assert target[0].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    assert (target == target[0]).all()


def test_resampling_keeps_what_fills_half_of_a_cell():
    stripes = np.zeros([1, 112, 112], np.uint8)
    stripes[:, :, ::2] = 1  # points at the cells' centres would see all or nothing
    box = np.array([[0, 0, 112, 112]], np.float32)
    assert masks.resample_mask_targets(stripes, box, box, 28).numpy().mean() == 1.0
    stripes[:, :, ::4] = 0
    assert masks.resample_mask_targets(stripes, box, box, 28).numpy().mean() == 0.0


def test_resampling_padding_gives_zeros_and_no_nan():
    padding = -np.ones([2, 4], np.float32)
    targets = masks.resample_mask_targets(np.zeros([2, 14, 14], np.uint8), padding, padding, 7)
    assert not np.any(targets)
    empty = masks.resample_mask_targets(
        np.zeros([0, 14, 14], np.uint8), np.zeros([0, 4], "f"), np.zeros([0, 4], "f"), 7
    )
    assert empty.shape == (0, 7, 7)


def test_pasted_masks_are_those_of_the_evaluation():
    rng = np.random.default_rng(0)
    height, width, count = 97, 131, 120
    crops = rng.uniform(size=(count, 28, 28)).astype(np.float32)
    corners = np.sort(rng.uniform(-20, 150, (count, 2, 2)), axis=1)
    boxes = corners.reshape(count, 4).astype(np.float32)  # some of them reach over the edges
    boxes[:20] = boxes[:20].round()  # pixel centres half a pixel from the sides
    boxes[20:40] = boxes[20:40].round() + 0.5  # and on them
    boxes[40], boxes[41], boxes[42, 2:] = np.nan, 0.0, boxes[42, :2]
    crops[43, 3:9] = np.nan
    pasted = tf.function(masks.paste_masks)(crops, boxes, tf.constant([height, width])).numpy()
    expected = [
        pasting.paste_crop(crop, box, height, width) for crop, box in zip(crops, boxes, strict=True)
    ]
    assert pasted.dtype == np.uint8
    assert pasted.sum() > 100_000
    np.testing.assert_array_equal(pasted, expected)
