"""A model out of the folder of an export."""

import dataclasses
import os
from typing import Any

import tensorflow as tf

from official_maskrcnn.configs.loading import experiment_from_params
from official_maskrcnn.configs.model import DeepMaskHeadRCNN
from official_maskrcnn.errors import UserError
from official_maskrcnn.files import read_json
from official_maskrcnn.inference.formats import ABOUT, FORMATS
from official_maskrcnn.inference.graphs import without_remarks
from official_maskrcnn.tasks.model_dir import PARAMS


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """A SavedModel.

    Attributes:
      graphs: an object with the functions of `InferenceGraphs`.
      config: of the model.
      class_names: by category id; empty if the model does not know them.
      checkpoint: whose weights it has.
      precision: in which its layers compute.
    """

    graphs: Any
    config: DeepMaskHeadRCNN
    class_names: dict[int, str]
    checkpoint: str
    precision: str


def is_export(path: str) -> bool:
    """Whether a folder was written by the verb export."""
    return tf.io.gfile.exists(os.path.join(path, ABOUT))


def load_exported(
    path: str, checkpoint: str = "best", precision: str | None = None
) -> ExportedModel:
    """Loads the SavedModel of an export.

    Args:
      path: folder of the export, local or remote.
      checkpoint: as for `load_trained_model`; an export has but one.
      precision: None or auto for that of the export.

    Raises:
      UserError: there is no SavedModel, or it has another precision.
    """
    about = read_json(os.path.join(path, ABOUT))
    if not tf.io.gfile.exists(os.path.join(path, FORMATS["saved_model"])):
        raise UserError(
            f"{path} has no SavedModel (it has {', '.join(about['files'])}): export the model "
            "again with --formats saved_model"
        )
    if checkpoint != "best":
        raise UserError(
            f"{path} is an export, which has one checkpoint ({about['checkpoint']}); "
            f"{checkpoint} needs the model_dir of the training"
        )
    if precision not in (None, "auto", about["precision"]):
        raise UserError(
            f"{path} was exported in {about['precision']}, not {precision}: export it again with "
            f"--precision {precision}"
        )
    experiment = experiment_from_params(os.path.join(path, PARAMS))
    with without_remarks():
        graphs = tf.saved_model.load(path)
    return ExportedModel(
        graphs,
        experiment.task.model,
        {entry["id"]: entry["name"] for entry in about["categories"]},
        about["checkpoint"],
        about["precision"],
    )
