"""Sweeps: from YAML to runs with checked configurations, or one message with every fault."""

import dataclasses
import pathlib
import re

import pytest

from official_maskrcnn import tasks  # noqa: F401 - enters the rules that need its code
from official_maskrcnn.configs import fields, loading
from official_maskrcnn.configs.sweep import Row, Sweep, load_sweep
from official_maskrcnn.errors import UserError

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_FOLDER = _ROOT / "experiments"
_FILES = sorted(_FOLDER.glob("*.yaml"))
_RESNET = "deep_mask_head_rcnn_resnetfpn_coco"
_BASE = {
    "experiment": _RESNET,
    "seeds": "[1, 2]",
    "metrics": "mask/AP",
    "axes": "{list: {field: task.losses.mask_weight, values: [1, 2]}}",
}


@pytest.fixture(autouse=True)
def _at_home(monkeypatch):
    monkeypatch.chdir(_ROOT)


def _load(folder: pathlib.Path, changes=(), **top: str) -> Sweep:
    file = folder / "mine.yaml"
    file.write_text("".join(f"{name}: {value}\n" for name, value in (_BASE | top).items() if value))
    return load_sweep(str(file), changes)


def _faults(folder: pathlib.Path, **top: str) -> list[str]:
    with pytest.raises(UserError) as error:
        _load(folder, **top)
    head, *lines = str(error.value).replace(f"{folder}/", "").splitlines()
    count = f"{len(lines)} fault{'s' if len(lines) > 1 else ''}"
    assert head == f"{count} in the sweep (mine.yaml):"
    return [line.strip() for line in lines]


def _value(row: Row, path: str):
    return dict(fields.leaves(row.config))[path]


_A = "list: {field: task.losses.mask_weight, name: a, values: [1, 2]}"
_B = "list: {name: b, options: {x: , y: {trainer.max_to_keep: 3, task.losses.rpn_box_weight: 2}}}"
_C = "list: {name: b, options: {z: {trainer.max_to_keep: 4}}}"


@pytest.mark.parametrize(
    ("axes", "names"),
    [
        (f"{{{_A}}}", ["a_1", "a_2"]),
        (f"{{product: [{{{_A}}}, {{{_B}}}]}}", ["a_1-x", "a_1-y", "a_2-x", "a_2-y"]),
        (f"{{zip: [{{{_A}}}, {{{_B}}}]}}", ["a_1-x", "a_2-y"]),
        (f"{{concat: [{{{_B}}}, {{{_C}}}]}}", ["x", "y", "z"]),
        (
            f"{{concat: [{{product: [{{{_A}}}, {{{_B}}}]}}, {{{_C}}}]}}",
            ["a_1-x", "a_1-y", "a_2-x", "a_2-y", "z"],
        ),
        (
            f"{{product: [{{{_A}}}, {{concat: [{{{_B}}}, {{{_C}}}]}}]}}",
            ["a_1-x", "a_1-y", "a_1-z", "a_2-x", "a_2-y", "a_2-z"],
        ),
        ("", ["base"]),
    ],
)
def test_rows_and_their_order(tmp_path, axes, names):
    sweep = _load(tmp_path, axes=axes)
    assert [row.name for row in sweep.rows] == names
    assert [run.name for run in sweep.runs] == [f"{n}/seed{s}" for n in names for s in (1, 2)]
    assert sweep.name == "mine" and sweep.metrics == ("mask/AP",)
    for row in sweep.rows:
        assert row.config.task.losses.mask_weight == (2.0 if row.labels.get("a") == "2" else 1.0)
        assert row.config.trainer.max_to_keep == {"y": 3, "z": 4}.get(row.labels.get("b"), 5)
    assert [run.config.runtime.seed for run in sweep.runs[:2]] == [1, 2]


def test_files_come_before_fields_and_options_after_the_base(tmp_path):
    for name, text in (("one", "{max_to_keep: 7, summary_interval: 7, steps_per_loop: 7}"),) * 1 + (
        ("two", "{max_to_keep: 8, steps_per_loop: 8}"),
    ):
        (tmp_path / f"{name}.yaml").write_text(f"trainer: {text}\n")
    sweep = _load(
        tmp_path,
        changes=["trainer.validation_interval=9"],
        config_file=f"{tmp_path}/one.yaml",
        params_override="{trainer: {max_to_keep: 1, validation_interval: 1}}",
        axes=f"""
  list:
    name: option
    options:
      file: {{config_file: {tmp_path}/two.yaml, trainer.checkpoint_interval: 5}}
      other: {{experiment: deep_mask_head_rcnn_spinenet_coco, trainer.max_to_keep: 2}}""",
    )
    first, second = sweep.rows
    trainer = first.config.trainer
    assert (trainer.summary_interval, trainer.steps_per_loop, trainer.max_to_keep) == (7, 8, 1)
    assert (trainer.validation_interval, trainer.checkpoint_interval) == (9, 5)
    assert first.changes == (
        ("config_file", f"{tmp_path}/two.yaml"),
        ("trainer.checkpoint_interval", "5"),
    )
    assert second.config.trainer.max_to_keep == 2
    assert (second.experiment, second.config.task.model.backbone.type) == (
        "deep_mask_head_rcnn_spinenet_coco",
        "spinenet",
    )


