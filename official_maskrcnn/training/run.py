"""One call from a configuration to a trained or evaluated model."""

import contextlib
import errno
import math
import os
from collections.abc import Iterator, Mapping

import tensorflow as tf
import tf_keras
from absl import logging

from official_maskrcnn.configs import checks, durations, loading
from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.errors import UserError, data_fault
from official_maskrcnn.modeling import checkpoint_files, restore
from official_maskrcnn.tasks.metrics_file import read_metrics
from official_maskrcnn.training import checkpoints, run_files
from official_maskrcnn.training import optimizer as optimizers
from official_maskrcnn.training.evaluation_loop import EvaluationLoop
from official_maskrcnn.training.metrics_log import MetricsLog
from official_maskrcnn.training.preemption import Preempted, Preemption
from official_maskrcnn.training.protocol import Task
from official_maskrcnn.training.strategy import (
    build_strategy,
    is_chief,
    is_multi_worker,
    mean_over_processes,
    set_precision,
    set_seed,
)
from official_maskrcnn.training.trainer import StepLoop, Training

MODES = ("train", "eval", "train_and_eval", "continuous_eval")

_EVAL_FOLDER = "eval"  # in model_dir, for the figures of mode eval
_LOST_WORKER = (
    *(tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError),
    tf.errors.DeadlineExceededError,
)
_DISK_FAULTS = (
    *(tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError, tf.errors.NotFoundError),
    *(tf.errors.FailedPreconditionError, tf.errors.UnknownError),
)


def run(
    experiment: ExperimentConfig,
    mode: str,
    model_dir: str,
    task: Task | None = None,
    checkpoint: str = "latest",
    allow_config_change: bool = False,
) -> dict[str, float]:
    """Trains or evaluates the model of an experiment.

    Args:
      experiment: a checked configuration.
      mode: train; train_and_eval, which also evaluates every trainer.validation_interval steps and
        at the end; eval, of `checkpoint`; continuous_eval, of each checkpoint that a training in
        another process writes, until its last.
      model_dir: where the run keeps everything; training goes on from the latest checkpoint there.
      task: what is trained; None for the experiment's own.
      checkpoint: what mode eval evaluates: latest, all, a step, a range of steps such as 1000-5000,
        or a path.
      allow_config_change: whether a training may go on with other data, losses or settings of the
        model; weights of other shapes are refused even so.

    Returns:
      Metrics: of the last training steps in mode train, else of the last evaluation.

    Raises:
      UserError: the configuration, the data, the devices or model_dir do not allow the run.
      DivergedError: the loss became NaN or infinite.
      Preempted: SIGTERM came, or another worker of the job is lost; a SystemExit with code 143.
    """
    if mode not in MODES:
        raise UserError(f"unknown mode {mode!r}; accepts {', '.join(MODES)}")
    runtime = experiment.runtime
    strategy = build_strategy(runtime)
    set_precision(runtime, strategy)
    set_seed(runtime)
    tf.config.run_functions_eagerly(runtime.run_eagerly)
    if task is None:
        # Only here: a task of the caller's own needs none of the package's model and data code.
        from official_maskrcnn.tasks import build_task

        loading.refuse(checks.mode_violations(experiment, mode), f"mode {mode}")
        task = build_task(experiment)
    # Now that the strategy is there: with several workers TensorFlow takes SIGTERM for itself.
    with Preemption() as preemption, _readable_faults(model_dir, strategy):
        if mode != "eval":  # which has no length and no learning rate, and needs no training data
            experiment = durations.resolve(experiment, task.count_examples)
        job = _Job(experiment, model_dir, strategy, task, mode)
        if mode == "eval":
            return _evaluate_chosen(job, checkpoint)
        if mode == "continuous_eval":
            return _evaluate_each(job)
        with contextlib.ExitStack() as stack:
            if is_chief(strategy):
                resumes = bool(checkpoint_files.find_all(model_dir))
                run_files.open_folder(model_dir, experiment, resumes, allow_config_change)
                stack.enter_context(run_files.locked(model_dir))
            return _train(job, preemption, with_evaluation=mode == "train_and_eval")


