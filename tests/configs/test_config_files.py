"""The YAML files under configs/: the published rows value by value, and that every file holds."""

import json
import pathlib
import re

import pytest

from official_maskrcnn.configs import fields, loading
from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.configs.experiments import EXPERIMENTS
from official_maskrcnn.modeling.heads import MASK_HEADS
from official_maskrcnn.tasks import build_task, load_experiment

_ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
_FOLDER = _ROOT / "configs"
_FILES = sorted(_FOLDER.rglob("*.yaml"))
_RESNET = "deep_mask_head_rcnn_resnetfpn_coco"
_SPINENET = "deep_mask_head_rcnn_spinenet_coco"

_VOC = [1, 2, 3, 4, 5, 6, 7, 9, 16, 17, 18, 19, 20, 21, 44, 62, 63, 64, 67, 72]
_NOT_IN_COCO = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_NON_VOC = [i for i in range(1, 91) if i not in _NOT_IN_COCO and i not in _VOC]

_ALL_ROWS = {
    "task.per_category_metrics": True,
    "task.model.num_classes": 91,
    "task.model.use_gt_boxes_for_masks": True,
    "task.model.include_mask": True,
    "task.model.mask_head.class_agnostic": True,
    "task.model.mask_head.upsample_factor": 2,
    "task.model.mask_head.num_convs": 4,
    "task.model.norm_activation.use_sync_bn": True,
    "task.model.outer_boxes_scale": 1.0,
    "task.losses.l2_weight_decay": 4e-5,
    "task.train_data.parser.aug_rand_hflip": True,
    "task.train_data.parser.max_num_instances": 100,
    "task.train_data.parser.mask_crop_size": 112,
    "task.train_data.is_training": True,
    "task.validation_data.is_training": False,
    "task.validation_data.drop_remainder": False,
    "task.validation_data.parser.aug_rand_hflip": False,
    "trainer.validation_steps": -1,
    "trainer.optimizer_config.optimizer.type": "sgd",
    "trainer.optimizer_config.optimizer.sgd.momentum": 0.9,
    "trainer.optimizer_config.learning_rate.type": "stepwise",
    "trainer.optimizer_config.warmup.type": "linear",
    "trainer.optimizer_config.warmup.linear.warmup_learning_rate": 0.0067,
    "runtime.mixed_precision_dtype": "bfloat16",
}
_STEPWISE = "trainer.optimizer_config.learning_rate.stepwise"
_RESNET_ROWS = _ALL_ROWS | {
    "task.allowed_mask_class_ids": _VOC,
    "task.init_checkpoint": "gs://tf_model_garden/vision/resnet50_imagenet/ckpt-28080",
    "task.init_checkpoint_modules": "backbone",
    "task.model.input_size": [1024, 1024, 3],
    "task.model.min_level": 2,
    "task.model.max_level": 6,
    "task.model.anchor.num_scales": 1,
    "task.model.anchor.anchor_size": 8.0,
    "task.model.backbone.type": "resnet",
    "task.model.backbone.resnet.model_id": 50,
    "task.model.decoder.type": "fpn",
    "task.model.decoder.fpn.num_filters": 256,
    "task.model.detection_generator.pre_nms_top_k": 5000,
    "task.model.norm_activation.norm_momentum": 0.997,
    "task.model.norm_activation.norm_epsilon": 1e-4,
    "task.train_data.global_batch_size": 64,
    "task.train_data.parser.aug_scale_min": 0.8,
    "task.train_data.parser.aug_scale_max": 1.25,
    "task.validation_data.global_batch_size": 32,
    "trainer.train_steps": 70000,
    "trainer.steps_per_loop": 1848,
    "trainer.summary_interval": 1848,
    "trainer.checkpoint_interval": 1848,
    "trainer.validation_interval": 1848,
    f"{_STEPWISE}.boundaries": [50000, 65000],
    f"{_STEPWISE}.values": [0.12, 0.012, 0.0012],
    "trainer.optimizer_config.warmup.linear.warmup_steps": 500,
}
_HOURGLASS = {
    "task.model.mask_head.convnet_variant": "hourglass52",
    "task.model.mask_head.num_filters": 64,
    "task.model.mask_roi_aligner.crop_size": 32,
}
_SPINENET_ROWS = (
    _ALL_ROWS
    | _HOURGLASS
    | {
        "task.init_checkpoint": None,
        "task.model.input_size": [1280, 1280, 3],
        "task.model.min_level": 3,
        "task.model.max_level": 7,
        "task.model.anchor.num_scales": 3,
        "task.model.anchor.anchor_size": 4.0,
        "task.model.backbone.type": "spinenet",
        "task.model.backbone.spinenet.model_id": "143",
        "task.model.backbone.spinenet.stochastic_depth_drop_rate": 0.2,
        "task.model.backbone.spinenet.min_level": 3,
        "task.model.backbone.spinenet.max_level": 7,
        "task.model.decoder.type": "identity",
        "task.model.detection_generator.pre_nms_top_k": 1000,
        "task.model.norm_activation.norm_momentum": 0.99,
        "task.model.norm_activation.norm_epsilon": 1e-3,
        "task.train_data.global_batch_size": 256,
        "task.train_data.parser.aug_scale_min": 0.1,
        "task.train_data.parser.aug_scale_max": 2.0,
        "task.validation_data.global_batch_size": 8,
        "trainer.train_steps": 231000,
        f"{_STEPWISE}.boundaries": [219450, 226380],
        f"{_STEPWISE}.values": [0.32, 0.032, 0.0032],
        "trainer.optimizer_config.warmup.linear.warmup_steps": 2000,
        "runtime.distribution_strategy": "tpu",
    }
)
_PUBLISHED = {
    "deep_mask_head_rcnn_voc_r50": (
        _RESNET,
        _RESNET_ROWS
        | {
            "task.model.mask_head.convnet_variant": "default",
            "task.model.mask_head.num_filters": 256,
            "task.model.mask_roi_aligner.crop_size": 14,
        },
        "25.9",
    ),
    "deep_mask_head_rcnn_voc_r50_hg52": (_RESNET, _RESNET_ROWS | _HOURGLASS, "33.1"),
    "deep_mask_head_rcnn_voc_r101_hg52": (
        _RESNET,
        _RESNET_ROWS
        | _HOURGLASS
        | {
            "task.model.backbone.resnet.model_id": 101,
            "task.init_checkpoint": "gs://tf_model_garden/official/resnet101_imagenet/ckpt-62400",
        },
        "34.4",
    ),
    "deep_mask_head_rcnn_voc_spinenet143_hg52": (
        _SPINENET,
        _SPINENET_ROWS | {"task.allowed_mask_class_ids": _VOC},
        "38.7",
    ),
    "deep_mask_head_rcnn_nonvoc_spinenet143_hg52": (
        _SPINENET,
        _SPINENET_ROWS | {"task.allowed_mask_class_ids": _NON_VOC},
        "41.0",
    ),
}


