"""Inference on one photograph, to boxes and full-size masks as RLE: tf-models-official and ours.

    python benchmarks/inference.py [--repeats 7]

ResNet-50 with hourglass52, an image of 800x1088 in an input of 832x1088, 15 detections, float32;
ours also in the fastest precision of the machine if that is another. All sides have the same random
weights, each the score threshold that leaves it 15 detections, and take turns in one run.
`same numerics` is ours with task.model.compatibility=model_garden: its detections are those of the
reference. Writes inference.csv beside.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from support.serve import serve
from support.sides import alternate, report

if TYPE_CHECKING:
    import tensorflow as tf

_HEIGHT, _WIDTH, _PADDED = 800, 1088, 832
_DETECTIONS = 15
_CHANGES = (
    f"task.init_checkpoint=null,task.model.input_size=[{_PADDED},{_WIDTH},3],"
    "task.model.mask_head.convnet_variant=hourglass52,task.model.mask_head.num_filters=64,"
    "task.model.mask_head.class_agnostic=true,task.model.mask_roi_aligner.crop_size=32,"
    "runtime.mixed_precision_dtype=null"
)


def _inputs():
    import tensorflow as tf

    image = np.random.default_rng(1).normal(size=(1, _PADDED, _WIDTH, 3)).astype("f")
    image[:, _HEIGHT:] = 0
    size = [_HEIGHT, _WIDTH]
    info = np.array([[size, [_PADDED, _WIDTH], [1, 1], [0, 0]]], "f")
    return tf.constant(image), tf.constant(info)


def _experiment(*changes: str):
    from official_maskrcnn import load_experiment

    return load_experiment(
        "deep_mask_head_rcnn_resnetfpn_coco", overrides=",".join([_CHANGES, *changes])
    )


def _threshold(infer: Callable[[], dict[str, tf.Tensor]]) -> float:
    """Leaves the wanted number of detections, half-way to the next score.

    Found by a graph, as it is used by one: in bfloat16 sums of eager operations round otherwise.
    """
    import tensorflow as tf

    scores = tf.function(infer)()["detection_scores"][0]
    return float(tf.reduce_mean(scores[_DETECTIONS - 1 : _DETECTIONS + 1]))


def _numbers(scores: np.ndarray, rles: list) -> dict[str, float]:
    """What shows that two sides found the same."""
    from pycocotools import mask as coco_mask

    areas = coco_mask.area(rles)
    return {"detections": len(rles), "scores": float(scores.sum()), "areas": float(areas.sum())}


def _serve_reference(folder: pathlib.Path) -> None:
    import tensorflow as tf
    from official.vision.ops import mask_ops
    from pycocotools import mask as coco_mask

    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    from tests.modeling.reference import build_reference, randomize

    _, model = build_reference(_experiment().task)
    randomize(model)
    tf.train.Checkpoint(model=model).write(str(folder / "weights"))
    image, info = _inputs()
    predict = tf.function(lambda: model(image, image_shape=info[:, 1], training=False))
    options = model.detection_generator._config_dict
    options["pre_nms_score_threshold"] = 0.0
    options["pre_nms_score_threshold"] = _threshold(
        lambda: model(image, image_shape=info[:, 1], training=False)
    )

    def infer() -> dict[str, float]:
        outputs = {key: value for key, value in predict().items() if key in _READ}
        count = int(outputs["num_detections"][0])
        found = {key: outputs[key][0, :count].numpy() for key in _READ[1:]}
        y1, x1, y2, x2 = found["detection_boxes"].T
        boxes = np.stack([x1, y1, x2 - x1, y2 - y1], axis=1)
        masks = mask_ops.paste_instance_masks(found["detection_masks"], boxes, _HEIGHT, _WIDTH)
        rles = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
        return _numbers(found["detection_scores"], rles)

    serve(infer)


_READ = ("num_detections", "detection_boxes", "detection_scores", "detection_masks")


def _serve_ours(folder: pathlib.Path, dtype: str, compatibility: str) -> None:
    import tensorflow as tf

    from official_maskrcnn import build_task, precision
    from official_maskrcnn.evaluation.pasting import rle_from_crops

    precision.set_policy(dtype)
    experiment = _experiment(
        f"task.model.compatibility={compatibility}",
        "task.model.detection_generator.pre_nms_score_threshold=0",
    )
    model = build_task(experiment).build_model()
    tf.train.Checkpoint(model=model).read(str(folder / "weights")).expect_partial()
    image, info = _inputs()
    threshold = _threshold(lambda: model(image, info, training=False))
    generator = model.config.detection_generator
    generator = generator.replace(pre_nms_score_threshold=threshold)
    model.config = model.config.replace(detection_generator=generator)
    predict = tf.function(lambda: model(image, info, training=False))

    def infer() -> dict[str, float]:
        outputs = predict()
        count = int(outputs["num_detections"][0])
        found = {key: outputs[key][0, :count].numpy() for key in _READ[1:]}
        rles = rle_from_crops(found["detection_masks"], found["detection_boxes"], _HEIGHT, _WIDTH)
        return _numbers(found["detection_scores"], rles)

    serve(infer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--side", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        import official_maskrcnn.cli  # noqa: F401 - for the environment of its commands

        _serve_ours(arguments.folder, *arguments.side)
        return
    if arguments.side is not None:
        _serve_reference(arguments.folder)
        return

    from support.steps import precisions

    sides = {"reference": []} | {f"ours, {dtype}": [dtype, "none"] for dtype in precisions()}
    sides["ours, float32, same numerics"] = ["float32", "model_garden"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--folder", folder, "--side"]
        commands = {name: [*command, *side] for name, side in sides.items()}
        measured = alternate(commands, arguments.repeats, "inference")
    seconds = measured["reference"]["seconds"]
    rows = [
        (
            *(name, m["seconds"], seconds / m["seconds"], m["peak_mb"]),
            *(int(m["detections"]), m["scores"], m["areas"]),
        )
        for name, m in measured.items()
    ]
    header = ("side", "seconds", "reference / this", "peak MB", "detections", "scores", "areas")
    report(__file__, header, rows)


if __name__ == "__main__":
    main()
