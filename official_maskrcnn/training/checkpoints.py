"""Checkpoints of a training: written, resumed from, evaluated, and the best one kept."""

import atexit
import contextlib
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import tensorflow as tf
import tf_keras
from absl import logging

from official_maskrcnn.errors import UserError
from official_maskrcnn.files import write_text
from official_maskrcnn.modeling import checkpoint_files, restore
from official_maskrcnn.training.strategy import is_chief

_END = "ended.json"
_LEFT_OUT = "left_out_steps.json"
_UNFINISHED = re.compile(rf"{checkpoint_files.NAME}-\d+_temp")  # what is being written
_SECONDS_BETWEEN_LOOKS = 1.0  # for a new checkpoint of another process


class Checkpoints:
    """The checkpoints of one model_dir.

    Attributes:
      step: training steps taken so far, a part of every checkpoint.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model_dir: str,
        model: tf_keras.Model,
        optimizer: tf_keras.optimizers.Optimizer,
        items: Mapping[str, Any],
        max_to_keep: int,
    ):
        """Makes checkpoints of a model and an optimizer, whose variables exist.

        Args:
          strategy: in whose scope the variables were created.
          model_dir: where the checkpoints are; local or remote.
          model: under the name `model`.
          optimizer: under the name `optimizer`.
          items: parts of the model under names of their own.
          max_to_keep: number of newest checkpoints that stay.
        """
        self._model_dir = model_dir
        self._model, self._optimizer = model, optimizer
        self._saved_step: int | None = None
        with strategy.scope():
            self.step = tf.Variable(
                0,
                dtype=tf.int64,
                trainable=False,
                name="global_step",
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
        self._checkpoint = tf.train.Checkpoint(
            model=model, optimizer=optimizer, global_step=self.step, **items
        )
        self._is_chief = is_chief(strategy)
        self._left_out_path = os.path.join(model_dir, _LEFT_OUT)
        if self._is_chief:
            _remove_leftovers(model_dir)
            _list_all(model_dir)
        self._manager = _manager(strategy, self._checkpoint, model_dir, max_to_keep)

    def resume(self) -> bool:
        """Restores everything from the latest checkpoint that is whole; False if there is none.

        Raises:
          UserError: the checkpoint is of another model or optimizer, or all are damaged.
        """
        for path in reversed(paths := checkpoint_files.find_all(self._model_dir)):
            try:
                self._restore(path)
                return True
            except restore.DamagedCheckpoint as error:
                if path == paths[0]:
                    raise
                logging.error("%s; GOING BACK to the checkpoint before", error)
        return False

    def _restore(self, path: str) -> None:
        restore.check_same_model(path, self._model)
        # A constant rate is a variable of some optimizers; the configuration's value counts.
        rate = self._optimizer.learning_rate
        configured_rate = rate.numpy() if isinstance(rate, tf.Variable) else None
        try:
            status = self._checkpoint.read(path).assert_existing_objects_matched()
            status.expect_partial()  # a count of saves, of which nothing depends
        except AssertionError as error:
            raise UserError(
                f"{path} was written with another optimizer (trainer.optimizer_config): train on "
                f"with that one, or in another model_dir\n{str(error).strip().splitlines()[0]}"
            ) from error
        except (tf.errors.OpError, ValueError) as error:
            raise restore.DamagedCheckpoint(
                f"cannot read the checkpoint {path}: {error}"
            ) from error
        if configured_rate is not None:
            rate.assign(configured_rate)
        self._saved_step = int(self.step.numpy())
        logging.info("resumed from %s", path)

    def save(self) -> None:
        """Writes a checkpoint of this step unless there is one; all workers have to call it.

        Raises:
          UserError: model_dir cannot be written to, or is full.
        """
        step = int(self.step.numpy())
        if step == self._saved_step:
            return
        try:
            path = self._manager.save(checkpoint_number=step)
        except (tf.errors.OpError, OSError) as error:
            raise UserError(
                f"cannot write a checkpoint of step {step} into {self._model_dir}: {error}"
            ) from error
        self._saved_step = step
        logging.info("saved %s", path)

    def left_out_steps(self) -> set[int]:
        """Steps that this training passes over."""
        if not tf.io.gfile.exists(self._left_out_path):
            return set()
        with tf.io.gfile.GFile(self._left_out_path) as file:
            return set(json.load(file))

    def leave_out(self, steps: Collection[int]) -> None:
        """Has this training pass over these steps, whenever it comes by them."""
        if self._is_chief:
            write_text(self._left_out_path, json.dumps(sorted(steps)))


class BestCheckpoint:
    """Keeps the weights of the best evaluation so far, and its metrics, in a folder of their own.

    The folder holds one checkpoint (the weights that were evaluated, without optimizer) and
    `metrics.json`. A restarted run goes on from them.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        folder: str,
        model: tf_keras.Model,
        items: Mapping[str, Any],
        metric: str = "",
        comparison: str = "higher",
    ):
        """Compares by `metric`; "" is mask/AP, or box/AP of a model without masks."""
        self._metric, self._comparison = metric, comparison
        self._path = os.path.join(folder, "metrics.json")
        self._is_chief = is_chief(strategy)
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        checkpoint = tf.train.Checkpoint(model=model, global_step=self._step, **items)
        self._manager = _manager(strategy, checkpoint, folder, max_to_keep=1)
        self._best: dict[str, Any] | None = None
        if tf.io.gfile.exists(self._path):
            with tf.io.gfile.GFile(self._path) as file:
                self._best = json.load(file)

    def update(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Saves the model if no evaluation was better; says whether it did.

        A number is always better than NaN or nothing, and the first evaluation is kept anyway.
        """
        name = _metric_name(self._metric, metrics)
        value = _number(metrics.get(name))
        if self._best is not None:
            best = _number(self._best["metrics"].get(name))
            if not _is_better(value, best, self._comparison):
                return False
        self._step.assign(step)
        self._manager.save(checkpoint_number=step)
        finite = {key: _or_none(number) for key, number in metrics.items()}
        self._best = {"step": step, "metric": name, "value": _or_none(value), "metrics": finite}
        if self._is_chief:
            write_text(self._path, json.dumps(self._best, indent=2))
        logging.info("best checkpoint so far: step %d, %s %.4f", step, name, value)
        return True


def is_time_to_stop(
    evaluations: Mapping[int, Mapping[str, float | None]],
    metric: str,
    comparison: str,
    patience: int | None,
) -> bool:
    """Whether so many evaluations have brought nothing better.

    Args:
      evaluations: metrics by step.
      metric: that counts; "" is mask/AP, or box/AP of a model without masks.
      comparison: higher or lower.
      patience: number of evaluations; None for any number.
    """
    if patience is None:
        return False
    best, since = math.nan, 0
    for _, metrics in sorted(evaluations.items()):
        value = _number(metrics.get(_metric_name(metric, metrics)))
        if _is_better(value, best, comparison):
            best, since = value, 0
        else:
            since += 1
    return since >= patience


def _metric_name(metric: str, metrics: Mapping[str, object]) -> str:
    return metric or ("mask/AP" if "mask/AP" in metrics else "box/AP")


def _is_better(value: float, best: float, comparison: str) -> bool:
    """A number is always better than NaN."""
    if math.isnan(value) or math.isnan(best):
        return math.isnan(best) and not math.isnan(value)
    return value < best if comparison == "lower" else value > best


def follow(
    model_dir: str,
    last_step: int,
    timeout: float,
    evaluate: Callable[[str], bool],
    done: Collection[int] = (),
) -> None:
    """Has each checkpoint that a training writes evaluated, once and in order, as they appear.

    Args:
      model_dir: of the training.
      last_step: ends after the checkpoint of this step, or after that of `mark_end`.
      timeout: seconds without a new one after which it ends, with a warning.
      evaluate: gets the path of a checkpoint; says whether it could be read. One that could not is
        tried again when its file has changed: the training may write it anew.
      done: steps to leave out.
    """
    seen = set(done)
    unreadable: dict[str, int] = {}  # path to the time of its file
    deadline = time.monotonic() + timeout
    waiting = False
    while True:
        end = _read_end(model_dir, last_step)  # before the look: the last checkpoint comes first
        fresh = False
        for path in checkpoint_files.find_all(model_dir):
            step = checkpoint_files.step_of(path)
            if step in seen or (changed := _changed(path)) in (None, unreadable.get(path)):
                continue
            if not restore.is_readable(path):  # it may be in the making
                continue
            if evaluate(path):
                seen.add(step)
            else:
                unreadable[path] = changed
            fresh = True
        if seen and max(seen) >= end:
            return
        if fresh:
            deadline, waiting = time.monotonic() + timeout, False
        elif time.monotonic() > deadline:
            logging.warning("no new checkpoint in %s for %d s: stopped waiting", model_dir, timeout)
            return
        elif not waiting:
            which = "a new" if seen else "the first"
            logging.info("waiting for %s checkpoint in %s", which, model_dir)
            waiting = True
        else:
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _changed(path: str) -> int | None:
    """Time of a checkpoint's index; None if it was deleted meanwhile."""
    try:
        return tf.io.gfile.stat(f"{path}.index").mtime_nsec
    except tf.errors.NotFoundError:
        return None


def mark_end(model_dir: str, step: int) -> None:
    """Tells those who `follow` that a training ended early, with the checkpoint of a step."""
    write_text(os.path.join(model_dir, _END), json.dumps({"step": step}))


def remove_end(model_dir: str) -> None:
    """A training that goes on has no end yet."""
    with contextlib.suppress(tf.errors.NotFoundError):
        tf.io.gfile.remove(os.path.join(model_dir, _END))


def _read_end(model_dir: str, last_step: int) -> int:
    try:
        with tf.io.gfile.GFile(os.path.join(model_dir, _END)) as file:
            return min(json.load(file)["step"], last_step)
    except tf.errors.NotFoundError:
        return last_step


def _manager(
    strategy: tf.distribute.Strategy,
    checkpoint: tf.train.Checkpoint,
    folder: str,
    max_to_keep: int,
) -> tf.train.CheckpointManager:
    # All workers must take part in a save; what the others than the chief write is thrown away.
    if not is_chief(strategy):
        folder, max_to_keep = tempfile.mkdtemp(prefix="official_maskrcnn_worker_"), 1
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return tf.train.CheckpointManager(
        checkpoint, folder, max_to_keep, checkpoint_name=checkpoint_files.NAME
    )


def _remove_leftovers(folder: str) -> None:
    """Of processes that were killed while they wrote."""
    names = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
    for name in (name.rstrip("/") for name in names):
        if not _UNFINISHED.fullmatch(name):
            continue
        path = os.path.join(folder, name)
        logging.info("removed the unfinished checkpoint %s", path)
        tf.io.gfile.rmtree(path)
        whole = path.removesuffix("_temp")
        if tf.io.gfile.exists(f"{whole}.index") and not restore.is_readable(whole):
            tf.io.gfile.remove(f"{whole}.index")


def _list_all(folder: str) -> None:
    """Has the record of a folder's checkpoints name all that are there, so that old ones go.

    A process that was killed behind a checkpoint did not enter it.
    """
    paths = checkpoint_files.find_all(folder)
    if paths:
        times = [tf.io.gfile.stat(f"{path}.index").mtime_nsec / 1e9 for path in paths]
        tf.compat.v1.train.update_checkpoint_state(
            folder, paths[-1], paths, all_model_checkpoint_timestamps=times
        )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
