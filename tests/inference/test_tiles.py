"""Tiles cover the image, and what they see is put together to the pixel."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from official_maskrcnn.inference.tiles import predict_tiles, tile_starts
from tests.inference.fake_predictor import FakePredictor, draw


@given(st.integers(1, 5000), st.integers(1, 1000), st.floats(0.05, 0.9))
def test_tiles_cover_the_length_and_overlap(length: int, size: int, overlap: float):
    starts = tile_starts(length, size, overlap)
    assert starts[0] == 0 and starts[-1] == max(length - size, 0)
    for one, other in itertools.pairwise(starts):
        assert one < other <= one + max(size * (1 - overlap), 1) + 1  # of rounding


def test_fewest_tiles():
    assert tile_starts(1000, 500, 0.25) == [0, 250, 500]
    assert tile_starts(875, 500, 0.25) == [0, 375]
    assert tile_starts(500, 500, 0.25) == [0]


def _found(rectangles: list[tuple[int, int, int, int, int]], size: tuple[int, int], **options):
    predictor = FakePredictor()
    image = draw(rectangles, size)
    found = predict_tiles(predictor, image, **options)
    got = {
        (*np.rint(box).astype(int).tolist(), number)
        for box, number in zip(found.boxes, found.class_ids.tolist(), strict=True)
    }
    if found.has_masks:
        for mask, number in zip(found.masks, found.class_ids, strict=True):
            y, x = np.nonzero(mask)
            box = (*(int(v) for v in (y.min(), x.min(), y.max() + 1, x.max() + 1)), int(number))
            assert box in got and mask.sum() == (box[2] - box[0]) * (box[3] - box[1])
    return got, found, predictor


def test_objects_over_the_seams_are_whole():
    rectangles = [
        (10, 10, 30, 40, 1),  # within one tile
        (90, 95, 130, 125, 1),  # in the overlap of four
        (20, 60, 60, 260, 2),  # longer than a tile
        (150, 20, 290, 50, 3),  # higher than a tile
        (150, 60, 290, 62, 3),  # beside it
    ]
    got, found, predictor = _found(rectangles, (300, 300), tile_size=120, overlap=0.3, batch_size=4)
    assert got == set(rectangles)
    assert found.image_size == (300, 300)
    assert predictor.batches == [4, 4, 4, 4]
    np.testing.assert_allclose(np.sort(found.scores)[::-1], [(250 - i) / 255 for i in range(5)])
    assert (np.diff(found.scores) <= 0).all()


def test_neighbours_of_one_class_stay_apart():
    rectangles = [(10, x, 30, x + 7, 1) for x in range(4, 240, 9)]
    got, _, _ = _found(rectangles, (40, 250), tile_size=100, overlap=0.25)
    assert got == set(rectangles)


@given(st.data())
def test_any_rectangles_apart(data: st.DataObject):
    cells = data.draw(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
    rectangles = []
    for y, x in sorted(cells):
        height, width = data.draw(st.tuples(st.integers(4, 26), st.integers(4, 26)))
        rectangles.append((y * 30, x * 30, y * 30 + height, x * 30 + width, 1 + (y + x) % 3))
    got, _, _ = _found(rectangles, (180, 180), tile_size=80, overlap=0.4)
    assert got == set(rectangles)


def test_a_small_image_is_seen_as_it_is():
    _, found, predictor = _found([(1, 2, 20, 30, 1)], (50, 60), tile_size=60)
    assert predictor.batches == [1] and found.merged_masks is None


def test_nothing_found():
    got, found, _ = _found([], (200, 300), tile_size=100)
    assert not got and found.masks.shape == (0, 200, 300)
    assert found.to_coco(1) == []


@pytest.mark.parametrize("overlap", [0.2, 0.6])
def test_boxes_without_masks_are_merged_too(overlap: float):
    class BoxesOnly(FakePredictor):
        def _detections(self, image, boxes, ids, scores):
            found = super()._detections(image, boxes, ids, scores)
            return type(found)(
                found.boxes, found.class_ids, found.scores, found.class_names, found.image_size
            )

    rectangles = [(10, 20, 60, 280, 1), (70, 10, 90, 30, 2)]
    found = predict_tiles(BoxesOnly(), draw(rectangles, (100, 300)), 100, overlap)
    assert {tuple(b) for b in np.rint(found.boxes).astype(int).tolist()} == {
        r[:4] for r in rectangles
    }
    assert not found.has_masks
