"""How the cost grows: a training step by four measures, and an evaluation by its images.

    python benchmarks/growth.py [--axes instances size batch head images] [--repeats 3]

A step of ResNet-50 with hourglass52 on ground-truth boxes, 512 x 512, 2 images of 7 instances, in
float32, with one of these changed at a time. Beside the seconds stands the time that its FLOPs,
those of plain convolutions, would take at the speed of a large matrix product, measured in the same
process right after. The evaluation is that of evaluation.py, masks of 28 x 28. Each point has a
process of its own. Writes growth.csv and growth.png beside.
"""

import argparse
import contextlib
import csv
import pathlib
import statistics
import sys
import tempfile
import time

import evaluation
from rich.console import Console
from rich.progress import track
from support.scenes import random_batch
from support.serve import serve
from support.sides import Side, report

_BASE = {"instances": 7, "size": 512, "batch": 2, "head": "hourglass52"}
_AXES = {
    "instances": (1, 7, 20, 50, 100),
    "size": (256, 384, 512, 640, 768),
    "batch": (1, 2, 4),
    "head": ("default", "hourglass20", "hourglass52", "hourglass100"),
    "images": (500, 1000, 2000, 5000),
}
_TITLES = {
    "instances": "instances an image",
    "size": "side of the images",
    "batch": "images of a batch",
    "head": "mask head",
    "images": "images evaluated",
}
_HEADER = ("axis", "value", "seconds", "peak MB", "TFLOP", "seconds at the peak", "share of peak")
_PEAK_SIZE = 3072  # side of the matrices whose product is the peak


def _serve_step(instances: int, size: int, batch: int, head: str, repeats: int) -> None:
    import tensorflow as tf
    from support import steps

    from official_maskrcnn.tasks import cost

    experiment = steps.experiment_of(size, steps.HOURGLASS.replace("hourglass52", head))
    step = steps.training_step(experiment)
    images = random_batch(size, size, batch, instances)
    tensors = tf.nest.map_structure(tf.constant, images)
    seconds = []

    def measure() -> dict[str, float]:
        float(step(tensors)["total_loss"])  # traces
        for _ in range(repeats):
            start = time.perf_counter()
            float(step(tensors)["total_loss"])
            seconds.append(time.perf_counter() - start)
        peak = max(_product_flops() for _ in range(3))
        return {"step_seconds": statistics.median(seconds), "peak_flops": peak}

    def count() -> dict[str, float]:
        flops = cost.analyze(experiment, batch, instances).total.training_flops * batch
        return {"flops": float(flops)}

    # The memory that `serve` reports first is that of the steps: FLOPs are counted afterwards.
    answers = iter((measure, count))
    serve(lambda: next(answers)())


def _product_flops() -> float:
    """FLOP/s of a matrix product."""
    import tensorflow as tf

    a = tf.random.normal([_PEAK_SIZE, _PEAK_SIZE])
    start = time.perf_counter()
    float(tf.matmul(a, a)[0, 0])
    return 2 * _PEAK_SIZE**3 / (time.perf_counter() - start)


def _measure_step(axis: str, value: object, repeats: int) -> tuple[object, ...]:
    point = [str(v) for v in (_BASE | {axis: value}).values()]
    command = [sys.executable, __file__, "--repeats", str(repeats), "--point", *point]
    with contextlib.closing(Side(command)) as side:
        measured, counted = side.first, side.measure()
    floor = counted["flops"] / measured["peak_flops"]
    seconds = measured["step_seconds"]
    return (
        *(axis, value, seconds, measured["peak_mb"]),
        *(counted["flops"] / 1e12, floor, floor / seconds),
    )


def _measure_evaluation(images: int) -> tuple[object, ...]:
    with tempfile.TemporaryDirectory() as folder:
        ground_truth = pathlib.Path(folder, "instances.json")
        evaluation.write_ground_truth(ground_truth, images)
        measured = evaluation.measure("ours", ground_truth, 28)
    return ("images", images, measured["seconds"], measured["peak_mb"], "", "", "")


def _draw(path: pathlib.Path, rows: list[dict[str, str]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = [axis for axis in _AXES if any(row["axis"] == axis for row in rows)]
    figure, plots = pyplot.subplots(2, len(axes), figsize=(3.2 * len(axes), 5.6), squeeze=False)
    for (upper, lower), axis in zip(plots.T, axes, strict=True):
        chosen = [row for row in rows if row["axis"] == axis]
        x = [row["value"] if axis == "head" else float(row["value"]) for row in chosen]
        upper.plot(x, [float(row["seconds"]) for row in chosen], "o-", label="measured")
        if axis != "images":
            floor = [float(row["seconds at the peak"]) for row in chosen]
            upper.plot(x, floor, ":", label="FLOPs at the peak")
        lower.plot(x, [float(row["peak MB"]) / 1024 for row in chosen], "o-", color="tab:green")
        lower.set_xlabel(_TITLES[axis])
        for plot in (upper, lower):
            plot.set_ylim(bottom=0)
            plot.grid(alpha=0.3)
            if axis == "head":
                plot.tick_params("x", labelrotation=20)
    plots[0, 0].set_ylabel("seconds")
    plots[0, 0].legend()
    plots[1, 0].set_ylabel("peak memory, GiB")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axes", nargs="+", choices=_AXES, default=list(_AXES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--point", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        instances, size, batch, head = arguments.point
        _serve_step(int(instances), int(size), int(batch), head, arguments.repeats)
        return

    table = pathlib.Path(__file__).with_suffix(".csv")
    rows: list[tuple[object, ...]] = []
    if table.exists():  # axes that are not measured anew stay
        with table.open(newline="") as file:
            old = [tuple(row) for row in csv.reader(file)][1:]
        rows = [row for row in old if row[0] not in arguments.axes]
    points = [(axis, value) for axis in arguments.axes for value in _AXES[axis]]
    for axis, value in track(points, "points", console=Console(stderr=True)):
        if axis == "images":
            rows.append(_measure_evaluation(int(value)))
        else:
            rows.append(_measure_step(axis, value, arguments.repeats))
    rows.sort(key=lambda row: list(_AXES).index(str(row[0])))
    report(__file__, _HEADER, rows)
    with table.open(newline="") as file:
        _draw(table.with_suffix(".png"), list(csv.DictReader(file)))


if __name__ == "__main__":
    main()
