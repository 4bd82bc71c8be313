"""Steps and learning rates in numbers: out of epochs, and scaled to the batch size."""

import copy
from collections.abc import Callable, Iterator

from absl import logging

from official_maskrcnn.configs import rules
from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.configs.loading import refuse
from official_maskrcnn.model_garden import light_imports

with light_imports():
    from official.modeling import hyperparams

_RATES = ("values", "learning_rate", "initial_learning_rate", "end_learning_rate")
_WHOLE = ("decay_steps", "total_decay_steps")


def resolve(experiment: ExperimentConfig, count_examples: Callable[[], int]) -> ExperimentConfig:
    """A copy of a configuration in which all lengths are steps and all rates are those in use.

    Epochs become steps of the training data's global batch, rounded to the nearest; decay_steps
    that are null become the whole training; learning rates are scaled if
    trainer.learning_rate_batch_size is given. Each change is logged. The copy stays as it is when
    it is resolved once more.

    Args:
      experiment: a checked configuration.
      count_examples: gives the number of training examples; it is called only for epochs.

    Raises:
      UserError: the steps do not fit each other, such as boundaries beyond the training's end.
    """
    experiment = copy.deepcopy(experiment)
    trainer = experiment.trainer
    batch = experiment.task.train_data.global_batch_size
    if trainer.train_epochs is not None:
        examples = count_examples()

        def to_steps(epochs: float) -> int:
            return max(round(epochs * examples / batch), 1)

        trainer.train_steps = to_steps(trainer.train_epochs)
        logging.info(
            "%g epochs of %d examples, %d a step: %d steps",
            *(trainer.train_epochs, examples, batch, trainer.train_steps),
        )
        if trainer.boundary_epochs is not None:
            last = max(trainer.train_steps - 1, 1)  # rounding leaves them inside the training
            boundaries = [min(to_steps(epochs), last) for epochs in trainer.boundary_epochs]
            trainer.optimizer_config.learning_rate.get().boundaries = boundaries
            logging.info("learning rate boundaries at steps %s", boundaries)
        trainer.train_epochs = trainer.boundary_epochs = None
    _fill_decay(experiment)
    if trainer.learning_rate_batch_size is not None:
        _scale_rates(experiment, batch / trainer.learning_rate_batch_size)
        trainer.learning_rate_batch_size = None
    refuse([*rules.durations(experiment), *rules.learning_rates(experiment)], "lengths in steps")
    return experiment


def _schedules(experiment: ExperimentConfig) -> Iterator[tuple[str, hyperparams.Config]]:
    """The chosen schedule and the chosen warmup, with their names."""
    optimization = experiment.trainer.optimizer_config
    for name in ("learning_rate", "warmup"):
        chosen = getattr(optimization, name)
        if chosen.type:
            yield f"{name}.{chosen.type}", chosen.get()


def _fill_decay(experiment: ExperimentConfig) -> None:
    for name, schedule in _schedules(experiment):
        for field in _WHOLE:
            if getattr(schedule, field, 0) is None:
                setattr(schedule, field, experiment.trainer.train_steps)
                logging.info("%s.%s is the whole training", name, field)


def _scale_rates(experiment: ExperimentConfig, factor: float) -> None:
    for name, schedule in _schedules(experiment):
        for field in (*_RATES, "warmup_learning_rate"):
            rate = getattr(schedule, field, None)
            if rate is None:
                continue
            scaled = [value * factor for value in rate] if isinstance(rate, list) else rate * factor
            setattr(schedule, field, scaled)
            logging.info("%s.%s scaled by %g: %s -> %s", name, field, factor, rate, scaled)