@contextlib.contextmanager
def _readable_faults(model_dir: str, strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Faults of data, disks and other machines, as what they are to the user."""
    try:
        yield
    except tf.errors.OpError as error:
        fault = data_fault(error.message)
        if fault:
            raise fault from error
        first_line = error.message.splitlines()[0]
        is_lost = isinstance(error, _LOST_WORKER) or "Collective ops is aborted" in error.message
        if is_multi_worker(strategy) and is_lost:
            raise Preempted(f"another worker of the job is lost ({first_line})") from error
        if "HTTP request" in error.message:
            raise UserError(f"remote storage cannot be reached: {error.message}") from error
        if "OOM when allocating" in error.message:
            raise UserError(
                f"the device has too little memory ({first_line}): lower the global_batch_size of "
                "task.train_data or task.validation_data, or task.model.input_size, or set "
                "task.model.rematerialize"
            ) from error
        if isinstance(error, _DISK_FAULTS) and (os.sep in first_line or "space" in first_line):
            raise UserError(
                f"cannot read or write a file: {first_line}; the last checkpoint in {model_dir} is "
                "whole, and the same command goes on from there"
            ) from error
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        raise UserError(f"cannot write below {model_dir}: {error}") from error


class _Job:
    """A task on its devices and in its folder; the model and the optimizer once they are built."""

    model: tf_keras.Model
    optimizer: tf_keras.optimizers.Optimizer | None = None

    def __init__(
        self,
        experiment: ExperimentConfig,
        model_dir: str,
        strategy: tf.distribute.Strategy,
        task: Task,
        mode: str,
    ):
        self.experiment = experiment
        self.is_training = mode.startswith("train")
        self.trainer, self.runtime = experiment.trainer, experiment.runtime
        self.model_dir, self.strategy, self.task = model_dir, strategy, task
        # A TPU strategy compiles by itself.
        is_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
        self.jit_compile = self.runtime.enable_xla and not is_tpu
        # What mode eval finds, maybe on other data, says nothing about the course of the training.
        folder = _EVAL_FOLDER if mode == "eval" else self.trainer.validation_summary_subdir
        self.log = MetricsLog(model_dir, folder, is_chief(strategy), self.is_training)

    def build(self, with_optimizer: bool) -> None:
        with self.strategy.scope():
            self.model = self.task.build_model()
            if with_optimizer:
                self.optimizer = self.task.build_optimizer(self.trainer.optimizer_config)
                optimizers.create_slots(self.optimizer, self.model)


class _Evaluation:
    """Evaluates the weights that a job has at the moment, and may keep the best of them."""

    def __init__(self, job: _Job, keep_best: bool = True):
        self._job, self._keep_best = job, keep_best
        self._loop = EvaluationLoop(
            job.strategy,
            job.task,
            job.model,
            job.model_dir,
            job.log,
            max_batches=job.trainer.validation_steps,
            jit_compile=job.jit_compile,
        )
        self._best: checkpoints.BestCheckpoint | None = None
        if keep_best and job.trainer.best_checkpoint_export_subdir:
            self._best = checkpoints.BestCheckpoint(
                job.strategy,
                os.path.join(job.model_dir, job.trainer.best_checkpoint_export_subdir),
                job.model,
                job.task.checkpoint_items(job.model),
                job.trainer.best_checkpoint_eval_metric,
                job.trainer.best_checkpoint_metric_comp,
            )
        if is_chief(job.strategy):
            run_files.write_class_names(job.model_dir, job.task.class_names)
        self.metrics: dict[str, float] = {}  # of the last evaluation
        self._recorded: dict[int, Mapping[str, float | None]] = {
            **read_metrics(job.model_dir, "eval", job.trainer.validation_summary_subdir)
        }

    def run(self, step: int) -> bool:
        """Evaluates the model, with the optimizer's moving averages as weights if it has some.

        Returns:
          Whether a training should go on after it.
        """
        job = self._job
        with optimizers.averaged_weights(job.strategy, job.optimizer, job.model):
            self.metrics = self._loop.run(step)
            self._refuse_unknown_metric()
            if self._best is not None:
                self._best.update(step, self.metrics)
        job.log.write("eval", step, self.metrics)  # at last: what is in it is done
        self._recorded[step] = self.metrics
        return not self._is_time_to_stop(step)

    def _refuse_unknown_metric(self) -> None:
        metric = self._job.trainer.best_checkpoint_eval_metric
        if self._keep_best and metric and metric not in self.metrics:
            raise UserError(
                f"trainer.best_checkpoint_eval_metric is {metric}, which the evaluation does not "
                f"give; it gives {', '.join(sorted(self.metrics))}"
            )

    def catch_up(self, step: int) -> bool:
        """Evaluates at the step where training resumes, if it was stopped before it could.

        Returns:
          Whether the training should go on.
        """
        trainer = self._job.trainer
        if step in self._recorded:
            recorded = self._recorded[step]
            self.metrics = {k: math.nan if v is None else v for k, v in recorded.items()}
        elif step > 0 and (step == trainer.train_steps or step % trainer.validation_interval == 0):
            return self.run(step)
        return not self._is_time_to_stop(step)

    def _is_time_to_stop(self, step: int) -> bool:
        """Whether a training that is at a step has to end there."""
        trainer = self._job.trainer
        stop = self._job.is_training and checkpoints.is_time_to_stop(
            {at: metrics for at, metrics in self._recorded.items() if at <= step},
            trainer.best_checkpoint_eval_metric,
            trainer.best_checkpoint_metric_comp,
            trainer.early_stopping_patience,
        )
        if stop:
            logging.info(
                "the training ends at step %d: %d evaluations brought nothing better "
                "(trainer.early_stopping_patience)",
                step,
                trainer.early_stopping_patience,
            )
            if is_chief(self._job.strategy):
                checkpoints.mark_end(self._job.model_dir, step)
        return stop

    @property
    def recorded_steps(self) -> list[int]:
        """Steps that were evaluated, by this process or an earlier one."""
        return list(self._recorded)

    def run_checkpoint(self, path: str) -> None:
        """Evaluates the weights of a checkpoint."""
        job = self._job
        with job.strategy.scope():
            restore.restore_weights(path, job.model)
        self.run(checkpoint_files.step_of(path))


def _train(job: _Job, preemption: Preemption, with_evaluation: bool) -> dict[str, float]:
    job.build(with_optimizer=True)
    manager = checkpoints.Checkpoints(
        job.strategy,
        job.model_dir,
        job.model,
        job.optimizer,
        job.task.checkpoint_items(job.model),
        job.trainer.max_to_keep,
    )
    resumes = manager.resume()
    _refuse_different_steps(job, int(manager.step.numpy()))
    if not resumes:
        with job.strategy.scope():
            job.task.initialize(job.model)
            optimizers.start_averages(job.optimizer, job.model)
    if is_chief(job.strategy):  # only now: a refused configuration replaces none
        run_files.write(job.model_dir, job.experiment, job.strategy)
        names = job.task.annotated_class_names()
        run_files.write_class_names(job.model_dir, names, replace=True)
    first_step = int(manager.step.numpy())
    _log_sizes(job, first_step)

    evaluation = _Evaluation(job) if with_evaluation else None
    if evaluation and not evaluation.catch_up(first_step):
        return evaluation.metrics
    if is_chief(job.strategy):
        checkpoints.remove_end(job.model_dir)
    metrics = Training(
        job.strategy,
        StepLoop(job.strategy, job.task, job.model, job.optimizer, job.jit_compile),
        job.trainer,
        job.task.config.train_data.global_batch_size,
        job.optimizer,
        manager,
        job.log,
        preemption,
        evaluate=evaluation.run if evaluation else None,
        show_progress=is_chief(job.strategy),
    ).run()
    return evaluation.metrics if evaluation else metrics


def _refuse_different_steps(job: _Job, step: int) -> None:
    (mean,) = mean_over_processes(job.strategy, (step,))
    (difference,) = mean_over_processes(job.strategy, (abs(step - mean),))
    if difference > 1e-3:  # not merely rounded
        raise UserError(
            f"the workers do not resume from the same step, this one from {step}: model_dir "
            f"{job.model_dir} must be one folder that all of them read"
        )


def _evaluate_chosen(job: _Job, selection: str) -> dict[str, float]:
    paths = checkpoint_files.choose(job.model_dir, selection)
    job.build(with_optimizer=False)
    evaluation = _Evaluation(job, keep_best=False)
    for path in paths:
        evaluation.run_checkpoint(path)
    return evaluation.metrics


def _evaluate_each(job: _Job) -> dict[str, float]:
    job.build(with_optimizer=False)
    evaluation = _Evaluation(job)
    done, timeout = evaluation.recorded_steps, job.trainer.continuous_eval_timeout

    def evaluate(path: str) -> bool:
        try:
            evaluation.run_checkpoint(path)
        except UserError as error:
            if tf.io.gfile.exists(f"{path}.index") and not isinstance(
                error, restore.DamagedCheckpoint
            ):
                raise
            logging.warning("%s was deleted or damaged before it could be evaluated", path)
            return False
        return True

    checkpoints.follow(job.model_dir, job.trainer.train_steps, timeout, evaluate, done)
    if not evaluation.metrics and not done:
        raise UserError(f"no checkpoint came into model_dir {job.model_dir} within {timeout} s")
    if not evaluation.metrics:
        evaluation.catch_up(max(done))
    return evaluation.metrics


def _log_sizes(job: _Job, first_step: int) -> None:
    parameters = sum(variable.shape.num_elements() for variable in job.model.trainable_variables)
    logging.info(
        "%.2f million trainable parameters, global batch %d on %d replica(s), step %d to %d",
        parameters / 1e6,
        job.task.config.train_data.global_batch_size,
        job.strategy.num_replicas_in_sync,
        first_step,
        job.trainer.train_steps,
    )
