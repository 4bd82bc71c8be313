"""Rules on a configuration that need the model's code or the data; importing this enters them."""

from collections.abc import Iterator

import tensorflow as tf

from official_maskrcnn.configs.checks import Violation, mode_rule, rule
from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.configs.fields import not_a_choice, show_value
from official_maskrcnn.configs.rules import data_sources, used_data
from official_maskrcnn.configs.task import DataConfig
from official_maskrcnn.data import coco, records
from official_maskrcnn.errors import UserError
from official_maskrcnn.modeling.backbones import BACKBONE_MODELS
from official_maskrcnn.modeling.heads import MASK_HEADS, check_roi_size


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


@mode_rule
def files_exist(experiment: ExperimentConfig, mode: str) -> Iterator[Violation]:
    """All files that a mode reads are there."""
    task = experiment.task
    for part in used_data(mode):
        data: DataConfig = getattr(task, part)
        if data.input_path:
            try:
                records.expand_patterns(data.input_path)
            except UserError as error:
                yield Violation(str(error), (f"task.{part}.input_path",))
        if data.image_dir and not tf.io.gfile.isdir(data.image_dir):
            yield Violation(f"{data.image_dir!r} is no folder", (f"task.{part}.image_dir",))
        if data.annotation_file and not tf.io.gfile.exists(data.annotation_file):
            message = f"{data.annotation_file!r} does not exist"
            yield Violation(message, (f"task.{part}.annotation_file",))
    truth = task.annotation_file
    is_read = "validation_data" in used_data(mode)
    is_own_file = truth and truth != task.validation_data.annotation_file
    if is_read and is_own_file and not tf.io.gfile.exists(truth):
        yield Violation(f"{truth!r} does not exist", ("task.annotation_file",))


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
        if not all((*data_sources(data)[1:], path)) or not tf.io.gfile.exists(path):
            continue
        try:
            names = coco.read_categories(path)
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
