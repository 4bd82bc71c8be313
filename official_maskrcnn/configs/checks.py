"""Rules that a whole configuration keeps beyond the types of its fields.

A rule is a function that yields a `Violation` for each thing that is wrong; `@rule` enters it.
"""

import dataclasses
import fnmatch
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.configs.fields import leaves, not_a_choice, show_value
from official_maskrcnn.configs.task import DataConfig
from official_maskrcnn.errors import UserError


@dataclasses.dataclass(frozen=True)
class Violation:
    """What is wrong, and the dotted paths of the values that the message states."""

    message: str
    paths: tuple[str, ...]


Rule = Callable[[ExperimentConfig], Iterator[Violation]]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    """Decorator that enters a rule; every loaded configuration is checked against it."""
    RULES.append(function)
    return function


def violations(experiment: ExperimentConfig) -> list[Violation]:
    """Everything that is wrong with a configuration, in the order of the rules."""
    return [violation for check in RULES for violation in check(experiment)]


def check_data_is_given(experiment: ExperimentConfig, mode: str) -> None:
    """Raises `UserError` if the data that a mode reads is given nowhere.

    Not a rule, since an evaluation needs no training data and a trained model in use needs neither.
    """
    used = {"train": ["train"], "train_and_eval": ["train", "validation"]}.get(mode, ["validation"])
    faults = [
        f"task.{part}_data: mode {mode} reads it; give input_path, or image_dir and annotation_file"
        for part in used
        if not any(data_sources(getattr(experiment.task, f"{part}_data")))
    ]
    if faults:
        raise UserError("\n".join(faults))


def data_sources(data: DataConfig) -> tuple[bool, bool]:
    """Whether records are given, and whether any part of a folder of images is."""
    return bool(data.input_path), bool(data.image_dir or data.annotation_file)


_CHOICES = {
    "task.model.compatibility": ("none", "model_garden"),
    "task.model.decoder.type": ("fpn", "nasfpn", "identity"),
    "task.model.decoder.fpn.fusion_type": ("sum", "concat"),
    "task.*_data.dtype": ("float32", "bfloat16", "float16"),
    "task.coco_eval_backend": ("faster_coco_eval", "pycocotools"),
    "task.init_checkpoint_modules": ("all", "backbone", "decoder"),
    "trainer.best_checkpoint_metric_comp": ("higher", "lower"),
    "runtime.distribution_strategy": ("one_device", "mirrored", "multi_worker_mirrored", "tpu"),
    "runtime.mixed_precision_dtype": ("float32", "bfloat16", "float16"),
}


@dataclasses.dataclass(frozen=True)
class _Range:
    smallest: float
    largest: float = math.inf
    excluded: float | None = None  # an open end
    special: float | None = None  # accepted beside the range

    def accepts(self, value: float) -> bool:
        inside = self.smallest <= value <= self.largest and value != self.excluded
        return inside or value == self.special

    def __str__(self) -> str:
        text = f"at least {self.smallest}"
        if self.excluded == self.smallest:
            text = f"more than {self.smallest}"
        if self.largest < math.inf:
            text += f" and {'less than' if self.excluded == self.largest else 'at most'} "
            text += str(self.largest)
        return text if self.special is None else f"{text}, or {self.special}"


_COUNT = _Range(1)
_COUNT_OR_NONE = _Range(0)
_FRACTION = _Range(0, 1)
_BELOW_ONE = _Range(0, 1, excluded=1)
_POSITIVE = _Range(0, excluded=0)
_NOT_NEGATIVE = _Range(0)

