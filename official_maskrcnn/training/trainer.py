"""The training loop.

The devices take many steps between two looks of the host (`StepLoop.run`), and still the host gets
the losses of every single one of them. Between two looks it shows them, writes them, saves a
checkpoint or evaluates, whatever is due (`train`).
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras
from absl import logging

from official_maskrcnn.configs.experiment import TrainerConfig
from official_maskrcnn.errors import UserError
from official_maskrcnn.training import optimizer as optimizers
from official_maskrcnn.training.checkpoints import Checkpoints
from official_maskrcnn.training.metrics_log import MetricsLog
from official_maskrcnn.training.progress import Progress
from official_maskrcnn.training.protocol import Batch, Task

# Steps stay on the device no longer than this: the host's look costs milliseconds, and a person
# wants to see that a run is alive.
_SECONDS_BETWEEN_LOOKS = 2.0


class DivergedError(UserError):
    """The loss became NaN or infinite."""


class StepMetrics(NamedTuple):
    """What a number of steps gave.

    Attributes:
      names: of the metrics.
      values: [steps, metrics], means over the replicas.
      source_ids: [steps, batch] of this process' share of the global batch.
    """

    names: Sequence[str]
    values: np.ndarray
    source_ids: np.ndarray

    def means(self) -> dict[str, float]:
        """Mean of each metric over the steps."""
        return dict(zip(self.names, self.values.mean(axis=0).tolist(), strict=True))

    def check_finite(self, first_step: int) -> None:
        """Raises `DivergedError` if a total loss is no finite number; counts from first_step."""
        losses = self.values[:, self.names.index("total_loss")]
        bad = np.flatnonzero(~np.isfinite(losses))
        if bad.size == 0:
            return
        step = bad[0]
        metrics = "".join(
            f"\n  {name} {value:.6g}"
            for name, value in zip(self.names, self.values[step], strict=True)
        )
        ids = ", ".join(str(number) for number in self.source_ids[step])
        raise DivergedError(
            f"training diverged at step {first_step + step}: total_loss is {losses[step]}\n"
            f"images of the batch: {ids}{metrics}\n"
            "Try a lower learning rate (trainer.optimizer_config.learning_rate), a longer warmup "
            "(trainer.optimizer_config.warmup), or gradient clipping "
            "(trainer.optimizer_config.optimizer: clipnorm or global_clipnorm). The last "
            "checkpoint is from before this step"
        )


class StepLoop:
    """Takes training steps on all replicas."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        task: Task,
        model: tf_keras.Model,
        optimizer: tf_keras.optimizers.Optimizer,
        jit_compile: bool = False,
    ):
        """Starts reading the training data; `jit_compile` compiles the step with XLA."""
        self._strategy = strategy
        self._iterator = iter(
            strategy.distribute_datasets_from_function(
                lambda context: task.build_inputs(task.config.train_data, context)
            )
        )
        self._names: list[str] = []

        def step(batch: Batch) -> tf.Tensor:
            metrics = task.train_step(batch, model, optimizer)
            self._names = sorted(metrics)
            return tf.stack([tf.cast(metrics[name], tf.float32) for name in self._names])

        self._step = tf.function(step, jit_compile=True) if jit_compile else step

    def run(self, num_steps: int) -> StepMetrics:
        """Takes `num_steps` steps."""
        values, source_ids = self._run(self._iterator, tf.constant(num_steps))
        return StepMetrics(tuple(self._names), values.numpy(), source_ids.numpy())

    @tf.function
    def _run(
        self, iterator: tf.distribute.DistributedIterator, num_steps: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        values = tf.TensorArray(tf.float32, size=num_steps)
        source_ids = tf.TensorArray(tf.int64, size=num_steps)
        for i in tf.range(num_steps):
            batch = next(iterator)
            metrics = self._strategy.run(self._step, args=(batch,))  # [metrics] a replica
            mean = self._strategy.reduce(tf.distribute.ReduceOp.MEAN, metrics, axis=None)
            values = values.write(i, mean)
            ids = self._strategy.experimental_local_results(batch["source_id"])
            source_ids = source_ids.write(i, tf.concat(ids, axis=0))
        return values.stack(), source_ids.stack()


def train(
    loop: StepLoop,
    config: TrainerConfig,
    global_batch_size: int,
    optimizer: tf_keras.optimizers.Optimizer,
    checkpoints: Checkpoints,
    log: MetricsLog,
    evaluate: Callable[[int], object] | None = None,
    show_progress: bool = True,
) -> dict[str, float]:
    """Trains from `checkpoints.step` to `config.train_steps`.

    Args:
      loop: takes the steps.
      config: durations and intervals.
      global_batch_size: images of a step, over all replicas.
      optimizer: for its learning rate.
      checkpoints: written at every checkpoint_interval and at the end.
      log: gets the mean of each metric at every summary_interval and at the end.
      evaluate: called with the step at every validation_interval and at the end.
      show_progress: whether this process shows a progress line.

    Returns:
      What was logged last; empty if no step was left to take.

    Raises:
      DivergedError: the loss is not finite any more.
    """
    intervals = [config.summary_interval, config.checkpoint_interval]
    if evaluate is not None:
        intervals.append(config.validation_interval)
    step, last = int(checkpoints.step.numpy()), config.train_steps
    pace = _Pace()
    summary: dict[str, float] = {}
    pending: list[np.ndarray] = []  # values of the steps since the last summary

    with Progress("training: step", last, step, show_progress) as progress:
        while step < last:
            boundary = min([last, *(_next_multiple(step, interval) for interval in intervals)])
            num_steps = min(boundary - step, config.steps_per_loop, pace.steps_in_a_look())
            start = time.monotonic()
            metrics = loop.run(num_steps)
            pace.add(num_steps, time.monotonic() - start)
            metrics.check_finite(step + 1)
            step += num_steps
            checkpoints.step.assign(step)
            pending.append(metrics.values)

            rates = {
                "learning_rate": optimizers.learning_rate(optimizer),
                "images_per_second": global_batch_size / pace.seconds_per_step,
            }
            progress.update(step, _losses(metrics.means()) | rates)
            if _is_due(step, config.summary_interval, last):
                summary = metrics._replace(values=np.concatenate(pending)).means() | rates
                log.write("train", step, summary)
                pending.clear()
                pace.restart()
            if _is_due(step, config.checkpoint_interval, last):
                checkpoints.save()
            if evaluate is not None and _is_due(step, config.validation_interval, last):
                evaluate(step)
    return summary


class _Pace:
    """Speed of the steps, without the very first, which waits for tracing."""

    def __init__(self) -> None:
        self.seconds_per_step = math.inf
        self._steps, self._seconds = 0, 0.0

    def add(self, num_steps: int, seconds: float) -> None:
        if math.isinf(self.seconds_per_step):
            logging.info("first step, tracing included: %.1f s", seconds)
            self.seconds_per_step = seconds
            return
        self._steps += num_steps
        self._seconds += seconds
        self.seconds_per_step = self._seconds / self._steps

    def restart(self) -> None:
        """Measures anew from here."""
        self._steps, self._seconds = 0, 0.0

    def steps_in_a_look(self) -> int:
        """How many steps fit between two looks of the host; one as long as nobody knows."""
        return max(1, int(_SECONDS_BETWEEN_LOOKS / self.seconds_per_step))


def _losses(metrics: dict[str, float]) -> dict[str, float]:
    """What a person watches: the losses, the total first."""
    total = {"total_loss": metrics["total_loss"]}
    return total | {name: value for name, value in metrics.items() if name.endswith("loss")}


def _next_multiple(step: int, interval: int) -> int:
    return (step // interval + 1) * interval


def _is_due(step: int, interval: int, last: int) -> bool:
    return step % interval == 0 or step == last
