"""Training step, its memory, and the time to the first one: tf-models-official against ours.

    python benchmarks/training_step.py [--repeats 5]

Both train the same configuration on the same batch of random images with 7 instances each, in turn
in one run; the reference in float32, ours also in the fastest precision of the machine if that is
another. Writes training_step.csv beside.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from support.scenes import random_batch
from support.serve import serve
from support.sides import alternate, report

_CASES = {  # whether the mask head is the hourglass, side of the images
    "hourglass52 on ground-truth boxes": (True, 512),
    "default head on proposals": (False, 512),
    "hourglass52, first step": (True, 256),
}
_BATCH = 2


def _serve_ours(case: str, dtype: str) -> None:
    import tensorflow as tf
    from support import steps

    from official_maskrcnn import precision

    precision.set_policy(dtype)
    hourglass, size = _CASES[case]
    step = steps.training_step(steps.experiment_of(size, steps.HOURGLASS if hourglass else ""))
    batch = tf.nest.map_structure(tf.constant, random_batch(size, size, _BATCH, instances=7))
    serve(lambda: {"loss": float(step(batch)["total_loss"])})


def _serve_reference(case: str) -> None:
    import tensorflow as tf

    step, images, labels = reference_step(*_CASES[case])
    compiled = tf.function(step)
    serve(lambda: {"loss": float(compiled(images, labels)["loss"])})


def reference_step(hourglass: bool, size: int) -> tuple[Callable[..., dict[str, Any]], Any, Any]:
    """The training step of tf-models-official, images, and labels."""
    from official.modeling import optimization
    from official.projects.deepmac_maskrcnn.configs import deep_mask_head_rcnn as configs
    from official.projects.deepmac_maskrcnn.tasks import deep_mask_head_rcnn as tasks

    config = configs.deep_mask_head_rcnn_resnetfpn_coco()
    config.task.model.input_size = [size, size, 3]
    model_config = config.task.model
    if hourglass:
        model_config.use_gt_boxes_for_masks = True
        model_config.mask_roi_aligner.crop_size = 32
        head = {"convnet_variant": "hourglass52", "num_filters": 64, "class_agnostic": True}
        model_config.mask_head.override(head)
    task = tasks.DeepMaskHeadRCNNTask(config.task)
    model = task.build_model()
    factory = optimization.OptimizerFactory(config.trainer.optimizer_config)
    optimizer = factory.build_optimizer(factory.build_learning_rate())

    def step(images: Any, labels: Any) -> dict[str, Any]:
        return task.train_step((images, labels), model, optimizer)

    return step, *_reference_batch(size, config.task)


def _reference_batch(size: int, config):
    """The same batch as the reference's parser gives it, which labels the anchors."""
    import tensorflow as tf
    from official.vision.ops import anchor

    batch = random_batch(size, size, _BATCH, instances=7)
    model, parser = config.model, config.train_data.parser
    anchors = anchor.build_anchor_generator(
        min_level=model.min_level,
        max_level=model.max_level,
        num_scales=model.anchor.num_scales,
        aspect_ratios=model.anchor.aspect_ratios,
        anchor_size=model.anchor.anchor_size,
    )(image_size=(size, size))
    labeler = anchor.RpnAnchorLabeler(
        parser.rpn_match_threshold,
        parser.rpn_unmatched_threshold,
        parser.rpn_batch_size_per_im,
        parser.rpn_fg_fraction,
    )
    images = []
    for boxes, classes in zip(batch["boxes"], batch["classes"], strict=True):
        real = classes > 0
        scores, offsets = labeler.label_anchors(
            anchors, tf.constant(boxes[real]), tf.constant(classes[real, None], tf.float32)
        )
        images.append({"rpn_score_targets": scores, "rpn_box_targets": offsets})
    labels = tf.nest.map_structure(lambda *parts: tf.stack(parts), *images)
    labels |= {
        "anchor_boxes": tf.nest.map_structure(lambda level: tf.stack([level] * _BATCH), anchors),
        "image_info": tf.constant(batch["image_info"]),
        "gt_boxes": tf.constant(batch["boxes"]),
        "gt_classes": tf.constant(batch["classes"]),
        "gt_outer_boxes": tf.constant(batch["boxes"]),
        "gt_masks": tf.constant(batch["masks"], tf.float32),
    }
    return tf.constant(batch["image"]), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=_CASES, default=list(_CASES))
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side == "reference":
        _serve_reference(*arguments.cases)
        return
    if arguments.side:
        import official_maskrcnn.cli  # noqa: F401 - for the environment of its commands

        _serve_ours(*arguments.cases, arguments.side)
        return

    from support.steps import precisions

    ours = precisions()
    rows = []
    for case in arguments.cases:
        command = [sys.executable, __file__, "--cases", case, "--side"]
        sides = {side: [*command, side] for side in ("reference", *ours)}
        measured = alternate(sides, arguments.repeats, case)
        reference = measured.pop("reference")
        for dtype, numbers in measured.items():
            row = (case, _CASES[case][1], dtype)
            for what in ("seconds", "peak_mb", "first_seconds"):
                pair = (reference[what], numbers[what])
                rows.append((*row, what, *pair, pair[0] / pair[1]))
            rows.append((*row, "total loss", reference["loss"], numbers["loss"], ""))
    header = ("case", "size", "ours in", "what", "reference", "ours", "reference / ours")
    report(__file__, header, rows)


if __name__ == "__main__":
    main()
