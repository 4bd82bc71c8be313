"""A trained model out of the folder of its training, with nothing said twice."""

import dataclasses
import functools
import os
from typing import Any

import tensorflow as tf

from official_maskrcnn import precision as precisions
from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.configs.loading import experiment_from_params
from official_maskrcnn.configs.model import DeepMaskHeadRCNN
from official_maskrcnn.errors import UserError
from official_maskrcnn.files import read_json
from official_maskrcnn.inference.graphs import InferenceGraphs
from official_maskrcnn.modeling import checkpoint_files
from official_maskrcnn.modeling.mask_rcnn import MaskRCNN
from official_maskrcnn.modeling.restore import restore_weights
from official_maskrcnn.tasks import gin_bindings
from official_maskrcnn.tasks.model_dir import CATEGORIES, PARAMS, RECORD


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model with its weights.

    Attributes:
      model: with the weights of the checkpoint, or the moving averages of them.
      experiment: the configuration of its training.
      class_names: by category id; empty if the folder does not say them.
      checkpoint: path prefix.
      precision: in which its layers compute: float32, bfloat16 or float16.
    """

    model: MaskRCNN
    experiment: ExperimentConfig
    class_names: dict[int, str]
    checkpoint: str
    precision: str

    @property
    def config(self) -> DeepMaskHeadRCNN:
        """Of the model."""
        return self.experiment.task.model

    @functools.cached_property
    def graphs(self) -> InferenceGraphs:
        """The model from the pixels of an image on."""
        return InferenceGraphs(self.model, tf.as_dtype(self.precision))


def load_trained_model(
    path: str,
    checkpoint: str = "best",
    precision: str | None = None,
    min_score: float = 0.0,
    static_shapes: bool = False,
) -> TrainedModel:
    """Builds the model of a training and loads its weights.

    Args:
      path: the model_dir of a training, local or remote.
      checkpoint: best (the latest one if none was kept as the best), latest, a step, or a path.
      precision: of the layers: float32, bfloat16, float16 or auto; None for that of the training.
      min_score: detections of a lower score are not looked for, which saves time.
      static_shapes: use only operations that XLA compiles.

    Raises:
      UserError: there is no training at `path`, or it has no such checkpoint.
    """
    experiment = load_trained_experiment(path)
    prefix = _find_checkpoint(path, experiment, checkpoint)
    generator = experiment.task.model.detection_generator
    generator.pre_nms_score_threshold = max(generator.pre_nms_score_threshold, min_score)
    device = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    dtype = precisions.resolve(precision or experiment.runtime.mixed_precision_dtype, device)
    bindings = _read_if_there(path, RECORD, {}).get("gin") or ""
    with precisions.policy(dtype), gin_bindings.exactly(bindings):
        model = MaskRCNN(experiment.task.model, static_shapes=static_shapes)
    restore_weights(prefix, model)
    categories = _read_if_there(path, CATEGORIES, [])
    names = {entry["id"]: entry["name"] for entry in categories}
    return TrainedModel(model, experiment, names, prefix, dtype)


def load_trained_experiment(path: str) -> ExperimentConfig:
    """The configuration of a training, out of its model_dir.

    Raises:
      UserError: there is no training at `path`.
    """
    params = os.path.join(path, PARAMS)
    if not tf.io.gfile.exists(params):
        raise UserError(f"{path} is no model: it has no {PARAMS}; give a training's model_dir")
    return experiment_from_params(params)


def _find_checkpoint(path: str, experiment: ExperimentConfig, selection: str) -> str:
    if selection == "best":
        folder = experiment.trainer.best_checkpoint_export_subdir
        best = checkpoint_files.find_all(os.path.join(path, folder)) if folder else []
        if best:
            return best[-1]
        selection = "latest"
    chosen = checkpoint_files.choose(path, selection)
    if len(chosen) > 1:
        raise UserError(f"{selection} names {len(chosen)} checkpoints of {path}; give one step")
    return chosen[0]


def _read_if_there(path: str, name: str, otherwise: Any) -> Any:
    file = os.path.join(path, name)
    return read_json(file) if tf.io.gfile.exists(file) else otherwise
