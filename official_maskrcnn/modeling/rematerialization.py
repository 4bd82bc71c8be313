"""Backbone blocks that are computed again for the backward pass in place of being kept in memory.

Training deep nets with sublinear memory cost (arXiv 1604.06174).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from official_maskrcnn.model_garden import light_imports
from official_maskrcnn.modeling import stochastic_depth
from official_maskrcnn.modeling.batch_norm import BATCH_NORMS
from official_maskrcnn.ops.scheduling import together

with light_imports():
    from official.vision.modeling.layers import nn_blocks

REMATERIALIZABLE = ("resnet", "spinenet")  # types of backbone that consist of such blocks


def rematerialize(backbone: tf_keras.Model) -> None:
    """Has every residual block of a built backbone keep its input alone for the backward pass.

    Outputs, gradients and moving statistics stay what they were.
    """
    for layer in backbone.layers:
        if type(layer) in _BLOCKS:
            layer.__class__ = _BLOCKS[type(layer)]


class _Rematerialized(tf_keras.layers.Layer):
    """A block that is computed twice in training."""

    is_running = False

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if self.is_running or not training:
            return super().call(inputs, training=training)
        seeds = stochastic_depth.current_seeds()
        scope = f"gradient_tape/{tf.get_current_name_scope()}/"  # as TensorFlow's own gradients

        @tf.custom_gradient
        def run(inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
            def gradient(of_outputs: tf.Tensor, variables: Sequence[tf.Variable] = ()) -> Any:
                with tf.name_scope(scope):
                    again, of_outputs = together(inputs, of_outputs)
                    with tf.GradientTape() as tape, self._running(seeds, moves_statistics=False):
                        tape.watch(again)
                        outputs = self(again, training=True)
                    of_inputs, *of_variables = tape.gradient(
                        outputs, [again, *variables], of_outputs
                    )
                return of_inputs, of_variables

            # As a call of Keras, which tells all parts that they are being trained.
            with self._running(seeds, moves_statistics=True):
                return self(inputs, training=True), gradient

        return run(inputs)

    @contextlib.contextmanager
    def _running(self, seeds: tf.Tensor | None, moves_statistics: bool) -> Iterator[None]:
        """Calls are plain ones, with the seeds of stochastic depth that are given."""
        momenta: list[tuple[Any, float]] = []
        if not moves_statistics:
            norms = [part for part in self.submodules if isinstance(part, BATCH_NORMS)]
            momenta = [(norm, norm.momentum) for norm in norms]
            for norm in norms:
                norm.momentum = 1.0
        self.is_running = True
        try:
            with stochastic_depth.seeded(seeds):
                yield
        finally:
            self.is_running = False
            for part, momentum in momenta:
                part.momentum = momentum


class _BottleneckBlock(_Rematerialized, nn_blocks.BottleneckBlock):
    pass


class _ResidualBlock(_Rematerialized, nn_blocks.ResidualBlock):
    pass


_BLOCKS = {
    nn_blocks.BottleneckBlock: _BottleneckBlock,
    nn_blocks.ResidualBlock: _ResidualBlock,
}
