"""What counts, what does not, and how often."""

import json
import logging
import pickle

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from official_maskrcnn import UserError
from official_maskrcnn.evaluation import CocoEvaluator, evaluate_results

# Two objects in each of four images; classes 1 and 3. All boxes are (x, y, width, height).
_OBJECTS = {
    image_id: [(1, [10 + image_id, 5, 30, 20]), (3, [50, 30 + image_id, 30, 44])]
    for image_id in (11, 12, 13, 14)
}


def _dataset() -> dict:
    annotations: list[dict] = []
    for image_id, objects in _OBJECTS.items():
        for category_id, (x, y, width, height) in objects:
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "segmentation": [corners],
                }
            )
    return {
        "images": [{"id": i, "width": 100, "height": 90} for i in (*_OBJECTS, 15)],
        "annotations": annotations,
        "categories": [
            {"id": 1, "name": "cat"},
            {"id": 2, "name": "cow"},
            {"id": 3, "name": "dog"},
        ],
    }


def _batch(*image_ids: int, num_slots: int = 4) -> dict[str, np.ndarray]:
    """Perfect detections; what lies in the padding slots would be wrong."""
    size = len(image_ids)
    batch = {
        "source_id": np.array(image_ids),
        "num_detections": np.zeros(size, np.int32),
        "detection_boxes": np.tile(np.array([0, 0, 90, 100], "f"), (size, num_slots, 1)),
        "detection_classes": np.ones((size, num_slots), np.int32),
        "detection_scores": np.ones((size, num_slots), "f"),
        "detection_masks": np.ones((size, num_slots, 28, 28), "f"),
    }
    for i, image_id in enumerate(image_ids):
        for j, (category_id, (x, y, width, height)) in enumerate(_OBJECTS.get(image_id, [])):
            batch["num_detections"][i] = j + 1
            batch["detection_boxes"][i, j] = [y, x, y + height, x + width]
            batch["detection_classes"][i, j] = category_id
            batch["detection_scores"][i, j] = 0.5
    return batch


@pytest.mark.parametrize("backend", ["faster_coco_eval", "pycocotools"])
def test_perfect_detections_score_one(backend, capfd):
    evaluator = CocoEvaluator(
        _dataset(), allowed_mask_class_ids=[1, 2], per_category_metrics=True, backend=backend
    )
    evaluator.update(**_batch(11, 12, 13))
    evaluator.update(**_batch(14, 15, -1))  # 15 has no objects; the last one is padding
    metrics = evaluator.result()
    split = {"seen", "unseen", "class/cat", "class/dog"}
    expected = {f"{ap}/{subset}" for subset in split for ap in ("AP", "AP50")}
    # All objects are small (cats) or medium (dogs); none is large, and no cow is there.
    expected |= {"AP", "AP50", "AP75", "APs", "APm", "AR1", "AR10", "AR100", "ARs", "ARm"}
    assert set(metrics) == {f"{kind}/{name}" for kind in ("box", "mask") for name in expected}
    assert metrics == pytest.approx(dict.fromkeys(metrics, 1.0), abs=1e-12)
    assert capfd.readouterr().out == ""


def test_images_that_did_not_come_count_as_missed(caplog):
    evaluator = CocoEvaluator(_dataset(), include_mask=False)
    evaluator.update(**_batch(11, 12))
    with caplog.at_level(logging.WARNING):
        metrics = evaluator.result()
    assert metrics["box/AR100"] == pytest.approx(0.5)
    assert metrics["box/AP"] == pytest.approx(51 / 101)  # 51 recall thresholds up to one half
    assert "3 of the 5 images of the ground truth were not evaluated" in caplog.text


def test_only_seen_images_count_if_asked_for(caplog):
    evaluator = CocoEvaluator(_dataset(), only_seen_images=True)
    evaluator.update(**_batch(11, 12, 15))
    with caplog.at_level(logging.WARNING):
        metrics = evaluator.result()
    assert metrics["mask/AP"] == pytest.approx(1.0)
    assert "over the 3 images" in caplog.text


