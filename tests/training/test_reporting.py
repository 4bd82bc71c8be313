"""What people and programs see of a run: progress, tables, metrics.jsonl, pictures, differences."""

import io
import logging
import math
import pathlib

import numpy as np
import pytest
import rich.console

from official_maskrcnn.tasks.metrics_file import read_metrics
from official_maskrcnn.training import progress
from official_maskrcnn.training.metrics_log import MetricsLog
from official_maskrcnn.training.pictures import PredictionSheet
from official_maskrcnn.training.trainer import StepMetrics


def test_plain_lines_are_rare_and_the_last_one_comes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "console", rich.console.Console(file=io.StringIO()))
    with caplog.at_level(logging.INFO), progress.Progress("training: step", 50, 10) as line:
        for step in range(11, 46):
            now[0] += 1.0
            line.update(step, {"total_loss": 0.5})
    assert [record.getMessage() for record in caplog.records] == [
        "training: step 20/50, 0:00:30 left: total_loss 0.5",
        "training: step 30/50, 0:00:20 left: total_loss 0.5",
        "training: step 40/50, 0:00:10 left: total_loss 0.5",
        "training: step 45/50, 0:00:05 left: total_loss 0.5",
    ]


def test_a_terminal_gets_one_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = rich.console.Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "console", console)
    with progress.Progress("training: step", 50) as line:
        line.update(25, {"total_loss": 0.5, "learning_rate": 0.01})
    assert "25/50" in screen.getvalue()
    assert "total_loss 0.5, learning_rate 0.01" in screen.getvalue()


def test_table_of_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", rich.console.Console(file=screen, width=120))
    progress.print_metrics(
        "step 7",
        {"box/AP": 0.51234, "mask/AP": 0.4, "mask/AP50/unseen": 0.25, "mask/AP/class/cat": 0.9},
    )
    rows = [line for line in screen.getvalue().splitlines() if "│" in line]
    assert [row.split("│")[1].strip() for row in rows] == ["box", "mask", "mask/unseen"]
    assert "0.5123" in rows[0] and "0.4000" in rows[1]
    assert [cell.strip() for cell in rows[2].split("│")[2:4]] == ["", "0.2500"]


def test_metrics_log_mends_a_half_line_and_the_last_line_of_a_step_counts(
    tmp_path: pathlib.Path,
) -> None:
    assert read_metrics(str(tmp_path), "train") == {}
    log = MetricsLog(str(tmp_path))
    log.write("train", 4, {"total_loss": 2.0})
    log.write("eval", 4, {"mask/AP": math.nan})
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"time": 1.0, "step": 8, "pha')
    log.write("train", 4, {"total_loss": 1.0})
    assert read_metrics(str(tmp_path), "train") == {4: {"total_loss": 1.0}}
    assert read_metrics(str(tmp_path), "eval") == {4: {"mask/AP": None}}
    MetricsLog(str(tmp_path / "other"), enabled=False).write("train", 1, {"total_loss": 1.0})
    assert not (tmp_path / "other").exists()


def test_first_bad_step_is_named_infinite_losses_too() -> None:
    values = np.array([[1.0, 0.5], [np.inf, 0.25], [np.nan, 0.1]])
    ids = np.array([[1, 2], [3, 4], [5, 6]])
    metrics = StepMetrics(("total_loss", "mask_loss"), values, np.ones(3, bool), ids)
    assert metrics.find_diverged() == 1
    assert metrics._replace(finite=np.array([False, True, True])).find_diverged() == 0
    assert metrics.describe(1) == "images of the batch: 3, 4\n  total_loss inf\n  mask_loss 0.25"
    first = metrics._replace(values=values[:1])
    assert first.find_diverged() is None
    assert first.means() == {"total_loss": 1.0, "mask_loss": 0.5}


def _predictions(scores: list[float]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A black image of 40 x 80 pixels, enlarged twice into 128 x 160, and boxes all alike."""
    image = np.zeros([1, 128, 160, 3], np.float32)
    image[:, :80] = -np.divide([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    info = np.array([[[40, 80], [80, 160], [2, 2], [0, 0]]], np.float32)
    count = len(scores)
    boxes = np.stack([[4 + 10 * i, 10, 10 + 10 * i, 30] for i in range(count)]).astype(np.float32)
    detections = {
        "source_id": np.array([9]),
        "num_detections": np.array([count]),
        "detection_boxes": boxes[None],
        "detection_classes": np.ones([1, count], np.int32),
        "detection_scores": np.array([scores], np.float32),
        "detection_masks": np.ones([1, count, 7, 7], np.float32),
    }
    return {"image": image, "image_info": info}, detections


@pytest.mark.parametrize(
    ("scores", "drawn"),
    [([0.9, 0.6, 0.4], [0, 1]), ([0.1, 0.2, 0.3], [0, 1, 2])],
)
def test_predictions_are_drawn_where_they_are(scores: list[float], drawn: list[int]) -> None:
    sheet = PredictionSheet(1, {1: "cat"})
    assert sheet.sheet() is None
    batch, detections = _predictions(scores)
    padding = {**detections, "source_id": np.array([-1])}
    sheet.add(batch, padding)
    assert not sheet.is_full
    sheet.add(batch, detections)
    assert sheet.is_full
    picture = sheet.sheet()[8:88, 8:168]  # without the frame: the image without its padding
    for i in range(3):
        inside = picture[2 * (4 + 10 * i) + 3 : 2 * (10 + 10 * i) - 3, 30:50]
        assert (np.median(inside.max(axis=-1)) > 0) == (i in drawn)
    assert picture[:, 100:].max() == 0  # black beyond the boxes and their labels


def test_large_images_are_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, detections = _predictions([0.9])
    batch["image"] = np.repeat(np.repeat(batch["image"], 8, axis=1), 8, axis=2)
    batch["image_info"] = np.array([[[40, 80], [640, 1280], [16, 16], [0, 0]]], np.float32)
    sheet = PredictionSheet(4, {})
    sheet.add(batch, detections)
    assert sheet.sheet().shape[1] == 512 + 2 * 8
