"""TensorFlow functions as StableHLO, the language that XLA's compilers read.

TensorFlow lowers a function to XLA's HLO, and jaxlib makes StableHLO of that.
"""

import re
from typing import TYPE_CHECKING

import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import compiler_ir

from official_maskrcnn.errors import UserError

if TYPE_CHECKING:
    from jaxlib.mlir import ir


class CompileError(UserError):
    """A function that a compiler for XLA, or TensorFlow on the way to it, refuses."""


def lower(function: tf.types.experimental.ConcreteFunction) -> bytes:
    """A function as XLA's HLO, serialized.

    Its parameters are the function's inputs, its results the function's and then every variable
    that changes.

    Args:
      function: its shapes are static; created with `jit_compile=True`.

    Raises:
      CompileError: some operation has no version for XLA; the message names it.
    """
    try:
        return compiler_ir.from_concrete_function(function)(stage="hlo_serialized")
    except tf.errors.OpError as error:
        raise CompileError(_refusal(error.message)) from error


def to_stablehlo(hlo: bytes) -> "ir.Module":
    """Lowered HLO as a StableHLO module, in the MLIR context that is entered."""
    from jaxlib import xla_client
    from jaxlib.mlir import ir

    module = ir.Module.parse(xla_client._xla.mlir.hlo_to_stablehlo(hlo))
    _drop_copies(module)
    return module


def serialize(hlo: bytes) -> bytes:
    """Lowered HLO as a portable StableHLO artifact, which later versions of XLA read too."""
    from jax.interpreters import mlir
    from jaxlib.mlir.dialects import stablehlo

    with mlir.make_ir_context():
        return stablehlo.serialize_portable_artifact(
            to_stablehlo(hlo), stablehlo.get_minimum_version()
        )


def _drop_copies(module: "ir.Module") -> None:
    """Takes out the one operation of TensorFlow's lowering that StableHLO does not have."""
    from jaxlib.mlir import ir

    copies = []

    def find(operation: ir.Operation) -> ir.WalkResult:
        if operation.name == "mhlo.copy":
            copies.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(find)
    for copy in copies:
        copy.result.replace_all_uses_with(copy.operands[0])
        copy.operation.erase()


def _refusal(message: str) -> str:
    """What TensorFlow's lowering says, as: which operation, where in the model, why."""
    found = re.findall(r"(\w+) \((No registered .*?)\)\{\{node ([^}]+)\}\}", message)
    if not found:
        return f"the step does not compile: {message}"
    lines = [f"  {operation} at {node}" for operation, _, node in dict.fromkeys(found)]
    return "\n".join(["operations that have no version for XLA:", *lines])
