"""Ground truth as it is found: incomplete, inconsistent, or not there at all."""

import copy
import json
import logging
import tracemalloc

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from official_maskrcnn import UserError
from official_maskrcnn.data import records
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
    assert "(mask dropped)" in caplog.text
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
                _annotation(),  # the same once more
                _annotation(id=1, image_id=8),
                _annotation(id=2, category_id=2),
                _annotation(id=3, category_id=[1]),
                _annotation(id=4, bbox=[0, 0, float("nan"), 1], segmentation=None),
                _annotation(id=5, bbox=None, segmentation=None),
                None,
                images=[{"id": 7, "width": 20, "height": 10}, None, {"id": 9, "width": 20}],
            )
        )
    assert len(truth.annotations) == 1
    assert truth.image_sizes == {7: (10, 20)}
    for fault in (
        "1 invalid_image_entry (image left out)",
        "1 missing_image_size (image left out)",
        "1 invalid_annotation (annotation left out)",
        "1 unknown_image (annotation left out)",
        "2 unknown_category (annotation left out)",
        "1 duplicate_annotation_id (annotation left out)",
        "1 missing_bbox (annotation left out)",
        "1 nonfinite_bbox (annotation left out)",
    ):
        assert fault in caplog.text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"bbox": [0, 0, 0, 0]}, {"bbox": [2, 2, 6, 6]}),
        ({"bbox": [90, 0, 5, 5]}, {"bbox": [2, 2, 6, 6]}),
        ({"bbox": [-1.5, 2, 9, 6]}, {"bbox": [-1.5, 2, 9, 6]}),  # pycocotools counts all of it
        (
            {"bbox": [12, 2, 5, 6]},
            {"bbox": [12, 2, 5, 6], "segmentation": None},
        ),  # the mask is elsewhere
        ({"category_id": "1"}, {"category_id": 1}),
        ({"area": 0}, {"area": 36}),
        ({"area": -1}, {"area": 36}),
        ({"iscrowd": "0"}, {"iscrowd": 0}),
        ({"segmentation": _SQUARE}, {}),
        ({"segmentation": tuple(_SQUARE), "bbox": (2, 2, 6, 6)}, {}),
    ],
)
def test_annotations_are_mended_as_for_the_training(changes, expected):
    dataset = _dataset(_annotation(**changes))
    (good,) = load_ground_truth(_dataset(_annotation())).annotations
    before = copy.deepcopy(dataset)
    (annotation,) = load_ground_truth(dataset).annotations
    assert annotation == good | expected
    assert dataset == before


def test_polygons_far_away_take_no_memory():
    far = [2, 2, 1e7, 2, 1e7, 8, 2, 8]
    tracemalloc.start()
    (annotation,) = load_ground_truth(_dataset(_annotation(segmentation=[far]))).annotations
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert coco_mask.area(annotation["segmentation"]) == 18 * 6


def test_category_ids_may_be_texts():
    categories = [{"id": "1", "name": "cat"}, {"id": 0, "name": "animals"}]
    truth = load_ground_truth(_dataset(_annotation(category_id="1"), categories=categories))
    assert truth.categories == {1: "cat"}
    (annotation,) = truth.annotations
    result = {key: annotation[key] for key in ("image_id", "bbox", "segmentation")}
    results = [result | {"category_id": "1", "score": 0.9}]
    assert evaluate_results(results, truth)["mask/AP"] == pytest.approx(1.0)


def test_a_missing_size_is_that_of_the_file(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros([10, 20], np.uint8))
    images = [{"id": 7, "file_name": "a.png"}]
    truth = load_ground_truth(_dataset(_annotation(), images=images), str(tmp_path))
    assert truth.image_sizes == {7: (10, 20)}
    assert truth.annotations[0]["segmentation"]["size"] == [10, 20]


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(_dataset(_annotation())), encoding="utf-8-sig")
    assert len(load_ground_truth(tmp_path / "a.json").annotations) == 1


def test_categories_that_share_a_name_are_told_apart():
    categories = [{"id": 1, "name": "cat"}, {"id": 5, "name": "cat"}, {"id": 2}]
    truth = load_ground_truth(_dataset(categories=categories))
    assert truth.categories == {1: "cat (1)", 2: "2", 5: "cat (5)"}


def test_a_file_without_categories_has_those_of_its_annotations():
    truth = load_ground_truth(_dataset(_annotation(category_id=4), categories=[]))
    assert truth.categories == {4: "4"}


@pytest.mark.parametrize(
    ("image_id", "same", "number"),
    [
        ("000007", 7, 7),
        (7.0, "7", 7),
        ("9" * 18, 10**18 - 1, 10**18 - 1),
        ("2008_000008", "2008_000008", None),
        (-1, "-1", None),
        (10**18, str(10**18), None),
        ("cat.jpg", "cat.jpg", None),
        ("7" * 30, "7" * 30, None),
        ("caf\udce9.jpg", "caf\udce9.jpg", None),
    ],
)
def test_image_ids_are_those_of_the_parser(image_id, same, number):
    images = [{"id": image_id, "width": 20, "height": 10}]
    truth = load_ground_truth(_dataset(_annotation(image_id=same), images=images))
    text = str(int(image_id) if isinstance(image_id, float) else image_id)
    parsed = int(records.source_id_to_int(text.encode(errors="surrogatepass"), b""))
    assert number in (None, parsed)
    assert list(truth.image_sizes) == [truth.annotations[0]["image_id"]] == [parsed]
    result = {key: truth.annotations[0][key] for key in ("category_id", "bbox", "segmentation")}
    for own_id in (image_id, same, parsed):
        metrics = evaluate_results([result | {"image_id": own_id, "score": 0.9}], truth)
        assert metrics["box/AP"] == metrics["mask/AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("image_id", [2**63, 1e30, 1.5, None, "", True, [7]])
def test_results_need_an_image_id(image_id):
    result = {"image_id": image_id, "category_id": 1, "bbox": [2, 2, 6, 6], "score": 0.9}
    with pytest.raises(UserError, match="result 0 needs an image_id"):
        evaluate_results([result], _dataset(_annotation()), include_mask=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "found a list"),
        ('{"annotations": []}', "no list images"),
        ("{", "not valid JSON"),
        (json.dumps(_dataset(images=[{"id": 2**63, "width": 1, "height": 1}])), "invalid_image"),
        (json.dumps(_dataset(images=[{"id": 5}])), "a height and a width: 1 missing_image_size"),
        (json.dumps(_dataset(categories=[{"name": "cat"}])), "entry 0 has no integer id"),
        (
            json.dumps(_dataset(_annotation(category_id=0), categories=[{"id": 0}])),
            "id 0 is the background's",
        ),
    ],
)
def test_files_that_are_no_ground_truth_are_named(tmp_path, content, message):
    path = tmp_path / "annotations.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        CocoEvaluator(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"missing\.json cannot be read"):
        CocoEvaluator(tmp_path / "missing.json")
