"""The inputs shown in config_errors.md, by kind: wrong ones, and a few that only look wrong."""

import dataclasses
from collections.abc import Mapping

RESNET = "deep_mask_head_rcnn_resnetfpn_coco"
_OPTIMIZATION = "trainer.optimizer_config"
_STEPWISE = f"{_OPTIMIZATION}.learning_rate.stepwise"


@dataclasses.dataclass(frozen=True)
class Case:
    """What a user gives. Files are relative to the folder in which the program is started."""

    overrides: tuple[str, ...] = ()
    config: str | bytes | None = None  # what mine.yaml holds, which is given as --config_file
    config_file: str = ""  # a --config_file that is not written first
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)  # "photos/": a folder
    experiment: str = RESNET
    mode: str | None = None
    tpu: str | None = None
    command_line: tuple[str, ...] = ()  # of train.py; for what only train.py can refuse


@dataclasses.dataclass(frozen=True)
class Accepted:
    """An input that means what it seems to mean, and the field that shows it."""

    case: Case
    path: str


def _overrides(*texts: str) -> list[Case]:
    """One case for each override string."""
    return [Case(overrides=(text,)) for text in texts]


def _configs(*texts: str | bytes) -> list[Case]:
    """One case for each text of a YAML file."""
    return [Case(config=text) for text in texts]


_CATEGORIES = '{"images": [], "annotations": [], "categories": %s}'
_NUTS = _CATEGORIES % '[{"id": 1, "name": "nut"}, {"id": 7, "name": "bolt"}]'
_FOLDER = "task.train_data.image_dir=photos,task.train_data.annotation_file=nuts.json"
_COMPLETE = (
    "--experiment=deep_mask_head_rcnn_resnetfpn_coco",
    "--mode=train",
    "--model_dir=runs/1",
)


def _folder(extra: str = "", annotations: str = _NUTS) -> Case:
    """A training on a folder of images."""
    files = {"photos/": "", "nuts.json": annotations}
    return Case((f"{_FOLDER},{extra}" if extra else _FOLDER,), files=files, mode="train")


