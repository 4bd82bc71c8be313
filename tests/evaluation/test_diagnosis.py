"""An AP of 0 is explained."""

import re

import numpy as np
import pytest

from official_maskrcnn.evaluation import CocoEvaluator

_BOX = np.array([20.0, 100.0, 80.0, 180.0])  # ymin, xmin, ymax, xmax


def _evaluator(*boxes: np.ndarray, class_id: int = 5, image_id: int = 1, mask: float = 1.0):
    evaluator = CocoEvaluator(
        {
            "images": [{"id": i, "width": 200, "height": 150} for i in (1, 2)],
            "annotations": [
                {
                    "id": 1,
                    "image_id": 1,
                    "category_id": 5,
                    "bbox": [100, 20, 80, 60],
                    "segmentation": [[100, 20, 180, 20, 180, 80, 100, 80]],
                }
            ],
            "categories": [{"id": 5, "name": "cat"}, {"id": 6, "name": "dog"}],
        }
    )
    evaluator.update(
        source_id=np.array([image_id]),
        num_detections=np.array([len(boxes)]),
        detection_boxes=np.array(boxes).reshape(1, -1, 4),
        detection_classes=np.full((1, len(boxes)), class_id),
        detection_scores=np.full((1, len(boxes)), 0.25),
        detection_masks=np.full((1, len(boxes), 28, 28), mask),
    )
    return evaluator


@pytest.mark.parametrize(
    ("evaluator", "reason"),
    [
        (_evaluator(), "There is no detection in any of 1 images"),
        (_evaluator(_BOX, image_id=7), "image ids do not overlap: evaluated were 7, .* has 1, 2"),
        (_evaluator(_BOX, class_id=9), "category ids do not overlap: detected were 9, .* has 5, 6"),
        (_evaluator(_BOX, class_id=6), "detected were 6, the ground truth has annotations of 5"),
        (_evaluator(_BOX, class_id=6), "Boxes fit objects of other classes .* class 6 .* class 5"),
        (_evaluator(_BOX, image_id=2), "are in images 2, annotations in 1"),
        (_evaluator(_BOX / 200), "at most 1: they look normalised"),
        (_evaluator(_BOX[[2, 3, 0, 1]]), "All boxes are empty"),
        (_evaluator(_BOX + 500), "All boxes lie outside"),
        (_evaluator(_BOX[[1, 0, 3, 2]]), r"With x and y exchanged boxes fit \(IoU 1.00"),
        (_evaluator(_BOX * 0.5), "No box reaches an IoU of 0.5 .* the best is 0"),
        (_evaluator(_BOX * np.nan), "1 detections have NaN"),
        (_evaluator(_BOX, mask=0.4), "No mask has a pixel"),
    ],
)
def test_reason(evaluator, reason, caplog):
    assert any(re.search(reason, text) for text in evaluator.explain_zero_ap())
    assert evaluator.result()["mask/AP"] == 0.0
    assert re.search(f"AP is 0: .*{reason}", caplog.text)


def test_without_annotations_there_is_no_ap(caplog):
    images = [{"id": 1, "width": 20, "height": 20}]
    evaluator = CocoEvaluator({"images": images, "annotations": [], "categories": []})
    assert evaluator.explain_zero_ap() == ["The ground truth has no annotations."]
    assert evaluator.result() == {}
    assert "metrics without ground truth left out: box/AP" in caplog.text


def test_detections_that_fit_leave_only_training():
    (reason,) = _evaluator(_BOX).explain_zero_ap()
    assert "the highest score of any is 0.25" in reason
