"""Rules across fields that need nothing but the configuration itself."""

import itertools
from collections.abc import Iterator, Sequence

from official_maskrcnn.configs.checks import Violation, mode_rule, rule
from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.configs.fields import leaves, show_value
from official_maskrcnn.configs.task import DataConfig

_OPTIMIZATION = "trainer.optimizer_config"
_MAX_CASCADE_THRESHOLDS = 2
# Model Garden's moving averages wrap Keras' legacy optimizers alone.
_WITHOUT_AVERAGES = (
    *("sgd_experimental", "adam_experimental", "adamw_experimental"),
    "adafactor_keras",
)
# Of Model Garden's package, what cannot be used, by the part that it is a type of.
_UNUSABLE = {
    "optimizer": {"slide": "is but a stub", "adafactor": "is but a stub"},
    "learning_rate": {"step_cosine_with_offset": "rises again after its first cosine"},
}
_STEPWISE = f"{_OPTIMIZATION}.learning_rate.stepwise"
BOUNDARIES = f"{_STEPWISE}.boundaries"


def data_sources(data: DataConfig) -> tuple[bool, bool]:
    """Whether records are given, and whether any part of a folder of images is."""
    return bool(data.input_path), bool(data.image_dir or data.annotation_file)


def used_data(mode: str) -> tuple[str, ...]:
    """Names of the data sections that a mode reads."""
    return {
        "train": ("train_data",),
        "train_and_eval": ("train_data", "validation_data"),
    }.get(mode, ("validation_data",))


@mode_rule
def data_is_given(experiment: ExperimentConfig, mode: str) -> Iterator[Violation]:
    """What a mode reads is given."""
    for part in used_data(mode):
        if not any(data_sources(getattr(experiment.task, part))):
            yield Violation(
                f"mode {mode} reads it; give input_path, or image_dir and annotation_file",
                (f"task.{part}",),
            )


@mode_rule
def training_has_a_length(experiment: ExperimentConfig, mode: str) -> Iterator[Violation]:
    """A training takes steps."""
    trainer = experiment.trainer
    if mode.startswith("train") and not trainer.train_steps and trainer.train_epochs is None:
        yield Violation(
            f"{trainer.train_steps} given; mode {mode} needs at least 1, or trainer.train_epochs",
            ("trainer.train_steps",),
        )


@rule
def parts_are_chosen(experiment: ExperimentConfig) -> Iterator[Violation]:
    """What cannot be left out: backbone, decoder, optimizer, learning rate, and its numbers."""
    task, trainer = experiment.task, experiment.trainer
    optimization = trainer.optimizer_config
    schedule, warmup = optimization.learning_rate, optimization.warmup
    required = {
        "task.model.backbone.type": task.model.backbone.type,
        "task.model.decoder.type": task.model.decoder.type,
        f"{_OPTIMIZATION}.optimizer.type": optimization.optimizer.type,
        f"{_OPTIMIZATION}.learning_rate.type": schedule.type,
    }
    needed = ["values", "warmup_steps", "initial_learning_rate", "decay_rate"]
    if trainer.boundary_epochs is None:
        needed.append("boundaries")
    if not trainer.train_steps and trainer.train_epochs is None:  # else: the whole training
        needed += ["decay_steps", "total_decay_steps"]
    for part, chosen in (("learning_rate", schedule), ("warmup", warmup)):
        for name in needed:
            if chosen.type and hasattr(chosen.get(), name):
                path = f"{_OPTIMIZATION}.{part}.{chosen.type}.{name}"
                required[path] = getattr(chosen.get(), name)
    for path, value in required.items():
        if value is None:
            yield Violation("null given; a value is needed", (path,))


@rule
def durations(experiment: ExperimentConfig) -> Iterator[Violation]:
    """Lengths are given once, in steps or in epochs, and boundaries lie inside the training."""
    trainer = experiment.trainer
    epochs = trainer.train_epochs
    if epochs is not None and trainer.train_steps:
        yield Violation(
            f"the length is given twice: train_epochs {epochs} and train_steps "
            f"{trainer.train_steps}; keep one",
            ("trainer.train_epochs", "trainer.train_steps"),
        )
    path, _, boundaries = learning_rate_boundaries(experiment)
    if not boundaries:
        return
    in_epochs = path == "trainer.boundary_epochs"
    if in_epochs and epochs is None:
        yield Violation(
            f"{show_value(boundaries)} given, but trainer.train_epochs is null; give both, or the "
            "learning rate's boundaries and trainer.train_steps",
            (path, "trainer.train_epochs"),
        )
        return
    length_path = "trainer.train_epochs" if in_epochs else "trainer.train_steps"
    length = epochs if in_epochs else trainer.train_steps
    if length and boundaries[-1] >= length:
        fitting = [round(boundary * 0.9 * length / boundaries[-1], 2) for boundary in boundaries]
        if not in_epochs:
            fitting = [max(int(boundary), 1) for boundary in fitting]
        message = f"{show_value(boundaries)} given; must lie below {length_path} {length}"
        if fitting[-1] < length and _ascend(fitting):
            message += f", such as {show_value(fitting)}"
        yield Violation(message, (path, length_path))


