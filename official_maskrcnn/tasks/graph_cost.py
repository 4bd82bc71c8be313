"""Counts in a traced graph: FLOPs and bytes of activations, without running it."""

import collections
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

REST = "rest"  # the operations that belong to no part

_BACKWARD_SCOPE = "gradient_tape/"
# Their result is the memory of their input.
_VIEWS = {"EnsureShape", "ExpandDims", "Identity", "Reshape", "Squeeze", "StopGradient"}
_NO_NUMBERS = {tf.resource, tf.variant, tf.string}

Shape = Sequence[int]  # -1: not known
Formula = Callable[[Any, Sequence[Shape], Shape], int]  # of a NodeDef, its inputs, its first output


class _UnknownShape(Exception):
    pass


def _size(shape: Shape) -> int:
    if any(side < 0 for side in shape):
        raise _UnknownShape
    return math.prod(shape)


def _matmul(node: Any, x: Sequence[Shape], y: Shape) -> int:
    transposed = node.attr["transpose_a"].b or node.attr["adj_x"].b
    *_, rows, columns = x[0]
    return 2 * _size(y) * _size([rows if transposed else columns])


def _einsum(node: Any, x: Sequence[Shape], y: Shape) -> int:
    terms = node.attr["equation"].s.decode().partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, x, strict=True):
        if len(term) != len(shape):  # an ellipsis
            raise _UnknownShape
        sizes.update(zip(term, shape, strict=True))
    return len(terms) * _size(list(sizes.values()))


def _window(node: Any) -> int:
    return math.prod(node.attr["ksize"].list.i)


def _per_element(factor: int) -> Formula:
    return lambda node, x, y: factor * _size(y)


