"""The precision in which layers compute: `runtime.mixed_precision_dtype`."""

import contextlib
import pathlib
from collections.abc import Iterator

import tensorflow as tf
import tf_keras

_CPU_INFO = pathlib.Path("/proc/cpuinfo")
# Units for products of bfloat16; without, it is converted to float32 and back around each layer.
_CPU_FLAGS = {"amx_bf16", "avx512_bf16"}
_GPU_CAPABILITY = (8, 0)  # Ampere, the first with bfloat16


def resolve(dtype: str | None, device_type: str = "CPU") -> str:
    """The precision that a configured one means.

    Args:
      dtype: float32, bfloat16, float16; None for float32; auto for bfloat16 where the device has
        units for it, else float32.
      device_type: CPU, GPU or TPU.
    """
    if dtype != "auto":
        return dtype or "float32"
    fast = {"CPU": _cpu_has_bfloat16, "GPU": _gpus_have_bfloat16, "TPU": lambda: True}
    return "bfloat16" if fast[device_type]() else "float32"


def _cpu_has_bfloat16() -> bool:
    return _CPU_INFO.exists() and not _CPU_FLAGS.isdisjoint(_CPU_INFO.read_text().split())


def _gpus_have_bfloat16() -> bool:
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return all(device.get("compute_capability", (0, 0)) >= _GPU_CAPABILITY for device in details)


def set_policy(dtype: str) -> None:
    """Makes a resolved precision that of all layers built from now on; variables stay float32."""
    policy = "float32" if dtype == "float32" else f"mixed_{dtype}"
    tf_keras.mixed_precision.set_global_policy(policy)


@contextlib.contextmanager
def policy(dtype: str) -> Iterator[None]:
    """Like `set_policy` for the layers built inside; the policy before returns after."""
    before = tf_keras.mixed_precision.global_policy()
    set_policy(dtype)
    try:
        yield
    finally:
        tf_keras.mixed_precision.set_global_policy(before)
