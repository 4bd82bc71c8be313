"""The files in which a run describes itself: params.yaml and run.json."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import yaml
from absl import logging

import official_maskrcnn
from official_maskrcnn.configs import loading
from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.configs.task import DataConfig
from official_maskrcnn.errors import UserError
from official_maskrcnn.training.checkpoints import write_text

_PARAMS, _RECORD = "params.yaml", "run.json"
_PACKAGES = (
    *("tensorflow", "tf-keras", "tf-models-official", "numpy"),
    *("pycocotools", "faster-coco-eval", "opencv-python-headless"),
)


def open_folder(model_dir: str, experiment: ExperimentConfig) -> None:
    """Creates model_dir, or logs how the configuration differs from the one that is in it.

    Raises:
      UserError: model_dir cannot be created, or what is in it cannot be read.
    """
    path = os.path.join(model_dir, _PARAMS)
    with _readable_faults(model_dir):
        tf.io.gfile.makedirs(model_dir)
        if tf.io.gfile.exists(path):
            differences = list(compare_params(_read(path), loading.to_yaml(experiment)))
            if differences:
                lines = "".join(f"\n  {line}" for line in differences)
                logging.warning("the configuration differs from that in %s:%s", path, lines)


def write(model_dir: str, experiment: ExperimentConfig, strategy: tf.distribute.Strategy) -> None:
    """Writes params.yaml and run.json.

    run.json describes this start of the run, and under `earlier` the ones before it.

    Raises:
      UserError: model_dir cannot be written to.
    """
    path = os.path.join(model_dir, _RECORD)
    start = describe(experiment, strategy)
    with _readable_faults(model_dir):
        loading.save_params(experiment, os.path.join(model_dir, _PARAMS))
        if tf.io.gfile.exists(path):
            last = json.loads(_read(path))
            start["earlier"] = [*last.pop("earlier", []), last]
        write_text(path, json.dumps(start, indent=2))


def compare_params(old: str, new: str) -> Iterator[str]:
    """Differences of two configurations in YAML: a line for each path, with both values."""
    before, after = dict(_leaves(yaml.safe_load(old))), dict(_leaves(yaml.safe_load(new)))
    for path in sorted(before.keys() | after.keys()):
        values = [str(leaves.get(path, "(absent)")) for leaves in (before, after)]
        if values[0] != values[1]:
            yield f"{path}: {values[0]} -> {values[1]}"


def describe(experiment: ExperimentConfig, strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """What a run depends on beside its configuration."""
    data = {"train": experiment.task.train_data, "validation": experiment.task.validation_data}
    return {
        "start": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "working_directory": os.getcwd(),
        "git_commit": _git_commit(),
        "versions": {
            "python": platform.python_version(),
            "official-maskrcnn": official_maskrcnn.__version__,
            **{name: _version(name) for name in _PACKAGES},
        },
        "machine": f"{platform.node()}, {platform.machine()}, {os.cpu_count()} CPUs",
        "devices": [_device_name(device) for device in tf.config.list_logical_devices()],
        "replicas": strategy.num_replicas_in_sync,
        "data": {part: _describe_data(config) for part, config in data.items()},
    }


@contextlib.contextmanager
def _readable_faults(model_dir: str) -> Iterator[None]:
    try:
        yield
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise UserError(
            f"{_PARAMS} or {_RECORD} in {model_dir} is damaged; mend it or delete it: {error}"
        ) from error
    except (OSError, tf.errors.OpError) as error:
        message = getattr(error, "message", error)
        raise UserError(f"cannot write to model_dir {model_dir}: {message}") from error


def _describe_data(config: DataConfig) -> dict[str, Any]:
    """Files of a data set: how many, how large, and a digest of their names, sizes and times."""
    patterns = config.input_path or config.annotation_file
    if isinstance(patterns, str):
        patterns = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    files: list[str] = []
    with contextlib.suppress(tf.errors.OpError):  # whoever reads the data reports it better
        files = sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))
    stats = [tf.io.gfile.stat(file) for file in files]
    listing = "\n".join(
        f"{file} {stat.length} {stat.mtime_nsec}" for file, stat in zip(files, stats, strict=True)
    )
    return {
        "source": patterns,
        "image_dir": config.image_dir,
        "files": len(files),
        "bytes": sum(stat.length for stat in stats),
        "fingerprint": hashlib.sha256(listing.encode()).hexdigest()[:16],
    }


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


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for name, child in node.items():
            yield from _leaves(child, f"{path}.{name}" if path else str(name))
    else:
        yield path, node


def _read(path: str) -> str:
    with tf.io.gfile.GFile(path) as file:
        return file.read()
