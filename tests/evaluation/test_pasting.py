"""Pasting against a loop over pixels."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from official_maskrcnn.evaluation import paste_crop, pasting, rle_from_crop, rle_from_crops


def _probabilities(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear probability at each pixel centre; -1 outside the box."""
    y1, x1, y2, x2 = map(float, box)
    rows, columns = mask.shape
    result = np.full((height, width), -1.0)
    for y in range(height):
        for x in range(width):
            if y1 <= y + 0.5 < y2 and x1 <= x + 0.5 < x2:
                v = min(max((y + 0.5 - y1) / (y2 - y1) * rows - 0.5, 0), rows - 1)
                u = min(max((x + 0.5 - x1) / (x2 - x1) * columns - 0.5, 0), columns - 1)
                top, left = int(v), int(u)
                bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
                upper = mask[top, left] * (1 - u + left) + mask[top, right] * (u - left)
                lower = mask[bottom, left] * (1 - u + left) + mask[bottom, right] * (u - left)
                result[y, x] = upper * (1 - v + top) + lower * (v - top)
    return result


def _assert_equals_loop(mask: np.ndarray, box: np.ndarray, rle: dict, height: int, width: int):
    expected = _probabilities(mask, box, height, width)
    pasted = coco_mask.decode(rle)
    undecided = np.abs(expected - 0.5) < 1e-5  # where float32 may round to either side
    np.testing.assert_array_equal(pasted[~undecided], expected[~undecided] >= 0.5)
    assert rle == coco_mask.encode(np.asfortranarray(pasted))


_coordinates = st.one_of(st.floats(-15, 45), st.integers(-30, 90).map(lambda n: n / 2))


@hypothesis.settings(max_examples=200)
@hypothesis.given(
    box=st.tuples(_coordinates, _coordinates, _coordinates, _coordinates),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    crop_size=st.tuples(st.sampled_from([1, 2, 3, 7, 28]), st.sampled_from([1, 2, 5, 14])),
    seed=st.integers(0, 1000),
    is_binary=st.booleans(),
)
def test_pasting_equals_a_loop_over_pixels(box, size, crop_size, seed, is_binary):
    mask = np.random.default_rng(seed).random(crop_size).astype("f")
    if is_binary:
        mask = np.round(mask)
    rle = rle_from_crop(mask, np.array(box), *size)
    _assert_equals_loop(mask, box, rle, *size)


@pytest.mark.parametrize("max_values", [1, 300, 1 << 20])
def test_many_crops_equal_one_at_a_time_in_any_parts(monkeypatch, max_values):
    monkeypatch.setattr(pasting, "_MAX_VALUES", max_values)
    rng = np.random.default_rng(0)
    starts = rng.uniform(-10, 40, (30, 2))
    boxes = np.concatenate([starts, starts + rng.uniform(-3, 30, (30, 2))], axis=1)
    masks = rng.random((30, 7, 7)).astype("f")
    rles = rle_from_crops(masks, boxes, 33, 41)
    assert len(rles) == 30
    for mask, box, rle in zip(masks, boxes, rles, strict=True):
        _assert_equals_loop(mask, box, rle, 33, 41)


def test_a_full_crop_fills_the_pixels_whose_centres_lie_in_the_box():
    pasted = paste_crop(np.ones((28, 28)), np.array([1.5, 2.4, 4.51, 6.6]), 8, 9)
    expected = np.zeros((8, 9), np.uint8)
    expected[1:5, 2:7] = 1  # the centre 1.5 is in, 4.5 too; 2.5 to 6.5
    np.testing.assert_array_equal(pasted, expected)


def test_masks_over_the_whole_image_join_their_columns():
    rle = rle_from_crop(np.ones((14, 14)), np.array([-3.0, -4.0, 70.0, 90.0]), 50, 60)
    assert rle == coco_mask.encode(np.ones((50, 60), np.uint8, order="F"))


def test_a_threshold_of_exactly_one_half_is_inside():
    assert paste_crop(np.full((4, 4), 0.5), np.array([0, 0, 4, 4]), 4, 4).all()
    assert not paste_crop(np.full((4, 4), 0.499), np.array([0, 0, 4, 4]), 4, 4).any()


@pytest.mark.parametrize(
    "box",
    [
        [5.0, 5.0, 5.0, 9.0],  # no height
        [9.0, 9.0, 5.0, 5.0],  # reversed
        [5.6, 5.6, 6.4, 6.4],  # between pixel centres
        [-9.0, -9.0, -1.0, -1.0],  # outside
        [50.0, 50.0, 60.0, 60.0],
        [np.nan, 0.0, 5.0, 5.0],
        [0.0, 0.0, np.inf, 5.0],
    ],
)
def test_boxes_without_pixels_give_empty_masks(box):
    rle = rle_from_crop(np.ones((7, 7)), np.array(box), 20, 30)
    assert rle == coco_mask.encode(np.zeros((20, 30), np.uint8, order="F"))


def test_no_detections_and_not_a_number():
    assert rle_from_crops(np.zeros((0, 28, 28)), np.zeros((0, 4)), 20, 30) == []
    mask = np.full((7, 7), np.nan)
    mask[:, 3:] = 1.0
    pasted = paste_crop(mask, np.array([0, 0, 7, 7]), 7, 7)
    np.testing.assert_array_equal(pasted, np.tile(np.arange(7) >= 3, (7, 1)))


def test_a_box_far_larger_than_the_image_is_sampled_where_the_image_is():
    mask = np.zeros((10, 10), "f")
    mask[4:6, 4:6] = 1.0
    box = np.array([-1e5, -1e5, 1e5, 1e5])
    assert paste_crop(mask, box, 20, 20).all()
    assert not paste_crop(1 - mask, box, 20, 20).any()