REFUSED: dict[str, list[Case]] = {
    "Names of fields": [
        *_overrides(
            "trainer.train_step=10",
            "train_steps=10",
            "task.mask_head.num_convs=4",
            "task.modle.num_classes=3",
            "task.model.mask_haed.num_convs=4",
            "trainer.Train_Steps=10",
            "trainer.train-steps=10",
            "trainer..train_steps=10",
            "task.include=1",
            "frobnicate=1",
            "task.model.num_classes.x=3",
            "trainer.optimizer_config.learning_rate.stepwise.bounds=[1, 2]",
        ),
        Case(config="trainer:\n  train_step: 10"),
        Case(config="task:\n  modle:\n    num_classes: 3\n    min_level: 2"),
        Case(config="tasks: {model: {num_classes: 3}}"),
        Case(config="null: 1"),
        Case(experiment="deep_mask_head_rcnn_resnet_coco"),
        Case(experiment="maskrcnn"),
    ],
    "Fields of Model Garden that are not offered": _overrides(
        "task.train_data.tfds_name=coco",
        "task.train_data.file_type=sstable",
        "task.train_data.num_examples=118287",
        "task.train_data.parser.aug_type={type: randaug}",
        "task.train_data.parser.match_threshold=0.5",
        "task.model.detection_generator.nms_version=v2",
        "task.model.roi_aligner.sample_offset=0.5",
        "task.use_coco_metrics=true",
        "task.allow_image_summary=true",
        "trainer.train_tf_function=false",
        "trainer.recovery_max_trials=3",
        "runtime.gpu_thread_mode=gpu_private",
    ),
    "Values: true or false": _overrides(
        "task.model.use_gt_boxes_for_masks=flase",
        "task.model.use_gt_boxes_for_masks=yes",
        "task.model.use_gt_boxes_for_masks=1",
        "task.model.use_gt_boxes_for_masks='true'",
        "task.model.use_gt_boxes_for_masks=maybe",
        "task.model.use_gt_boxes_for_masks=null",
    ),
    "Values: integers": _overrides(
        "trainer.train_steps=abc",
        "trainer.train_steps=None",
        "trainer.train_steps=",
        "trainer.train_steps=1e4",
        "trainer.train_steps=22500.5",
        "trainer.train_steps=10_000",
        "trainer.train_steps=10,000",
        "trainer.train_steps=010",
        "trainer.train_steps='10'",
        "trainer.train_steps=true",
        "trainer.train_steps=[10]",
        "trainer.train_steps=12345678901234567890",
        "trainer.train_steps=10 trainer.max_to_keep=3",
        "trainer.train_steps=10;trainer.max_to_keep=3",
    ),
    "Values: numbers": _overrides(
        "task.losses.mask_weight=heavy",
        "task.losses.mask_weight=nan",
        "task.losses.mask_weight=1e999",
        "task.losses.mask_weight=0,5",
        "task.losses.mask_weight=1/9",
        "task.losses.mask_weight='0.5'",
        "task.losses.mask_weight=null",
        "task.losses.mask_weight={a: 1}",
    ),
    "Values: texts": _overrides(
        "task.model.mask_head.convnet_variant=None",
        "task.model.mask_head.convnet_variant=true",
        "task.model.mask_head.convnet_variant=[hourglass52]",
        "task.model.mask_head.convnet_variant={hourglass52: true}",
        "trainer.validation_summary_subdir=",
    ),
    "Values: lists": [
        *_overrides(
            "task.allowed_mask_class_ids=5",
            "task.allowed_mask_class_ids=1,2,3",
            "task.allowed_mask_class_ids=[1, two]",
            "task.allowed_mask_class_ids=[1, [2]]",
            "task.allowed_mask_class_ids={1: 2}",
            "task.model.input_size=1024x1024",
            "task.model.anchor.aspect_ratios=[1/2, 1, 2]",
            "task.train_data.input_path=[train*, null]",
            "task.model.backbone.vit.pos_embed_shape=[1, 2, 3]",
        ),
        Case(config="task:\n  model:\n    input_size:\n      height: 1024\n      width: 1024"),
    ],
    "Values: fields that may be null": _overrides(
        "runtime.seed=abc",
        "runtime.num_gpus=two",
        "runtime.loss_scale=true",
        "task.model.roi_sampler.cascade_iou_thresholds=0.6",
        f"{_OPTIMIZATION}.ema=true",
    ),
    "Values: sections": _overrides(
        "task.model.anchor=3",
        "task.model=null",
        "task.model.backbone=resnet",
        "task.losses=[1, 2]",
    ),
    "Choices": _overrides(
        "task.model.mask_head.convnet_variant=hourglass53",
        "task.model.backbone.type=resnet50",
        "task.model.backbone.type=swin",
        "task.model.backbone.type=vit",
        "task.model.backbone.resnet.model_id=51",
        "task.model.decoder.type=aspp",
        f"{_OPTIMIZATION}.optimizer.type=sdg",
        f"{_OPTIMIZATION}.learning_rate.type=step",
        "runtime.distribution_strategy=tpus",
        "runtime.distribution_strategy=gpu",
        "runtime.mixed_precision_dtype=mixed_bfloat16",
        "runtime.loss_scale=fixed",
        "task.train_data.dtype=int8",
        "task.coco_eval_backend=coco",
        "task.init_checkpoint_modules=backbone,decoder",
        "task.init_checkpoint_modules=[backbone, head]",
        "trainer.best_checkpoint_metric_comp=high",
        "task.model.compatibility=modelgarden",
    ),
    "Ranges": _overrides(
        "task.train_data.global_batch_size=-3",
        "task.train_data.global_batch_size=0",
        "task.allowed_mask_class_ids=[0, 1]",
        "task.model.num_classes=1",
        "task.model.mask_roi_aligner.crop_size=0",
        "task.model.roi_sampler.foreground_fraction=1.5",
        "task.model.norm_activation.norm_momentum=1.1",
        "task.model.norm_activation.norm_epsilon=0",
        "task.model.anchor.aspect_ratios=[0.5, -1]",
        "task.losses.l2_weight_decay=-1e-4",
        f"{_STEPWISE}.values=[0.1, -0.1, 0.1]",
        "trainer.train_steps=-1",
        "trainer.checkpoint_interval=0",
        "trainer.validation_steps=0",
        "runtime.task_index=-2",
    ),
    "Fields that do not fit each other: model": _overrides(
        "task.allowed_mask_class_ids=[1, 500]",
        "task.losses.class_weights=[1, 2]",
        "task.model.mask_head.convnet_variant=hourglass52,task.model.mask_roi_aligner.crop_size=14",
        "task.model.min_level=6",
        "task.model.backbone.type=spinenet",
        "task.model.backbone.type=mobilenet,task.model.rematerialize=true",
        "task.model.decoder.type=identity",
        "task.model.input_size=[1000, 1024, 3]",
        "task.model.input_size=[1024, 1024]",
        "task.model.roi_sampler.cascade_iou_thresholds=[0.6, 0.7]",
        "task.model.mask_sampler.num_sampled_masks=600",
        "task.model.roi_sampler.background_iou_low_threshold=0.6",
        "task.model.backbone.type=null",
    ),
    "Fields that do not fit each other: training": _overrides(
        f"{_STEPWISE}.boundaries=[5000]",
        f"{_STEPWISE}.boundaries=[20000, 15000]",
        f"{_STEPWISE}.values=null",
        f"{_OPTIMIZATION}.learning_rate.type=cosine",
        f"{_OPTIMIZATION}.optimizer.type=null",
        "trainer.train_steps=5",
        "trainer.train_steps=30000,trainer.train_epochs=2",
        "trainer.boundary_epochs=[1, 2]",
        "trainer.train_epochs=12,trainer.boundary_epochs=[8, 12]",
        "task.train_data.parser.aug_scale_min=2",
        "task.train_data.parser.rpn_unmatched_threshold=0.8",
    ),
    "Fields that do not fit each other: devices": [
        *_overrides(
            "runtime.distribution_strategy=tpu,runtime.mixed_precision_dtype=float16",
            "runtime.distribution_strategy=tpu,runtime.run_eagerly=true",
            "runtime.distribution_strategy=tpu,runtime.num_gpus=8",
            "runtime.enable_xla=true,runtime.run_eagerly=true",
            "runtime.distribution_strategy=one_device,runtime.num_gpus=2",
            "runtime.num_gpus=3",
            "runtime.loss_scale=dynamic",
            "runtime.mixed_precision_dtype=float16,trainer.optimizer_config.ema.average_decay=0.99",
        ),
        Case(tpu="pod"),
    ],
    "Settings without effect": [
        *_overrides(
            "task.model.backbone.spinenet.model_id=143",
            f"{_OPTIMIZATION}.optimizer.adamw.weight_decay_rate=0.05",
            f"{_OPTIMIZATION}.warmup={{type: null, linear: {{warmup_steps: 5}}}}",
        ),
        Case(config="task:\n  model:\n    decoder: {type: fpn, nasfpn: {num_repeats: 7}}"),
    ],
    "Data given twice, in part, or not at all": [
        *_overrides(
            "task.train_data.image_dir=photos,task.train_data.input_path=train*",
            "task.train_data.image_dir=photos",
            "task.train_data.annotation_file=train.json",
        ),
        Case(("task.train_data.input_path=''",), mode="train"),
        Case(("task.validation_data.input_path=''",), mode="eval"),
        Case((f"trainer.train_steps=0,{_STEPWISE}.boundaries=[1, 2]",), mode="train"),
    ],
    "Files of data": [
        Case(("task.train_data.input_path=records/train*",), mode="train"),
        Case(("task.train_data.input_path=[records/a*, records/b*]",), mode="train"),
        Case((_FOLDER,), mode="train"),
        Case(
            ("task.validation_data.input_path=val.tfrecord,task.annotation_file=gt.json",),
            files={"val.tfrecord": ""},
            mode="eval",
        ),
        _folder(annotations=""),
        _folder(annotations="[]"),
        _folder(annotations='{"images": [], "labels": []}'),
        _folder(annotations=_CATEGORIES % "[]"),
        _folder(annotations=_CATEGORIES % '[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]'),
        _folder("task.model.num_classes=3"),
        _folder("task.allowed_mask_class_ids=[1, 2]"),
    ],
    "Syntax of overrides": [
        *_overrides(
            "nonsense",
            "trainer.train_steps 10",
            "trainer.train_steps:10",
            "=10",
            "trainer.train_steps==10",
            "trainer.train_steps=10,trainer.train_steps=20",
            "task.model.input_size=[1024, 1024, 3",
            "task.model.anchor={num_scales: 3",
            "task.init_checkpoint='ckpt",
            "task.train_data.input_path=['a' b]",
            "task.train_data.input_path=[*.tfrecord]",
            "missing.yaml",
        ),
        Case(("trainer.train_steps=many", "trainer.max_to_keep=few")),
    ],
    "Syntax of YAML files": [
        *_configs(
            "trainer:\n  train_steps: 10\n  train_steps: 20",
            "trainer:\n  train_steps: 10\ntask:\n  freeze_backbone: true\ntrainer: {}",
            "trainer:\n\ttrain_steps: 10",
            "trainer:\n  train_steps: 10\n   max_to_keep: 3",
            "trainer:\n  train_steps: [10",
            'trainer: {"train_steps": 10',
            "task:\n  init_checkpoint: 'ckpt",
            "trainer:\n  train_steps 10",
            "trainer:\n  train_steps = 10",
            "- trainer",
            "trainer: {train_steps: 10}\n---\ntask: {}",
            "trainer: {[1]: 2}",
            "task:\n  train_data:\n    input_path: *.tfrecord",
            b"task: {init_checkpoint: \xff\xfe}",
            "task: {init_checkpoint: \x00}",
        ),
        Case(config_file="missing.yaml"),
        Case(config_file="photos/", files={"photos/": ""}),
    ],
    "Nothing in a configuration runs code": [
        *_configs(
            'task:\n  init_checkpoint: !!python/object/apply:os.system ["date"]',
            "task: !!python/object:os.environ {}",
            "trainer:\n  train_steps: !!python/name:os.getpid",
            "trainer: &base {train_steps: 10}\ntask: *base",
            "base: &base {train_steps: 10}\ntrainer:\n  <<: *base",
            "task: " + "[" * 2000,
        ),
        *_overrides(
            'task.train_data.input_path=[!!python/object/apply:os.system ["date"]]',
            "task.model.input_size=" + "[" * 2000 + "]" * 2000,
        ),
    ],
    "Flags of train.py": [
        Case(command_line=flags)
        for flags in (
            ("--mode=train",),
            ("--experimnt=x",),
            (*_COMPLETE[:1], "--mode=training", *_COMPLETE[2:]),
            (*_COMPLETE, "trainer.train_steps=10"),
            (*_COMPLETE, "--trainer.train_steps=10"),
        )
    ]
    + [
        dataclasses.replace(
            _folder(),
            overrides=(),
            mode=None,
            command_line=(
                *_COMPLETE,
                f"--params_override={_FOLDER}",
                "--gin_params=frobnicate.depth = 3",
            ),
        )
    ],
}

ACCEPTED: list[Accepted] = [
    Accepted(Case((override,)), path or override.partition("=")[0])
    for override, path in (
        ("task.train_data.input_path=/a/x*,/b/y*", ""),
        ("task.train_data.input_path=[gs://a/x*, /b/y*]", ""),
        ("task.init_checkpoint=None", ""),
        ("task.init_checkpoint='None'", ""),
        ("task.init_checkpoint=", ""),
        ("trainer.validation_summary_subdir='a, b=c'", ""),
        ("task.losses.l2_weight_decay=1e-4", ""),
        ("task.losses.mask_weight=2", ""),
        (
            "task.model.backbone={type: resnet, resnet: {model_id: 101}}",
            "task.model.backbone.resnet.model_id",
        ),
        ("trainer: {max_to_keep: 3}", "trainer.max_to_keep"),
        ("trainer.train_epochs=12", "trainer.train_steps"),
    )
] + [
    Accepted(Case(config=text), path)
    for text, path in (
        ("", "trainer.train_steps"),
        ("# nothing yet", "trainer.train_steps"),
        ("trainer.max_to_keep: 3", "trainer.max_to_keep"),
    )
]
