"""Run lengths that are read, and those that pycocotools would trip over."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from official_maskrcnn.ops import rle


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=30))
def test_decode_counts(runs):
    encoded = coco_mask.frPyObjects({"size": [sum(runs), 1], "counts": runs}, sum(runs), 1)
    np.testing.assert_array_equal(rle.decode_counts(encoded["counts"]), runs)
    for counts in (encoded["counts"], encoded["counts"].decode(), runs):
        assert rle.compressed(counts, sum(runs), 1) == encoded


@pytest.mark.parametrize(
    "counts",
    [
        *("", "abc", "é", b"PP11", "zzzzzzzz1", None, 7, {"a": 1}),
        *([], [3, 4], [-1, 13], [1.5, 10.5], ["x"], [10**30], [[12]]),
    ],
)
def test_counts_that_are_none(counts):
    with pytest.raises(ValueError):
        rle.compressed(counts, 3, 4)
