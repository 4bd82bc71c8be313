"""The run's numbers on file: metrics.jsonl and TensorBoard."""

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from official_maskrcnn.tasks.metrics_file import metrics_path


class MetricsLog:
    """Appends to `metrics.jsonl` and to TensorBoard files; everything is flushed at once.

    `tasks.metrics_file` says what is in the file, and reads it.
    """

    def __init__(
        self,
        model_dir: str,
        eval_folder: str = "validation",
        enabled: bool = True,
        is_training: bool = True,
    ):
        """Prepares to write.

        Args:
          model_dir: of the run.
          eval_folder: in model_dir, for evaluations.
          enabled: without it (in all workers but one) nothing is written.
          is_training: whether this process trains; one that only evaluates has a metrics.jsonl in
            eval_folder, since two processes cannot share one where a bucket has no appending.
        """
        self._path = metrics_path(model_dir, "" if is_training else eval_folder)
        self._folders = {"train": "train", "eval": eval_folder}
        self._folders = {
            phase: os.path.join(model_dir, folder) for phase, folder in self._folders.items()
        }
        self._enabled = enabled
        self._writers: dict[str, tf.summary.SummaryWriter] = {}

    def write(self, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of one moment; `phase` is train or eval."""
        if not self._enabled:
            return
        line = {"time": round(time.time(), 3), "step": step, "phase": phase}
        line |= {name: _finite(value) for name, value in metrics.items()}
        with self._writer(phase).as_default(step):
            for name, value in metrics.items():
                tf.summary.scalar(name, value)
        self._writers[phase].flush()
        text = json.dumps(line) + "\n"
        tf.io.gfile.makedirs(os.path.dirname(self._path))
        if self._ends_amid_line():
            text = "\n" + text
        with tf.io.gfile.GFile(self._path, "a") as file:
            file.write(text)

    def write_image(self, phase: str, step: int, name: str, image: np.ndarray) -> None:
        """Adds a picture [h, w, 3] uint8 to TensorBoard."""
        if self._enabled:
            with self._writer(phase).as_default(step):
                tf.summary.image(name, image[None])
            self._writers[phase].flush()

    def _writer(self, phase: str) -> tf.summary.SummaryWriter:
        if phase not in self._writers:
            self._writers[phase] = tf.summary.create_file_writer(self._folders[phase])
        return self._writers[phase]

    def _ends_amid_line(self) -> bool:
        """Whether a process was killed while it wrote the last line."""
        with contextlib.suppress(tf.errors.NotFoundError):
            size = tf.io.gfile.stat(self._path).length
            if size > 0:
                with tf.io.gfile.GFile(self._path, "rb") as file:
                    file.seek(size - 1)
                    return file.read(1) != b"\n"
        return False


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
