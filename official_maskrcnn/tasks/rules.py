"""Rules on a configuration that need the model's code or the data; importing this enters them."""

from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from absl import logging

from official_maskrcnn.configs.checks import Violation, mode_rule, rule
from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.configs.fields import not_a_choice, show_value
from official_maskrcnn.configs.rules import data_sources, used_data
from official_maskrcnn.configs.task import DataConfig, DeepMaskHeadRCNNTask
from official_maskrcnn.data import coco, records
from official_maskrcnn.errors import UserError
from official_maskrcnn.modeling.backbones import BACKBONE_MODELS
from official_maskrcnn.modeling.heads import MASK_HEADS, check_roi_size
from official_maskrcnn.modeling.rematerialization import REMATERIALIZABLE


@rule
def mask_head(experiment: ExperimentConfig) -> Iterator[Violation]:
    """The mask head exists, and takes RoIs of the size that it gets."""
    model = experiment.task.model
    head, size = "task.model.mask_head.convnet_variant", "task.model.mask_roi_aligner.crop_size"
    is_known = model.mask_head.convnet_variant in MASK_HEADS.names()
    try:
        check_roi_size(model.mask_head, model.mask_roi_aligner.crop_size)
    except UserError as error:
        yield Violation(str(error), (head, size) if is_known else (head,))


@rule
def backbone(experiment: ExperimentConfig) -> Iterator[Violation]:
    """The backbone gives a pyramid, and comes in the model that is asked for."""
    config = experiment.task.model.backbone
    if config.type is None:
        return
    path = "task.model.backbone"
    if config.type not in BACKBONE_MODELS:
        message = not_a_choice(config.type, sorted(BACKBONE_MODELS))
        yield Violation(message, (f"{path}.type",))
        return
    models, chosen = BACKBONE_MODELS[config.type], config.get().model_id
    if chosen not in models:
        message = not_a_choice(chosen, [str(name) for name in models])
        yield Violation(message, (f"{path}.{config.type}.model_id",))


@rule
def rematerialize(experiment: ExperimentConfig) -> Iterator[Violation]:
    """The backbone has blocks that can be computed again."""
    model = experiment.task.model
    if model.rematerialize and model.backbone.type not in REMATERIALIZABLE:
        yield Violation(
            f"{model.backbone.type} has no residual blocks to compute again; "
            f"{' and '.join(REMATERIALIZABLE)} have",
            ("task.model.rematerialize", "task.model.backbone.type"),
        )


@mode_rule
def files_exist(experiment: ExperimentConfig, mode: str) -> Iterator[Violation]:
    """All files that a mode reads are there; storage that cannot be reached gets a warning."""
    for field, value, find in _named_files(experiment.task, mode):
        try:
            find(value)
        except UserError as error:
            yield Violation(str(error), (field,))
        except tf.errors.OpError as error:
            if "://" not in str(value):
                yield Violation(f"{value!r} cannot be read: {error.message}", (field,))
            else:
                reason = error.message.partition("\n")[0]
                logging.warning("%s: %s cannot be reached: %s", field, value, reason)


def _named_files(
    task: DeepMaskHeadRCNNTask, mode: str
) -> Iterator[tuple[str, Any, Callable[[Any], Any]]]:
    """Fields that name what a mode reads, their values, and what fails if it is not there."""
    for part in used_data(mode):
        data: DataConfig = getattr(task, part)
        if data.input_path:
            yield f"task.{part}.input_path", data.input_path, records.expand_patterns
        if data.image_dir:
            yield f"task.{part}.image_dir", data.image_dir, _find_folder
        if data.annotation_file:
            yield f"task.{part}.annotation_file", data.annotation_file, _find_file
    truth = task.annotation_file
    is_read = "validation_data" in used_data(mode)
    if is_read and truth and truth != task.validation_data.annotation_file:
        yield "task.annotation_file", truth, _find_file


def _find_folder(path: str) -> None:
    if not tf.io.gfile.isdir(path):
        raise UserError(f"{path!r} is no folder")


def _find_file(path: str) -> None:
    if not tf.io.gfile.exists(path):
        raise UserError(f"{path!r} does not exist")


@mode_rule
def categories(experiment: ExperimentConfig, mode: str) -> Iterator[Violation]:
    """The model has an output for every category, and the classes with masks are categories.

    Known where the annotations are a COCO file; records do not name their categories.
    """
    task = experiment.task
    num_classes, allowed = task.model.num_classes, task.allowed_mask_class_ids or []
    for part in used_data(mode):
        data: DataConfig = getattr(task, part)
        path = data.annotation_file
        if not all((*data_sources(data)[1:], path)):
            continue
        try:
            if not tf.io.gfile.exists(path):
                continue
            names = coco.read_categories(path)
        except tf.errors.OpError:
            continue  # which `files_exist` reports
        except UserError as error:
            yield Violation(str(error), (f"task.{part}.annotation_file",))
            continue
        largest = max(names)
        if largest >= num_classes:
            yield Violation(
                f"{num_classes} given, but {path} has category id {largest} "
                f"({names[largest]}): {largest + 1} are needed, the largest id + 1",
                ("task.model.num_classes", f"task.{part}.annotation_file"),
            )
        unknown = [number for number in allowed if number not in names]
        if unknown and part == "train_data":
            yield Violation(
                f"{show_value(unknown)} given, but {path} has only the category ids "
                f"{show_value(list(names))}",
                ("task.allowed_mask_class_ids", f"task.{part}.annotation_file"),
            )
