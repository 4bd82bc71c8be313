"""From names, files and overrides to a configuration, or to one message with every fault."""

import dataclasses
import pathlib
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from official_maskrcnn.configs import fields, loading
from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.configs.experiments import EXPERIMENTS
from official_maskrcnn.configs.loading import load, load_experiment
from official_maskrcnn.configs.model_garden_fields import model_garden_hint
from official_maskrcnn.errors import UserError
from official_maskrcnn.model_garden import light_imports

with light_imports():
    from official.modeling import optimization
    from official.vision.configs import backbones

RESNET = "deep_mask_head_rcnn_resnetfpn_coco"
SPINENET = "deep_mask_head_rcnn_spinenet_coco"
SCHEDULE = "trainer.optimizer_config.learning_rate"


def _value(experiment: ExperimentConfig, path: str) -> typing.Any:
    value: typing.Any = experiment
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _faults(overrides: str | list[str], config_files: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(UserError) as error:
        load_experiment(RESNET, config_files, overrides)
    head, *lines = str(error.value).splitlines()
    count = f"{len(lines)} fault{'s' if len(lines) > 1 else ''}"
    assert head == f"{count} in the configuration (experiment {RESNET}):"
    return [line.strip() for line in lines]


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("trainer.max_to_keep=10", None, 10),
        ("task.losses.l2_weight_decay=1e-4", None, 1e-4),
        ("task.losses.mask_weight=2", None, 2.0),
        ("task.model.use_gt_boxes_for_masks=true", None, True),
        ("task.init_checkpoint=None", None, None),
        ("task.init_checkpoint=null", None, None),
        ("task.init_checkpoint='None'", None, "None"),
        ("task.init_checkpoint_modules=[backbone,decoder]", None, ["backbone", "decoder"]),
        ("task.init_checkpoint_modules=backbone", None, "backbone"),
        ("task.allowed_mask_class_ids=[1,2]", None, [1, 2]),
        ("task.allowed_mask_class_ids=null", None, None),
        ("task.model.anchor.aspect_ratios=[1, 0.5]", None, [1.0, 0.5]),
        ("task.train_data.input_path=/a/x*,/b/y*", None, "/a/x*,/b/y*"),
        ("task.train_data.input_path=[gs://a/x*,/b/y*]", None, ["gs://a/x*", "/b/y*"]),
        ("runtime.loss_scale=128,runtime.mixed_precision_dtype=float16", None, 128.0),
        ("runtime.loss_scale=dynamic,runtime.mixed_precision_dtype=float16", None, "dynamic"),
        ("task={model: {anchor: {num_scales: 3}}}", "task.model.anchor.num_scales", 3),
        ("task.model.norm_activation.frozen=true", None, True),
    ],
)
def test_values_get_the_type_of_their_field(override, path, expected):
    value = _value(load_experiment(RESNET, overrides=override), path or override.split("=")[0])
    assert value == expected
    assert type(value) is type(expected)
    if isinstance(expected, list):
        assert [type(item) for item in value] == [type(item) for item in expected]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.train_steps=abc", "'abc' given; accepts an integer, such as 22500"),
        ("trainer.train_steps=1e4", "1e4 given; accepts an integer; did you mean 10000?"),
        ("trainer.train_steps=010", "010 given; accepts an integer; did you mean 10?"),
        ("trainer.train_steps='10'", "'10' given; accepts an integer; did you mean 10?"),
        ("trainer.train_steps=None", "None given; accepts an integer, such as 22500"),
        ("trainer.train_steps=", "nothing given; accepts an integer, such as 22500"),
        ("trainer.train_steps=true", "true given; accepts an integer, such as 22500"),
        ("task.losses.mask_weight=nan", "'nan' given; accepts a number, such as 1.0"),
        ("task.losses.mask_weight=1e999", "1e999 given; accepts a number, such as 1.0"),
        ("task.include=1", "no such field; task has model, train_data"),
        (
            "task.model.use_gt_boxes_for_masks=flase",
            "'flase' given; accepts true or false; did you mean false?",
        ),
        (
            "task.model.use_gt_boxes_for_masks=yes",
            "'yes' given; accepts true or false; did you mean true?",
        ),
        (
            "task.model.mask_head.convnet_variant=true",
            "true given; accepts a text; did you mean 'true'?",
        ),
        (
            "task.allowed_mask_class_ids=5",
            "5 given; accepts a list of integers or null; did you mean [5]?",
        ),
        (
            "task.allowed_mask_class_ids=[1, two]",
            "a list whose element 2 is 'two' given; accepts a list of integers or null",
        ),
        ("task.model.anchor=3", "3 given; accepts a map of num_scales, aspect_ratios, anchor_size"),
        ("task.model=null", "null given; accepts a map of num_classes"),
        ("task.model.num_classes.x=3", "is a single value and has no field x"),
        ("trainer.train_step=10", "no such field; did you mean trainer.train_steps?"),
        ("train_steps=10", "no such field; did you mean trainer.train_steps?"),
        ("task.mask_head.num_convs=4", "no such field; did you mean task.model.mask_head?"),
        ("task.model.default_params=3", "no such field"),
        (
            "task.model.backbone.type=spinnet",
            "vit; did you mean spinenet?",
        ),
        (
            "task.model.backbone.spinenet.model_id=143",
            "has no effect: task.model.backbone.type is 'resnet'; set it to spinenet",
        ),
        ("task.train_data.tfds_name=coco", "TensorFlow Datasets is not read"),
    ],
)
def test_each_kind_of_fault_says_what_is_right(override: str, message: str):
    (line,) = _faults(override)
    assert "(--params_override): " in line
    assert message in line


