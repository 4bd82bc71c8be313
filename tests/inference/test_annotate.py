"""Masks are filled in where there is none, and nothing else changes."""

import copy
import json
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from official_maskrcnn.errors import UserError
from official_maskrcnn.inference.annotate import annotate, mask_to_polygons
from official_maskrcnn.ops.drawing import write_image
from tests.inference.fake_predictor import FakePredictor, draw

_POLYGON = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]


@pytest.fixture
def boxes_file(tmp_path: pathlib.Path) -> pathlib.Path:
    for name in ("a.png", "b.png"):
        write_image(str(tmp_path / name), draw([], (48, 64)))
    box = {"bbox": [10, 4, 20, 8], "iscrowd": 0}
    content = {
        "info": {"year": 2026},
        "images": [
            {"id": 5, "file_name": "a.png", "height": 48, "width": 64, "licence": 3},
            {"id": 6, "file_name": "b.png", "height": 48, "width": 64},
        ],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 2, **box},
            {"id": 2, "image_id": 5, "category_id": 2, **box, "segmentation": _POLYGON},
            {"id": 3, "image_id": 6, "category_id": 40, "bbox": [0, 0, 6, 5], "segmentation": []},
            {"id": 4, "image_id": 6, "category_id": 2, "bbox": [2, 2, 9, 9], "iscrowd": 1},
            {"id": 5, "image_id": 5, "category_id": 2, "bbox": [30, 30, 4, 5]},
        ],
        "categories": [{"id": 2, "name": "green"}, {"id": 40, "name": "unheard of"}],
    }
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    return path


def test_only_missing_masks_are_filled_in(boxes_file: pathlib.Path, tmp_path: pathlib.Path):
    before = json.loads(boxes_file.read_text())
    output = tmp_path / "filled.json"
    result = annotate(FakePredictor(), str(boxes_file), str(output), progress=False)
    assert (result.filled, result.kept, result.empty, result.faults) == (3, 2, 0, {})
    after = json.loads(output.read_text())
    expected = copy.deepcopy(before)
    for place, area in ((0, 160), (2, 30), (4, 20)):
        found = after["annotations"][place]
        assert coco_mask.area(found["segmentation"]) == found["area"] == area
        x, y, width, height = found["bbox"]
        assert coco_mask.decode(found["segmentation"])[y : y + height, x : x + width].all()
        expected["annotations"][place].update(
            {name: found[name] for name in ("segmentation", "area")}, iscrowd=0, is_predicted=True
        )
    assert after == expected
    assert sorted(p.name for p in tmp_path.glob("filled*")) == ["filled.json"]


def test_polygons_and_replacing(boxes_file: pathlib.Path, tmp_path: pathlib.Path):
    output = tmp_path / "filled.json"
    options = {"polygons": True, "replace": True, "progress": False}
    result = annotate(FakePredictor(), str(boxes_file), str(output), **options)
    assert (result.filled, result.kept) == (4, 1)  # a crowd stays
    replaced = json.loads(output.read_text())["annotations"][1]
    assert replaced["segmentation"] != _POLYGON and replaced["area"] == 160
    rle = coco_mask.merge(coco_mask.frPyObjects(replaced["segmentation"], 48, 64))
    assert coco_mask.decode(rle)[4:12, 10:30].all() and coco_mask.area(rle) == 160


def test_an_image_that_cannot_be_read(boxes_file: pathlib.Path, tmp_path: pathlib.Path):
    (tmp_path / "a.png").write_bytes(b"no image")
    output = tmp_path / "filled.json"
    result = annotate(FakePredictor(), str(boxes_file), str(output), progress=False)
    assert result.filled == 1 and list(result.faults.values()) == ["undecodable_image"]
    assert "segmentation" not in json.loads(output.read_text())["annotations"][0]


def test_no_folder_is_made_of_a_url(boxes_file: pathlib.Path):
    with pytest.raises(UserError, match=r"gs://bucket/filled\.json: this is written locally"):
        annotate(FakePredictor(), str(boxes_file), "gs://bucket/filled.json", progress=False)


