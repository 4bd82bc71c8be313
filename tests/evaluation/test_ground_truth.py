"""Ground truth as it is found: incomplete, inconsistent, or not there at all."""

import json
import logging

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from official_maskrcnn import UserError
from official_maskrcnn.evaluation import CocoEvaluator, evaluate_results, load_ground_truth

_SQUARE = [2, 2, 8, 2, 8, 8, 2, 8]


def _dataset(*annotations: dict, **changes) -> dict:
    return {
        "images": [{"id": 7, "width": 20, "height": 10}],
        "annotations": list(annotations),
        "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
    } | changes


def _annotation(**changes) -> dict:
    complete = {"id": 0, "image_id": 7, "category_id": 1, "bbox": [2, 2, 6, 6], "area": 30.0}
    complete |= {"iscrowd": 0, "segmentation": [_SQUARE]}
    return {key: value for key, value in (complete | changes).items() if value is not None}


def test_missing_fields_come_from_the_mask():
    truth = load_ground_truth(_dataset(_annotation(bbox=None, area=None, iscrowd=None)))
    (annotation,) = truth.annotations
    assert annotation["bbox"] == [2, 2, 6, 6]
    assert annotation["area"] == 36
    assert annotation["iscrowd"] == 0
    assert annotation["id"] == 1  # COCO's matching takes id 0 for "no match"
    assert truth.image_sizes == {7: (10, 20)}
    assert truth.categories == {1: "cat", 3: "dog"}


def test_masks_of_all_formats_become_the_same_encoding():
    mask = np.zeros((10, 20), np.uint8, order="F")
    mask[2:8, 2:8] = 1
    rle = coco_mask.encode(mask)
    runs = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0, append=0))
    uncompressed = np.diff(runs, prepend=0, append=200).tolist()
    segmentations = [
        [_SQUARE],
        [_SQUARE, [1, 2, 3], [1, 2, 3, 4, 5]],  # with broken parts
        {"size": [10, 20], "counts": rle["counts"]},
        {"size": [10, 20], "counts": rle["counts"].decode()},
        {"size": [10, 20], "counts": uncompressed},
    ]
    truth = load_ground_truth(_dataset(*[_annotation(segmentation=s) for s in segmentations]))
    assert [annotation["segmentation"] for annotation in truth.annotations] == [rle] * 5


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        [[1, 2, 3, 4]],
        {"size": [20, 10], "counts": [200]},
        {"size": [10, 20], "counts": [100]},
        {"size": [10, 20], "counts": [200]},  # no pixel is set
        {"size": [10, 20]},
        "polygon",
    ],
)
def test_boxes_without_a_usable_mask_count_for_boxes_only(segmentation, caplog):
    dataset = _dataset(
        _annotation(), _annotation(segmentation=segmentation, bbox=[10, 1, 5, 5], category_id=3)
    )
    with caplog.at_level(logging.WARNING):
        truth = load_ground_truth(dataset)
    assert "1 of 2 annotations without a usable mask" in caplog.text
    assert [a["segmentation"] is None for a in truth.annotations] == [False, True]
    rle = truth.annotations[0]["segmentation"]
    results = [
        {"image_id": 7, "category_id": 1, "bbox": [2, 2, 6, 6], "score": 0.9, "segmentation": rle}
    ]
    metrics = evaluate_results(results, truth)
    assert metrics["box/AP"] == pytest.approx(0.5)  # one of two classes was found
    assert metrics["mask/AP"] == pytest.approx(1.0)


def test_what_cannot_be_used_is_left_out_and_counted(caplog):
    with caplog.at_level(logging.WARNING):
        truth = load_ground_truth(
            _dataset(
                _annotation(),
                _annotation(image_id=8),
                _annotation(category_id=2),
                _annotation(bbox=[0, 0, float("nan"), 1], segmentation=None),
                _annotation(bbox=None, segmentation=None),
            )
        )
    assert len(truth.annotations) == 1
    assert "1 of 5 annotations left out: their image" in caplog.text
    assert "1 of 5 annotations left out: their category" in caplog.text
    assert "2 of 5 annotations left out: neither a box nor a mask" in caplog.text


def test_categories_that_share_a_name_are_told_apart():
    categories = [{"id": 1, "name": "cat"}, {"id": 5, "name": "cat"}, {"id": 2}]
    truth = load_ground_truth(_dataset(categories=categories))
    assert truth.categories == {1: "cat (1)", 2: "2", 5: "cat (5)"}


def test_a_file_without_categories_has_those_of_its_annotations():
    truth = load_ground_truth(_dataset(_annotation(category_id=4), categories=[]))
    assert truth.categories == {4: "4"}


def test_image_ids_may_be_numbers_in_text():
    dataset = _dataset(
        _annotation(image_id="000007"), images=[{"id": "000007", "width": 20, "height": 10}]
    )
    assert load_ground_truth(dataset).annotations[0]["image_id"] == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "no list of images"),
        ("{", "not a JSON file"),
        (json.dumps(_dataset(images=[{"id": "a", "width": 1, "height": 1}])), "not a number: a"),
        (json.dumps(_dataset(images=[{"id": 5}])), "no height and width: ids 5"),
    ],
)
def test_files_that_are_no_ground_truth_are_named(tmp_path, content, message):
    path = tmp_path / "annotations.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        CocoEvaluator(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"missing\.json: cannot be read"):
        CocoEvaluator(tmp_path / "missing.json")
