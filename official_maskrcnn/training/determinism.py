"""The same bits in every run."""

import functools
from collections.abc import Sequence

import tensorflow as tf
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import backprop


def enable() -> None:
    """Lets every operation of this process give the same bits in every run, at some speed.

    TensorFlow's own switch leaves out `AddN`, which sums the gradients of what was used more than
    once: on a CPU it begins with the first of its inputs that nobody else needs any more, so that
    the order of three and more depends on which thread was faster. Here they are added one after
    the other, and the graph optimizer is kept from making an `AddN` of that.
    """
    tf.config.experimental.enable_op_determinism()
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    space = backprop._default_vspace
    pywrap_tfe.TFE_Py_RegisterVSpace(space._replace(aggregate_fn=_add_in_order))


def _add_in_order(gradients: Sequence[tf.Tensor | tf.IndexedSlices]) -> object:
    if all(isinstance(gradient, tf.Tensor) for gradient in gradients):
        return functools.reduce(tf.add, gradients)
    return backprop._aggregate_grads(gradients)