_NO_WEIGHTS = "{task.init_checkpoint: null}"
_DEPTHS = "list: {field: task.model.backbone.resnet.model_id, name: d, values: [18, 50]}"
_MOBILE = (
    "{task.model.backbone.type: mobilenet, task.model.backbone.mobilenet.filter_size_scale: 2}"
)
_DECAYS = "list: {field: trainer.optimizer_config.ema.average_decay, name: d, values: [0.8, 0.9]}"


@pytest.mark.parametrize(
    ("axes", "exclude", "changes"),
    [
        (
            f"{{list: {{name: b, options: {{x: {{task.model.mask_head: {{}}}}, y: {_MOBILE}}}}}}}",
            "",
            {"x": [], "y": ["type: mobilenet", "mobilenet.filter_size_scale: 2.0"]},
        ),
        (
            f"{{product: [{{{_DEPTHS}}}, {{list: {{name: b, options: {{x: , y: {_MOBILE}}}}}}}]}}",
            "[{d: 18, b: y}]",
            {
                **{"d_18-x": ["resnet.model_id: 18"], "d_50-x": ["resnet.model_id: 50"]},
                "d_50-y": ["type: mobilenet", "mobilenet.filter_size_scale: 2.0"],
            },
        ),
        (
            f"{{product: [{{{_DECAYS}}}, {{list: {{name: b, options: {{x: , "
            "y: {trainer.optimizer_config.ema: null}}}}]}",
            "[{d: 0.8, b: y}]",
            {
                **{"d_0.8-x": ["ema.average_decay: 0.8"], "d_0.9-x": ["ema.average_decay: 0.9"]},
                "d_0.9-y": ["ema: null"],
            },
        ),
    ],
)
def test_an_option_may_set_nothing_or_what_another_option_drops(tmp_path, axes, exclude, changes):
    sweep = _load(tmp_path, axes=axes, exclude=exclude, params_override=_NO_WEIGHTS)
    heads = ("task.model.backbone.", "trainer.optimizer_config.")
    found = {
        row.name: [
            f"{path}: {value}".removeprefix(heads[0]).removeprefix(heads[1])
            for path, value in row.changes
        ]
        for row in sweep.rows
    }
    assert found == changes


def test_exclude_leaves_out_what_matches_all_of_an_entry(tmp_path):
    product = f"{{product: [{{{_A}}}, {{{_B}}}]}}"
    sweep = _load(tmp_path, axes=product, exclude="[{a: 1, b: y}]")
    assert [row.name for row in sweep.rows] == ["a_1-x", "a_2-x", "a_2-y"]
    sweep = _load(tmp_path, axes=product, exclude="[{a: 1, b: y}, {a: 2, b: x}]", seeds="3")
    assert [run.name for run in sweep.runs] == ["a_1-x/seed3", "a_2-y/seed3"]


def test_names_are_safe_as_folders(tmp_path):
    values = "[null, [1, 2], 'gs://bucket/a b*', '../up', 1e-3]"
    axes = f"{{list: {{field: task.init_checkpoint, name: from, values: {values}}}}}"
    with pytest.raises(UserError):  # a list is no checkpoint; the names are made all the same
        _load(tmp_path, axes=axes)
    sweep = _load(tmp_path, axes=axes.replace("[1, 2], ", ""))
    assert [row.name for row in sweep.rows] == [
        *("from_null", "from_gs_bucket_a_b", "from_.._up", "from_1e-3"),
    ]