# As TensorFlow's profiler counts (tensorflow/python/profiler/internal/flops_registry.py), but for
# the gradients of a strided convolution: here they cost exactly as much as the convolution. New are
# the gradients of depthwise convolutions, and einsum.
_FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(("Add", "AddV2", "BiasAdd", "Mul", "RealDiv", "Sub"), _per_element(1)),
    **dict.fromkeys(("Log", "Neg", "Pow", "Reciprocal", "Square"), _per_element(1)),
    **dict.fromkeys(("Equal", "Greater", "GreaterEqual", "Less"), _per_element(1)),
    **dict.fromkeys(("LessEqual", "Maximum", "Minimum", "NotEqual"), _per_element(1)),
    **dict.fromkeys(("Rsqrt", "SquaredDifference"), _per_element(2)),
    "RsqrtGrad": _per_element(4),
    "Softmax": _per_element(5),
    "AddN": lambda node, x, y: (len(x) - 1) * _size(y),
    "L2Loss": lambda node, x, y: 3 * _size(x[0]) - 1,
    "Mean": lambda node, x, y: _size(x[0]),
    **dict.fromkeys(
        ("ArgMax", "ArgMin", "BiasAddGrad", "Sum"),
        lambda node, x, y: _size(x[0]) - _size(y),
    ),
    **dict.fromkeys(("AvgPool", "MaxPool"), lambda node, x, y: _window(node) * _size(y)),
    "AvgPoolGrad": lambda node, x, y: 2 * _window(node) * _size(x[1]),
    "MaxPoolGrad": lambda node, x, y: (_window(node) + 1) * _size(x[1]),
    # Kernels are [height, width, inputs, outputs], of depthwise ones [height, width, inputs, 1].
    "Conv2D": lambda node, x, y: 2 * _size(y) * _size(x[1][:3]),
    "Conv2DBackpropInput": lambda node, x, y: 2 * _size(x[2]) * _size(x[1][:3]),
    "Conv2DBackpropFilter": lambda node, x, y: 2 * _size(x[2]) * _size(y[:3]),
    "DepthwiseConv2dNative": lambda node, x, y: 2 * _size(y) * _size(x[1][:2]),
    "DepthwiseConv2dNativeBackpropInput": lambda node, x, y: 2 * _size(x[2]) * _size(x[1][:2]),
    "DepthwiseConv2dNativeBackpropFilter": lambda node, x, y: 2 * _size(x[2]) * _size(y[:2]),
    **dict.fromkeys(("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "MatMul"), _matmul),
    "Einsum": _einsum,
}


class FlopCounter:
    """FLOPs of a graph's operations, with what they call: a function, a branch, a loop.

    Of the branches of a conditional the costliest counts, of a loop one round.

    Attributes:
      not_counted: what FLOPs are missing, and how often.
    """

    def __init__(self, graph: tf.Graph):
        self._graph_def = graph.as_graph_def(add_shapes=True)
        self._functions = {f.signature.name: f for f in self._graph_def.library.function}
        self.not_counted = collections.Counter[str]()

    def by_operation(self) -> dict[str, int]:
        """FLOPs by the names of the operations."""
        return self._count(self._graph_def.node, {})

    def _count(self, nodes: Sequence[Any], arguments: dict[str, list[Shape]]) -> dict[str, int]:
        shapes = arguments | {
            node.name: [_shape(proto) for proto in node.attr["_output_shapes"].list.shape]
            for node in nodes
        }

        def source(name: str) -> Shape:
            # "operation:3" in a graph, "operation:output:3" in a function. There, several outputs
            # may have the index 0; of those that formulas ask for, all are as large as the first.
            operation, *index = name.split(":")
            return shapes[operation][int(index[-1]) if index else 0]

        flops = {}
        for node in nodes:
            inputs = [source(name) for name in node.input if not name.startswith("^")]
            flops[node.name] = self._flops(node, inputs, [*shapes[node.name], [-1]][0])
        return flops

    def _flops(self, node: Any, inputs: Sequence[Shape], output: Shape) -> int:
        called = [self._of_function(name) for name in _called(node)]
        if node.op in ("While", "StatelessWhile"):
            self.not_counted["rounds of a loop after the first"] += 1
        if called:
            return max(called) if "If" in node.op or "Case" in node.op else sum(called)
        try:
            return _FORMULAS[node.op](node, inputs, output) if node.op in _FORMULAS else 0
        except _UnknownShape:
            self.not_counted[f"{node.op} of a shape known only when it runs"] += 1
            return 0

    def _of_function(self, name: str) -> int:
        function = self._functions[name]
        shapes = map(_shape, function.attr["_input_shapes"].list.shape)
        names = [argument.name for argument in function.signature.input_arg]
        arguments = {name: [shape] for name, shape in zip(names, shapes, strict=True)}
        return sum(self._count(function.node_def, arguments).values())


def _called(node: Any) -> Iterator[str]:
    for attribute in node.attr.values():
        if attribute.HasField("func"):
            yield attribute.func.name
        for function in attribute.list.func:
            yield function.name


def _shape(proto: Any) -> Shape:
    return [-1] if proto.unknown_rank else [side.size for side in proto.dim]


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
        self.flop_counter = FlopCounter(graph)
        self._graph = graph
        self._parts: dict[str, str] = {}  # by name of the operation
        self._backward: set[str] = set()
        self._activations: set[str] = set()  # operations whose results depend on the batch
        for operation in graph.get_operations():
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
        for name, flops in self.flop_counter.by_operation().items():
            total[self._parts[name]] += flops
        return total

    def kept_bytes(self) -> collections.Counter[str]:
        """Bytes of the forward activations that backward operations read, each tensor once."""
        forward = self._activations - self._backward
        kept = {
            tensor.name: tensor
            for operation in self._graph.get_operations()
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
        operations = self._graph.get_operations()
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


def _storage(tensor: tf.Tensor) -> tf.Tensor:
    while tensor.op.type in _VIEWS:
        tensor = tensor.op.inputs[0]
    return tensor


def _bytes(tensor: tf.Tensor) -> int:
    if tensor.dtype in _NO_NUMBERS or not tensor.shape.is_fully_defined():
        return 0
    return tensor.dtype.size * math.prod(tensor.shape)
