"""A training of a small real model on drawn shapes, as a process of its own."""

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from official_maskrcnn.data.synthetic import make_synthetic
from official_maskrcnn.tasks.metrics_file import read_metrics

ROOT = pathlib.Path(__file__).resolve().parents[2]

_CONFIG = """
task:
  init_checkpoint: null
  model:
    num_classes: 30
    input_size: [128, 128, 3]
    max_level: 5
    backbone:
      type: resnet
      resnet: {model_id: 18, depth_multiplier: 0.25, stochastic_depth_drop_rate: 0.2}
    decoder: {type: fpn, fpn: {num_filters: 16}}
    rpn_head: {num_filters: 16}
    roi_generator: {num_proposals: 30, test_num_proposals: 30}
    roi_sampler: {num_sampled_rois: 16}
    detection_head: {num_convs: 0, fc_dims: 16}
    mask_head: {num_convs: 1, num_filters: 8, class_agnostic: true}
    mask_sampler: {num_sampled_masks: 8}
    norm_activation: {use_sync_bn: true, norm_momentum: 0.9}
  validation_losses: true
  num_visualized_images: 2
  train_data:
    global_batch_size: 4
    dtype: float32
    parser: {aug_rand_hflip: true, aug_scale_min: 0.8, aug_scale_max: 1.25}
  validation_data: {global_batch_size: 4, dtype: float32}
trainer:
  train_steps: 160
  steps_per_loop: 5
  summary_interval: 1
  checkpoint_interval: 5
  validation_interval: 20
  max_to_keep: 40
  optimizer_config:
    ema: {average_decay: 0.9}
    optimizer: {type: sgd, sgd: {momentum: 0.9}}
    learning_rate: {type: stepwise, stepwise: {boundaries: [130], values: [0.01, 0.001]}}
    warmup: {type: linear, linear: {warmup_steps: 5, warmup_learning_rate: 0.0005}}
runtime:
  distribution_strategy: one_device
  mixed_precision_dtype: float32
  deterministic: true
  seed: 1
"""

_MAIN = """
import sys, tensorflow as tf
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended
from official_maskrcnn.cli.main import main

count = int(sys.argv[1])
device = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * count)
# A worker uses all of its GPUs, but of virtual CPUs only the first, unless it is told of them.
CollectiveAllReduceExtended._initialize_local_devices = lambda self, resolver, worker: (
    tuple(f"{worker}/device:CPU:{i}" for i in range(count)), "CPU"
)
sys.exit(main(sys.argv[2:]))
"""


class SmallTraining:
    """Where the data and the configuration are, and how processes are started."""

    def __init__(self, folder: pathlib.Path, num_images: int = 30):
        """Draws the data."""
        self.folder, self.config = folder, folder / "small.yaml"
        self.config.write_text(_CONFIG)
        make_synthetic(folder / "shapes", num_images, seed=1, image_size=(96, 128))

    def start(
        self,
        model_dir: pathlib.Path,
        *overrides: str,
        verb: str = "train",
        flags: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        virtual_cpus: int = 1,
    ) -> subprocess.Popen[str]:
        """A process that trains; what it says goes to a file beside model_dir."""
        data = [
            f"task.{part}_data.{field}={self.folder}/{path}"
            for part in ("train", "validation")
            if f"task.{part}_data.input_path" not in " ".join(overrides)
            for field, path in (
                ("image_dir", "shapes/images"),
                ("annotation_file", "shapes/instances.json"),
                ("cache_dir", "cache"),
            )
        ]
        command = [
            *(sys.executable, "-c", _MAIN, str(virtual_cpus), verb),
            *("deep_mask_head_rcnn_resnetfpn_coco", "--model_dir", str(model_dir)),
            *("--config_file", str(self.config), *flags, *data, *overrides),
        ]
        with log_of(model_dir).open("a") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **(environment or {})},
                stdout=log,
                stderr=log,
                text=True,
            )

    def finish(self, model_dir: pathlib.Path, *overrides: str, expected: int = 0) -> str:
        """Runs a training to its end; gives what it said."""
        before = len(read_log(model_dir))
        code = self.start(model_dir, *overrides).wait(timeout=600)
        said = read_log(model_dir)[before:]
        assert code == expected, said[-4000:]
        return said


def log_of(model_dir: pathlib.Path) -> pathlib.Path:
    """What all processes of a model_dir have said."""
    return model_dir.with_suffix(".log")


def read_log(model_dir: pathlib.Path) -> str:
    """Its text; empty if there is none."""
    path = log_of(model_dir)
    return path.read_text() if path.exists() else ""


def wait_until(condition: Callable[[], Any], seconds: float = 240.0) -> bool:
    """Whether something became true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return False


def last_step(model_dir: pathlib.Path) -> int:
    """The last training step in the metrics."""
    return max(read_metrics(str(model_dir), "train"), default=0)


def saved_steps(model_dir: pathlib.Path) -> list[int]:
    """Steps of the checkpoints."""
    return sorted(int(path.stem.split("-")[1]) for path in model_dir.glob("ckpt-*.index"))


def losses(model_dir: pathlib.Path) -> dict[int, dict[str, float | None]]:
    """Metrics of each training step, without its speed."""
    steps = read_metrics(str(model_dir), "train")
    for metrics in steps.values():
        del metrics["images_per_second"]
    return steps


def weights(model_dir: pathlib.Path, step: int) -> Iterator[tuple[str, np.ndarray]]:
    """All that a checkpoint holds of a training: weights, averages, momenta, counts."""
    reader = tf.train.load_checkpoint(str(model_dir / f"ckpt-{step}"))
    for name in reader.get_variable_to_shape_map():
        if "VARIABLE_VALUE" in name and "save_counter" not in name:
            yield name, reader.get_tensor(name)


def assert_same_trainings(one: pathlib.Path, other: pathlib.Path, step: int) -> None:
    """Losses of every step, evaluations and all weights are equal bit by bit."""
    assert losses(one) == losses(other)
    assert list(losses(one)) == list(range(1, step + 1))
    assert read_metrics(str(one), "eval") == read_metrics(str(other), "eval")
    theirs = dict(weights(other, step))
    for name, value in weights(one, step):
        np.testing.assert_array_equal(value, theirs.pop(name), err_msg=name)
    assert not theirs


def run_record(model_dir: pathlib.Path) -> dict[str, Any]:
    """What run.json says."""
    return json.loads((model_dir / "run.json").read_text())
