"""The machine and the versions that a run depends on."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import tensorflow as tf

import official_maskrcnn

_PACKAGES = (
    *("tensorflow", "tf-keras", "tf-models-official", "numpy", "gin-config"),
    *("pycocotools", "faster-coco-eval", "opencv-python-headless"),
)


def describe() -> dict[str, Any]:
    """Commit of the package, versions, machine, and the devices that TensorFlow uses.

    Connects to the devices: a strategy over other devices must be built before.
    """
    return {
        "git_commit": _git_commit(),
        "versions": {
            "python": platform.python_version(),
            "official-maskrcnn": official_maskrcnn.__version__,
            **{name: version(name) for name in _PACKAGES},
        },
        "machine": f"{platform.node()}, {platform.machine()}, {os.cpu_count()} CPUs",
        "devices": [_device_name(device) for device in tf.config.list_logical_devices()],
    }


def version(package: str) -> str | None:
    """Version of an installed package; None if it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Commit of the package's own checkout, marked if files differ; None if it is none."""
    folder = pathlib.Path(official_maskrcnn.__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", folder, *arguments], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = git("rev-parse", "HEAD")
    return f"{commit} (modified)" if commit and git("status", "--porcelain", ".") else commit


def _device_name(device: tf.config.LogicalDevice) -> str:
    if device.device_type != "GPU":
        return device.name
    number = int(device.name.rpartition(":")[2])
    gpus = tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(gpus[number]) if number < len(gpus) else {}
    return f"{device.name} {details.get('device_name', '')}".strip()
