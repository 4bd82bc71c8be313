"""Stochastic depth (arXiv 1603.09382) whose draws belong to an image and a step."""

import contextlib
import contextvars
from collections.abc import Iterator

import tensorflow as tf
import tf_keras

from official_maskrcnn.model_garden import light_imports
from official_maskrcnn.ops import random

with light_imports():
    from official.vision.modeling.layers import nn_layers

# Each replica is traced in a thread of its own.
_seeds: contextvars.ContextVar[tf.Tensor | None] = contextvars.ContextVar("seeds", default=None)


@contextlib.contextmanager
def seeded(seeds: tf.Tensor | None) -> Iterator[None]:
    """Layers called inside draw by the seeds uint32 [b] of the images of their batch."""
    token = _seeds.set(seeds)
    try:
        yield
    finally:
        _seeds.reset(token)


def current_seeds() -> tf.Tensor | None:
    """What `seeded` has set."""
    return _seeds.get()


def seed_layers(model: tf_keras.Model) -> None:
    """Lets the stochastic depth of a built model draw by `seeded`; each layer draws its own."""
    layers = [part for part in model.submodules if type(part) is nn_layers.StochasticDepth]
    for number, layer in enumerate(layers):
        layer.__class__ = _SeededStochasticDepth
        layer.number = number


class _SeededStochasticDepth(nn_layers.StochasticDepth):
    number: int

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not training or not self._drop_rate:
            return inputs
        seeds = random.split(current_seeds(), self.number + 1)[self.number]
        kept = random.uniform(seeds, 1) >= self._drop_rate  # [b, 1]
        factors = tf.cast(kept, inputs.dtype) / (1.0 - self._drop_rate)
        return inputs * tf.reshape(factors, [-1] + [1] * (inputs.shape.rank - 1))
