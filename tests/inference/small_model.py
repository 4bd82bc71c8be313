"""A model_dir with a small model of random weights, as a training leaves it behind."""

import json
import pathlib

import tensorflow as tf
import tf_keras

from official_maskrcnn.configs.loading import load_experiment, save_params
from official_maskrcnn.tasks import build_task
from official_maskrcnn.tasks.model_dir import CATEGORIES, PARAMS

CLASS_NAMES = {1: "disk", 2: "square", 4: "star"}
_CONFIG = """
task:
  init_checkpoint: null
  model:
    num_classes: 5
    input_size: [128, 128, 3]
    max_level: 5
    backbone: {type: resnet, resnet: {model_id: 18, depth_multiplier: 0.25}}
    decoder: {type: fpn, fpn: {num_filters: 16}}
    rpn_head: {num_filters: 16}
    roi_generator: {num_proposals: 30, test_num_proposals: 30}
    detection_head: {num_convs: 0, fc_dims: 16}
    detection_generator: {max_num_detections: 10}
    mask_head: {num_convs: 1, num_filters: 8, class_agnostic: true}
    norm_activation: {use_sync_bn: false}
runtime: {mixed_precision_dtype: float32}
"""


def make_model_dir(folder: pathlib.Path, *overrides: str) -> pathlib.Path:
    """Writes a model_dir; the model finds ten objects of all classes in almost any image.

    Args:
      folder: to write to.
      overrides: changes of the configuration, such as task.model.mask_head.class_agnostic=false.
    """
    experiment = load_experiment("deep_mask_head_rcnn_resnetfpn_coco", (), [_CONFIG, *overrides])
    tf_keras.utils.set_random_seed(7)
    model = build_task(experiment).build_model()
    folder.mkdir(parents=True, exist_ok=True)
    save_params(experiment, str(folder / PARAMS))
    entries = [{"id": number, "name": name} for number, name in CLASS_NAMES.items()]
    (folder / CATEGORIES).write_text(json.dumps(entries))
    tf.train.Checkpoint(model=model).write(str(folder / "ckpt-10"))
    return folder