def test_all_faults_come_in_one_message_with_their_places(tmp_path: pathlib.Path):
    config = tmp_path / "mine.yaml"
    config.write_text("trainer:\n  train_steps: many\ntask:\n  modle:\n    a: 1\n    b: 2\n")
    overrides = ["task.model.mask_head.num_convs=four", "runtime.distribution_strategy=tpus"]
    assert _faults(overrides, (str(config),)) == [
        f"trainer.train_steps ({config}:2): 'many' given; accepts an integer, such as 22500",
        f"task.modle ({config}:5): no such field; did you mean task.model?",
        "task.model.mask_head.num_convs (--params_override 1): 'four' given; accepts an integer, "
        "such as 4",
        "runtime.distribution_strategy (--params_override 2): 'tpus' given; accepts one_device, "
        "mirrored, multi_worker_mirrored, tpu; did you mean tpu?",
    ]


def test_an_unknown_experiment_gets_the_nearest_name():
    with pytest.raises(UserError, match=f"did you mean {RESNET}"):
        load_experiment("deep_mask_head_rcnn_resnet_coco")


def test_later_sources_win_and_origins_are_kept(tmp_path: pathlib.Path):
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text("trainer:\n  train_steps: 70000\n  max_to_keep: 1\n  summary_interval: 1\n")
    second.write_text("trainer:\n  max_to_keep: 2\n  summary_interval: 2\n")
    loaded = load(RESNET, (str(first), str(second)), "trainer.summary_interval=3")
    trainer = loaded.config.trainer
    assert (trainer.train_steps, trainer.max_to_keep, trainer.summary_interval) == (70000, 2, 3)
    assert loaded.origin("trainer.train_steps") == f"{first}:2"
    assert loaded.origin("trainer.max_to_keep") == f"{second}:2"
    assert loaded.origin("trainer.summary_interval") == "--params_override"
    assert loaded.origin("trainer.steps_per_loop") == f"experiment {RESNET}"


def test_nested_settings_keep_the_dataclasses():
    override = (
        "task.model={backbone: {type: spinenet, spinenet: {model_id: 49S}}, min_level: 3, "
        "max_level: 7},trainer.optimizer_config.ema.average_decay=0.5,"
        f"{SCHEDULE}={{type: cosine, cosine: {{initial_learning_rate: 1, decay_steps: 10}}}}"
    )
    experiment = load_experiment(RESNET, overrides=override)
    backbone = experiment.task.model.backbone
    assert isinstance(backbone, backbones.Backbone)
    assert isinstance(backbone.get(), backbones.SpineNet)
    assert backbone.get().model_id == "49S"
    optimizer = experiment.trainer.optimizer_config
    assert isinstance(optimizer.ema, optimization.EMAConfig)
    assert optimizer.ema.average_decay == 0.5
    assert optimizer.learning_rate.get().initial_learning_rate == 1.0
    assert optimizer.learning_rate.stepwise.boundaries == [15000, 20000]


def test_an_optional_part_is_made_and_taken_away():
    path = "trainer.optimizer_config.ema"
    assert _value(load_experiment(RESNET, (), f"{path}={{}}"), path).average_decay == 0.99
    assert _value(load_experiment(RESNET, (), [f"{path}={{}}", f"{path}=null"]), path) is None


def test_a_later_source_may_choose_another_branch():
    overrides = [
        "task.model.backbone.resnet.model_id=101",
        "task.model.backbone.type=spinenet,task.model.min_level=3,task.model.max_level=7",
    ]
    assert load_experiment(RESNET, (), overrides).task.model.backbone.type == "spinenet"


def test_loading_leaves_the_registered_experiment_alone():
    load_experiment(RESNET, (), "task.model.anchor.aspect_ratios=[1.0],trainer.train_steps=30000")
    experiment = load_experiment(RESNET)
    assert experiment.task.model.anchor.aspect_ratios == [0.5, 1.0, 2.0]
    assert experiment.trainer.train_steps == 22500


def test_a_folder_of_images_replaces_records_of_an_earlier_source():
    data = "task.validation_data"
    loaded = load(RESNET, (), f"{data}.image_dir=/photos,{data}.annotation_file=/val.json")
    task = loaded.config.task
    assert (task.validation_data.input_path, task.validation_data.image_dir) == ("", "/photos")
    assert task.annotation_file == "/val.json"
    assert loaded.origin("task.annotation_file") == "--params_override"
    assert task.train_data.input_path == "coco/train*"


