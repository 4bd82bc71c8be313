"""Run as a process of its own: the fake task on some devices; prints results as JSON.

python -m tests.training.replica_run STRATEGY MODE MODEL_DIR [NUM_VIRTUAL_CPUS]
"""

import json
import os
import sys
from typing import Any

import tensorflow as tf

from official_maskrcnn.tasks.metrics_file import read_metrics
from official_maskrcnn.training.run import run
from tests.training.fake_task import FakeTask, make_experiment


def run_fake_task(
    strategy: str, mode: str, model_dir: str, train_steps: int = 8
) -> dict[str, float]:
    experiment = make_experiment(train_steps, ema=True)
    experiment.runtime.distribution_strategy = strategy
    experiment.task.export_results = True
    return run(experiment, mode, model_dir, FakeTask(experiment.task))


def written(model_dir: str) -> dict[str, Any]:
    """The training losses and the names of the files."""
    lines = read_metrics(model_dir, "train")
    losses = {str(step): line["total_loss"] for step, line in lines.items()}
    return {"losses": losses, "files": sorted(os.listdir(model_dir))}


def main(strategy: str, mode: str, model_dir: str, num_cpus: str = "1") -> None:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * int(num_cpus),
    )
    metrics = run_fake_task(strategy, mode, model_dir)
    print(json.dumps({"metrics": metrics, **written(model_dir)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
