"""Training step and inference: torchvision's Mask R-CNN R50-FPN and ours, at equal settings.

    python benchmarks/torchvision_peer.py --torchvision DIR [--repeats 7]

DIR is a virtual environment with torch and torchvision for the CPU. Both sides, in float32 and in
turn in one run, ours also in the fastest precision of the machine if that is another: frozen batch
norm, all stages trained, 2 fully connected layers in the box head, 4 convolutions and one map a
class in the mask head, 512 RoIs and 128 masks an image in training (boxes near the instances join
the proposals, as a trained network would propose them), 1000 proposals and about 500 candidates
above the threshold in inference, to binary masks of the image's size. Writes torchvision_peer.csv
beside.
"""

import argparse
import json
import os
import pathlib
import sys

import numpy as np
from support.scenes import random_batch
from support.serve import serve
from support.sides import alternate, report

_CASES = {  # task, height, width, images
    "training, 256x256, batch 2": ("training", 256, 256, 2),
    "training, 512x512, batch 1": ("training", 512, 512, 1),
    "training, 512x512, batch 2": ("training", 512, 512, 2),
    "inference, 512x512": ("inference", 512, 512, 1),
    "inference, 800x1088": ("inference", 800, 1088, 1),
}
_EXTRA_BOXES = 300
_CANDIDATES = 500
_CHANGES = (
    "task.init_checkpoint=null,runtime.mixed_precision_dtype=null,"
    "task.model.detection_head.num_convs=0,task.model.detection_head.num_fcs=2,"
    "task.model.roi_generator.num_proposals=2000,"
    "trainer.optimizer_config.learning_rate.type=constant,"
    "trainer.optimizer_config.learning_rate.constant.learning_rate=1e-4"
)


def _boxes_near_instances(height: int, width: int, batch_size: int) -> np.ndarray:
    """[batch_size, _EXTRA_BOXES, 4], whose IoU with an instance is mostly above 0.5."""
    batch = random_batch(height, width, batch_size, instances=7)
    rng = np.random.default_rng(1)
    boxes = batch["boxes"][:, np.arange(_EXTRA_BOXES) % 7]
    size = boxes[..., 2:] - boxes[..., :2]
    boxes = boxes + rng.uniform(-0.1, 0.1, boxes.shape) * np.concatenate([size, size], axis=-1)
    return np.clip(boxes, 0, [height, width, height, width]).astype("f")