# The first pattern that matches a path decides; lists are checked element by element.
_RANGES = {
    "task.model.num_classes": _Range(2),
    "task.model.*_level": _Range(1, 10),
    "task.model.input_size": _COUNT,
    "task.model.anchor.num_scales": _COUNT,
    "task.model.anchor.*": _POSITIVE,
    "task.model.outer_boxes_scale": _POSITIVE,
    "task.model.norm_activation.norm_momentum": _FRACTION,
    "task.model.norm_activation.norm_epsilon": _POSITIVE,
    "task.model.*.se_ratio": _FRACTION,
    "task.model.*_rate": _BELOW_ONE,
    "task.model.*.num_convs": _COUNT_OR_NONE,
    "task.model.*.num_fcs": _COUNT_OR_NONE,
    "task.model.*.*_min_size_threshold": _NOT_NEGATIVE,
    "task.model.*.*_threshold": _FRACTION,
    "task.model.*.*_thresholds": _FRACTION,
    "task.model.*.foreground_fraction": _FRACTION,
    "task.model.*.soft_nms_sigma": _NOT_NEGATIVE,
    "task.model.backbone.*.depth_multiplier": _POSITIVE,
    "task.model.backbone.*.filter_size_scale": _POSITIVE,
    **{
        f"task.model.*.{name}": _COUNT
        for name in (
            *("num_filters", "num_repeats", "fc_dims", "crop_size", "sampling_ratio"),
            *("*pre_nms_top_k", "*num_proposals", "num_sampled_*", "static_rois_per_image"),
            *("max_num_detections", "upsample_factor"),
        )
    },
    "task.*_data.parser.aug_scale_*": _POSITIVE,
    "task.*_data.parser.rpn_batch_size_per_im": _COUNT,
    "task.*_data.parser.rpn_*": _FRACTION,
    "task.*_data.decoder.*.mask_binarize_threshold": _FRACTION,
    "task.*_data.prefetch_buffer_size": _COUNT_OR_NONE,
    "task.*_data.seed": _COUNT_OR_NONE,
    "task.*_data.*": _COUNT,
    "task.losses.*_huber_loss_delta": _POSITIVE,
    "task.losses.frcnn_class_loss_top_k_percent": _Range(0, 1, excluded=0),
    "task.losses.*": _NOT_NEGATIVE,
    "task.allowed_mask_class_ids": _COUNT,
    "task.num_visualized_images": _COUNT_OR_NONE,
    "trainer.optimizer_config.optimizer.*.*momentum": _FRACTION,
    "trainer.optimizer_config.optimizer.*.beta*_[12]": _BELOW_ONE,
    "trainer.optimizer_config.*.*clip*": _POSITIVE,
    "trainer.optimizer_config.ema.average_decay": _FRACTION,
    "trainer.optimizer_config.learning_rate.*.boundaries": _COUNT,
    "trainer.optimizer_config.learning_rate.*decay_steps": _COUNT,
    "trainer.optimizer_config.*learning_rate": _NOT_NEGATIVE,
    "trainer.optimizer_config.learning_rate.*.values": _NOT_NEGATIVE,
    "trainer.optimizer_config.warmup.*.warmup_steps": _COUNT_OR_NONE,
    "trainer.train_steps": _COUNT_OR_NONE,
    "trainer.validation_steps": _Range(1, special=-1),
    "trainer.continuous_eval_timeout": _COUNT_OR_NONE,
    "trainer.[!o]*": _COUNT,
    "runtime.num_gpus": _COUNT_OR_NONE,
    "runtime.task_index": _Range(0, special=-1),
    "runtime.num_packs": _COUNT,
    "runtime.loss_scale": _POSITIVE,
    "runtime.seed": _COUNT_OR_NONE,
}


def _first_match(table: dict[str, Any], path: str) -> Any:
    return next((entry for glob, entry in table.items() if fnmatch.fnmatchcase(path, glob)), None)


@rule
def choices_and_ranges(experiment: ExperimentConfig) -> Iterator[Violation]:
    """Texts that name a choice, and numbers that have bounds."""
    for path, value in leaves(experiment):
        choices, bounds = _first_match(_CHOICES, path), _first_match(_RANGES, path)
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, str) and choices and item not in choices:
                yield Violation(not_a_choice(item, choices), (path,))
            is_number = isinstance(item, int | float) and not isinstance(item, bool)
            if is_number and bounds and not bounds.accepts(item):
                yield Violation(f"{item} given; accepts {bounds}", (path,))


