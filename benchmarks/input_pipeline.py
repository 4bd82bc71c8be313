"""Records to training batches on one core, images a second: tf-models-official against ours.

    python benchmarks/input_pipeline.py [--data ../shared/data/coco_sample] [--repeats 5]

Photographs of COCO, as records that both sides read, become batches of 2 images of 1024x1024 with
masks of 112x112, flipped and scaled by 0.8 to 1.25 at random, as the experiment
deep_mask_head_rcnn_resnetfpn_coco has it. All sides are pinned to the same core and take turns.
The reference labels anchors in its input pipeline, ours on the device that trains; `no anchor
labels` is the reference without. Writes input_pipeline.csv beside.

The folder of --data has annotations/instances_train2017.json and train2017/.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from support.serve import Measurement, serve
from support.sides import alternate, report

_SIZE, _BATCH, _MASK_SIZE = 1024, 2, 112
_SHUFFLED = 64  # records that are shuffled at a time; by default more than there are
_WARM_UP = 8  # batches that an iterator gives before it is timed
_AIM = 4


def _source(folder: pathlib.Path) -> dict[str, object]:
    """What is set in the data configuration of both sides."""
    return {
        "input_path": str(folder / "records-*.tfrecord"),
        "global_batch_size": _BATCH,
        "shuffle_buffer_size": _SHUFFLED,
    }


def _serve_batches(
    dataset: Iterable, take_apart: Callable[[object], Mapping[str, object]], num_batches: int
) -> None:
    """Measures the time of `num_batches` batches.

    Args:
      dataset: of batches, without end.
      take_apart: gives the image, classes and masks of a batch.
      num_batches: timed of each iterator.
    """

    def measure() -> Measurement:
        batches = iter(dataset)  # a new one each time: none runs while it is another side's turn
        for _ in range(_WARM_UP):
            next(batches)
        instances = 0
        start = time.perf_counter()
        for _ in range(num_batches):
            parts = take_apart(next(batches))
            instances += int((np.asarray(parts["classes"]) > 0).sum())
        seconds = time.perf_counter() - start
        assert parts["image"].shape == [_BATCH, _SIZE, _SIZE, 3], parts["image"].shape
        assert parts["masks"].shape[2:] == [_MASK_SIZE, _MASK_SIZE], parts["masks"].shape
        images = num_batches * _BATCH
        return {"images_per_second": images / seconds, "instances": instances / images}

    serve(measure)


def _serve_reference(folder: pathlib.Path, num_batches: int, with_anchors: bool = True) -> None:
    from official.projects.deepmac_maskrcnn.configs import deep_mask_head_rcnn as configs
    from official.projects.deepmac_maskrcnn.tasks import deep_mask_head_rcnn as tasks
    from official.vision.ops import anchor

    if not with_anchors:
        anchor.RpnAnchorLabeler.label_anchors = lambda *_: ({}, {})
    config = configs.deep_mask_head_rcnn_resnetfpn_coco().task
    config.model.input_size = [_SIZE, _SIZE, 3]
    config.train_data.override(_source(folder))
    dataset = tasks.DeepMaskHeadRCNNTask(config).build_inputs(config.train_data)

    def take_apart(batch):
        image, labels = batch
        return {"image": image, "classes": labels["gt_classes"], "masks": labels["gt_masks"]}

    _serve_batches(dataset, take_apart, num_batches)


def _serve_ours(folder: pathlib.Path, num_batches: int) -> None:
    from official_maskrcnn import load_experiment
    from official_maskrcnn.data.pipeline import build_dataset

    config = load_experiment("deep_mask_head_rcnn_resnetfpn_coco").task.train_data
    config.override(_source(folder))
    dataset = build_dataset(config, (_SIZE, _SIZE), include_mask=True)
    _serve_batches(dataset, lambda batch: batch, num_batches)


_SIDES = {
    "reference": _serve_reference,
    "reference, no anchor labels": lambda *args: _serve_reference(*args, with_anchors=False),
    "ours": _serve_ours,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = pathlib.Path(__file__).resolve().parent.parent.parent / "shared/data/coco_sample"
    parser.add_argument("--data", type=pathlib.Path, default=data)
    parser.add_argument("--batches", type=int, default=46, help="that are timed at a time")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side", choices=_SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        # Before TensorFlow makes its threads.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        _SIDES[arguments.side](arguments.folder, arguments.batches)
        return
    if not arguments.data.is_dir():
        sys.exit(f"{arguments.data} does not exist: name a folder of COCO's layout with --data")

    with tempfile.TemporaryDirectory() as folder:
        _write_records(arguments.data, pathlib.Path(folder))
        command = [sys.executable, __file__, "--folder", folder]
        command += ["--batches", str(arguments.batches), "--side"]
        measured = alternate(
            {s: [*command, s] for s in _SIDES}, arguments.repeats, "input pipeline"
        )
    rates = {side: numbers["images_per_second"] for side, numbers in measured.items()}
    rows = [
        (
            *(side, rates[side], rates["ours"] / rates[side], _AIM if side == "reference" else ""),
            *(measured[side]["instances"], measured[side]["peak_mb"]),
        )
        for side in _SIDES
    ]
    header = ("side", "images/s, one core", "ours / this", "aim", "instances an image", "peak MB")
    report(__file__, header, rows)


def _write_records(data: pathlib.Path, folder: pathlib.Path) -> None:
    from official_maskrcnn.data.converters.coco import convert_coco

    convert_coco(
        images=str(data / "train2017"),
        annotations=str(data / "annotations" / "instances_train2017.json"),
        output=str(folder / "records"),
        shards=4,
        progress=False,
    )


if __name__ == "__main__":
    main()