def test_a_class_that_the_head_does_not_know(boxes_file: pathlib.Path, tmp_path: pathlib.Path):
    with pytest.raises(UserError, match="the model has no class 'unheard of'"):
        annotate(
            FakePredictor(class_agnostic=False),
            str(boxes_file),
            str(tmp_path / "filled.json"),
            progress=False,
        )


class _Killed(FakePredictor):
    """Stops at the second image."""

    images = 0

    def segment(self, *arguments):
        self.images += 1
        if self.images == 2:
            raise KeyboardInterrupt
        return super().segment(*arguments)


def test_other_boxes_are_not_mixed_in(boxes_file: pathlib.Path, tmp_path: pathlib.Path):
    output = tmp_path / "filled.json"
    with pytest.raises(KeyboardInterrupt):
        annotate(_Killed(), str(boxes_file), str(output), progress=False)
    with pytest.raises(UserError, match="differ in boxes"):
        annotate(FakePredictor(), str(boxes_file), str(output), replace=True, progress=False)
    content = json.loads(boxes_file.read_text())
    box = {"id": 9, "image_id": 5, "category_id": 2, "bbox": [40, 2, 8, 8]}
    content["annotations"].insert(0, box)
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(content))
    with pytest.raises(UserError, match="differ in boxes"):
        annotate(FakePredictor(), str(edited), str(output), progress=False)
    result = annotate(FakePredictor(), str(boxes_file), str(output), progress=False)
    assert result.filled == 3
    _assert_masks_fill_boxes(output)


def _assert_masks_fill_boxes(output: pathlib.Path) -> None:
    predicted = [a for a in json.loads(output.read_text())["annotations"] if "is_predicted" in a]
    assert predicted
    for annotation in predicted:
        assert coco_mask.toBbox(annotation["segmentation"]).tolist() == annotation["bbox"]


def test_a_file_under_two_ids(boxes_file: pathlib.Path, tmp_path: pathlib.Path):
    content = json.loads(boxes_file.read_text())
    content["images"][1]["file_name"] = "a.png"
    boxes_file.write_text(json.dumps(content))
    output = tmp_path / "filled.json"
    with pytest.raises(KeyboardInterrupt):
        annotate(_Killed(), str(boxes_file), str(output), progress=False)
    assert annotate(FakePredictor(), str(boxes_file), str(output), progress=False).filled == 3
    _assert_masks_fill_boxes(output)


def test_odd_boxes_and_ids(boxes_file: pathlib.Path, tmp_path: pathlib.Path):
    content = json.loads(boxes_file.read_text())
    content["images"][0]["id"] = "5"
    content["annotations"][4]["bbox"] = [30, 30, 4, 0]
    stray = {"id": 9, "image_id": 99, "category_id": 2, "bbox": [1, 1, 4, 4]}
    content["annotations"].append(stray)
    boxes_file.write_text(json.dumps(content))
    output = tmp_path / "filled.json"
    result = annotate(FakePredictor(), str(boxes_file), str(output), progress=False)
    assert (result.filled, result.kept, result.empty, result.unknown) == (2, 2, 1, 1)
    assert json.loads(output.read_text())["annotations"][4:] == content["annotations"][4:]
    _assert_masks_fill_boxes(output)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (7, "entry 2 needs an image_id, got 7"),
        ({"image_id": 5, "category_id": 2}, "entry 2 needs a bbox"),
        ({"image_id": 5, "category_id": None, "bbox": [0, 0, 6, 5]}, "entry 2 needs a category_id"),
    ],
)
def test_an_annotation_that_is_none(entry, message, boxes_file, tmp_path: pathlib.Path):
    content = json.loads(boxes_file.read_text())
    content["annotations"][2] = entry
    boxes_file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        annotate(FakePredictor(), str(boxes_file), str(tmp_path / "filled.json"), progress=False)


@given(
    hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1)
    )
)
def test_polygons_give_masks_back(mask: np.ndarray):
    polygons = mask_to_polygons(mask)
    if not mask.any():
        assert polygons == []
        return
    back = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *mask.shape)))
    assert (back >= mask).all()  # only holes are filled
    import cv2

    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(mask), outlines, -1, 1, cv2.FILLED)
    np.testing.assert_array_equal(back, filled)
