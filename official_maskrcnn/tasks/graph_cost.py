"""Counts in a traced graph: FLOPs and bytes of activations, without running it."""

import collections
import contextlib
import io
import logging
import math
import re
from collections.abc import Iterator, Mapping

import tensorflow as tf

REST = "rest"  # the operations that belong to no part

_BACKWARD_SCOPE = "gradient_tape/"
# Their result is the memory of their input.
_VIEWS = {"EnsureShape", "ExpandDims", "Identity", "Reshape", "Squeeze", "StopGradient"}
_NO_NUMBERS = {tf.resource, tf.variant, tf.string}
# What would be missed if its shape were not known.
_PRODUCTS = re.compile("Conv|MatMul|Einsum")


def flops_by_operation(graph: tf.Graph) -> dict[str, int]:
    """FLOPs of a graph's operations, as TensorFlow's profiler counts them, by their names.

    Added is what it has no formula for: the gradients of depthwise convolutions, and einsum.
    """
    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    options = builder(builder.float_operation()).with_empty_output().build()
    with _silence():
        unvisited = list(tf.compat.v1.profiler.profile(graph, options=options).children)
    flops = {}
    while unvisited:
        node = unvisited.pop()
        flops[node.name] = node.float_ops
        unvisited += node.children
    for operation in graph.get_operations():
        if operation.type.startswith("DepthwiseConv2dNativeBackprop"):
            taps = math.prod(_kernel(operation).shape[:2])
            flops[operation.name] = 2 * taps * math.prod(operation.inputs[2].shape)
        elif operation.type == "Einsum" and _is_known(operation):
            flops[operation.name] = _einsum(operation)
    return flops


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without the profiler's notices: that it is deprecated inside, that shapes are not known."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _kernel(operation: tf.Operation) -> tf.Tensor:
    """Kernel, or its gradient, of a depthwise convolution's gradient."""
    is_of_kernel = operation.type.endswith("Filter")
    return operation.outputs[0] if is_of_kernel else operation.inputs[1]


def _einsum(operation: tf.Operation) -> int:
    terms = operation.get_attr("equation").decode().partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, operation.inputs, strict=True):
        sizes.update(zip(term, tensor.shape, strict=True))
    return len(terms) * math.prod(sizes.values())


def not_counted(graph: tf.Graph) -> collections.Counter[str]:
    """What FLOPs are missing, and how often: unknown shapes, and what loops and functions run."""
    missing = collections.Counter[str]()
    for operation in graph.get_operations():
        if any(attribute.HasField("func") for attribute in operation.node_def.attr.values()):
            missing[f"what {operation.type} runs"] += 1
        elif _PRODUCTS.search(operation.type) and not _is_known(operation):
            missing[f"{operation.type} of a shape known only when it runs"] += 1
    return missing


def _is_known(operation: tf.Operation) -> bool:
    tensors = (*operation.inputs, *operation.outputs)
    return all(tensor.shape.is_fully_defined() for tensor in tensors)


class PartitionedGraph:
    """Counts in the graph of a step, by part.

    An operation belongs to the part in whose name scope it is, and its gradient too. A backward
    operation out of all scopes, such as the sum of two gradients or the update of a variable,
    belongs where the gradients that it reads come from.
    """

    def __init__(self, graph: tf.Graph, model_scope: str, parts: Mapping[str, str]):
        """Labels all operations.

        Args:
          graph: of a `tf.function`.
          model_scope: name of the model.
          parts: of the layers of the model, by their names.
        """
        self._graph = graph
        self._operations = _executed(graph)
        self._parts: dict[str, str] = {}  # by name of the operation
        self._backward: set[str] = set()
        self._activations: set[str] = set()  # operations whose results depend on the batch
        for operation in self._operations:
            self._label(operation, model_scope, parts)

    def _label(self, operation: tf.Operation, model_scope: str, parts: Mapping[str, str]) -> None:
        name, sources = operation.name, [tensor.op.name for tensor in operation.inputs]
        backward = [source for source in sources if source in self._backward]
        if backward or name.startswith(_BACKWARD_SCOPE):
            self._backward.add(name)
        is_input = operation.type == "Placeholder" and operation.outputs[0].dtype != tf.resource
        if is_input or not self._activations.isdisjoint(sources):
            self._activations.add(name)
        scope, _, path = name.removeprefix(_BACKWARD_SCOPE).partition("/")
        if scope == model_scope:
            layer = path.partition("/")[0]
            # TensorFlow numbers scopes of the same name.
            self._parts[name] = parts.get(layer) or parts.get(re.sub(r"_\d+$", "", layer), REST)
        else:
            origins = (self._parts[source] for source in backward)
            self._parts[name] = next((part for part in origins if part != REST), REST)

    def flops(self) -> collections.Counter[str]:
        """FLOPs of the whole batch."""
        total = collections.Counter[str]()
        flops = flops_by_operation(self._graph)
        for operation in self._operations:
            total[self._parts[operation.name]] += flops.get(operation.name, 0)
        return total

    def kept_bytes(self) -> collections.Counter[str]:
        """Bytes of the forward activations that backward operations read, each tensor once."""
        forward = self._activations - self._backward
        kept = {
            tensor.name: tensor
            for operation in self._operations
            if operation.name in self._backward
            for tensor in map(_storage, operation.inputs)
            if tensor.op.name in forward
        }
        total = collections.Counter[str]()
        for tensor in kept.values():
            total[self._parts[tensor.op.name]] += _bytes(tensor)
        return total

    def peak_bytes(self) -> collections.Counter[str]:
        """Most bytes of activations alive at once while a part runs.

        If operations run in the order of the graph, and each tensor lives until its last use.
        """
        operations = self._operations
        last_use = {}
        for position, operation in enumerate(operations):
            for tensor in (*operation.inputs, *operation.outputs):
                last_use[_storage(tensor).name] = position
        last_use |= {_storage(tensor).name: len(operations) for tensor in self._graph.outputs}
        peaks, alive = collections.Counter[str](), dict[str, int]()
        for position, operation in enumerate(operations):
            if operation.name in self._activations and operation.type not in _VIEWS:
                alive |= {tensor.name: _bytes(tensor) for tensor in operation.outputs}
            part = self._parts[operation.name]
            peaks[part] = max(peaks[part], sum(alive.values()))
            alive = {name: size for name, size in alive.items() if last_use[name] > position}
        return peaks


def _executed(graph: tf.Graph) -> list[tf.Operation]:
    """All but what no result needs, such as the gradient of the image."""
    unvisited = [*(tensor.op for tensor in graph.outputs), *graph.control_outputs]
    executed = set()
    while unvisited:
        operation = unvisited.pop()
        if operation not in executed:
            executed.add(operation)
            unvisited += [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]
    return [operation for operation in graph.get_operations() if operation in executed]


def _storage(tensor: tf.Tensor) -> tf.Tensor:
    while tensor.op.type in _VIEWS:
        tensor = tensor.op.inputs[0]
    return tensor


def _bytes(tensor: tf.Tensor) -> int:
    if tensor.dtype in _NO_NUMBERS or not tensor.shape.is_fully_defined():
        return 0
    return tensor.dtype.size * math.prod(tensor.shape)