@rule
def learning_rates(experiment: ExperimentConfig) -> Iterator[Violation]:
    """A stepwise schedule has one rate more than boundaries, and boundaries in order."""
    path, values_path, boundaries = learning_rate_boundaries(experiment)
    if path == "trainer.boundary_epochs" and not values_path:
        chosen = experiment.trainer.optimizer_config.learning_rate.type
        yield Violation(
            f"{show_value(boundaries)} given, but {_OPTIMIZATION}.learning_rate.type {chosen} has "
            "no boundaries",
            (path, f"{_OPTIMIZATION}.learning_rate.type"),
        )
    if boundaries is None or not values_path:
        return
    values = experiment.trainer.optimizer_config.learning_rate.get().values
    if not boundaries:
        yield Violation("no boundary given; at least 1 is needed", (path,))
    elif values is not None and len(values) != len(boundaries) + 1:
        yield Violation(
            f"{len(values)} learning rates {show_value(values)} need {max(len(values) - 1, 0)} "
            f"boundaries, but there are {len(boundaries)}: {show_value(boundaries)}",
            (values_path, path),
        )
    if not _ascend(boundaries):
        yield Violation(f"{show_value(boundaries)} must be in ascending order", (path,))


def _ascend(numbers: Sequence[float]) -> bool:
    return all(later > earlier for earlier, later in itertools.pairwise(numbers))


