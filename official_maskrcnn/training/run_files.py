"""The files in which a run describes itself: params.yaml and run.json."""

import contextlib
import datetime
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import yaml
from absl import logging

from official_maskrcnn.configs import display, loading
from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.configs.task import DataConfig
from official_maskrcnn.errors import UserError
from official_maskrcnn.training import environment, gin_bindings
from official_maskrcnn.training.checkpoints import write_text

_PARAMS, _RECORD = "params.yaml", "run.json"


def open_folder(model_dir: str, experiment: ExperimentConfig) -> None:
    """Creates model_dir, or logs how the configuration differs from the one that is in it.

    Raises:
      UserError: model_dir cannot be created, or what is in it cannot be read.
    """
    path = os.path.join(model_dir, _PARAMS)
    with _readable_faults(model_dir):
        tf.io.gfile.makedirs(model_dir)
        if tf.io.gfile.exists(path):
            differences = display.differences(yaml.safe_load(_read(path)), experiment.as_dict())
            if differences:
                lines = "".join(f"\n  {path}: {old} -> {new}" for path, old, new in differences)
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


def describe(experiment: ExperimentConfig, strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """What a run depends on beside its configuration."""
    data = {"train": experiment.task.train_data, "validation": experiment.task.validation_data}
    return {
        "start": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "working_directory": os.getcwd(),
        "gin": gin_bindings.in_force() or None,
        **environment.describe(),
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


def _read(path: str) -> str:
    with tf.io.gfile.GFile(path) as file:
        return file.read()
