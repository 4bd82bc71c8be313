"""Where the processes of a sweep run: on this machine, or on a Ray cluster."""

import logging as stdlib_logging
import os
import subprocess
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import tensorflow as tf
from absl import logging

from official_maskrcnn.errors import UserError, require_packages
from official_maskrcnn.training.sweeps import run_process

T = TypeVar("T")


class Process(Protocol):
    """A started process."""

    def poll(self) -> int | None:
        """The exit code, 128 and more for a signal; None before the end."""

    def stop(self) -> None:
        """Asks the process to save what it has and to end, with `run_process.PREEMPTED`."""

    def kill(self) -> None:
        """Ends the process at once."""


class Executor(Protocol):
    """Starts processes."""

    @property
    def slots(self) -> int:
        """How many at a time it should be given."""

    def start(self, command: Sequence[str], log: str) -> Process:
        """Starts a command that appends all it says to a file, with its share of the devices."""


class LocalExecutor:
    """Runs processes on this machine, each on its share of the CPU's cores and of the GPUs."""

    def __init__(self, jobs: int):
        """Runs `jobs` at a time."""
        self.slots = jobs
        cores, gpus = sorted(os.sched_getaffinity(0)), _gpus()
        self._cores = [_share(cores, slot, jobs) for slot in range(jobs)]
        self._gpus = [_share(gpus, slot, jobs) for slot in range(jobs)]
        self._running: dict[int, _LocalProcess] = {}

    def start(self, command: Sequence[str], log: str) -> Process:
        """Starts a command on the first share that is free."""
        busy = {slot for slot, process in self._running.items() if process.poll() is None}
        slot = min(set(range(self.slots)) - busy)
        gpus = self._gpus[slot]
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        process = run_process.start(command, log, environment, self._cores[slot])
        self._running[slot] = _LocalProcess(process)
        return self._running[slot]


class _LocalProcess:
    def __init__(self, process: subprocess.Popen[bytes]):
        self._process = process

    def poll(self) -> int | None:
        return run_process.exit_code(self._process)

    def stop(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        run_process.kill(self._process)


class RayExecutor:
    """Runs each process within a Ray task; the cluster's machines share the sweep's folders."""

    def __init__(self, jobs: int | None, address: str | None, cpus: int, gpus: float):
        """Connects to a cluster, or starts Ray on this machine.

        Args:
          jobs: tasks at a time, if more than the cluster has room for, the others wait in Ray;
            None: as many as there is room for.
          address: as of ray.init; None: that in RAY_ADDRESS, or a Ray of its own.
          cpus: cores of a run.
          gpus: of a run; a fraction shares one.

        Raises:
          UserError: Ray is not installed, or the cluster cannot be reached.
        """
        require_packages(("ray",), "--executor ray", "ray")
        import ray

        try:
            ray.init(
                address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=stdlib_logging.WARNING,
            )
        except (ConnectionError, ValueError) as error:
            raise UserError(f"cannot reach Ray at {address}: {error}") from error
        self._jobs = jobs
        self._needs = {"CPU": cpus, "GPU": gpus}
        self._environment = {f"TF_NUM_{kind}OP_THREADS": str(cpus) for kind in ("INTRA", "INTER")}
        # A task is not tried again by Ray: what is worth it, the sweep's runner knows.
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)
        self._run = task(run_process.run)

    @property
    def slots(self) -> int:
        """As many as were asked for, or as the cluster has room for at the moment."""
        import ray

        there = ray.cluster_resources()
        room = [there.get(kind, 0) // need for kind, need in self._needs.items() if need]
        return self._jobs or max(int(min(room)), 1)

    def start(self, command: Sequence[str], log: str) -> Process:
        """Submits a task that runs the command."""
        arguments = (list(command), os.path.abspath(log), self._environment, os.getcwd())
        return _RayProcess(self._run.remote(*arguments))


class _RayProcess:
    def __init__(self, reference: Any):
        self._reference = reference
        self._code: int | None = None

    def poll(self) -> int | None:
        import ray
        from ray import exceptions

        if self._code is None and ray.wait([self._reference], timeout=0)[0]:
            try:
                self._code = ray.get(self._reference)
            except (
                exceptions.TaskCancelledError,
                exceptions.WorkerCrashedError,  # which only waits for the run: its machine is gone
                exceptions.NodeDiedError,
            ):
                self._code = run_process.PREEMPTED
            except exceptions.RayError as error:
                logging.warning("Ray: %s", error)
                self._code = 1
        return self._code

    def stop(self) -> None:
        import ray

        ray.cancel(self._reference)

    def kill(self) -> None:
        import ray

        ray.cancel(self._reference, force=True)


def _share(items: Sequence[T], slot: int, slots: int) -> Sequence[T]:
    """The part of some items that is one slot's own; if they are too few, one that it shares."""
    if len(items) < slots:
        return items[slot % len(items) : slot % len(items) + 1] if items else items
    return items[slot * len(items) // slots : (slot + 1) * len(items) // slots]


def _gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that this process sees."""
    count = len(tf.config.list_physical_devices("GPU"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else [str(number) for number in range(count)])[:count]
