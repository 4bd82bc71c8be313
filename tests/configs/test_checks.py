"""Rules that a whole configuration keeps: each states the values that do not fit."""

import fnmatch

import pytest

from official_maskrcnn.configs import checks, rules
from official_maskrcnn.configs.experiments import EXPERIMENTS
from official_maskrcnn.configs.fields import all_paths
from official_maskrcnn.configs.loading import load_experiment
from official_maskrcnn.errors import UserError

RESNET = "deep_mask_head_rcnn_resnetfpn_coco"
MODEL = "task.model"
OPTIMIZATION = "trainer.optimizer_config"
STEPWISE = f"{OPTIMIZATION}.learning_rate.stepwise"


@pytest.mark.parametrize("name", EXPERIMENTS.names())
def test_registered_experiments_break_no_rule(name: str):
    assert checks.violations(EXPERIMENTS.get(name)()) == []


@pytest.mark.parametrize(
    ("overrides", "path", "message"),
    [
        (
            f"{STEPWISE}.boundaries=[5000]",
            f"{STEPWISE}.values",
            "3 learning rates [0.12, 0.012, 0.0012] need 2 boundaries, but there are 1: [5000]",
        ),
        (
            f"{STEPWISE}.boundaries=[20000, 15000]",
            f"{STEPWISE}.boundaries",
            "[20000, 15000] must be in ascending order",
        ),
        (f"{STEPWISE}.values=null", f"{STEPWISE}.values", "null given; a value is needed"),
        (
            f"{OPTIMIZATION}.learning_rate={{type: cosine, cosine: {{decay_steps: 9}}}}",
            f"{OPTIMIZATION}.learning_rate.cosine.initial_learning_rate",
            "null given; a value is needed",
        ),
        (
            f"{OPTIMIZATION}.optimizer.type=null",
            f"{OPTIMIZATION}.optimizer.type",
            "null given; a value is needed",
        ),
        (f"{MODEL}.min_level=6", f"{MODEL}.min_level", "6 must be less than max_level 6"),
        (
            f"{MODEL}.backbone.type=spinenet,{MODEL}.min_level=3",
            f"{MODEL}.max_level",
            "max_level 6 must equal 7, the backbone's",
        ),
        (
            f"{MODEL}.input_size=[1000, 1024, 3]",
            f"{MODEL}.input_size",
            "height 1000 must be a multiple of 64 (2 to the power of max_level 6); 1024 is",
        ),
        (f"{MODEL}.input_size=[64, 64]", f"{MODEL}.input_size", "accepts [height, width, 3]"),
        (
            "task.allowed_mask_class_ids=[1, 500]",
            "task.allowed_mask_class_ids",
            "class id 500 must be less than task.model.num_classes 91",
        ),
        (
            "task.allowed_mask_class_ids=[0, 1]",
            "task.allowed_mask_class_ids",
            "0 given; accepts at least 1",
        ),
        (
            "task.losses.class_weights=[1, 2]",
            "task.losses.class_weights",
            "2 weights given; task.model.num_classes 91 needs as many",
        ),
        (
            f"{MODEL}.roi_sampler.cascade_iou_thresholds=[0.6, 0.7]",
            f"{MODEL}.roi_sampler.cascade_iou_thresholds",
            "a cascade ([0.6, 0.7]) needs task.model.detection_head.class_agnostic_bbox_pred true",
        ),
        (
            f"{MODEL}.mask_sampler.num_sampled_masks=600",
            f"{MODEL}.mask_sampler.num_sampled_masks",
            "600 masks cannot be sampled out of 512 RoIs",
        ),
        (
            "task.train_data.parser.aug_scale_min=2",
            "task.train_data.parser.aug_scale_min",
            "aug_scale_min 2.0 must not exceed aug_scale_max 1.25",
        ),
        (
            "task.train_data.image_dir=/photos",
            "task.train_data.annotation_file",
            "image_dir '/photos' needs its COCO annotations",
        ),
        (
            "task.train_data.annotation_file=/train.json",
            "task.train_data.image_dir",
            "annotation_file '/train.json' needs the folder of its images",
        ),
        (
            "trainer.train_steps=5",
            f"{STEPWISE}.boundaries",
            "[15000, 20000] given; must lie below trainer.train_steps 5, such as [3, 4]",
        ),
        (
            "trainer.train_steps=30000,trainer.train_epochs=2",
            "trainer.train_epochs",
            "the length is given twice: train_epochs 2.0 and train_steps 30000; keep one",
        ),
        (
            "trainer.boundary_epochs=[1, 2]",
            "trainer.boundary_epochs",
            "[1.0, 2.0] given, but trainer.train_epochs is null",
        ),
        (
            "trainer.train_epochs=12,trainer.boundary_epochs=[8, 12]",
            "trainer.boundary_epochs",
            "[8.0, 12.0] given; must lie below trainer.train_epochs 12.0, such as [7.2, 10.8]",
        ),
        (
            "trainer.train_epochs=12,trainer.boundary_epochs=[8]",
            f"{STEPWISE}.values",
            "3 learning rates [0.12, 0.012, 0.0012] need 2 boundaries, but there are 1: [8.0]",
        ),
        (
            f"{MODEL}.decoder.type=identity",
            f"{MODEL}.decoder.type",
            "needs levels 2 to 6 of the backbone, but a resnet gives 2 to 5",
        ),
        (
            f"{MODEL}.decoder.type=nasfpn",
            f"{MODEL}.decoder.type",
            "decoder nasfpn joins levels 3 to 7, but min_level is 2 and max_level 6",
        ),
        (
            "runtime.distribution_strategy=tpu,runtime.mixed_precision_dtype=float16",
            "runtime.mixed_precision_dtype",
            "float16 given, but distribution_strategy tpu computes in bfloat16 or float32",
        ),
        (
            "runtime.mixed_precision_dtype=float16,trainer.optimizer_config.ema.average_decay=0.9",
            "runtime.mixed_precision_dtype",
            "float16 given, but moving averages of the weights",
        ),
        (
            "runtime.distribution_strategy=tpu,runtime.run_eagerly=true",
            "runtime.run_eagerly",
            "distribution_strategy tpu always compiles its steps",
        ),
        (
            "runtime.enable_xla=true,runtime.run_eagerly=true",
            "runtime.enable_xla",
            "enable_xla true and run_eagerly true exclude each other",
        ),
        (
            "runtime.tpu=pod",
            "runtime.tpu",
            "'pod' given, but distribution_strategy is mirrored; set it to tpu",
        ),
        (
            "runtime.distribution_strategy=one_device,runtime.num_gpus=2",
            "runtime.num_gpus",
            "2 GPUs given, but distribution_strategy one_device uses one; set it to mirrored",
        ),
        (
            "runtime.num_gpus=3,task.validation_data.global_batch_size=9",
            "task.train_data.global_batch_size",
            "64 must be a multiple of the 3 replicas (3 GPUs on each of 1 workers)",
        ),
        (
            "runtime.distribution_strategy=multi_worker_mirrored,runtime.num_gpus=4,"
            "runtime.worker_hosts='a:1,b:1',task.train_data.global_batch_size=12,"
            "task.validation_data.global_batch_size=16",
            "task.train_data.global_batch_size",
            "12 must be a multiple of the 8 replicas (4 GPUs on each of 2 workers)",
        ),
        (
            f"{MODEL}.detection_generator.soft_nms_sigma=0.5,runtime.enable_xla=true",
            f"{MODEL}.detection_generator.soft_nms_sigma",
            "Soft-NMS cannot be compiled by XLA, which enable_xla true asks for",
        ),
        (
            f"{MODEL}.roi_sampler.cascade_iou_thresholds=[0.5, 0.6, 0.7],"
            f"{MODEL}.detection_head.class_agnostic_bbox_pred=true",
            f"{MODEL}.roi_sampler.cascade_iou_thresholds",
            "3 thresholds given; a cascade has at most 2",
        ),
        (
            "trainer.optimizer_config.optimizer.type=adamw_experimental,"
            "trainer.optimizer_config.ema.average_decay=0.9",
            "trainer.optimizer_config.optimizer.type",
            "adamw_experimental given, of which no moving averages",
        ),
        ("runtime.loss_scale=fixed", "runtime.loss_scale", "accepts a number, 'dynamic' or null"),
        (
            "runtime.loss_scale=dynamic",
            "runtime.loss_scale",
            "needs mixed_precision_dtype float16, but it is bfloat16",
        ),
        *(
            (f"{path}={value}", path, message)
            for path, value, message in (
                ("runtime.distribution_strategy", "tpus", "did you mean tpu?"),
                ("runtime.mixed_precision_dtype", "mixed_bfloat16", "did you mean bfloat16?"),
                (f"{MODEL}.compatibility", "modelgarden", "did you mean model_garden?"),
                (f"{MODEL}.decoder.type", "aspp", "accepts fpn, nasfpn, identity"),
                ("task.coco_eval_backend", "coco", "accepts faster_coco_eval, pycocotools"),
                ("task.train_data.dtype", "float", "accepts float32, bfloat16, float16"),
                ("task.init_checkpoint_modules", "[backbone,head]", "'head' given; accepts all"),
                (
                    "task.init_checkpoint_modules",
                    "backbone,decoder",
                    "did you mean [backbone, decoder]?",
                ),
                ("trainer.best_checkpoint_metric_comp", "high", "did you mean higher?"),
                ("task.train_data.global_batch_size", "-3", "-3 given; accepts at least 1"),
                ("trainer.validation_steps", "0", "0 given; accepts at least 1, or -1"),
                ("trainer.checkpoint_interval", "0", "0 given; accepts at least 1"),
                (f"{MODEL}.roi_sampler.foreground_fraction", "1.5", "at least 0 and at most 1"),
                (f"{MODEL}.norm_activation.norm_epsilon", "0", "accepts more than 0"),
                (
                    f"{MODEL}.backbone.resnet.stochastic_depth_drop_rate",
                    "1",
                    "at least 0 and less than 1",
                ),
                ("task.losses.l2_weight_decay", "-1e-4", "-0.0001 given; accepts at least 0"),
                (f"{STEPWISE}.values", "[0.1, -0.1, 0.1]", "-0.1 given; accepts at least 0"),
                ("runtime.task_index", "-2", "accepts at least 0, or -1"),
                ("runtime.task_index", "1", "1 given, but distribution_strategy is mirrored"),
                ("runtime.cluster", "slurm", "set it to multi_worker_mirrored"),
                ("task.validation_data.is_training", "true", "validation_data has false"),
                ("task.train_data.is_training", "false", "train_data has true"),
                (f"{MODEL}.anchor.aspect_ratios", "[]", "no aspect ratio given"),
                (f"{STEPWISE}.boundaries", "[]", "no boundary given"),
                (f"{MODEL}.backbone.resnet.stem_type", "v9", "accepts v0, v1, v2"),
                (
                    "trainer.optimizer_config.optimizer.type",
                    "slide",
                    "slide given, which is but a stub",
                ),
            )
        ),
    ],
)
def test_each_rule_states_the_values(overrides: str, path: str, message: str):
    with pytest.raises(UserError) as error:
        load_experiment(RESNET, overrides=overrides)
    _, line = str(error.value).splitlines()
    assert line.strip().startswith(f"{path} (")
    assert message in line


