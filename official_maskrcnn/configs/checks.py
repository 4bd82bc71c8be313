"""What a configuration keeps beyond the types of its fields: choices, ranges, and rules.

A rule is a function that yields a `Violation` for each thing that is wrong; `@rule` enters it, or
`@mode_rule` where it depends on what the configuration is about to be used for. The rules across
fields are in `rules`, those that need the model's or the data's code in `tasks.rules`.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Iterator
from typing import Any

from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.configs.fields import leaves, not_a_choice


@dataclasses.dataclass(frozen=True)
class Violation:
    """What is wrong, and the dotted paths of the values that the message states."""

    message: str
    paths: tuple[str, ...]


Rule = Callable[[ExperimentConfig], Iterator[Violation]]
ModeRule = Callable[[ExperimentConfig, str], Iterator[Violation]]
_RULES: list[Rule] = []
_MODE_RULES: list[ModeRule] = []


def rule(function: Rule) -> Rule:
    """Decorator that enters a rule; every loaded configuration is checked against it."""
    _RULES.append(function)
    return function


def mode_rule(function: ModeRule) -> ModeRule:
    """Decorator that enters a rule on what a mode (train, eval, ...) needs.

    Not all configurations keep it: an evaluation needs no training data, and a trained model in use
    needs no data at all.
    """
    _MODE_RULES.append(function)
    return function


def violations(experiment: ExperimentConfig) -> list[Violation]:
    """Everything that is wrong with a configuration in itself, in the order of the rules."""
    return [violation for check in _RULES for violation in check(experiment)]


def mode_violations(experiment: ExperimentConfig, mode: str) -> list[Violation]:
    """Everything that keeps a configuration from being used in a mode."""
    return [violation for check in _MODE_RULES for violation in check(experiment, mode)]


_CHOICES = {
    "task.model.compatibility": ("none", "model_garden"),
    "task.model.decoder.type": ("fpn", "nasfpn", "identity"),
    "task.model.backbone.resnet.stem_type": ("v0", "v1", "v2"),
    "task.model.decoder.fpn.fusion_type": ("sum", "concat"),
    "task.*_data.dtype": ("float32", "bfloat16", "float16"),
    "task.coco_eval_backend": ("faster_coco_eval", "pycocotools"),
    "task.init_checkpoint_modules": ("all", "backbone", "decoder"),
    "trainer.best_checkpoint_metric_comp": ("higher", "lower"),
    "runtime.distribution_strategy": ("one_device", "mirrored", "multi_worker_mirrored", "tpu"),
    "runtime.cluster": ("slurm",),
    "runtime.mixed_precision_dtype": ("auto", "float32", "bfloat16", "float16"),
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
    "task.*_data.max_faulty_examples": _COUNT_OR_NONE,
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
    "trainer.train_epochs": _POSITIVE,
    "trainer.boundary_epochs": _POSITIVE,
    "trainer.validation_steps": _Range(1, special=-1),
    "trainer.continuous_eval_timeout": _COUNT_OR_NONE,
    "trainer.max_skipped_steps": _COUNT_OR_NONE,
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