@rule
def parts_are_chosen(experiment: ExperimentConfig) -> Iterator[Violation]:
    """What cannot be left out: backbone, decoder, optimizer, learning rate, and its numbers."""
    task, optimization = experiment.task, experiment.trainer.optimizer_config
    schedule, warmup = optimization.learning_rate, optimization.warmup
    required = {
        "task.model.backbone.type": task.model.backbone.type,
        "task.model.decoder.type": task.model.decoder.type,
        "trainer.optimizer_config.optimizer.type": optimization.optimizer.type,
        "trainer.optimizer_config.learning_rate.type": schedule.type,
    }
    for part, chosen in (("learning_rate", schedule), ("warmup", warmup)):
        needed = ("boundaries", "values", "warmup_steps", "initial_learning_rate", "decay_rate")
        for name in (*needed, "decay_steps", "total_decay_steps"):
            if chosen.type and hasattr(chosen.get(), name):
                path = f"trainer.optimizer_config.{part}.{chosen.type}.{name}"
                required[path] = getattr(chosen.get(), name)
    for path, value in required.items():
        if value is None:
            yield Violation("null given; a value is needed", (path,))


@rule
def learning_rate_steps(experiment: ExperimentConfig) -> Iterator[Violation]:
    """A stepwise schedule has one rate more than boundaries, and boundaries in order."""
    schedule = experiment.trainer.optimizer_config.learning_rate
    if schedule.type not in ("stepwise", "step_cosine_with_offset"):
        return
    path = f"trainer.optimizer_config.learning_rate.{schedule.type}"
    values, boundaries = schedule.get().values, schedule.get().boundaries
    if values is None or boundaries is None:
        return
    if len(values) != len(boundaries) + 1:
        yield Violation(
            f"{len(values)} learning rates {show_value(values)} need {max(len(values) - 1, 0)} "
            f"boundaries, but there are {len(boundaries)}: {show_value(boundaries)}",
            (f"{path}.values", f"{path}.boundaries"),
        )
    if any(later <= earlier for earlier, later in itertools.pairwise(boundaries)):
        yield Violation(
            f"{show_value(boundaries)} must be in ascending order", (f"{path}.boundaries",)
        )


@rule
def feature_levels(experiment: ExperimentConfig) -> Iterator[Violation]:
    """Feature levels are in order, and a SpineNet makes exactly those that the model uses."""
    model = experiment.task.model
    if model.min_level >= model.max_level:
        yield Violation(
            f"min_level {model.min_level} must be less than max_level {model.max_level}",
            ("task.model.min_level", "task.model.max_level"),
        )
    if model.backbone.type in ("spinenet", "spinenet_mobile"):
        for end in ("min_level", "max_level"):
            ours, its = getattr(model, end), getattr(model.backbone.get(), end)
            if ours != its:
                yield Violation(
                    f"{end} {ours} must equal {its}, the backbone's",
                    (f"task.model.{end}", f"task.model.backbone.{model.backbone.type}.{end}"),
                )


@rule
def input_size(experiment: ExperimentConfig) -> Iterator[Violation]:
    """Height and width are divided evenly down to the coarsest level; images are RGB."""
    model = experiment.task.model
    paths = ("task.model.input_size", "task.model.max_level")
    size = show_value(model.input_size)
    if len(model.input_size) != 3 or model.input_size[2] != 3:
        yield Violation(f"{size} given; accepts [height, width, 3]", paths[:1])
        return
    stride = 2 ** min(max(model.max_level, 0), 10)
    for name, side in zip(("height", "width"), model.input_size[:2], strict=True):
        if side % stride:
            near = max(round(side / stride), 1) * stride
            yield Violation(
                f"{name} {side} must be a multiple of {stride} (2 to the power of max_level "
                f"{model.max_level}); {near} is the nearest",
                paths,
            )


@rule
def class_ids(experiment: ExperimentConfig) -> Iterator[Violation]:
    """Classes with masks, and class weights, are among the model's classes."""
    num_classes, allowed = experiment.task.model.num_classes, experiment.task.allowed_mask_class_ids
    if allowed and max(allowed) >= num_classes:
        yield Violation(
            f"class id {max(allowed)} must be less than task.model.num_classes {num_classes} "
            "(the largest category id + 1)",
            ("task.allowed_mask_class_ids", "task.model.num_classes"),
        )
    weights = experiment.task.losses.class_weights
    if weights is not None and len(weights) != num_classes:
        yield Violation(
            f"{len(weights)} weights given; task.model.num_classes {num_classes} needs as many",
            ("task.losses.class_weights", "task.model.num_classes"),
        )


