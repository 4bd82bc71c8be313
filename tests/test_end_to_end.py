"""nuts from photographs to answers over HTTP, by the public commands: each stage finds the same."""

import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from official_maskrcnn.evaluation import CocoEvaluator, load_ground_truth
from official_maskrcnn.inference.formats import FORMATS
from tests.inference.service_process import ROOT, running

_FLOAT32 = ("saved_model", "tflite", "onnx", "stablehlo")


class _Nuts:
    """A folder to work in, and the photographs that the model is judged by."""

    def __init__(self, folder: pathlib.Path, data: pathlib.Path):
        self.folder = folder
        self.images = data / "images"
        self.training = data / "instances_train.json"
        self.annotations = data / "instances_val.json"

    def run(self, *command: object) -> str:
        """What `python COMMAND` prints."""
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def verb(self, name: str, model: str, output: str, *rest: object) -> str:
        """What a verb prints; the model and the output are names in the folder."""
        places = ("--model", self.folder / model, "--output", self.folder / output)
        return self.run("-m", "official_maskrcnn", name, *places, *rest)

    def evaluate(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """AP of COCO results, to five digits."""
        evaluator = CocoEvaluator(load_ground_truth(str(self.annotations)), include_mask=True)
        evaluator.add_results(results)
        metrics = evaluator.result()
        return {name: round(metrics[name], 5) for name in ("box/AP", "mask/AP", "mask/AP50")}


def _sorted(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(results, key=lambda r: (r["image_id"], -r["score"], r["category_id"], r["bbox"]))


def _differences(
    found: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> tuple[float, float, float]:
    """The largest ones of scores, of boxes in pixels, and of masks as 1 - IoU."""
    found, expected = _sorted(found), _sorted(expected)
    for name in ("image_id", "category_id"):
        assert [entry[name] for entry in found] == [entry[name] for entry in expected]
    score, box = (
        float(np.abs(np.subtract([e[n] for e in found], [e[n] for e in expected])).max())
        for n in ("score", "bbox")
    )
    ious = [
        coco_mask.iou([one["segmentation"]], [other["segmentation"]], [False])[0, 0]
        for one, other in zip(found, expected, strict=True)
    ]
    return score, box, 1.0 - min(ious)


def _as_results(answer: list[dict[str, Any]], image: dict[str, Any]) -> list[dict[str, Any]]:
    """COCO results of an answer of /score with mask=rle."""
    height, width = image["height"], image["width"]
    results = []
    for entry in answer:
        ymin, xmin, ymax, xmax = entry["bounding_box"] * np.array([height, width, height, width])
        results.append(
            {
                "image_id": image["id"],
                "category_id": entry["class"],
                "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
                "score": entry["confidence"],
                "segmentation": entry["mask"],
            }
        )
    return results


@pytest.mark.slow
def test_nuts_from_photographs_to_answers(shared_data: pathlib.Path, tmp_path: pathlib.Path):
    nuts = _Nuts(tmp_path, shared_data / "nuts")
    overrides = (
        f"task.train_data.image_dir={nuts.images},task.validation_data.image_dir={nuts.images},"
        f"task.train_data.annotation_file={nuts.training},"
        f"task.validation_data.annotation_file={nuts.annotations}"
    )
    nuts.run(
        "train.py",
        "--experiment=deep_mask_head_rcnn_resnetfpn_coco",
        "--mode=train_and_eval",
        f"--model_dir={tmp_path / 'model'}",
        "--config_file=configs/nuts.yaml",
        f"--params_override={overrides}",
    )
    best = json.loads((tmp_path / "model" / "best" / "metrics.json").read_text())["metrics"]
    trained = {name: round(best[name], 5) for name in ("box/AP", "mask/AP", "mask/AP50")}
    print(f"train: {trained}")
    assert trained["mask/AP"] >= 0.70 and trained["mask/AP50"] >= 0.93  # as the file claims

    photographs = ("--images", nuts.annotations, "--image_dir", nuts.images)
    nuts.verb("predict", "model", "found", *photographs)
    found = json.loads((tmp_path / "found" / "submission.json").read_text())
    images = json.loads((tmp_path / "found" / "images.json").read_text())["images"]
    assert len(list((tmp_path / "found" / "overlays").iterdir())) == len(images) == 3
    print(f"predict: {len(found)} objects, {nuts.evaluate(found)}")
    assert nuts.evaluate(found) == trained

    printed = nuts.verb("report", "model", "report.html")
    print(f"report: {printed.strip()}")
    assert f"mask/AP {best['mask/AP']:.4f}, box/AP {best['box/AP']:.4f}" in printed
    assert (tmp_path / "report.html").stat().st_size > 100_000

    checks = ("--check", nuts.annotations, "--image_dir", nuts.images)
    nuts.verb("export", "model", "export", "--formats", *FORMATS, *checks)
    for checked in json.loads((tmp_path / "export" / "check.json").read_text()):
        print(f"export: {checked['name']}: {checked['differences']}")
        if checked["name"] in _FLOAT32:
            assert checked["differences"]["unmatched"] == 0
            assert max(checked["differences"].values()) < 1e-4
    nuts.verb("predict", "export", "found_export", *photographs)
    found_export = json.loads((tmp_path / "found_export" / "submission.json").read_text())
    differences = _differences(found_export, found)
    print(f"predict with the export: scores, boxes, masks differ by {differences}")
    assert max(differences) < 1e-4

    for name in ("model", "export"):
        command = ("-m", "official_maskrcnn", "serve", "--model", str(tmp_path / name))
        with running(*command, "--port", "0") as service:
            served = []
            for image in images:
                body = (nuts.images / image["file_name"]).read_bytes()
                status, answer = service.ask("POST", "/score?prob=0&mask=rle", body)
                assert status == 200, answer
                served += _as_results(json.loads(answer), image)
        differences = _differences(served, found)
        print(
            f"serve {name}: scores, boxes, masks differ by {differences}; {nuts.evaluate(served)}"
        )
        score, box, mask = differences
        assert score < 1e-5 and box < 2e-3 and mask < 1e-4  # answers have six digits
        assert nuts.evaluate(served) == pytest.approx(trained, abs=1e-4)
