"""Devices: which ones a run uses, how they work together, and in which precision."""

import tensorflow as tf
import tf_keras
from absl import logging

from official_maskrcnn import precision
from official_maskrcnn.configs.experiment import RuntimeConfig
from official_maskrcnn.errors import UserError
from official_maskrcnn.model_garden import light_imports

with light_imports():
    from official.common import distribute_utils

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
    """Seeds Python, NumPy and TensorFlow, if `runtime.seed` is given."""
    if runtime.seed is not None:
        tf_keras.utils.set_random_seed(runtime.seed)
        logging.info("random seed %d", runtime.seed)


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
    """A worker of the cluster in TF_CONFIG, or else in `worker_hosts` and `task_index`."""
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
        workers = distribute_utils.configure_cluster(runtime.worker_hosts, runtime.task_index)
        options = tf.distribute.experimental.CommunicationOptions(
            implementation=choices[runtime.all_reduce_alg]
        )
        logging.info("waiting for %d worker(s)", workers)
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    except (KeyError, ValueError, RuntimeError, tf.errors.OpError) as error:
        raise UserError(
            "cannot join the cluster of multi_worker_mirrored, which TF_CONFIG or "
            f"runtime.worker_hosts and runtime.task_index describe: {error}"
        ) from error


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
