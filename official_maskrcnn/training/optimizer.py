"""What the loop needs from an optimizer, whether or not it averages weights or scales the loss."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf
import tf_keras

from official_maskrcnn.model_garden import light_imports

with light_imports():
    from official.modeling import optimization


def create_slots(optimizer: tf_keras.optimizers.Optimizer, model: tf_keras.Model) -> None:
    """Creates all variables of an optimizer, in the scope of the strategy.

    Left to the first step, their creation would make TensorFlow trace that step twice, and a
    checkpoint could not be compared with them before.
    """
    averaging = _averaging(optimizer)
    if averaging is not None:
        averaging.shadow_copy(model)
    if isinstance(optimizer, tf_keras.optimizers.legacy.Optimizer):
        optimizer._create_all_weights(model.trainable_variables)
    else:
        optimizer.build(model.trainable_variables)


def start_averages(optimizer: tf_keras.optimizers.Optimizer, model: tf_keras.Model) -> None:
    """Lets the moving averages start from the weights instead of zero."""
    for variable, average in _averages(optimizer, model):
        average.assign(variable)


@contextlib.contextmanager
def averaged_weights(
    strategy: tf.distribute.Strategy,
    optimizer: tf_keras.optimizers.Optimizer | None,
    model: tf_keras.Model,
) -> Iterator[None]:
    """The model has its moving averages as weights inside, and exactly its own again after."""
    _swap(strategy, optimizer, model)
    try:
        yield
    finally:
        _swap(strategy, optimizer, model)


def learning_rate(optimizer: tf_keras.optimizers.Optimizer) -> float:
    """The learning rate of the last step that was taken."""
    rate = optimizer.learning_rate
    if isinstance(rate, tf_keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(tf.maximum(optimizer.iterations - 1, 0))
    return float(tf.convert_to_tensor(rate))


def _averaging(
    optimizer: tf_keras.optimizers.Optimizer | None,
) -> optimization.ExponentialMovingAverage | None:
    return optimizer if isinstance(optimizer, optimization.ExponentialMovingAverage) else None


def _averages(
    optimizer: tf_keras.optimizers.Optimizer | None, model: tf_keras.Model
) -> list[tuple[tf.Variable, tf.Variable]]:
    """Pairs of a variable and its moving average; none if the optimizer has no averages."""
    averaging = _averaging(optimizer)
    if averaging is None:
        return []
    variables = model.trainable_variables if averaging._trainable_weights_only else model.variables
    return [(variable, averaging.get_slot(variable, "average")) for variable in variables]


def _swap(
    strategy: tf.distribute.Strategy,
    optimizer: tf_keras.optimizers.Optimizer | None,
    model: tf_keras.Model,
) -> None:
    # The optimizer's own swap_weights adds and subtracts, which changes the last bits.
    with strategy.scope():
        for variable, average in _averages(optimizer, model):
            weight = variable.numpy()
            variable.assign(average.numpy())
            average.assign(weight)
