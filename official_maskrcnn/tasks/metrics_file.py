"""metrics.jsonl in a model_dir: the numbers of a training, for those who read them.

A line is a JSON object: time (seconds since 1970), step, phase (train or eval) and the metrics by
name, null where they are no finite number. The file only ever grows: after a restart a step can
come twice, and the later line counts.
"""

import contextlib
import json
import os
from typing import Any

import tensorflow as tf


def metrics_path(model_dir: str, folder: str = "") -> str:
    """Of the file in model_dir, or in the folder of an evaluation that runs beside."""
    return os.path.join(model_dir, folder, "metrics.jsonl")


def read_metrics(
    model_dir: str, phase: str, eval_folder: str = "validation"
) -> dict[int, dict[str, float | None]]:
    """Step to metrics of one phase (train or eval) of a model_dir, in the order of the steps.

    Those of a training and of jobs that evaluate beside it; of a step's lines the latest counts,
    and half-written ones do not. Empty if there is none.
    """
    lines: list[dict[str, Any]] = []
    for folder in ("", eval_folder):
        with (
            contextlib.suppress(tf.errors.NotFoundError),
            tf.io.gfile.GFile(metrics_path(model_dir, folder)) as file,
        ):
            for text in file:
                with contextlib.suppress(json.JSONDecodeError):
                    lines.append(json.loads(text))
    lines = [line for line in lines if line["phase"] == phase]
    metrics = {}
    for line in sorted(lines, key=lambda line: (line["step"], line["time"])):
        metrics[line["step"]] = {
            name: value for name, value in line.items() if name not in ("phase", "step", "time")
        }
    return metrics
