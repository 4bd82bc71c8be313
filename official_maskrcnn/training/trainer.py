"""The training loop.

The devices take many steps between two looks of the host (`StepLoop.run`), and still the host gets
the losses of every single one of them. Between two looks it shows them, writes them, saves a
checkpoint or evaluates, whatever is due (`Training`).
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
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
from official_maskrcnn.training.preemption import Preempted, Preemption
from official_maskrcnn.training.progress import Progress
from official_maskrcnn.training.protocol import Batch, Task
from official_maskrcnn.training.strategy import distribute_batches, mean_over_processes

# Steps stay on the device no longer than this: the host's look costs milliseconds, and a person
# wants to see that a run is alive.
_SECONDS_BETWEEN_LOOKS = 2.0


class DivergedError(UserError):
    """The loss or the weights became NaN or infinite."""


class StepMetrics(NamedTuple):
    """What a number of steps gave.

    Attributes:
      names: of the metrics.
      values: [steps, metrics], means over the replicas.
      finite: bool [steps], whether the weights are finite after the step.
      source_ids: [steps, batch] of this process' share of the global batch.
    """

    names: Sequence[str]
    values: np.ndarray
    finite: np.ndarray
    source_ids: np.ndarray

    def means(self) -> dict[str, float]:
        """Mean of each metric over the steps."""
        return dict(zip(self.names, self.values.mean(axis=0).tolist(), strict=True))

    def find_diverged(self) -> int | None:
        """The first of the steps whose total loss or resulting weights are not finite."""
        losses = self.values[:, self.names.index("total_loss")]
        diverged = np.flatnonzero(~(np.isfinite(losses) & self.finite))
        return int(diverged[0]) if diverged.size else None

    def describe(self, step: int) -> str:
        """Images and metrics of one of the steps."""
        ids = ", ".join(str(number) for number in self.source_ids[step])
        metrics = zip(self.names, self.values[step], strict=True)
        return f"images of the batch: {ids}" + "".join(
            f"\n  {name} {value:.6g}" for name, value in metrics
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
        """Prepares the step; `jit_compile` compiles it with XLA. Call `start` before `run`."""
        self._strategy, self._task = strategy, task
        self._names: list[str] = []

        def step(batch: Batch) -> tf.Tensor:
            metrics = task.train_step(batch, model, optimizer)
            self._names = sorted(metrics)
            values = [tf.cast(metrics[name], tf.float32) for name in self._names]
            # Gradients can be infinite where the loss is not yet. A sum shows any such weight.
            weights = tf.add_n([tf.reduce_sum(v) for v in model.trainable_variables])
            return tf.stack([*values, tf.cast(tf.math.is_finite(weights), tf.float32)])

        self._step = tf.function(step, jit_compile=True) if jit_compile else step

    def start(self, first_step: int) -> None:
        """Starts reading the training data where the step after so many ones needs them."""
        task = self._task
        batches = distribute_batches(
            self._strategy,
            lambda context: task.build_inputs(task.config.train_data, context, first_step),
        )
        self._iterator = iter(batches)

    def skip(self) -> None:
        """Passes over the data of a step."""
        next(self._iterator)

    def run(self, num_steps: int) -> StepMetrics:
        """Takes `num_steps` steps."""
        values, source_ids = self._run(self._iterator, tf.constant(num_steps))
        values, finite = np.split(values.numpy(), [-1], axis=1)
        return StepMetrics(tuple(self._names), values, finite[:, 0] == 1.0, source_ids.numpy())

    @tf.function
    def _run(self, iterator: Iterator[Batch], num_steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values = tf.TensorArray(tf.float32, size=num_steps)
        source_ids = tf.TensorArray(tf.int64, size=num_steps)
        for i in tf.range(num_steps):
            batch = next(iterator)
            metrics = self._strategy.run(self._step, args=(batch,))  # [metrics + 1] a replica
            mean = self._strategy.reduce(tf.distribute.ReduceOp.MEAN, metrics, axis=None)
            values = values.write(i, mean)
            ids = self._strategy.experimental_local_results(batch["source_id"])
            source_ids = source_ids.write(i, tf.concat(ids, axis=0))
        return values.stack(), source_ids.stack()


class Training:
    """Trains a model from the step of its checkpoints to the last one."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        loop: StepLoop,
        config: TrainerConfig,
        global_batch_size: int,
        optimizer: tf_keras.optimizers.Optimizer,
        checkpoints: Checkpoints,
        log: MetricsLog,
        preemption: Preemption,
        evaluate: Callable[[int], bool] | None = None,
        show_progress: bool = True,
    ):
        """Prepares a training.

        Args:
          strategy: of the devices.
          loop: takes the steps.
          config: durations and intervals.
          global_batch_size: images of a step, over all replicas.
          optimizer: for its learning rate and its count of steps.
          checkpoints: written at every checkpoint_interval, before evaluations, and at the end.
          log: gets the mean of each metric at every summary_interval and at the end.
          preemption: asks to save and stop.
          evaluate: called with the step at every validation_interval and at the end; says whether
            training should go on.
          show_progress: whether this process shows a progress line.
        """
        self._strategy, self._loop, self._config = strategy, loop, config
        self._global_batch_size, self._optimizer = global_batch_size, optimizer
        self._checkpoints, self._log = checkpoints, log
        self._preemption, self._evaluate = preemption, evaluate
        self._show_progress = show_progress
        self._intervals = [config.summary_interval, config.checkpoint_interval]
        if evaluate is not None:
            self._intervals.append(config.validation_interval)
        self._left_out = checkpoints.left_out_steps()
        self._pace = _Pace()
        self._pending: list[np.ndarray] = []  # values of the steps since the last summary
        self._must_stop = False

    def run(self) -> dict[str, float]:
        """Trains.

        Returns:
          What was logged last; empty if no step was left to take.

        Raises:
          DivergedError: more than max_skipped_steps steps had a loss, or made weights, that are no
            finite numbers.
          Preempted: the process has to end; everything is saved.
        """
        last = self._config.train_steps
        step = self._start()
        if self._config.max_skipped_steps and step == 0:
            self._checkpoints.save()  # to go back to
        summary: dict[str, float] = {}
        with (
            Progress("training: step", last, step, self._show_progress) as progress,
            self._preemption.postponed(),
        ):
            while step < last:
                if step + 1 in self._left_out:
                    self._loop.skip()
                    self._optimizer.iterations.assign_add(1)
                    step += 1
                    self._checkpoints.step.assign(step)
                else:
                    metrics = self._take_steps(min(self._boundary(step), last) - step)
                    diverged = metrics.find_diverged()
                    if diverged is not None:
                        self._leave_out(step + diverged + 1, metrics.describe(diverged))
                        step = self._start()
                        continue
                    step += len(metrics.values)
                    self._checkpoints.step.assign(step)
                    self._pending.append(metrics.values)
                    rates = self._rates()
                    progress.update(step, _losses(metrics.means()) | rates)
                    if _is_due(step, self._config.summary_interval, last):
                        values = np.concatenate(self._pending)
                        summary = metrics._replace(values=values).means() | rates
                        self._log.write("train", step, summary)
                        self._pending.clear()
                        self._pace.restart()
                if self._must_stop:
                    self._checkpoints.save()
                    raise Preempted(f"stopped and saved at step {step}")
                if not self._look_after(step, last):
                    break
        return summary

    def _start(self) -> int:
        """Begins at the step of the checkpoints."""
        step = int(self._checkpoints.step.numpy())
        self._loop.start(step)
        self._pending.clear()
        return step

    def _boundary(self, step: int) -> int:
        """The next step at which the host has to look."""
        left_out = [number - 1 for number in self._left_out if number > step]
        return min([*left_out, *(_next_multiple(step, each) for each in self._intervals)])

    def _take_steps(self, most: int) -> StepMetrics:
        num_steps = min(most, self._config.steps_per_loop, self._pace.steps_in_a_look())
        # The very first traces for long, and there is nothing new to save before its end.
        with contextlib.nullcontext() if self._pace.is_known else self._preemption.at_once():
            start = time.monotonic()
            metrics = self._loop.run(num_steps)
            seconds = time.monotonic() - start
        # All processes must take as many steps before the next look, and stop at the same one.
        seconds, requests = mean_over_processes(
            self._strategy, (seconds, float(self._preemption.is_requested))
        )
        self._pace.add(num_steps, seconds)
        self._must_stop = requests > 0
        return metrics

    def _look_after(self, step: int, last: int) -> bool:
        """Saves and evaluates what is due at a step; whether training goes on."""
        evaluates = self._evaluate is not None and _is_due(
            step, self._config.validation_interval, last
        )
        if evaluates or _is_due(step, self._config.checkpoint_interval, last):
            self._checkpoints.save()
        if self._evaluate is not None and evaluates:
            with self._preemption.at_once():  # all is saved
                return self._evaluate(step)
        return True

    def _leave_out(self, step: int, description: str) -> None:
        """Goes back to the last checkpoint, to pass over a step that diverged."""
        limit = self._config.max_skipped_steps
        if len(self._left_out) >= limit:
            skipped = f" ({limit} were left out before)" if limit else ""
            raise DivergedError(
                f"training diverged at step {step}{skipped}: total_loss, or what the step made of "
                f"the weights, is no finite number\n"
                f"{description}\n"
                "Try a lower learning rate (trainer.optimizer_config.learning_rate), a longer "
                "warmup (trainer.optimizer_config.warmup), or gradient clipping "
                "(trainer.optimizer_config.optimizer: clipnorm or global_clipnorm); a few bad "
                "batches can be left out (trainer.max_skipped_steps). The last checkpoint is from "
                "before this step"
            )
        self._left_out.add(step)
        logging.error("step %d, at which training diverged, is left out: %s", step, description)
        self._checkpoints.leave_out(self._left_out)
        self._checkpoints.resume()

    def _rates(self) -> dict[str, float]:
        return {
            "learning_rate": optimizers.learning_rate(self._optimizer),
            "images_per_second": self._global_batch_size / self._pace.seconds_per_step,
        }


class _Pace:
    """Speed of the steps, without the very first, which waits for tracing."""

    def __init__(self) -> None:
        self.seconds_per_step = math.inf
        self._steps, self._seconds = 0, 0.0

    @property
    def is_known(self) -> bool:
        return math.isfinite(self.seconds_per_step)

    def add(self, num_steps: int, seconds: float) -> None:
        if not self.is_known:
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
