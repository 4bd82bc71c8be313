"""One call from a configuration to a trained or evaluated model."""

import math
import os

import tensorflow as tf
import tf_keras
from absl import logging

from official_maskrcnn.configs import checks, durations, loading
from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.errors import DATA_FAULT, UserError
from official_maskrcnn.training import checkpoints, run_files
from official_maskrcnn.training import optimizer as optimizers
from official_maskrcnn.training.evaluation_loop import EvaluationLoop
from official_maskrcnn.training.metrics_log import MetricsLog, read_metrics
from official_maskrcnn.training.protocol import Task
from official_maskrcnn.training.strategy import (
    build_strategy,
    is_chief,
    set_precision,
    set_seed,
)
from official_maskrcnn.training.trainer import StepLoop, train

MODES = ("train", "eval", "train_and_eval", "continuous_eval")


def run(
    experiment: ExperimentConfig, mode: str, model_dir: str, task: Task | None = None
) -> dict[str, float]:
    """Trains or evaluates the model of an experiment.

    Args:
      experiment: a checked configuration.
      mode: train; train_and_eval, which also evaluates every trainer.validation_interval steps and
        at the end; eval, of the latest checkpoint; continuous_eval, of each checkpoint that a
        training in another process writes, until that of trainer.train_steps.
      model_dir: where the run keeps everything; training goes on from the latest checkpoint there.
      task: what is trained; None for the experiment's own.

    Returns:
      Metrics: of the last training steps in mode train, else of the last evaluation.

    Raises:
      UserError: the configuration, the data, the devices or model_dir do not allow the run.
      DivergedError: the loss became NaN or infinite.
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
    try:
        if mode != "eval":  # which has no length and no learning rate, and needs no training data
            experiment = durations.resolve(experiment, task.count_examples)
        training = mode.startswith("train")
        if training and is_chief(strategy):
            run_files.open_folder(model_dir, experiment)
        job = _Job(experiment, model_dir, strategy, task)
        if training:
            return _train(job, with_evaluation=mode == "train_and_eval")
        return _evaluate_latest(job) if mode == "eval" else _evaluate_each(job)
    except tf.errors.OpError as error:
        _, mark, message = error.message.partition(DATA_FAULT)
        if mark:
            raise UserError(message.splitlines()[0]) from error
        if "HTTP request" in error.message:
            raise UserError(f"remote storage cannot be reached: {error.message}") from error
        raise


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
    ):
        self.experiment = experiment
        self.trainer, self.runtime = experiment.trainer, experiment.runtime
        self.model_dir, self.strategy, self.task = model_dir, strategy, task
        # A TPU strategy compiles by itself.
        is_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
        self.jit_compile = self.runtime.enable_xla and not is_tpu
        self.log = MetricsLog(
            model_dir, self.trainer.validation_summary_subdir, enabled=is_chief(strategy)
        )

    def build(self, with_optimizer: bool) -> None:
        with self.strategy.scope():
            self.model = self.task.build_model()
            if with_optimizer:
                self.optimizer = self.task.build_optimizer(self.trainer.optimizer_config)
                optimizers.create_slots(self.optimizer, self.model)


class _Evaluation:
    """Evaluates the weights that a job has at the moment, and may keep the best of them."""

    def __init__(self, job: _Job, keep_best: bool = True):
        self._job = job
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
        self.metrics: dict[str, float] = {}  # of the last evaluation

    def run(self, step: int, averages: bool = True) -> None:
        """Evaluates the moving averages of the weights, if `averages` and there are some."""
        job = self._job
        optimizer = job.optimizer if averages else None
        with optimizers.averaged_weights(job.strategy, optimizer, job.model):
            self.metrics = self._loop.run(step)
            if self._best is not None:
                self._best.update(step, self.metrics)

    def catch_up(self, step: int) -> None:
        """Evaluates at the step where training resumes, if it was stopped before it could."""
        trainer = self._job.trainer
        recorded = read_metrics(self._job.model_dir, "eval")
        if step in recorded:
            self.metrics = {k: math.nan if v is None else v for k, v in recorded[step].items()}
        elif step > 0 and (step == trainer.train_steps or step % trainer.validation_interval == 0):
            self.run(step)

    def run_checkpoint(self, path: str) -> None:
        """Evaluates the weights of a checkpoint."""
        job = self._job
        has_averages = checkpoints.restore_weights(path, job.model, job.optimizer)
        self.run(checkpoints.step_of(path), averages=has_averages)


def _train(job: _Job, with_evaluation: bool) -> dict[str, float]:
    job.build(with_optimizer=True)
    manager = checkpoints.Checkpoints(
        job.strategy,
        job.model_dir,
        job.model,
        job.optimizer,
        job.task.checkpoint_items(job.model),
        job.trainer.max_to_keep,
    )
    if not manager.resume():
        with job.strategy.scope():
            job.task.initialize(job.model)
            optimizers.start_averages(job.optimizer, job.model)
    if is_chief(job.strategy):  # only now: a refused configuration replaces none
        run_files.write(job.model_dir, job.experiment, job.strategy)
    first_step = int(manager.step.numpy())
    _log_sizes(job, first_step)

    evaluation = _Evaluation(job) if with_evaluation else None
    if evaluation:
        evaluation.catch_up(first_step)
    metrics = train(
        StepLoop(job.strategy, job.task, job.model, job.optimizer, job.jit_compile),
        job.trainer,
        job.task.config.train_data.global_batch_size,
        job.optimizer,
        manager,
        job.log,
        evaluate=evaluation.run if evaluation else None,
        show_progress=is_chief(job.strategy),
    )
    return evaluation.metrics if evaluation else metrics


def _evaluate_latest(job: _Job) -> dict[str, float]:
    path = tf.train.latest_checkpoint(job.model_dir)
    if path is None:
        raise UserError(
            f"there is no checkpoint in model_dir {job.model_dir}: give the model_dir of a "
            "training, or train first (mode train)"
        )
    job.build(with_optimizer=job.trainer.optimizer_config.ema is not None)
    evaluation = _Evaluation(job, keep_best=False)
    evaluation.run_checkpoint(path)
    return evaluation.metrics


def _evaluate_each(job: _Job) -> dict[str, float]:
    job.build(with_optimizer=job.trainer.optimizer_config.ema is not None)
    evaluation = _Evaluation(job)
    timeout = job.trainer.continuous_eval_timeout
    for path in checkpoints.follow(job.model_dir, job.trainer.train_steps, timeout):
        try:
            evaluation.run_checkpoint(path)
        except UserError:
            if tf.io.gfile.exists(f"{path}.index"):
                raise
            logging.warning("%s was deleted before it could be evaluated", path)
    if not evaluation.metrics:
        raise UserError(f"no checkpoint came into model_dir {job.model_dir} within {timeout} s")
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
