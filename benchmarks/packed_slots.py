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
from support.scenes import random_batch

from official_maskrcnn import build_task, load_experiment

_OVERRIDES = (
    "task.init_checkpoint=null,runtime.mixed_precision_dtype=null,"
    "task.model.mask_head.convnet_variant=hourglass52,task.model.mask_head.num_filters=64,"
    "task.model.mask_head.class_agnostic=true,task.model.mask_roi_aligner.crop_size=32,"
    "task.model.use_gt_boxes_for_masks=true,task.model.input_size=[{size},{size},3]"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="side of the images")
    parser.add_argument("--instances", type=int, default=7, help="real instances an image")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()

    experiment = load_experiment(
        "deep_mask_head_rcnn_resnetfpn_coco", overrides=_OVERRIDES.format(size=arguments.size)
    )
    task = build_task(experiment)
    model = task.build_model()
    optimizer = task.build_optimizer(experiment.trainer.optimizer_config)
    step = tf.function(lambda batch: task.train_step(batch, model, optimizer))
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
