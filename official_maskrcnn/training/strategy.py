"""Devices: which ones a run uses, how they work together, and in which precision."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf
import tf_keras
from absl import logging
from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver

from official_maskrcnn import precision
from official_maskrcnn.configs.experiment import RuntimeConfig
from official_maskrcnn.errors import UserError
from official_maskrcnn.model_garden import light_imports
from official_maskrcnn.training import determinism

with light_imports():
    from official.common import distribute_utils

_SLURM_PORTS = range(12000, 30000, 64)  # first ones of a job's tasks on a node
_CROSS_DEVICE_OPS = {
    "nccl": tf.distribute.NcclAllReduce,
    "hierarchical_copy": tf.distribute.HierarchicalCopyAllReduce,
}


def build_strategy(runtime: RuntimeConfig) -> tf.distribute.Strategy:
    """The strategy that `runtime.distribution_strategy` names, over the devices that are there.

    Call it before anything else runs on a device: workers connect, and GPUs become invisible, only
    at the start of a process.

    `one_device` and `mirrored` use GPUs if there are any, at most `num_gpus`, else the CPU (all its
    logical devices when mirrored). On a single device both are the same strategy: mirroring one
    device only costs time.

    Raises:
      UserError: the devices that are asked for do not exist or cannot be reached.
    """
    name = runtime.distribution_strategy
    if name == "tpu":
        strategy = _tpu_strategy(runtime)
    elif name == "multi_worker_mirrored":
        strategy = _multi_worker_strategy(runtime)
    elif name in ("one_device", "mirrored"):
        strategy = _local_strategy(runtime)
    else:
        raise UserError(
            f"runtime.distribution_strategy is {name!r}; accepts one_device, mirrored, "
            "multi_worker_mirrored or tpu"
        )
    replicas = strategy.num_replicas_in_sync
    if runtime.enable_xla and name != "tpu" and replicas > 1 and not _visible_gpus(runtime):
        raise UserError(
            "runtime.enable_xla cannot compile steps for several CPU replicas: set "
            "runtime.distribution_strategy=one_device, or enable_xla=false"
        )
    logging.info("strategy %s with %d replica(s)", name, replicas)
    return strategy


def set_precision(runtime: RuntimeConfig, strategy: tf.distribute.Strategy) -> None:
    """Makes `runtime.mixed_precision_dtype` the precision of all layers built from now on."""
    device = tf.DeviceSpec.from_string(strategy.extended.worker_devices[0])
    dtype = precision.resolve(runtime.mixed_precision_dtype, device.device_type)
    precision.set_policy(dtype)
    logging.info("layers compute in %s on the %s", dtype, device.device_type)


def set_seed(runtime: RuntimeConfig) -> None:
    """Seeds Python, NumPy and TensorFlow by `runtime.seed`; heeds `runtime.deterministic`."""
    seed = 0 if runtime.seed is None and runtime.deterministic else runtime.seed
    if seed is not None:
        tf_keras.utils.set_random_seed(seed)
        logging.info("random seed %d", seed)
    if runtime.deterministic:
        determinism.enable()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the files of the run: one of several workers does."""
    resolver = strategy.cluster_resolver
    if not is_multi_worker(strategy):
        return True
    if resolver.task_type == "worker":
        return resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs
    return resolver.task_type == "chief"


