"""Scaling efficiency: images a second of 1 and of 2 workers, each on one core of its own.

    python benchmarks/scaling.py [--steps 24] [--repeats 2]

Trains on drawn shapes with multi_worker_mirrored, real processes that speak over the loopback
device, 2 images a worker; batch norm synchronised or not. Efficiency is the speed of two workers
over twice that of one. Beside it stands the time that sending the gradients takes: a step's time
with two workers less that with one. Writes scaling.csv beside.
"""

import argparse
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile

from rich.console import Console
from rich.progress import track
from support.sides import report

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_IMAGES = 2  # of a worker and step
_CASES = {
    "ResNet-18, 256 x 256": (
        "task.model.backbone.resnet.model_id=18,task.model.input_size=[256,256,3]"
    ),
    "ResNet-50, 512 x 512": "task.model.input_size=[512,512,3]",
}
_HEADER = (
    *("case", "synchronised batch norm", "millions of parameters"),
    *("images/s, 1 worker", "images/s, 2 workers", "efficiency", "seconds more a step"),
)


def _command(folder: pathlib.Path, steps: int, workers: int, changes: str) -> list[str]:
    rates = "trainer.optimizer_config.learning_rate.stepwise"
    return [
        *(sys.executable, "-m", "official_maskrcnn", "train", "deep_mask_head_rcnn_resnetfpn_coco"),
        *("--mode", "train", "--params_override", changes),
        f"task.train_data.image_dir={folder}/shapes/images",
        f"task.train_data.annotation_file={folder}/shapes/instances.json",
        f"task.train_data.cache_dir={folder}/cache",
        f"task.train_data.global_batch_size={_IMAGES * workers}",
        *("task.init_checkpoint=null", "task.train_data.dtype=float32"),
        *("runtime.mixed_precision_dtype=float32", "task.model.num_classes=30"),
        "runtime.distribution_strategy=multi_worker_mirrored",
        *(f"trainer.{name}={steps}" for name in ("train_steps", "checkpoint_interval")),
        f"trainer.summary_interval={steps // 2}",  # the second half is warm
        *(f"{rates}.boundaries=[{steps - 1}]", f"{rates}.values=[0.001,0.0001]"),
    ]


def _measure(folder: pathlib.Path, steps: int, workers: int, changes: str) -> float:
    """Images a second of a training with so many workers."""
    sockets = [socket.socket() for _ in range(workers)]
    for one in sockets:
        one.bind(("localhost", 0))
    hosts = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < workers:
        sys.exit(f"{workers} workers need as many cores; there are {len(cores)}")
    with tempfile.TemporaryDirectory(dir=folder) as model_dir, open(folder / "log", "w") as log:
        command = [*_command(folder, steps, workers, changes), "--model_dir", model_dir]
        processes = []
        for index in range(workers):
            cluster = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
            processes.append(
                subprocess.Popen(
                    ["taskset", "-c", str(cores[index]), *command],
                    cwd=_ROOT,
                    env=os.environ | {"TF_CONFIG": json.dumps(cluster)},
                    stdout=log,
                    stderr=log,
                )
            )
        if any([process.wait() for process in processes]):
            sys.exit((folder / "log").read_text()[-3000:])
        lines = pathlib.Path(model_dir, "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[-1])["images_per_second"]


def _parameters(folder: pathlib.Path) -> float:
    """Millions of trainable ones, as the last training logged them."""
    log = (folder / "log").read_text()
    return float(re.search(r"([\d.]+) million trainable", log)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        synthetic = [sys.executable, "-m", "official_maskrcnn", "data", "synthetic"]
        options = ["--images", "24", "--output", f"{folder}/shapes", "--size", "480", "640"]
        subprocess.run([*synthetic, *options], cwd=_ROOT, check=True)
        cases = [(case, sync) for case in _CASES for sync in (False, True)]
        for case, sync in track(cases, "cases", console=Console(stderr=True)):
            norm = f"task.model.norm_activation.use_sync_bn={str(sync).lower()}"
            speeds: dict[int, list[float]] = {1: [], 2: []}
            for _ in range(arguments.repeats):
                for workers, measured in speeds.items():
                    measured.append(
                        _measure(folder, arguments.steps, workers, f"{_CASES[case]},{norm}")
                    )
            one, two = (statistics.median(measured) for measured in speeds.values())
            more = 2 * _IMAGES / two - _IMAGES / one
            rows.append(
                (case, "yes" if sync else "no", _parameters(folder), one, two, two / one / 2, more)
            )
    report(__file__, _HEADER, rows)


if __name__ == "__main__":
    main()