def _build(height: int, width: int):
    """Task, model and experiment; batch norm has the statistics of the images, and is frozen."""
    import tensorflow as tf

    from official_maskrcnn import build_task, load_experiment
    from official_maskrcnn.modeling.batch_norm import freeze_batch_norm

    padded = [-(-side // 64) * 64 for side in (height, width)]
    experiment = load_experiment(
        "deep_mask_head_rcnn_resnetfpn_coco",
        overrides=f"{_CHANGES},task.model.input_size=[{padded[0]},{padded[1]},3]",
    )
    task = build_task(experiment)
    model = task.build_model()
    norms = [m for m in model.backbone.submodules if "BatchNormalization" in type(m).__name__]
    for norm in norms:
        norm.momentum = 0.0
    images = random_batch(height, width, 1, instances=7)["image"]
    margin = [(0, 0), (0, padded[0] - height), (0, padded[1] - width), (0, 0)]
    collect_statistics = tf.function(lambda images: model.backbone(images, training=True))
    collect_statistics(tf.constant(np.pad(images, margin)))
    freeze_batch_norm(model)
    return experiment, task, model, margin


def _serve_training(height: int, width: int, batch_size: int) -> None:
    import tensorflow as tf
    from support import steps

    from official_maskrcnn.modeling import proposals

    extra = tf.constant(_boxes_near_instances(height, width, batch_size))
    propose = proposals.generate_proposals

    def propose_more(*arguments, **options):
        boxes, scores = propose(*arguments, **options)
        more = tf.ones(extra.shape[:2])
        return tf.concat([boxes, extra], axis=1), tf.concat([scores, more], axis=1)

    proposals.generate_proposals = propose_more
    experiment, task, model, _ = _build(height, width)
    step = steps.training_step(experiment, task, model)
    batch = random_batch(height, width, batch_size, instances=7)
    batch = tf.nest.map_structure(tf.constant, batch)

    def measure() -> dict[str, float]:
        logs = step(batch)
        return {"loss": float(logs["total_loss"]), "mask_rois": float(logs["mask_rois"])}

    serve(measure)


def _serve_inference(height: int, width: int, _: int) -> None:
    import tensorflow as tf
    from pycocotools import mask as coco_mask

    from official_maskrcnn.evaluation.pasting import rle_from_crops
    from official_maskrcnn.modeling import mask_rcnn

    _, _, model, margin = _build(height, width)
    images = random_batch(height, width, 1, instances=7)["image"]
    images = tf.constant(np.pad(images, margin))
    padded = images.shape[1:3]
    info = tf.constant([[[height, width], [*padded], [1, 1], [0, 0]]], tf.float32)
    model.config.detection_generator.pre_nms_score_threshold = _threshold(
        mask_rcnn.nms, lambda: model(images, info, training=False)
    )
    predict = tf.function(lambda: model(images, info, training=False))

    def infer() -> dict[str, float]:
        found = {key: value[0].numpy() for key, value in predict().items()}
        count = found["num_detections"]
        boxes, crops = (found[f"detection_{key}"][:count] for key in ("boxes", "masks"))
        masks = coco_mask.decode(rle_from_crops(crops, boxes, height, width))
        assert masks.shape == (height, width, count)
        return {"detections": float(count)}

    serve(infer)


def _threshold(nms, predict) -> float:
    """The score above which there are _CANDIDATES pairs of a box and a class."""
    import tensorflow as tf

    suppress, seen = nms.suppress_per_class, []

    def record(boxes, scores, *options):
        seen.append(scores)
        return suppress(boxes, scores, *options)

    def scores():
        predict()
        return seen[-1]

    nms.suppress_per_class = record
    ordered = np.sort(tf.function(scores)().numpy(), axis=None)
    nms.suppress_per_class = suppress
    return float(ordered[-_CANDIDATES - 1])


def _commands(case: str, environment: pathlib.Path) -> dict[str, list[str]]:
    from support.steps import precisions

    task, height, width, batch_size = _CASES[case]
    side: dict[str, object] = {"height": height, "width": width}
    if task == "training":
        boxes = _boxes_near_instances(height, width, batch_size)
        side |= {"batch_size": batch_size, "extra_boxes": boxes.round(2).tolist()}
    else:
        side["candidates"] = _CANDIDATES
    script = pathlib.Path(__file__).with_name("support") / "torchvision_side.py"
    threads = str(os.cpu_count())
    python = str(environment / "bin" / "python")
    ours = [sys.executable, __file__, "--side", case, "--precision"]
    return {
        "torchvision": [python, str(script), threads, task, json.dumps(side)],
        **{dtype: [*ours, dtype] for dtype in precisions()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torchvision", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cases", nargs="+", choices=_CASES, default=list(_CASES))
    parser.add_argument("--side", choices=_CASES, help=argparse.SUPPRESS)
    parser.add_argument("--precision", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        import official_maskrcnn.cli  # noqa: F401 - for the environment of its commands
        from official_maskrcnn import precision

        precision.set_policy(arguments.precision)
        task, *sizes = _CASES[arguments.side]
        {"training": _serve_training, "inference": _serve_inference}[task](*sizes)
        return
    if arguments.torchvision is None:
        print("left out: it needs --torchvision DIR, an environment with torch and torchvision")
        return

    rows = []
    for case in arguments.cases:
        measured = alternate(_commands(case, arguments.torchvision), arguments.repeats, case)
        peer = measured.pop("torchvision")
        for dtype, ours in measured.items():
            for what in ("seconds", "peak_mb"):
                rows.append((case, dtype, what, peer[what], ours[what], peer[what] / ours[what]))
            for what in ("mask_rois", "detections"):
                if what in peer:
                    rows.append((case, dtype, what, peer[what], ours[what], ""))
    header = ("case", "ours in", "what", "torchvision", "ours", "torchvision / ours")
    report(__file__, header, rows)


if __name__ == "__main__":
    main()
