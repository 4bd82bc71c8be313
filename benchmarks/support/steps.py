"""Our model as the benchmarks take it. Imports TensorFlow."""

from collections.abc import Callable, Mapping

import tensorflow as tf

from official_maskrcnn import build_task, load_experiment, precision
from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.modeling.mask_rcnn import MaskRCNN
from official_maskrcnn.tasks.deep_mask_head_rcnn import MaskRCNNTask
from official_maskrcnn.training.optimizer import create_slots

HOURGLASS = (
    "task.model.mask_head.convnet_variant=hourglass52,task.model.mask_head.num_filters=64,"
    "task.model.mask_head.class_agnostic=true,task.model.mask_roi_aligner.crop_size=32,"
    "task.model.use_gt_boxes_for_masks=true"
)

Step = Callable[[Mapping[str, tf.Tensor]], dict[str, tf.Tensor]]


def precisions() -> list[str]:
    """float32, and the fastest precision of this machine if that is another."""
    return list(dict.fromkeys(("float32", precision.resolve("auto"))))


def experiment_of(size: int, changes: str = "") -> ExperimentConfig:
    """Mask R-CNN of ResNet-50 in float32 on square images, with random weights.

    Args:
      size: side of the images, in pixels.
      changes: overrides, such as `HOURGLASS`.
    """
    common = (
        f"task.init_checkpoint=null,task.model.input_size=[{size},{size},3],"
        "runtime.mixed_precision_dtype=float32"
    )
    return load_experiment(
        "deep_mask_head_rcnn_resnetfpn_coco", overrides=f"{common},{changes}".rstrip(",")
    )


def training_step(
    experiment: ExperimentConfig,
    task: MaskRCNNTask | None = None,
    model: MaskRCNN | None = None,
) -> Step:
    """The training step of a model, or of a new one, as a graph."""
    task = task or build_task(experiment)
    model = model or task.build_model()
    optimizer = task.build_optimizer(experiment.trainer.optimizer_config)
    create_slots(optimizer, model)
    return tf.function(lambda batch: task.train_step(batch, model, optimizer))