def _experiment_of(file: pathlib.Path) -> str:
    (name,) = set(re.findall(r"--experiment=(\w+)", file.read_text()))
    return name


def _load(file: pathlib.Path) -> ExperimentConfig:
    return load_experiment(_experiment_of(file), (str(file),))


def test_the_files_are_all_here():
    small = {"coco_sample_overfit", "demo", "nuts"}
    assert {file.stem for file in _FILES} == small | set(_PUBLISHED)
    assert len(_NON_VOC) == 60


@pytest.mark.parametrize("name", _PUBLISHED)
def test_published_rows_have_their_published_values(name: str):
    experiment, expected, claim = _PUBLISHED[name]
    file = _FOLDER / f"{name}.yaml"
    assert _experiment_of(file) == experiment
    assert f"mask mAP {claim}" in file.read_text()
    values = dict(fields.leaves(_load(file)))
    assert {path: values[path] for path in expected} == expected


@pytest.mark.parametrize("file", _FILES, ids=lambda file: file.stem)
def test_every_file_opens_with_claim_cost_and_command(file: pathlib.Path):
    head = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert head[0].startswith("# Claim: ")
    assert any(line.startswith("# Cost: ") for line in head)
    assert f"--config_file=configs/{file.name}" in "".join(head)


def test_every_experiment_and_file_loads_survives_saving_and_builds(tmp_path: pathlib.Path):
    """What is built has the files' structure, with the smallest backbone and a small image."""
    smallest = {"resnet": "18", "spinenet": "49S"}
    everything = [(name, ()) for name in EXPERIMENTS.names()]
    everything += [(_experiment_of(file), (str(file),)) for file in _FILES]
    assert len(everything) == 10
    for name, files in everything:
        experiment = load_experiment(name, files)
        loading.save_params(experiment, str(tmp_path / "params.yaml"))
        again = loading.experiment_from_params(str(tmp_path / "params.yaml"))
        assert again.as_dict() == experiment.as_dict(), files
        backbone = experiment.task.model.backbone.type
        small = (
            f"task.model.input_size=[128,128,3],task.init_checkpoint=null,"
            f"task.model.backbone.{backbone}.model_id={smallest[backbone]}"
        )
        model = build_task(load_experiment(name, files, small)).build_model()
        head = model.config.mask_head.convnet_variant
        assert MASK_HEADS.get(head) in map(type, model.mask_head.submodules), files
        assert model.count_params() > 1e6, files


@pytest.mark.parametrize("name", ["coco_sample_overfit", "demo", "nuts"])
def test_small_files_suit_a_cpu(name: str):
    experiment = _load(_FOLDER / f"{name}.yaml")
    assert experiment.runtime.distribution_strategy == "one_device"
    assert experiment.runtime.mixed_precision_dtype == "float32"
    for data in (experiment.task.train_data, experiment.task.validation_data):
        assert data.dtype == "float32"
        assert (data.input_path, bool(data.image_dir)) == ("", True)
    assert experiment.task.annotation_file == experiment.task.validation_data.annotation_file
    assert experiment.task.init_checkpoint is None


def test_nuts_matches_the_data(shared_data: pathlib.Path):

    annotations = json.loads((shared_data / "nuts" / "instances_train.json").read_text())
    ids = [category["id"] for category in annotations["categories"]]
    assert max(ids) + 1 == _load(_FOLDER / "nuts.yaml").task.model.num_classes


def test_the_readme_s_yaml_loads(tmp_path: pathlib.Path):
    blocks = re.findall(r"```yaml\n(.*?)```", (_ROOT / "README.md").read_text(), re.DOTALL)
    files = [tmp_path / f"{number}.yaml" for number in range(len(blocks))]
    for file, block in zip(files, blocks, strict=True):
        file.write_text(block)
    experiment = load_experiment(_RESNET, [str(file) for file in files])
    assert experiment.task.train_data.image_dir == "/data/train"
    assert experiment.task.annotation_file == "/data/instances_val.json"
    assert experiment.task.model.mask_head.convnet_variant == "hourglass52"
