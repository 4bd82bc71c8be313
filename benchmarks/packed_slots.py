"""Step time of the packed mask head with 20 and with 100 instance slots, padding being most.

    python benchmarks/packed_slots.py

Trains hourglass52 on ground-truth boxes, one CPU or GPU, the two in turn in one run; prints the
median step times and their ratio, which should be near 1, and writes packed_slots.csv beside.
"""

import argparse
import csv
import pathlib
import statistics
import time

import tensorflow as tf
from support import steps
from support.scenes import random_batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="side of the images")
    parser.add_argument("--instances", type=int, default=7, help="real instances an image")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()

    step = steps.training_step(steps.experiment_of(arguments.size, steps.HOURGLASS))
    batches = {
        slots: tf.nest.map_structure(
            tf.constant,
            random_batch(arguments.size, arguments.size, 2, arguments.instances, slots),
        )
        for slots in (20, 100)
    }
    seconds: dict[int, list[float]] = {slots: [] for slots in batches}
    for repeat in range(arguments.repeats + 1):
        for slots, batch in batches.items():
            start = time.perf_counter()
            float(step(batch)["total_loss"])
            if repeat:  # the first is tracing
                seconds[slots].append(time.perf_counter() - start)

    medians = {slots: statistics.median(times) for slots, times in seconds.items()}
    for slots, median in medians.items():
        print(f"{slots:4d} slots: {median:.3f} s a step (median of {arguments.repeats})")
    ratio = statistics.median(b / a for a, b in zip(seconds[20], seconds[100], strict=True))
    print(f"100 slots / 20 slots: {ratio:.3f} (median of the pairs)")
    with pathlib.Path(__file__).with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slots", "seconds_per_step"])
        writer.writerows((slots, f"{median:.4f}") for slots, median in medians.items())


if __name__ == "__main__":
    main()