def test_an_image_counts_once_and_as_it_came_first(caplog):
    once, twice = CocoEvaluator(_dataset()), CocoEvaluator(_dataset())
    for evaluator in (once, twice):
        evaluator.update(**_batch(11, 12, 13, 14))
    wrong = _batch(11, 12)
    wrong["detection_boxes"] += 20
    wrong["detection_scores"][:] = 1.0
    twice.update(**wrong)
    with caplog.at_level(logging.WARNING):
        assert twice.result() == once.result()
    assert twice.results() == once.results()
    assert "2 images came more than once" in caplog.text


def test_workers_merged_equal_one():
    alone = CocoEvaluator(_dataset())
    alone.update(**_batch(11, 12, 13, 14))
    first, second = CocoEvaluator(_dataset()), CocoEvaluator(_dataset())
    first.update(**_batch(11, 13))
    second.update(**_batch(14, -1))
    second.update(**_batch(12, 13))  # 13 came to both
    first.merge(pickle.loads(pickle.dumps(second.state())))
    assert first.result() == alone.result()
    assert first.results() == alone.results()
    assert first.state().repeated_images == 1


@pytest.mark.parametrize("backend", ["faster_coco_eval", "pycocotools"])
def test_no_detections_give_zero(backend, caplog):
    evaluator = CocoEvaluator(_dataset(), backend=backend)
    with caplog.at_level(logging.WARNING):
        assert evaluator.result()["mask/AP"] == 0.0
        batch = _batch(11, 12, 13, 14, 15)
        batch["num_detections"][:] = 0
        evaluator.update(**batch)
        metrics = evaluator.result()
    assert set(metrics.values()) == {0.0}
    assert "No image was evaluated" in caplog.text
    assert "There is no detection in any of 5 images" in caplog.text


def test_unusable_detections_are_left_out_and_counted(caplog):
    evaluator = CocoEvaluator(_dataset())
    batch = _batch(11, 12, 13, 14, 99)
    batch["num_detections"][:4] = 4
    batch["detection_classes"][:4, 2] = 77
    batch["detection_boxes"][:4, 3] = np.nan
    evaluator.update(**batch)
    with caplog.at_level(logging.WARNING):
        assert evaluator.result()["mask/AP"] == pytest.approx(1.0)
    assert "4 detections are of categories that are not in the ground truth [77]" in caplog.text
    assert "4 detections have NaN or infinite" in caplog.text
    assert "1 images are not in the ground truth" in caplog.text


def test_reset_forgets():
    evaluator = CocoEvaluator(_dataset())
    evaluator.update(**_batch(11, 12))
    evaluator.reset()
    assert evaluator.results() == []
    evaluator.update(**_batch(11, 12, 13, 14))
    assert evaluator.result()["box/AP"] == pytest.approx(1.0)


def test_wrong_masks_lower_mask_ap_only():
    evaluator = CocoEvaluator(_dataset())
    batch = _batch(11, 12, 13, 14)
    batch["detection_masks"][:, :, :, 15:] = 0.0  # the left 15 of 28 columns remain
    evaluator.update(**batch)
    metrics = evaluator.result()
    assert metrics["box/AP"] == pytest.approx(1.0)
    assert metrics["mask/AP50"] == pytest.approx(1.0)
    assert metrics["mask/AP75"] == 0.0
    assert 0.0 < metrics["mask/AP"] < 0.2


def test_crowds_are_ignored():
    dataset = _dataset()
    dataset["annotations"][1]["iscrowd"] = 1  # the dog of image 11
    evaluator = CocoEvaluator(dataset, per_category_metrics=True)
    batch = _batch(11, 12, 13, 14)
    batch["detection_scores"][0, 1] = 0.9  # would be the best-scored wrong detection
    evaluator.update(**batch)
    assert evaluator.result()["mask/AP/class/dog"] == pytest.approx(1.0)