@rule
def region_sampling(experiment: ExperimentConfig) -> Iterator[Violation]:
    """Cascades regress one box for all classes; masks are sampled out of the sampled RoIs."""
    model = experiment.task.model
    thresholds = model.roi_sampler.cascade_iou_thresholds
    if thresholds and not model.detection_head.class_agnostic_bbox_pred:
        yield Violation(
            f"a cascade ({show_value(thresholds)}) needs task.model.detection_head."
            "class_agnostic_bbox_pred true, but it is false",
            (
                "task.model.roi_sampler.cascade_iou_thresholds",
                "task.model.detection_head.class_agnostic_bbox_pred",
            ),
        )
    rois, masks = model.roi_sampler.num_sampled_rois, model.mask_sampler.num_sampled_masks
    if model.include_mask and not model.use_gt_boxes_for_masks and masks > rois:
        yield Violation(
            f"{masks} masks cannot be sampled out of {rois} RoIs (num_sampled_rois)",
            (
                "task.model.mask_sampler.num_sampled_masks",
                "task.model.roi_sampler.num_sampled_rois",
            ),
        )


@rule
def ordered_pairs(experiment: ExperimentConfig) -> Iterator[Violation]:
    """Lower bounds that must not exceed their upper bounds."""
    pairs = [
        (f"task.{part}_data.parser.", low, high)
        for part in ("train", "validation")
        for low, high in (
            ("aug_scale_min", "aug_scale_max"),
            ("rpn_unmatched_threshold", "rpn_match_threshold"),
        )
    ]
    sampler = "task.model.roi_sampler."
    pairs.append((sampler, "background_iou_low_threshold", "background_iou_high_threshold"))
    values = dict(leaves(experiment))
    for prefix, low, high in pairs:
        if values[prefix + low] > values[prefix + high]:
            yield Violation(
                f"{low} {values[prefix + low]} must not exceed {high} {values[prefix + high]}",
                (prefix + low, prefix + high),
            )


@rule
def one_data_source(experiment: ExperimentConfig) -> Iterator[Violation]:
    """Records or a folder of images, not both; a folder needs its annotations."""
    for part in ("train_data", "validation_data"):
        data: DataConfig = getattr(experiment.task, part)
        records, folder = f"task.{part}.input_path", f"task.{part}.image_dir"
        annotations = f"task.{part}.annotation_file"
        if all(data_sources(data)):
            given = annotations if not data.image_dir else folder
            yield Violation(
                f"data is given twice: input_path {show_value(data.input_path)} and "
                f"{given.split('.')[-1]} {(data.image_dir or data.annotation_file)!r}; keep one",
                (records, given),
            )
        elif data.image_dir and not data.annotation_file:
            yield Violation(
                f"nothing given, but image_dir {data.image_dir!r} needs its COCO annotations",
                (annotations, folder),
            )
        elif data.annotation_file and not data.image_dir:
            yield Violation(
                f"nothing given, but annotation_file {data.annotation_file!r} needs the folder of "
                "its images",
                (folder, annotations),
            )


@rule
def loss_scale(experiment: ExperimentConfig) -> Iterator[Violation]:
    """A loss scale is a number or dynamic, and float16's."""
    scale, dtype = experiment.runtime.loss_scale, experiment.runtime.mixed_precision_dtype
    if isinstance(scale, str) and scale != "dynamic":
        message = f"{scale!r} given; accepts a number, 'dynamic' or null"
        yield Violation(message, ("runtime.loss_scale",))
    elif scale is not None and dtype != "float16":
        yield Violation(
            f"loss_scale {scale} needs mixed_precision_dtype float16, but it is {dtype}",
            ("runtime.loss_scale", "runtime.mixed_precision_dtype"),
        )
