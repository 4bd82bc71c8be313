"""Detections: masks in the image, and the forms in which others read them."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from official_maskrcnn.inference.detections import Detections

_SIZE = (60, 80)


def _detections(with_masks: bool = True) -> Detections:
    crops = np.zeros([3, 4, 4], np.float32)
    crops[0] = 1.0
    crops[1, :, :2] = 1.0  # the left half
    boxes = np.array([[10, 20, 30, 50], [5.5, 8.25, 25.5, 28.25], [50, 70, 70, 90]], np.float32)
    classes, scores = np.array([2, 1, 7]), np.array([0.9, 0.5, 0.125], np.float32)
    return Detections(boxes, classes, scores, {1: "cat", 2: "dog"}, _SIZE, crops * with_masks)


def test_masks_lie_in_their_boxes():
    masks = _detections().masks
    assert masks.shape == (3, *_SIZE) and masks.dtype == bool
    expected = np.zeros([3, *_SIZE], bool)
    expected[0, 10:30, 20:50] = True
    # Pixels with their centres in the box; the crop's half goes over in the middle of the box.
    expected[1, 5:25, 8:18] = True
    np.testing.assert_array_equal(masks, expected)


def test_outer_boxes_are_what_masks_are_relative_to():
    one = _detections()
    outer = np.array([[0, 10, 40, 60], [0, 0, 9, 9], [0, 0, 9, 9]], np.float32)
    found = Detections(
        one.boxes, one.class_ids, one.scores, one.class_names, _SIZE, one.mask_crops, outer
    )
    assert found.masks[0].sum() == 40 * 50 and found.select([0]).masks[0, :40, 10:60].all()


def test_coco_results_are_json_that_pycocotools_reads():
    results = json.loads(json.dumps(_detections().to_coco(17)))
    assert [r["image_id"] for r in results] == [17] * 3
    assert [r["category_id"] for r in results] == [2, 1, 7]
    assert results[0]["bbox"] == [20, 10, 30, 20] and results[1]["bbox"] == [8.25, 5.5, 20, 20]
    assert [r["score"] for r in results] == [0.9, 0.5, 0.125]
    masks = _detections().masks
    for result, mask in zip(results, masks, strict=True):
        assert result["segmentation"]["size"] == list(_SIZE)
        np.testing.assert_array_equal(coco_mask.decode(result["segmentation"]), mask)


def test_the_form_that_matterport_gives():
    result = _detections().to_dict()
    assert result["rois"].dtype == np.int32 and result["rois"][1].tolist() == [6, 8, 26, 28]
    assert result["class_ids"].tolist() == [2, 1, 7]
    assert result["masks"].shape == (*_SIZE, 3) and result["masks"].dtype == bool
    np.testing.assert_array_equal(result["masks"][..., 0], _detections().masks[0])


def test_names_and_selection():
    found = _detections()
    assert found.names == ["dog", "cat", "7"]
    assert repr(found) == "<3 detections: dog 0.90, cat 0.50, 7 0.12>"
    assert found.above(0.5).names == ["dog", "cat"]
    chosen = found.select([2, 0])
    assert chosen.names == ["7", "dog"]
    np.testing.assert_array_equal(chosen.masks, found.masks[[2, 0]])
    np.testing.assert_array_equal(found.select(found.class_ids == 1).boxes, found.boxes[1:2])
    nothing = found.select([])
    assert len(nothing) == 0 and nothing.masks.shape == (0, *_SIZE) and nothing.to_coco(1) == []
    assert repr(nothing) == "<0 detections>"


def test_without_masks():
    one = _detections()
    found = Detections(one.boxes, one.class_ids, one.scores, one.class_names, _SIZE)
    assert not found.has_masks and "masks" not in found.to_dict()
    assert "segmentation" not in found.to_coco(1)[0]
    with pytest.raises(ValueError, match="the model has no masks"):
        _ = found.masks
    image = np.zeros([*_SIZE, 3], np.uint8)
    assert found.draw(image).any()


def test_drawing_leaves_the_image_alone():
    image = np.zeros([*_SIZE, 3], np.uint8)
    picture = _detections().draw(image)
    assert not image.any() and picture.shape == image.shape
    assert picture[20, 35].any()  # inside of the first mask
    with pytest.raises(ValueError, match=r"the image is \(50, 80\), these are of \(60, 80\)"):
        _detections().draw(image[:50])
