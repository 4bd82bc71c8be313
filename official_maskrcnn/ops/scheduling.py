"""How a graph is run: the order of its operations, and by whom."""

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.ops import control_flow_util


def compiled_by_xla() -> bool:
    """Whether what is being traced is for XLA, as on a TPU."""
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def together(*tensors: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """The tensors as they are, each as soon as all exist.

    So what is computed from one of them comes after the others, and repeats nothing that was
    computed before, also where XLA reorders operations and merges equal ones.
    """
    if compiled_by_xla():
        return tuple(gen_xla_ops.xla_optimization_barrier(tensors))
    return tuple(tf.identity_n(tensors))
