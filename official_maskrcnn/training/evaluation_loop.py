"""Evaluation of a model over the validation data, on all replicas."""

import os
import tempfile

import numpy as np
import tensorflow as tf
import tf_keras
from absl import logging

from official_maskrcnn.training.metrics_log import MetricsLog
from official_maskrcnn.training.pictures import PredictionSheet
from official_maskrcnn.training.progress import Progress, print_metrics
from official_maskrcnn.training.protocol import Batch, Task
from official_maskrcnn.training.strategy import distribute_batches, is_chief, is_multi_worker

_DETECTIONS = (
    "num_detections",
    "detection_boxes",
    "detection_classes",
    "detection_scores",
    "detection_masks",
    "detection_outer_boxes",
)


class EvaluationLoop:
    """Evaluates a model as often as it is called; what is costly to set up is kept."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        task: Task,
        model: tf_keras.Model,
        model_dir: str,
        log: MetricsLog,
        max_batches: int = -1,
        jit_compile: bool = False,
    ):
        """Prepares to evaluate `model`.

        Args:
          strategy: in whose scope the model was built.
          task: gives the validation data, the evaluation step and the evaluator.
          model: evaluated with the weights that it has when `run` is called.
          model_dir: gets `predictions/STEP.png`, and `results_STEP.json` with
            task.config.export_results.
          log: gets the picture.
          max_batches: global batches to evaluate, after which AP is over their images; -1 for all.
          jit_compile: whether to compile the step with XLA.
        """
        self._strategy, self._task = strategy, task
        self._model_dir, self._log = model_dir, log
        self._is_chief = is_chief(strategy)
        self._batches = distribute_batches(
            strategy, lambda context: task.build_inputs(task.config.validation_data, context)
        )
        self._evaluator = task.build_evaluator(only_seen_images=max_batches >= 0)
        self._max_batches = max_batches
        self._num_batches = None if max_batches < 0 else max_batches  # else once data were read

        def step(batch: Batch) -> dict[str, tf.Tensor]:
            return task.eval_step(batch, model)

        compiled = tf.function(step, jit_compile=True) if jit_compile else step
        self._step = tf.function(lambda batch: strategy.run(compiled, args=(batch,)))
        self._all_gather = tf.function(
            lambda outputs: {name: strategy.gather(outputs[name], axis=0) for name in outputs}
        )

    def run(self, step: int) -> dict[str, float]:
        """Evaluates the model.

        Args:
          step: training step that the weights are of, for the names of what is written.

        Returns:
          Metrics by name, the same on every worker. Losses, if the task gives some, are means over
          the images.
        """
        self._evaluator.reset()
        sheet = PredictionSheet(
            self._task.config.num_visualized_images if self._is_chief else 0,
            self._task.class_names,
        )
        images = count = 0
        losses: dict[str, list[np.ndarray]] = {}
        with Progress("evaluation: batch", self._num_batches, enabled=self._is_chief) as progress:
            for count, batch in enumerate(self._batches, 1):
                outputs = self._step(batch)
                if not sheet.is_full:
                    inputs = {name: batch[name] for name in ("image", "image_info")}
                    sheet.add(self._to_host(inputs), self._to_host(outputs))
                gathered = self._gather(outputs)
                images += self._update(gathered)
                for name in gathered.keys() - {*_DETECTIONS, "source_id"}:
                    losses.setdefault(name, []).append(gathered[name][gathered["source_id"] >= 0])
                progress.update(count, {"images": images})
                if count == self._max_batches:
                    break
        self._num_batches = count
        metrics = self._evaluator.result()
        metrics |= {name: float(np.concatenate(losses[name]).mean()) for name in sorted(losses)}
        if self._is_chief:
            self._write_files(step, sheet)
            print_metrics(f"step {step}, {images} images", metrics)
        return metrics

    def _update(self, outputs: dict[str, np.ndarray]) -> int:
        """Hands detections to the evaluator, without images that only fill up; counts the rest."""
        real = outputs["source_id"] >= 0
        if real.any():
            detections = {name: outputs[name][real] for name in _DETECTIONS if name in outputs}
            self._evaluator.update(outputs["source_id"][real], **detections)
        return int(real.sum())

    def _to_host(self, values: Batch) -> dict[str, np.ndarray]:
        """Values of this process' replicas, one after the other."""
        local = self._strategy.experimental_local_results
        return {
            name: np.concatenate([_to_numpy(part) for part in local(value)])
            for name, value in values.items()
        }

    def _gather(self, outputs: Batch) -> dict[str, np.ndarray]:
        """Values of all replicas of all processes, one after the other."""
        if not is_multi_worker(self._strategy):
            return self._to_host(outputs)
        return {name: _to_numpy(value) for name, value in self._all_gather(outputs).items()}

    def _write_files(self, step: int, sheet: PredictionSheet) -> None:
        picture = sheet.sheet()
        if picture is not None:
            path = os.path.join(self._model_dir, "predictions", f"{step}.png")
            tf.io.gfile.makedirs(os.path.dirname(path))
            with tf.io.gfile.GFile(path, "wb") as file:
                file.write(tf.io.encode_png(picture).numpy())
            self._log.write_image("eval", step, "predictions", picture)
            logging.info("predictions are drawn in %s", path)
        if self._task.config.export_results:
            path = os.path.join(self._model_dir, f"results_{step}.json")
            with tempfile.TemporaryDirectory() as folder:
                local = os.path.join(folder, "results.json")
                self._evaluator.write_results(local)
                tf.io.gfile.copy(local, f"{path}.partial", overwrite=True)
            tf.io.gfile.rename(f"{path}.partial", path, overwrite=True)
            logging.info("detections are in %s", path)


def _to_numpy(value: tf.Tensor) -> np.ndarray:
    """NumPy array; bfloat16, which few libraries know, becomes float32."""
    return (tf.cast(value, tf.float32) if value.dtype == tf.bfloat16 else value).numpy()
