"""ls, show, validate, env and completion; and that a mistake is one readable message."""

import json
import pathlib

import pytest
import yaml

from official_maskrcnn.cli.main import main
from official_maskrcnn.configs.loading import load_experiment, save_params

RESNET = "deep_mask_head_rcnn_resnetfpn_coco"


def _out(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(list(arguments)) == code
    return capsys.readouterr().out


def test_ls_lists_every_kind(capsys):
    entries = json.loads(_out(capsys, "ls", "--json"))
    found = {(entry["kind"], entry["name"]) for entry in entries}
    assert {
        ("experiment", RESNET),
        ("config", "configs/nuts.yaml"),
        ("mask head", "hourglass52"),
        ("backbone", "spinenet"),
        ("decoder", "nasfpn"),
        ("optimizer", "sgd"),
        ("learning rate", "cosine"),
        ("warmup", "linear"),
        ("converter", "coco"),
    } <= found
    assert all(entry["summary"] for entry in entries)


def test_ls_takes_a_pattern(capsys):
    entries = json.loads(_out(capsys, "ls", "hourglass*", "--json"))
    assert [entry["name"] for entry in entries] == ["hourglass100", "hourglass20", "hourglass52"]
    assert "hourglass20" in _out(capsys, "ls", "mask head")
    assert _out(capsys, "ls", "zzz").strip() == "nothing matches 'zzz'"


def test_show_applies_files_then_overrides_wherever_they_stand(capsys, tmp_path: pathlib.Path):
    file = tmp_path / "a.yaml"
    file.write_text("trainer: {max_to_keep: 7, summary_interval: 9}\n")
    arguments = ["show", RESNET, "trainer.max_to_keep=8", "--config_file", str(file)]
    arguments.append("task.losses.mask_weight=2")
    values = yaml.safe_load(_out(capsys, *arguments))
    assert values["trainer"]["max_to_keep"] == 8
    assert values["trainer"]["summary_interval"] == 9
    assert values["task"]["losses"]["mask_weight"] == 2
    assert json.loads(_out(capsys, *arguments, "--json")) == values
    text = _out(capsys, *arguments, "--origin")
    assert yaml.safe_load(text) == values
    assert "# command line" in text
    assert f"# {file}:1" in text


def test_show_differences_from_an_experiment_and_from_saved_params(capsys, tmp_path: pathlib.Path):
    save_params(load_experiment(RESNET), str(tmp_path / "params.yaml"))
    for other in (RESNET, str(tmp_path / "params.yaml")):
        arguments = ["show", RESNET, "--diff", other]
        assert _out(capsys, *arguments).strip() == "no differences"
        rows = json.loads(_out(capsys, *arguments, "trainer.max_to_keep=2", "--json"))
        assert rows == [{"path": "trainer.max_to_keep", "other": "5", "this": "2"}]
        table = _out(capsys, *arguments, "trainer.max_to_keep=2", "--origin")
        assert "command line" in table


def test_validate_names_every_fault_and_the_nearest_names(capsys):
    wrong = [
        "task.model.mask_head.convnet_variant=hourglas52",
        "task.model.mask_head.num_convs=four",
        "trainer.train_step=10",
    ]
    assert main(["validate", RESNET, ",".join(wrong)]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[0] == f"error: 3 faults in the configuration (experiment {RESNET}):"
    for hint in ("did you mean hourglass52", "'four' given; accepts an integer, such as 4"):
        assert hint in error
    assert "did you mean trainer.train_steps?" in error
    faults = json.loads(_out(capsys, "validate", RESNET, *wrong, "--json", code=2))["faults"]
    assert {fault["origin"] for fault in faults} == {"command line"}
    assert {fault["path"] for fault in faults} == {
        "task.model.mask_head.convnet_variant",
        "task.model.mask_head.num_convs",
        "trainer.train_step",
    }


def test_validate_looks_for_the_data(capsys, tmp_path: pathlib.Path):
    assert "valid: experiment" in _out(capsys, "validate", RESNET, "--mode", "none")
    assert main(["validate", RESNET]) == 2
    error = capsys.readouterr().err
    for path in ("task.train_data.input_path", "task.validation_data.input_path"):
        assert f"{path} (experiment {RESNET})" in error
    assert "task.annotation_file" in error

    annotations = tmp_path / "instances.json"
    categories = [{"id": 7, "name": "date"}, {"id": 95, "name": "fig"}]
    annotations.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    arguments = [
        *("validate", RESNET, "--mode", "train", f"task.train_data.image_dir={tmp_path}"),
        f"task.train_data.annotation_file={annotations}",
    ]
    assert main([*arguments, "task.allowed_mask_class_ids=[7,8]"]) == 2
    error = capsys.readouterr().err
    assert "91 given, but" in error
    assert "has category id 95 (fig): 96 are needed" in error
    assert "[8] given, but" in error
    good = [*arguments, "task.model.num_classes=96", "task.allowed_mask_class_ids=[7]"]
    assert "valid for mode train" in _out(capsys, *good)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("shwo x", "unknown verb 'shwo'; did you mean show?"),
        ("show deep_mask_head_rcnn_resnet", f"did you mean {RESNET}"),
        (f"show {RESNET} --orign", "unrecognized arguments: --orign"),
        (f"show {RESNET} task.modle.num_classes=3", "did you mean task.model"),
        (f"show {RESNET} num_classes=3", "did you mean task.model.num_classes?"),
        (f"show {RESNET} --diff nothing.yaml", "nothing.yaml: no such file"),
        (f"train {RESNET}", "--model_dir"),
        (f"eval {RESNET} --model_dir x --mode train", "unrecognized arguments"),
        ("ls a b", "unrecognized arguments: b"),
        ("completion fish", "fish"),
    ],
)
def test_mistakes(arguments: str, message: str, capsys):
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_env_tells_versions_and_devices(capsys):
    found = json.loads(_out(capsys, "env", "--json"))
    assert found["versions"]["tensorflow"].startswith("2.20")
    assert found["devices"]
    assert "tpu" in found["extras"]
    assert "tf-models-official" in _out(capsys, "env")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell: str, capsys):
    script = _out(capsys, "completion", shell)
    assert "official-maskrcnn" in script or "official_maskrcnn" in script
    assert "--params_override" in script
    assert "synthetic" in script
