"""The benchmark of parity with pycocotools, in short."""

import importlib.util
import pathlib
import tracemalloc

import numpy as np
import pytest
from rich.console import Console

from official_maskrcnn.evaluation import CocoEvaluator, average_precision, evaluate_results

_FILE = pathlib.Path(__file__).parents[2] / "benchmarks" / "evaluation_parity.py"
_SPEC = importlib.util.spec_from_file_location("evaluation_parity", _FILE)
assert _SPEC is not None and _SPEC.loader is not None
benchmark = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(benchmark)


@pytest.fixture
def annotation_file(shared_data) -> pathlib.Path:
    return shared_data / "coco_sample" / "annotations" / "instances_val2017.json"


@pytest.mark.parametrize("backend", ["faster_coco_eval", "pycocotools"])
@pytest.mark.parametrize("detections_at_a_time", [30, 20_000])
def test_perturbed_detections_score_as_pycocotools_says(
    annotation_file, tmp_path, monkeypatch, backend, detections_at_a_time
):
    monkeypatch.setattr(average_precision, "_MAX_DETECTIONS_AT_A_TIME", detections_at_a_time)
    ours, theirs = benchmark.compare_perturbed(annotation_file, tmp_path / "r.json", backend)
    assert len(ours) == 2 * (12 + 4 + 2 * 48)
    assert 0.1 < ours["mask/AP"] < 0.9
    assert 0.1 < ours["mask/AP/unseen"] < 0.9
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_perfect_results_score_one(annotation_file):
    coco = benchmark.load_quietly(annotation_file)
    metrics = evaluate_results(benchmark.perfect_results(coco), annotation_file)
    assert metrics["box/AP"] == pytest.approx(1.0, abs=1e-12)
    assert metrics["mask/AP"] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("num_images", [160, pytest.param(2000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_detections(num_images):
    # What is allocated, not what the process holds: that depends on the tests before this one.
    tracemalloc.start()
    figures = benchmark.stream(
        num_images,
        "faster_coco_eval",
        Console(quiet=True),
        megabytes=lambda: tracemalloc.get_traced_memory()[0] / 2**20,
    )
    tracemalloc.stop()
    assert benchmark.stays_flat(figures)
    assert figures["mask/AP"] > 0.1


def test_crowded_images_keep_coco_limit_of_100_detections_a_class():
    boxes = np.array([[10 * (i // 10), 10 * (i % 10), 8, 8] for i in range(100)], float)
    dataset = {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": box.tolist(), "area": 64}
            for i, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
    evaluator = CocoEvaluator(dataset, include_mask=False)
    yxyx = np.concatenate([boxes[:, 1::-1], boxes[:, 1::-1] + 8], axis=1)
    wrong = np.tile([0.0, 0.0, 100.0, 100.0], (20, 1))
    evaluator.update(
        source_id=np.array([1]),
        num_detections=np.array([120]),
        detection_boxes=np.concatenate([wrong, yxyx])[None],
        detection_classes=np.ones((1, 120)),
        detection_scores=np.linspace(1, 0.1, 120)[None],
    )
    metrics = evaluator.result()
    assert metrics["box/AR100"] == pytest.approx(0.8)
    assert metrics["box/AR10"] == 0.0
