"""TensorFlow functions compiled ahead of time for a TPU, on a machine that has none.

The function becomes StableHLO, and the TPU compiler of the package libtpu, reached through JAX,
compiles that for one device of a topology.
"""

import dataclasses
import os
import re
from typing import Any

import tensorflow as tf

from official_maskrcnn.errors import require_packages
from official_maskrcnn.tasks.stablehlo import CompileError, lower, to_stablehlo
from official_maskrcnn.training.tpu_topology import Generation

_PACKAGES = ("jax", "jaxlib", "libtpu")
# The compiler needs no TPU, and must neither look for one nor ask Google Cloud for its name.
_NO_TPU = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}
_SIZE = r"([\d.]+)([BKMGT])"
_UNITS = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Buffer:
    """Memory of one array of a program.

    Attributes:
      bytes: with padding.
      shape: as the compiler writes it, with its layout.
      operation: of the model that it belongs to, as far as the compiler knows.
    """

    bytes: int
    shape: str
    operation: str


@dataclasses.dataclass(frozen=True)
class Program:
    """What the compiler says of a compiled function; all of one device.

    A program that does not fit has only `total_bytes`, which is a lower bound, and
    `largest_buffers`.

    Attributes:
      fits: whether the device has the memory.
      total_bytes: memory in all.
      argument_bytes: of the arguments, variables included.
      output_bytes: of the results, variables included.
      shared_bytes: of the results that take the place of arguments.
      temporary_bytes: of everything between.
      flops: floating point operations.
      bytes_accessed: read from memory and written to it.
      largest_buffers: the largest arrays, if the compiler tells them.
    """

    fits: bool
    total_bytes: int
    argument_bytes: int | None = None
    output_bytes: int | None = None
    shared_bytes: int | None = None
    temporary_bytes: int | None = None
    flops: float | None = None
    bytes_accessed: float | None = None
    largest_buffers: tuple[Buffer, ...] = ()

    @property
    def new_output_bytes(self) -> int | None:
        """Memory of the results beyond that of the arguments whose place they take."""
        if self.output_bytes is None or self.shared_bytes is None:
            return None
        return self.output_bytes - self.shared_bytes


def require_compiler() -> None:
    """Raises a `UserError` that names the extra if the compiler is not installed."""
    require_packages(_PACKAGES, "compiling for a TPU", "tpu-check")


def compile_function(
    function: tf.types.experimental.ConcreteFunction, generation: Generation
) -> Program:
    """Compiles a function for one device.

    Args:
      function: as `lower` takes it.
      generation: of the TPU.

    Raises:
      UserError: the compiler is not installed.
      CompileError: some operation does not compile; the message names it.
    """
    require_compiler()
    hlo = lower(function)
    os.environ.update({name: os.environ.get(name, value) for name, value in _NO_TPU.items()})
    import jax.errors
    from jax.experimental import topologies
    from jax.interpreters import mlir
    from jaxlib import xla_client

    config = {"chip_config_name": generation.chip_config} if generation.chip_config else {}
    devices = topologies.get_topology_desc(
        platform="tpu", topology_name=generation.compiler_topology, **config
    ).devices
    assert len(devices) == 4 * generation.devices, f"the compiler sees {len(devices)} devices"
    device, options = devices[0], xla_client.CompileOptions()
    with mlir.make_ir_context():
        module = to_stablehlo(hlo)
        try:
            executable = device.client.compile(
                module, xla_client.DeviceList((device,)), compile_options=options
            )
        except jax.errors.JaxRuntimeError as error:
            return too_large(str(error))
    return _describe(executable)


def _describe(executable: Any) -> Program:
    memory, cost = executable.get_compiled_memory_stats(), executable.cost_analysis()
    return Program(
        fits=True,
        total_bytes=(
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
        ),
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        shared_bytes=memory.alias_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        flops=cost["flops"],
        bytes_accessed=cost["bytes accessed"],
    )


def too_large(message: str) -> Program:
    """The program that the device has no memory for, from the compiler's message.

    Raises:
      CompileError: the message says something else.
    """
    total = re.search(rf"(?:Total hbm usage >= |HLO temporaries \(){_SIZE}", message)
    if total is None:
        raise CompileError(f"the TPU compiler refuses the step: {message}")
    buffers = []
    for size, unit, text in re.findall(rf"\d+\. Size: {_SIZE}\n(.*?)={{5,}}", message, re.DOTALL):
        shape = re.search(r"Shape: (\S+)", text)
        operation = re.search(r'op_name="([^"]*)"', text)
        buffers.append(
            Buffer(
                _to_bytes(size, unit),
                shape[1] if shape else "",
                operation[1] if operation else "",
            )
        )
    return Program(False, _to_bytes(total[1], total[2]), largest_buffers=tuple(buffers))


def _to_bytes(number: str, unit: str) -> int:
    return round(float(number) * _UNITS[unit])