def learning_rate_boundaries(
    experiment: ExperimentConfig,
) -> tuple[str, str, Sequence[float] | None]:
    """Boundaries of the learning rate, before them the paths of these and of the rates.

    They are in epochs if the path is that of trainer.boundary_epochs. Paths are empty where the
    schedule has no such thing.
    """
    schedule = experiment.trainer.optimizer_config.learning_rate
    values_path = f"{_STEPWISE}.values" if schedule.type == "stepwise" else ""
    if experiment.trainer.boundary_epochs is not None:
        return "trainer.boundary_epochs", values_path, experiment.trainer.boundary_epochs
    if not values_path:
        return "", "", None
    return BOUNDARIES, values_path, schedule.get().boundaries


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
    if model.decoder.type == "nasfpn" and (model.min_level, model.max_level) != (3, 7):
        yield Violation(
            f"decoder nasfpn joins levels 3 to 7, but min_level is {model.min_level} and max_level "
            f"{model.max_level}",
            ("task.model.decoder.type", "task.model.min_level", "task.model.max_level"),
        )
    if (model.backbone.type, model.decoder.type) == ("resnet", "identity") and (
        model.min_level < 2 or model.max_level > 5
    ):
        yield Violation(
            f"the identity decoder needs levels {model.min_level} to {model.max_level} of the "
            "backbone, but a resnet gives 2 to 5: use the fpn decoder, or other levels",
            ("task.model.decoder.type", "task.model.min_level", "task.model.max_level"),
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
    if thresholds and len(thresholds) > _MAX_CASCADE_THRESHOLDS:
        yield Violation(
            f"{len(thresholds)} thresholds given; a cascade has at most {_MAX_CASCADE_THRESHOLDS}, "
            "for its second and third box head",
            ("task.model.roi_sampler.cascade_iou_thresholds",),
        )
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


@rule
def averages(experiment: ExperimentConfig) -> Iterator[Violation]:
    """Moving averages know neither Keras' loss scaling nor its new optimizers."""
    ema = experiment.trainer.optimizer_config.ema
    optimizer = experiment.trainer.optimizer_config.optimizer.type
    if ema is not None and optimizer in _WITHOUT_AVERAGES:
        yield Violation(
            f"{optimizer} given, of which no moving averages (trainer.optimizer_config.ema) can be "
            "kept; take sgd, adam or adamw, or leave out ema",
            (f"{_OPTIMIZATION}.optimizer.type", f"{_OPTIMIZATION}.ema"),
        )
    if ema is not None and experiment.runtime.mixed_precision_dtype == "float16":
        yield Violation(
            "float16 given, but moving averages of the weights (trainer.optimizer_config.ema) "
            "need bfloat16 or float32",
            ("runtime.mixed_precision_dtype", "trainer.optimizer_config.ema"),
        )


@rule
def usable_parts(experiment: ExperimentConfig) -> Iterator[Violation]:
    """Optimizer and schedule do what their names say."""
    for part, faults in _UNUSABLE.items():
        chosen = getattr(experiment.trainer.optimizer_config, part).type
        if chosen in faults:
            yield Violation(
                f"{chosen} given, which {faults[chosen]} in tf-models-official 2.20; take another",
                (f"{_OPTIMIZATION}.{part}.type",),
            )


@rule
def anchors(experiment: ExperimentConfig) -> Iterator[Violation]:
    """There are some."""
    if not experiment.task.model.anchor.aspect_ratios:
        yield Violation(
            "no aspect ratio given; at least 1 is needed", ("task.model.anchor.aspect_ratios",)
        )


@rule
def data_roles(experiment: ExperimentConfig) -> Iterator[Violation]:
    """Training data is augmented and endless, validation data neither."""
    for part, expected in (("train_data", True), ("validation_data", False)):
        if getattr(experiment.task, part).is_training != expected:
            yield Violation(
                f"{show_value(not expected)} given; {part} has {show_value(expected)}",
                (f"task.{part}.is_training",),
            )


@rule
def devices(experiment: ExperimentConfig) -> Iterator[Violation]:
    """Precision, compilation and batch size suit the devices, as far as they are known here."""
    runtime = experiment.runtime
    strategy = runtime.distribution_strategy
    strategy_path = "runtime.distribution_strategy"
    if strategy == "tpu" and runtime.mixed_precision_dtype == "float16":
        yield Violation(
            "float16 given, but distribution_strategy tpu computes in bfloat16 or float32",
            ("runtime.mixed_precision_dtype", strategy_path),
        )
    if strategy == "tpu" and runtime.run_eagerly:
        yield Violation(
            "true given, but distribution_strategy tpu always compiles its steps",
            ("runtime.run_eagerly", strategy_path),
        )
    if runtime.enable_xla and runtime.run_eagerly:
        yield Violation(
            "enable_xla true and run_eagerly true exclude each other",
            ("runtime.enable_xla", "runtime.run_eagerly"),
        )
    static = strategy == "tpu" or runtime.enable_xla
    if static and experiment.task.model.detection_generator.soft_nms_sigma is not None:
        by = "distribution_strategy tpu" if strategy == "tpu" else "enable_xla true"
        yield Violation(
            f"Soft-NMS cannot be compiled by XLA, which {by} asks for; set it to null",
            (
                "task.model.detection_generator.soft_nms_sigma",
                strategy_path if strategy == "tpu" else "runtime.enable_xla",
            ),
        )
    if strategy != "multi_worker_mirrored":
        given: dict[str, str | int | None] = {
            "cluster": runtime.cluster,
            "worker_hosts": runtime.worker_hosts,
            "task_index": runtime.task_index if runtime.task_index >= 0 else None,
        }
        for name, value in given.items():
            if value is not None:
                yield Violation(
                    f"{value} given, but distribution_strategy is {strategy}; set it to "
                    "multi_worker_mirrored",
                    (f"runtime.{name}", strategy_path),
                )
    if strategy != "tpu" and runtime.tpu is not None:
        yield Violation(
            f"{runtime.tpu!r} given, but distribution_strategy is {strategy}; set it to tpu",
            ("runtime.tpu", strategy_path),
        )
    if strategy in ("tpu", "one_device") and (runtime.num_gpus or 0) > (strategy == "one_device"):
        yield Violation(
            f"{runtime.num_gpus} GPUs given, but distribution_strategy {strategy} uses "
            f"{'none' if strategy == 'tpu' else 'one'}; set it to mirrored",
            ("runtime.num_gpus", strategy_path),
        )
        return
    workers = len((runtime.worker_hosts or "").split(","))
    known = strategy == "one_device" or (strategy != "tpu" and runtime.num_gpus)
    replicas = max(runtime.num_gpus or 1, 1) * (workers if strategy.startswith("multi") else 1)
    for part in ("train_data", "validation_data"):
        batch = getattr(experiment.task, part).global_batch_size
        if known and batch % replicas:
            paths = (f"task.{part}.global_batch_size", "runtime.num_gpus", "runtime.worker_hosts")
            yield Violation(
                f"{batch} must be a multiple of the {replicas} replicas "
                f"({runtime.num_gpus or 1} GPUs on each of {workers} workers)",
                paths,
            )
