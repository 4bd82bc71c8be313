"""Whether an experiment will run on a TPU: its step compiled for one core, and what that takes.

The step is the one that a training or an evaluation on the TPU runs, with static shapes. It is
compiled for one core alone, so what cores say to each other is not in it: the sums of gradients
and of batch-norm statistics.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import rich.table
import tensorflow as tf

from official_maskrcnn import precision
from official_maskrcnn.configs import durations
from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.tasks import cost
from official_maskrcnn.tasks.deep_mask_head_rcnn import Batch, MaskRCNNTask
from official_maskrcnn.training import optimizer as optimizers
from official_maskrcnn.training.tpu_compiler import Program, compile_function
from official_maskrcnn.training.tpu_topology import GIB, Topology

# Epochs become steps, which change numbers in the learning rate's schedule and nothing else.
_ASSUMED_EXAMPLES = 100_000


@dataclasses.dataclass(frozen=True)
class TPUCheck:
    """What a step takes on a TPU.

    Attributes:
      step: "training" or "inference".
      topology: the slice.
      batch_size: images of one core.
      precision: of the layers.
      program: what the compiler says.
      largest_batch: images of one core that fit; None if nobody asked.
    """

    step: str
    topology: Topology
    batch_size: int
    precision: str
    program: Program
    largest_batch: int | None = None

    @property
    def compute_seconds(self) -> float | None:
        """Time of the FLOPs at the core's peak; None for a program that does not fit."""
        flops = self.program.flops
        return None if flops is None else flops / self.topology.peak_flops

    @property
    def memory_seconds(self) -> float | None:
        """Time of the bytes at the memory's bandwidth; None for a program that does not fit."""
        accessed = self.program.bytes_accessed
        return None if accessed is None else accessed / self.topology.bandwidth

    @property
    def step_seconds(self) -> float | None:
        """The larger of both, which no step goes below (Roofline, doi 10.1145/1498765.1498785)."""
        if self.compute_seconds is None or self.memory_seconds is None:
            return None
        return max(self.compute_seconds, self.memory_seconds)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        return {
            "step": self.step,
            "topology": self.topology.name,
            "device": self.topology.device_name,
            "devices": self.topology.devices,
            "batch_size": self.batch_size,
            "precision": self.precision,
            "available_bytes": self.topology.hbm_bytes,
            **dataclasses.asdict(self.program),
            "compute_seconds": self.compute_seconds,
            "memory_seconds": self.memory_seconds,
            "step_seconds": self.step_seconds,
            "largest_batch": self.largest_batch,
        }

    def tables(self) -> list[rich.table.Table]:
        """The same as tables for people."""
        device, program = self.topology.device_name, self.program
        table = rich.table.Table(
            title=f"A step of {self.step} on one {device} of {self.topology.name}, "
            f"batch of {self.batch_size}, {self.precision}"
        )
        table.add_column("")
        table.add_column("", justify="right")
        rows = [
            ("memory: arguments, GiB", program.argument_bytes, GIB),
            ("results in place of no argument, GiB", program.new_output_bytes, GIB),
            ("temporaries, GiB", program.temporary_bytes, GIB),
            ("total, GiB", program.total_bytes, GIB),
            (f"of the {device}, GiB", self.topology.hbm_bytes, GIB),
            ("computing, TFLOP", program.flops, 1e12),
            ("read and written, GB", program.bytes_accessed, 1e9),
            ("time of computing at the peak, ms", self.compute_seconds, 1e-3),
            ("time of memory at its bandwidth, ms", self.memory_seconds, 1e-3),
            ("at least, ms", self.step_seconds, 1e-3),
        ]
        for name, value, unit in rows:
            if value is not None:
                table.add_row(name, f"{value / unit:,.2f}")
        table.add_row("fits", "yes" if program.fits else "no")
        if self.largest_batch is not None:
            table.add_row("largest batch that fits", str(self.largest_batch))
        table.caption = (
            f"compiled for one {device} alone: without the sums of gradients and of batch-norm\n"
            f"statistics over the {self.topology.devices} {device}s, and without input"
        )
        return [table, *([self._buffer_table()] if program.largest_buffers else [])]

    def _buffer_table(self) -> rich.table.Table:
        table = rich.table.Table(title="Largest buffers")
        table.add_column("GiB", justify="right")
        table.add_column("shape")
        table.add_column("of")
        for buffer in self.program.largest_buffers:
            table.add_row(f"{buffer.bytes / GIB:.2f}", buffer.shape, buffer.operation)
        return table


def check(
    experiment: ExperimentConfig,
    topology: Topology,
    inference: bool = False,
    find_batch: bool = False,
) -> TPUCheck:
    """Compiles the step of an experiment for one core of a TPU.

    Args:
      experiment: a checked configuration; neither its data nor its checkpoint is looked for.
      topology: gives the batch of a core its share of the global one.
      inference: compile the evaluation step in place of the training step.
      find_batch: also look for the largest batch of a core; each try is one more compilation.

    Raises:
      UserError: the compiler is not installed, or the batch cannot be shared out evenly.
      CompileError: some operation does not compile.
    """
    part = "validation_data" if inference else "train_data"
    batch_size = topology.per_device(
        getattr(experiment.task, part).global_batch_size, f"task.{part}.global_batch_size"
    )
    step = _Step(experiment, inference)
    programs: dict[int, Program] = {}

    def compiled(batch_size: int) -> Program:
        if batch_size not in programs:
            programs[batch_size] = compile_function(step.trace(batch_size), topology.generation)
        return programs[batch_size]

    return TPUCheck(
        "inference" if inference else "training",
        topology,
        batch_size,
        step.precision,
        compiled(batch_size),
        largest_batch(lambda n: compiled(n).fits, batch_size) if find_batch else None,
    )


def largest_batch(fits: Callable[[int], bool], start: int = 1) -> int:
    """The largest batch that fits; 0 if not even one image does.

    Doubles from `start` until it does not fit, then halves the interval.
    """
    low, high, batch = 0, None, start
    while high is None or high - low > 1:
        if fits(batch):
            low = batch
        else:
            high = batch
        batch = 2 * low if high is None else (low + high) // 2
    return low


class _Step:
    """The step of an experiment with all its variables, to be traced for any batch."""

    def __init__(self, experiment: ExperimentConfig, inference: bool):
        experiment = durations.resolve(experiment, lambda: _ASSUMED_EXAMPLES)
        experiment.runtime.enable_xla = True  # static shapes, as on a TPU
        self._experiment, task = experiment, MaskRCNNTask(experiment.task, experiment.runtime)
        self._data = experiment.task.validation_data if inference else experiment.task.train_data
        self.precision = precision.resolve(experiment.runtime.mixed_precision_dtype, "TPU")
        with precision.policy(self.precision):
            model = task.build_model()
            if inference:
                self._step: Callable[[Batch], Any] = lambda batch: task.eval_step(batch, model)
                return
            optimizer = task.build_optimizer(experiment.trainer.optimizer_config)
            optimizers.create_slots(optimizer, model)
            self._step = lambda batch: task.train_step(batch, model, optimizer)

    def trace(self, batch_size: int) -> tf.types.experimental.ConcreteFunction:
        spec = cost.batch_spec(self._experiment, self._data, batch_size)
        with precision.policy(self.precision):
            return tf.function(self._step, jit_compile=True).get_concrete_function(spec)