def test_results_file_gives_the_same_metrics(tmp_path):
    evaluator = CocoEvaluator(_dataset(), per_category_metrics=True)
    batch = _batch(11, 12, 13, 14)
    batch["detection_boxes"] += np.random.default_rng(0).normal(0, 2, (4, 4, 4))
    evaluator.update(**batch)
    path = tmp_path / "results.json"
    evaluator.write_results(path)
    assert json.loads(path.read_text()) == evaluator.results()
    assert list(tmp_path.iterdir()) == [path]
    metrics = evaluator.result()
    assert 0.2 < metrics["mask/AP"] < 0.99
    assert evaluate_results(path, _dataset(), per_category_metrics=True) == metrics
    result = evaluator.results()[0]
    assert set(result) == {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert coco_mask.decode(result["segmentation"]).shape == (90, 100)


def test_files_may_lie_at_a_url(tmp_path):
    annotation_url = f"file://{tmp_path}/annotations.json"
    (tmp_path / "annotations.json").write_text(json.dumps(_dataset()))
    evaluator = CocoEvaluator(annotation_url)
    evaluator.update(**_batch(11, 12, 13, 14))
    evaluator.write_results(f"file://{tmp_path}/results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == evaluator.results()
    assert evaluate_results(f"file://{tmp_path}/results.json", annotation_url)["mask/AP"] > 0.99


def test_results_of_boxes_only_and_of_no_detections(tmp_path):
    evaluator = CocoEvaluator(_dataset(), include_mask=False)
    evaluator.write_results(tmp_path / "empty.json")
    assert evaluate_results(tmp_path / "empty.json", _dataset())["mask/AP"] == 0.0
    batch = _batch(11, 12, 13, 14)
    del batch["detection_masks"]
    evaluator.update(**batch)
    assert "segmentation" not in evaluator.results()[0]
    assert evaluate_results(evaluator.results(), _dataset(), include_mask=False)["box/AP"] > 0.99
    with pytest.raises(UserError, match="result 0, of image 11, has no mask of its size, 90 x 100"):
        evaluate_results(evaluator.results(), _dataset())


def test_results_that_are_none_are_refused():
    with pytest.raises(UserError, match="result 0 needs an image_id, a category_id and a score"):
        evaluate_results([{"image_id": 11, "bbox": [0, 0, 1, 1]}], _dataset())


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="no detection_masks"):
        CocoEvaluator(_dataset()).update(**(_batch(11) | {"detection_masks": None}))
    with pytest.raises(ValueError, match="faster_coco_eval, pycocotools"):
        CocoEvaluator(_dataset(), backend="lvis")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": [11]}, "result 1 needs an image_id"),
        ({"image_id": float("inf")}, "result 1 needs an image_id"),
        ({"category_id": "a"}, "result 1 needs an image_id, a category_id"),
        ({"category_id": None}, "result 1 needs"),
        ({"category_id": 10**30}, "result 1 needs"),
        ({"score": "high"}, "result 1 needs"),
        ({"score": None}, "result 1 needs"),
        ({"bbox": [1, 2, 3]}, "result 1 needs .* a bbox of four numbers or none"),
        ({"bbox": [1, 2, 3, [4]]}, "result 1 needs"),
        ({"bbox": 7}, "result 1 needs"),
        ({"segmentation": [[1, 2]]}, "result 1, of image 11, has no mask"),
        ({"segmentation": [["a"] * 6]}, "result 1, of image 11, has no mask"),
        ({"segmentation": {"size": [90, 100], "counts": "abc"}}, "result 1, of image 11, has no"),
        ({"segmentation": {"size": [90, 100], "counts": [3, 4]}}, "result 1, of image 11, has no"),
        ({"segmentation": {"size": 7, "counts": "abc"}}, "result 1, of image 11, has no"),
    ],
)
def test_results_whose_fields_are_odd_are_named(change, message):
    mask = [[5, 5, 15, 5, 15, 15, 5, 15]]
    good = {"image_id": 11, "category_id": 1, "bbox": [5, 5, 10, 10], "score": 0.9}
    good["segmentation"] = mask
    CocoEvaluator(_dataset()).add_results([good, good])
    with pytest.raises(UserError, match=message):
        CocoEvaluator(_dataset()).add_results([good, good | change])


def test_a_result_that_is_no_object_is_named():
    with pytest.raises(UserError, match="result 0 is no object: 7"):
        CocoEvaluator(_dataset()).add_results([7])