def is_multi_worker(strategy: tf.distribute.Strategy) -> bool:
    """Whether several processes take the same steps, each with devices of its own."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def distribute_batches(
    strategy: tf.distribute.Strategy,
    build_inputs: Callable[[tf.distribute.InputContext], tf.data.Dataset],
) -> Iterable[Any]:
    """What `build_inputs` gives to each input pipeline, on the devices; can be iterated anew.

    The end of TensorFlow's own iterator, which copies to other devices ahead of the steps, may take
    a minute; see `data.reader.map_in_parallel`. A CPU alone does without.
    """
    if isinstance(strategy, tf.distribute.OneDeviceStrategy):
        (device,) = strategy.extended.worker_devices
        if tf.DeviceSpec.from_string(device).device_type == "CPU":
            return build_inputs(tf.distribute.InputContext())
    return strategy.distribute_datasets_from_function(build_inputs)


def mean_over_processes(
    strategy: tf.distribute.Strategy, values: Sequence[float]
) -> tuple[float, ...]:
    """The mean of each number over the processes, the same in all; all of them have to call it."""
    if not is_multi_worker(strategy):
        return tuple(values)
    means = _mean_over_replicas(strategy, tf.constant(values, tf.float64))
    return tuple(means.numpy().tolist())


@tf.function
def _mean_over_replicas(strategy: tf.distribute.Strategy, values: tf.Tensor) -> tf.Tensor:
    copies = strategy.run(lambda: tf.identity(values))
    return strategy.reduce(tf.distribute.ReduceOp.MEAN, copies, axis=None)


def _visible_gpus(runtime: RuntimeConfig) -> list[str]:
    """Names of the GPUs to use.

    Raises:
      UserError: there are fewer than `num_gpus`.
    """
    physical = tf.config.list_physical_devices("GPU")
    gpus = [gpu.name.replace("/physical_device:", "") for gpu in physical]
    if runtime.num_gpus is None:
        return gpus
    if runtime.num_gpus > len(gpus):
        raise UserError(f"runtime.num_gpus is {runtime.num_gpus}, but TensorFlow sees {len(gpus)}")
    if gpus and runtime.num_gpus == 0:
        logging.warning("runtime.num_gpus=0: the %d GPU(s) of this machine stay idle", len(gpus))
    return gpus[: runtime.num_gpus]


def _local_strategy(runtime: RuntimeConfig) -> tf.distribute.Strategy:
    devices = _visible_gpus(runtime)
    if not devices:
        devices = [cpu.name for cpu in tf.config.list_logical_devices("CPU")]
    if runtime.distribution_strategy == "one_device" or len(devices) == 1:
        return tf.distribute.OneDeviceStrategy(devices[0])
    reduction = None
    if runtime.all_reduce_alg is not None:
        if runtime.all_reduce_alg not in _CROSS_DEVICE_OPS:
            raise UserError(
                f"runtime.all_reduce_alg is {runtime.all_reduce_alg!r}; mirrored accepts "
                f"{' or '.join(_CROSS_DEVICE_OPS)}"
            )
        reduction = _CROSS_DEVICE_OPS[runtime.all_reduce_alg](num_packs=runtime.num_packs)
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=reduction)


def _multi_worker_strategy(runtime: RuntimeConfig) -> tf.distribute.Strategy:
    """A worker of the cluster in TF_CONFIG, in `worker_hosts` and `task_index`, or of `cluster`."""
    if runtime.num_gpus is not None:
        gpus = tf.config.list_physical_devices("GPU")
        tf.config.set_visible_devices(gpus[: len(_visible_gpus(runtime))], "GPU")
    algorithms = tf.distribute.experimental.CommunicationImplementation
    choices = {None: algorithms.AUTO, "ring": algorithms.RING, "nccl": algorithms.NCCL}
    if runtime.all_reduce_alg not in choices:
        raise UserError(
            f"runtime.all_reduce_alg is {runtime.all_reduce_alg!r}; multi_worker_mirrored accepts "
            "ring or nccl"
        )
    try:
        hosts, index = runtime.worker_hosts, runtime.task_index
        if runtime.cluster == "slurm":
            hosts, index = slurm_hosts()
        workers = distribute_utils.configure_cluster(hosts, index)
        options = tf.distribute.experimental.CommunicationOptions(
            implementation=choices[runtime.all_reduce_alg]
        )
        logging.info("waiting for %d worker(s)", workers)
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    except (KeyError, ValueError, RuntimeError, tf.errors.OpError) as error:
        raise UserError(
            "cannot join the cluster of multi_worker_mirrored, which TF_CONFIG, or "
            "runtime.worker_hosts and runtime.task_index, or runtime.cluster describe: "
            f"{error}"
        ) from error


def slurm_hosts() -> tuple[str, int]:
    """Hosts of all tasks of a Slurm step, host:port separated by commas, and this task's index.

    Tasks are counted node by node, as Slurm does unless told otherwise. (TensorFlow's own resolver
    sorts the nodes by name, and fails without GPUs.)

    Raises:
      UserError: the process was not started by srun.
    """
    try:
        nodes = slurm_cluster_resolver.expand_hostlist(os.environ["SLURM_STEP_NODELIST"])
        counts = slurm_cluster_resolver.expand_tasks_per_node(
            os.environ["SLURM_STEP_TASKS_PER_NODE"]
        )
        index, job = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_JOB_ID"])
    except (KeyError, ValueError) as error:
        raise UserError(
            "runtime.cluster=slurm needs the variables that srun sets for each task of a step, "
            f"and this is missing or odd: {error}; start the job as docs/jobs.md shows"
        ) from error
    first_port = _SLURM_PORTS[job % len(_SLURM_PORTS)]  # jobs may share a node
    hosts = [
        f"{node}:{first_port + task}"
        for node, count in zip(nodes, counts, strict=True)
        for task in range(count)
    ]
    return ",".join(hosts), index


def _tpu_strategy(runtime: RuntimeConfig) -> tf.distribute.Strategy:
    try:
        return distribute_utils.get_distribution_strategy("tpu", tpu_address=runtime.tpu)
    except RuntimeError as error:
        if "Google API client" not in str(error):
            raise _unreachable_tpu(runtime, error) from error
        raise UserError(
            f"looking up the TPU {runtime.tpu!r} by its name needs cloud-tpu-client: "
            "pip install 'official-maskrcnn[tpu]'"
        ) from error
    except (ValueError, OSError, tf.errors.OpError) as error:
        raise _unreachable_tpu(runtime, error) from error


def _unreachable_tpu(runtime: RuntimeConfig, error: Exception) -> UserError:
    return UserError(
        f"cannot reach the TPU {runtime.tpu!r}: {error}\nGive its name or grpc:// address with "
        "runtime.tpu (--tpu), or `local` on the TPU machine itself"
    )