@pytest.mark.parametrize(
    "overrides",
    [
        "trainer.validation_steps=-1,runtime.task_index=-1,runtime.num_gpus=0",
        f"{MODEL}.use_gt_boxes_for_masks=true,{MODEL}.mask_sampler.num_sampled_masks=600",
        f"{MODEL}.roi_sampler.cascade_iou_thresholds=[0.6],"
        f"{MODEL}.detection_head.class_agnostic_bbox_pred=true",
        f"{MODEL}.input_size=[256, 320, 3]",
        f"{MODEL}.detection_head.num_convs=0",
        "runtime.mixed_precision_dtype=null",
        f"{OPTIMIZATION}.warmup.type=null",
        "trainer.train_epochs=12,trainer.boundary_epochs=[8, 11]",
        f"{OPTIMIZATION}.learning_rate={{type: cosine, cosine: {{initial_learning_rate: 0.1}}}}",
        "runtime.distribution_strategy=tpu,runtime.tpu=pod",
        "runtime.num_gpus=4",
    ],
)
def test_what_the_rules_allow(overrides: str):
    assert checks.violations(load_experiment(RESNET, overrides=overrides)) == []


def test_a_rule_does_not_judge_by_a_value_that_was_refused():
    with pytest.raises(UserError) as error:
        load_experiment(RESNET, (), f"{STEPWISE}.values=x,{STEPWISE}.boundaries=[1]")
    assert "1 fault" in str(error.value)


