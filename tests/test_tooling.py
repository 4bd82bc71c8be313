"""Files for other tools: containers and VS Code."""

import json
import pathlib
import re

import pytest
import yaml

from official_maskrcnn.cli.main import main

_ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tasks() -> dict[str, dict]:
    content = json.loads((_ROOT / ".vscode" / "tasks.json").read_text())
    return {task["label"]: task for task in content["tasks"]}


def test_the_tasks_name_what_there_is(tasks):
    assert {"train", "debug", "notebook"} <= set(tasks)
    text = json.dumps(tasks)
    for name in re.findall(r"train\.py|make (\w+)", text):
        assert not name or f"\n{name}:" in (_ROOT / "Makefile").read_text()
    inputs = json.loads((_ROOT / ".vscode" / "tasks.json").read_text())["inputs"]
    assert set(re.findall(r"\$\{input:(\w+)\}", text)) == {entry["id"] for entry in inputs}


def test_the_overrides_of_the_debug_task_are_valid(tasks, capsys):
    (overrides,) = re.findall(r"--params_override=([^\s\"]+)", tasks["debug"]["command"])
    command = ["validate", "deep_mask_head_rcnn_resnetfpn_coco", "--mode", "none"]
    options = [
        "--config_file",
        str(_ROOT / "configs" / "nuts.yaml"),
        "--params_override",
        overrides,
    ]
    assert main([*command, *options]) == 0, capsys.readouterr()


def test_the_container_is_made_of_what_there_is():
    dockerfile = (_ROOT / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE)
    allowed = (_ROOT / ".dockerignore").read_text().splitlines()
    for name in " ".join(copied).split():
        assert (_ROOT / name).exists() and f"!{name}" in allowed
    assert "USER 10001" in dockerfile


def test_compose_publishes_to_this_machine_alone():
    services = yaml.safe_load((_ROOT / "compose.yaml").read_text())["services"]
    assert set(services) == {"serve", "serve-gpu"}
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert all(volume.endswith(":ro") for volume in service["volumes"])
