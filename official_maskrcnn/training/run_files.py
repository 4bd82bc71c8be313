"""The files in which a run describes itself: params.yaml, run.json and categories.json."""

import contextlib
import datetime
import fnmatch
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
import yaml
from absl import logging

from official_maskrcnn.configs import display, loading
from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.configs.task import DataConfig
from official_maskrcnn.data.locks import only_process
from official_maskrcnn.errors import UserError
from official_maskrcnn.files import write_text
from official_maskrcnn.tasks import gin_bindings
from official_maskrcnn.tasks.model_dir import CATEGORIES, PARAMS, RECORD
from official_maskrcnn.training import environment

# What a training keeps from its first step to its last: else its figures describe no configuration.
_FIXED = (
    *("task.model.*", "task.losses.*", "task.train_data.*", "task.freeze_backbone"),
    *("task.allowed_mask_class_ids*", "runtime.seed"),
)
_FREE = tuple(
    f"task.train_data.{name}"
    for name in ("cache", "cache_dir", "deterministic", "max_faulty_examples", "prefetch_*")
)


def open_folder(
    model_dir: str, experiment: ExperimentConfig, resumes: bool, allow_config_change: bool = False
) -> None:
    """Creates model_dir, and logs how the configuration differs from the one that is in it.

    Args:
      model_dir: local or remote.
      experiment: the configuration of this start.
      resumes: whether a training goes on there.
      allow_config_change: what `_FIXED` names may differ even so.

    Raises:
      UserError: model_dir cannot be created or has a name that TensorFlow takes for a pattern, what
        is in it cannot be read, or the training would go on with another architecture, other data
        or another objective.
    """
    if set(model_dir) & set("*?[\\"):
        raise UserError(f"model_dir {model_dir}: TensorFlow takes *, ?, [ and \\ for patterns")
    path = os.path.join(model_dir, PARAMS)
    with _readable_faults(model_dir):
        tf.io.gfile.makedirs(model_dir)
        if not tf.io.gfile.exists(path):
            return
        differences = _differences(model_dir, experiment)
    if not differences:
        return
    lines = {field: f"\n  {field}: {old} -> {new}" for field, old, new in differences}
    refused = "".join(line for field, line in lines.items() if _is_fixed(field))
    if refused and resumes and not allow_config_change:
        raise UserError(
            f"the training in {model_dir} cannot go on with another configuration:{refused}\n"
            "Use that of its params.yaml or another model_dir, or allow it: --allow_config_change"
        )
    logging.warning("the configuration differs from that in %s:%s", path, "".join(lines.values()))


def _differences(model_dir: str, experiment: ExperimentConfig) -> list[tuple[str, str, str]]:
    """What differs from the last start: field, old and new value.

    A field that its params.yaml does not have yet counts with its default.
    """
    old = yaml.safe_load(_read(os.path.join(model_dir, PARAMS)))
    if not isinstance(old, Mapping):
        raise UserError(
            f"{PARAMS} in {model_dir} is damaged; mend it or delete it: it has no fields"
        )
    defaults = display.differences({}, ExperimentConfig().as_dict())
    differences = [
        difference
        for difference in display.differences(old, experiment.as_dict())
        if difference not in defaults
    ]
    record = os.path.join(model_dir, RECORD)
    if tf.io.gfile.exists(record):
        bindings = json.loads(_read(record)).get("gin"), gin_bindings.in_force() or None
        differences += display.differences(*({"gin": value} for value in bindings))
    return differences


def _is_fixed(field: str) -> bool:
    def matches(patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(field, pattern) for pattern in patterns)

    return matches(_FIXED) and not matches(_FREE)


@contextlib.contextmanager
def locked(model_dir: str) -> Iterator[None]:
    """Keeps a second training out of a local model_dir; that of a dead process is free.

    Raises:
      UserError: a training runs there.
    """
    if "://" in model_dir:
        yield
        return
    refusal = f"{{owner}} is training in {model_dir}: wait for its end, stop it, or take another"
    with only_process(model_dir, refusal):
        yield


def write(model_dir: str, experiment: ExperimentConfig, strategy: tf.distribute.Strategy) -> None:
    """Writes params.yaml and run.json.

    run.json describes this start of the run, and under `earlier` the ones before it.

    Raises:
      UserError: model_dir cannot be written to.
    """
    path = os.path.join(model_dir, RECORD)
    start = describe(experiment, strategy)
    with _readable_faults(model_dir):
        loading.save_params(experiment, os.path.join(model_dir, PARAMS))
        if tf.io.gfile.exists(path):
            last = json.loads(_read(path))
            start["earlier"] = [*last.pop("earlier", []), last]
        write_text(path, json.dumps(start, indent=2))


def write_class_names(model_dir: str, names: Mapping[int, str], replace: bool = False) -> None:
    """Writes categories.json, in the form of COCO's categories.

    Args:
      model_dir: local or remote.
      names: by category id; without any nothing is written.
      replace: whether a file that is there gives way.

    Raises:
      UserError: model_dir cannot be written to.
    """
    path = os.path.join(model_dir, CATEGORIES)
    with _readable_faults(model_dir):
        if names and (replace or not tf.io.gfile.exists(path)):
            tf.io.gfile.makedirs(model_dir)
            entries = [{"id": number, "name": name} for number, name in sorted(names.items())]
            write_text(path, json.dumps(entries, indent=1))


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
            f"{PARAMS} or {RECORD} in {model_dir} is damaged; mend it or delete it: {error}"
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