@pytest.mark.parametrize(
    ("top", "messages"),
    [
        ({"seeds": ""}, ["seeds (mine.yaml): is missing"]),
        ({"seed": "1"}, ["seed (mine.yaml:5): 'seed' is not known here; did you mean seeds?"]),
        ({"seeds": "[1, x]"}, ["seeds (mine.yaml:2): 'x' given; accepts integers from 0 on"]),
        ({"seeds": "[1, 1]"}, ["seeds (mine.yaml:2): 1 is given 2 times"]),
        ({"seeds": "[]"}, ["seeds (mine.yaml:2): [] given; expected a list of at least one"]),
        ({"experiment": "deep"}, ["unknown experiment 'deep'"]),
        ({"config_file": "no.yaml"}, ["no.yaml: no such file"]),
        ({"params_override": "{runtime.seed: 3}"}, ["runtime.seed (mine.yaml:5): is set by seeds"]),
        ({"params_override": "7"}, ["params_override (mine.yaml:5): 7 given; expected a map"]),
        (
            {"params_override": "{trainer.max_to_kep: 3, trainer.train_steps: abc}"},
            [
                "trainer.max_to_kep (mine.yaml:5): no such field; did you mean trainer.max_to_keep",
                "trainer.train_steps (mine.yaml:5): 'abc' given; accepts an integer",
            ],
        ),
        ({"axes": "{list: {field: runtime.seed, values: [1, 2]}}"}, ["no axis is named seed"]),
        ({"axes": "{}"}, ["axes (mine.yaml:4): 0 of list, product, zip, concat given"]),
        ({"axes": "{lst: 1}"}, ["axes.lst (mine.yaml:4): 'lst' is not known here; did you mean"]),
        ({"axes": "{list: {name: a}}"}, ["axes.list (mine.yaml:4): has name; expected field and"]),
        (
            {"axes": "{list: {field: task.losses.mask_weight, value: [1, 2]}}"},
            ["axes.list.value (mine.yaml:4): 'value' is not known here; did you mean values?"],
        ),
        (
            {"axes": f"{{zip: [{{{_A}}}, {{{_C}}}]}}"},
            ["axes.zip (mine.yaml:4): the parts have different numbers of rows: axes.zip[0] 2, "
             "axes.zip[1] 1"],
        ),
        (
            {"axes": f"{{product: [{{{_A}}}, {{{_A}}}]}}"},
            ["axes.product (mine.yaml:4): two axes are named a; give one another name"],
        ),
        (
            {"axes": "{list: {name: a, options: {x: , x: , y: 3}}}"},
            ["axes.list.options.x (mine.yaml:4): given twice, first in mine.yaml:4",
             "axes.list.options.y (mine.yaml:4): 3 given; expected a map of fields"],
        ),
        (
            {"exclude": "[{mask_weigt: 1}, {mask_weight: 3}]"},
            ["exclude[0].mask_weigt (mine.yaml:5): 'mask_weigt' is not known here; did you mean "
             "mask_weight?",
             "exclude[1].mask_weight (mine.yaml:5): '3' is not known here; accepts 1, 2"],
        ),
        ({"exclude": "[{mask_weight: 1}, {mask_weight: 2}]"}, ["exclude (mine.yaml): no row is"]),
        (
            {"axes": "{list: {field: trainer.max_to_keep, name: k, values: ['1', \"1\"]}}"},
            ["2 rows are named k_1"],
        ),
        (
            {"axes": "{list: {field: trainer.max_to_keep, values: [5]}}"},
            ["axes (mine.yaml): every run has max_to_keep 5; an axis needs two options"],
        ),
        (
            {"axes": f"{{product: [{{{_A}}}, {{list: {{name: n, options: {{p: , q: }}}}}}]}}"},
            ["axes (mine.yaml): the axis n has no effect: its options give the same"],
        ),
        (
            {"axes": f"{{concat: [{{{_A}}}, {{list: {{name: n, options: {{p: }}}}}}]}}"},
            ["axes (mine.yaml): a_1 and p have the same configuration; exclude one"],
        ),
        (
            {"axes": f"{{list: {{name: n, options: {{{'p' * 300}: , q: }}}}}}"},
            ["a row's name has 300 characters, 200 are allowed"],
        ),
        ({"axes": "[a: b: c"}, ["mine.yaml:4: not valid YAML"]),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_place(tmp_path, top, messages):
    faults = _faults(tmp_path, **top)
    for message in messages:
        assert any(message in fault for fault in faults), "\n".join(faults)


def test_no_file_and_an_empty_one(tmp_path):
    with pytest.raises(UserError, match=r"none.yaml: no such file"):
        load_sweep(str(tmp_path / "none.yaml"))
    (tmp_path / "empty.yaml").touch()
    with pytest.raises(UserError, match="is empty; a sweep has experiment, config_file"):
        load_sweep(str(tmp_path / "empty.yaml"))


def test_all_faulty_rows_at_once_each_fault_with_its_rows(tmp_path):
    head = "task.model.mask_head.convnet_variant"
    faults = _faults(
        tmp_path,
        params_override="{trainer.max_to_kep: 1}",
        axes=f"""
  product:
    - list: {{field: {head}, name: head, values: [default, hourglas20, hourglass52]}}
    - list: {{field: task.losses.mask_weight, name: w, values: [1, many]}}""",
    )
    assert faults == [
        "trainer.max_to_kep (mine.yaml:8): no such field; did you mean trainer.max_to_keep?",
        "task.losses.mask_weight (mine.yaml:7): 'many' given; accepts a number, such as 1.0 "
        "[3 of 6: head_default-w_many, head_hourglas20-w_many, head_hourglass52-w_many]",
        f"{head} (mine.yaml:6): unknown mask head 'hourglas20'; did you mean hourglass20 or "
        "hourglass52 or hourglass100? (known: default, hourglass100, hourglass20, hourglass52) "
        "[2 of 6: head_hourglas20-w_1, head_hourglas20-w_many]",
        f"{head} (mine.yaml:6, experiment {_RESNET}): task.model.mask_roi_aligner.crop_size (14) "
        f"must be a multiple of 32 for {head} hourglass52 "
        "[2 of 6: head_hourglass52-w_1, head_hourglass52-w_many]",
    ]


def test_a_digest_is_of_what_a_run_changes_in_its_experiment(tmp_path):
    sweep = _load(tmp_path)
    digests = [run.digest for run in sweep.runs]
    assert len(set(digests)) == 4
    again = _load(tmp_path, params_override="{trainer.max_to_keep: 5}")  # as it is by default
    assert [run.digest for run in again.runs] == digests
    other = _load(tmp_path, params_override="{trainer.max_to_keep: 4}")
    assert not {run.digest for run in other.runs} & set(digests)
    assert re.fullmatch("[0-9a-f]{12}", digests[0])


def _sweep(name: str) -> Sweep:
    return load_sweep(f"experiments/{name}.yaml")


@pytest.mark.parametrize("file", _FILES, ids=lambda file: file.stem)
def test_every_file_opens_with_claim_cost_and_command(file: pathlib.Path):
    head = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert head[0].startswith("# Claim: ")
    assert any(line.startswith("# Cost: ") for line in head)
    assert f"sweep run experiments/{file.name}" in "".join(head)


@pytest.mark.parametrize("file", _FILES, ids=lambda file: file.stem)
def test_a_run_s_saved_configuration_gives_the_run_again(file: pathlib.Path, tmp_path):
    for run in load_sweep(str(file)).runs:
        path = str(tmp_path / "config.yaml")
        loading.save_params(run.config, path)
        again = loading.load_experiment(run.row.experiment, [path])
        assert again.as_dict() == run.config.as_dict()


def test_the_small_comparison_is_fair():
    sweep = _sweep("mask_heads_small")
    assert len(sweep.runs) == 72 and len(sweep.seeds) == 3
    varied = {
        "task.model.mask_head.convnet_variant",
        "task.model.mask_head.num_filters",
        "task.model.mask_head.class_agnostic",
        "task.model.use_gt_boxes_for_masks",
    }
    for data in ("shapes", "nuts"):
        rows = [dict(fields.leaves(r.config)) for r in sweep.rows if r.labels["data"] == data]
        assert len(rows) == 12
        assert {path for path in rows[0] if len({str(row[path]) for row in rows}) > 1} == varied
    heads = {_value(row, "task.model.mask_head.convnet_variant") for row in sweep.rows}
    assert heads == {"default", "hourglass20", "hourglass52"}
    allowed = {str(_value(row, "task.allowed_mask_class_ids")) for row in sweep.rows}
    assert allowed == {"[1, 3, 7, 11, 17, 23]", "[1, 2]"}


def test_the_coco_sweep_has_the_published_rows_and_what_is_between():
    sweep = _sweep("mask_heads_coco")
    rows = {row.name: row for row in sweep.rows}
    assert len(rows) == 19
    published = [row for row in sweep.rows if "published" in row.labels]
    assert len(published) == 5
    for row in published:
        file = f"configs/deep_mask_head_rcnn_{row.name}.yaml"
        config = loading.load_experiment(
            row.experiment, [file], "runtime.distribution_strategy=tpu"
        )
        assert row.config.as_dict() == config.as_dict()
    head = dataclasses.asdict(rows["voc_r50_hg52"].config.task.model.mask_head)
    for name in ("hourglass20", "hourglass100"):
        row = rows[f"{name}-specific-proposals"]
        changed = {"convnet_variant": name, "class_agnostic": False}
        assert dataclasses.asdict(row.config.task.model.mask_head) == head | changed
        assert row.config.task.model.mask_sampler.static_rois_per_image is None


def test_the_example_of_the_readme_loads(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", (_FOLDER / "README.md").read_text(), re.DOTALL)
    file = tmp_path / "mine.yaml"
    file.write_text(example)
    assert len(load_sweep(str(file)).rows) > 4
