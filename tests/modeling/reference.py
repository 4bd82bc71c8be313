"""The Mask R-CNN of tf-models-official, built from our configuration, to compare with."""

import pathlib

import numpy as np
import tensorflow as tf
import tf_keras
from official.projects.deepmac_maskrcnn.configs import deep_mask_head_rcnn as reference_config
from official.projects.deepmac_maskrcnn.tasks import deep_mask_head_rcnn as reference_task

from official_maskrcnn.configs.task import DeepMaskHeadRCNNTask
from official_maskrcnn.modeling.mask_rcnn import MaskRCNN


def _known(values: dict, defaults: dict) -> dict:
    """Those of our values that the reference has a field for."""
    known = {}
    for key, value in values.items():
        if key in defaults:
            nested = isinstance(value, dict) and isinstance(defaults[key], dict)
            known[key] = _known(value, defaults[key]) if nested else value
    return known


def build_reference(
    config: DeepMaskHeadRCNNTask,
) -> tuple[reference_task.DeepMaskHeadRCNNTask, tf_keras.Model]:
    """Task and model of the reference; pre-trained weights are left out."""
    reference = reference_config.DeepMaskHeadRCNNTask()
    # As a dict, it has only the fields of the backbone and the decoder that are chosen.
    reference.model.backbone.type = config.model.backbone.type
    reference.model.decoder.type = config.model.decoder.type
    ours = {"model": config.model.as_dict(), "losses": config.losses.as_dict()}
    ours["allowed_mask_class_ids"] = config.allowed_mask_class_ids
    reference.override(_known(ours, reference.as_dict()), is_strict=False)
    task = reference_task.DeepMaskHeadRCNNTask(reference)
    return task, task.build_model()


def randomize(model: tf_keras.Model, seed: int = 0) -> None:
    """Weights under which scores, boxes and batch statistics are all different."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        name, shape = variable.name, variable.shape
        if "moving_variance" in name:
            variable.assign(rng.uniform(0.7, 1.3, shape))
        elif "gamma" in name:
            variable.assign(rng.uniform(0.5, 0.9, shape))
        elif "moving_mean" in name or "beta" in name or "bias" in name:
            variable.assign(rng.normal(0.0, 0.05, shape))
        elif "rpn-" in name or "detection-" in name:
            spread = 1.0 if "rpn-" in name else 2.0
            variable.assign(rng.normal(0.0, spread / np.sqrt(np.prod(shape[:-1])), shape))


def copy_weights(reference: tf_keras.Model, ours: MaskRCNN, folder: pathlib.Path) -> None:
    """By way of a checkpoint, which shows that ours reads the reference's."""
    path = tf.train.Checkpoint(model=reference).write(str(folder / "reference"))
    status = tf.train.Checkpoint(model=ours).read(path)
    status.assert_existing_objects_matched()
    status.assert_consumed()