def test_the_tables_name_fields_that_exist():
    paths = all_paths(type(EXPERIMENTS.get(RESNET)()))
    for table in (checks._CHOICES, checks._RANGES):
        for glob in table:
            assert fnmatch.filter(paths, glob), glob


@pytest.mark.parametrize(
    ("mode", "missing"),
    [
        ("train", ["task.train_data"]),
        ("eval", ["task.validation_data"]),
        ("continuous_eval", ["task.validation_data"]),
        ("train_and_eval", ["task.train_data", "task.validation_data"]),
    ],
)
def test_a_mode_needs_its_data(mode: str, missing: list[str]):
    experiment = load_experiment(RESNET)
    assert list(rules.data_is_given(experiment, mode)) == []
    experiment.task.train_data.input_path = ""
    experiment.task.validation_data.input_path = ""
    assert [path for v in rules.data_is_given(experiment, mode) for path in v.paths] == missing


def test_a_training_needs_a_length():
    for overrides, wrong in (
        ("", []),
        ("trainer.train_epochs=2.5", []),
        (f"trainer.train_steps=0,{STEPWISE}.boundaries=[1,2]", [("trainer.train_steps",)]),
    ):
        experiment = load_experiment(RESNET, overrides=overrides)
        for mode in ("train", "train_and_eval"):
            found = rules.training_has_a_length(experiment, mode)
            assert [violation.paths for violation in found] == wrong
        assert list(rules.training_has_a_length(experiment, "eval")) == []