def test_records_replace_a_folder_of_images_of_an_earlier_source():
    folder = "task.train_data.image_dir=/photos,task.train_data.annotation_file=/train.json"
    data = load_experiment(RESNET, (), [folder, "task.train_data.input_path=/r*"]).task.train_data
    assert (data.input_path, data.image_dir, data.annotation_file) == ("/r*", "", "")


def test_records_do_not_keep_the_ground_truth_of_a_folder():
    data = "task.validation_data"
    folder = f"{data}.image_dir=/photos,{data}.annotation_file=/val.json"
    task = load_experiment(RESNET, (), [folder, f"{data}.input_path=/r*"]).task
    assert (task.annotation_file, task.validation_data.annotation_file) == (None, "")
    untouched = load_experiment(RESNET, (), f"{data}.input_path=/r*").task
    assert untouched.annotation_file == "coco/instances_val2017.json"


def test_a_ground_truth_that_is_given_stays():
    data = "task.validation_data"
    override = f"{data}.image_dir=/p,{data}.annotation_file=/v.json,task.annotation_file=/gt.json"
    assert load_experiment(RESNET, (), override).task.annotation_file == "/gt.json"


def test_both_data_sources_at_one_stage_are_refused():
    (line,) = _faults("task.train_data.image_dir=/photos,task.train_data.input_path=/r*")
    assert "data is given twice: input_path '/r*' and image_dir '/photos'; keep one" in line


@pytest.mark.parametrize("name", EXPERIMENTS.names())
def test_experiments_survive_saving(tmp_path: pathlib.Path, name: str):
    override = (
        "trainer.optimizer_config.ema.start_step=3,task.init_checkpoint='None',"
        "trainer.validation_summary_subdir='a, b=c: \"d\"',task.losses.l2_weight_decay=1e-9,"
        "task.train_data.input_path=['*.tfrecord', '1e-4', 'true', '']"
    )
    experiment = load_experiment(name, (), override)
    path = tmp_path / "params.yaml"
    loading.save_params(experiment, str(path))
    again = loading.experiment_from_params(str(path))
    assert again.as_dict() == experiment.as_dict()
    assert [type(value) for _, value in fields.leaves(again)] == [
        type(value) for _, value in fields.leaves(experiment)
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["params.yaml"]


def test_texts_that_read_as_something_else_are_written_in_quotes():
    texts = ("1e-4", "None", "010", "TRUE", "1e-4x", "none of it")
    written = [loading.value_to_yaml(text) for text in texts]
    assert written == ["'1e-4'", "'None'", "'010'", "'TRUE'", "1e-4x", "none of it"]


def test_saved_params_can_be_a_config_file(tmp_path: pathlib.Path):
    experiment = load_experiment(SPINENET, (), "trainer.train_steps=170000")
    path = tmp_path / "params.yaml"
    loading.save_params(experiment, str(path))
    assert load_experiment(SPINENET, (str(path),)).as_dict() == experiment.as_dict()


def test_every_field_of_the_reference_is_known_or_explained():
    with light_imports():
        from official.projects.deepmac_maskrcnn.configs import deep_mask_head_rcnn as reference

    ours = set(fields.all_paths(ExperimentConfig))
    checked = 0

    def walk(config: typing.Any, prefix: str) -> None:
        nonlocal checked
        for field in dataclasses.fields(config):
            path, value = prefix + field.name, getattr(config, field.name)
            checked += 1
            if path not in ours:
                assert model_garden_hint(path), path
            elif dataclasses.is_dataclass(value):
                walk(value, f"{path}.")

    walk(reference.deep_mask_head_rcnn_spinenet_coco(), "")
    assert checked > 400


_PATHS = fields.all_paths(ExperimentConfig)
_LEAVES = [p for p in _PATHS if not any(other.startswith(f"{p}.") for other in _PATHS)]
_ODD = st.sampled_from(
    [
        *("", "null", "true", "-1", "0", "1", "7", "1e-4", ".5", "1e400", "x", "1,2", "'x, y'"),
        *("[]", "[1]", "[1, 2]", "[[1]]", "[", "{}", "{a: 1}", "*", "gs://b/x*"),
        *("float32", "sgd", "resnet", "spinenet", "cosine"),
    ]
)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(_LEAVES), _ODD | st.text(max_size=8)), max_size=3))
def test_any_override_is_refused_readably_or_survives_saving(pairs: list[tuple[str, str]]):
    override = ",".join(f"{path}={value}" for path, value in pairs)
    try:
        experiment = load_experiment(RESNET, (), override)
    except UserError as error:
        assert "fault" in str(error)
        return
    text = loading.to_yaml(experiment)
    again = load_experiment(RESNET, (), text)
    assert again.as_dict() == experiment.as_dict()
