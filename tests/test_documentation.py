"""Commands in the README and on the help pages run: shortened, or (slow) as they stand.

The trainings with mine.yaml, which would take hours, are always shortened.
"""

import argparse
import importlib.util
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from official_maskrcnn.cli.main import command_parser

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_README = (_ROOT / "README.md").read_text()
# What a training needs to take seconds; after all that a command says itself.
_SHORT = ",".join(
    (
        "task.model.input_size=[128,128,3],task.model.backbone.resnet.model_id=18",
        "task.model.mask_head.num_filters=8,task.model.detection_head.fc_dims=16",
        "task.train_data.global_batch_size=2,task.validation_data.global_batch_size=2",
        "trainer.train_steps=2,trainer.train_epochs=null,trainer.boundary_epochs=null",
        "trainer.steps_per_loop=1,trainer.checkpoint_interval=2,trainer.validation_interval=2",
        "trainer.validation_steps=2,runtime.run_eagerly=true",  # tracing would take longest
        "trainer.optimizer_config.learning_rate={type: stepwise, stepwise: {boundaries: [1], "
        "values: [1e-3, 1e-4]}}",
    )
)


class Folder:
    """A folder in which the documentation's commands find what they name."""

    def __init__(self, path: pathlib.Path, shared_data: pathlib.Path, shorten: bool):
        self.path, self.shorten = path / "project", shorten
        self.path.mkdir()
        for name in ("train.py", "configs", "Makefile", "pyproject.toml", "requirements-lock.txt"):
            (self.path / name).symlink_to(_ROOT / name)
        shutil.copytree(_ROOT / "experiments", self.path / "experiments")  # results go there
        (path / "shared").mkdir()
        (path / "shared" / "data").symlink_to(shared_data)
        bin_folder = path / "bin"  # where python3 is the interpreter of this test
        bin_folder.mkdir()
        for name in ("python", "python3"):
            (bin_folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
            (bin_folder / name).chmod(0o755)
        self._environment = os.environ | {
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "HOME": str(path),  # where records are cached
            "PYTHONPATH": str(_ROOT),
        }
        self._ran: set[str] = set()

    def run(self, command: str, refusal: str = "") -> str:
        """Runs a command of a shell, once; what it writes to standard output.

        With `refusal`, the command must end in that message.
        """
        if command in self._ran:
            return ""
        self._ran.add(command)
        if self.shorten or "mine.yaml" in command:
            command = _shortened(command)
        if " serve " in command:
            return self._serve(command)
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=self.path,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        output = f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        stopped = [143] if command.startswith("timeout") else []
        assert done.returncode in ([2] if refusal else [0, *stopped]), output
        assert refusal in done.stderr, output
        return done.stdout

    def _serve(self, command: str) -> str:
        """Runs a service until it says that it runs, and stops it."""
        process = subprocess.Popen(
            ["bash", "-euc", f"exec {command}"],
            cwd=self.path,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines = []
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "running on http" in line:
                process.send_signal(signal.SIGTERM)
        assert process.wait() == 0 and "running on http" in "".join(lines), "".join(lines)
        return "".join(lines)


def _shortened(command: str) -> str:
    if "data synthetic" in command:
        return re.sub(r"--images \d+", "--images 60", command)
    if "train.py" in command:
        return f"{command} --params_override='{_SHORT}'"
    if re.search(r" (train|eval) .*--config_file| sweep (run|table) ", command):
        return f"{command} '{_SHORT}'"
    if re.search(r"official_maskrcnn (train|eval) ", command):  # short by itself
        return f"{command} --params_override=trainer.validation_steps=2,runtime.run_eagerly=true"
    return command


@pytest.fixture(scope="module", params=[True, pytest.param(False, marks=pytest.mark.slow)])
def shorten(request) -> bool:
    return request.param


@pytest.fixture(scope="module")
def pages_folder(shorten, shared_data, tmp_path_factory) -> Folder:
    return Folder(tmp_path_factory.mktemp("pages"), shared_data, shorten)


@pytest.fixture(scope="module")
def readme_folder(shorten, shared_data, tmp_path_factory) -> Folder:
    return Folder(tmp_path_factory.mktemp("readme"), shared_data, shorten)


def _pages(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Help pages of the verbs that do something, by verb."""
    pages = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, below in action.choices.items():
                deeper = {f"{verb} {name}": page for name, page in _pages(below).items()}
                pages |= deeper or {verb: below.format_help()}
    return pages


_PAGES = _pages(command_parser())
# The pages whose examples make what the examples of another one read.
_NEEDS = {verb: ("data synthetic",) for verb in ("validate", "train", "data convert")} | {
    **{verb: ("data synthetic",) for verb in ("data stats", "data check", "data browse")},
    **{
        verb: ("data synthetic", "train")
        for verb in ("eval", "predict", "annotate", "report", "export", "serve")
    },
}


def _examples(verb: str) -> list[str]:
    lines = _PAGES[verb].partition("examples:\n")[2].splitlines()
    return [line.strip() for line in lines]


def test_every_help_page_says_what_it_is_for_and_ends_in_two_examples():
    assert {"ls", "show", "validate", "analyze", "train", "eval", "env", "completion"} < set(_PAGES)
    for verb, page in _PAGES.items():
        description = page.partition("\n\n")[2]
        assert re.match(r"[A-Z].+[.]", description), verb
        examples = _examples(verb)
        assert len(examples) == 2, verb
        for example in examples:
            assert example.startswith(f"python3 -m official_maskrcnn {verb}"), example


# Half a minute and more, even shortened; or in need of a model that such a command trains.
_SLOW = re.compile("train.py|analyze|sweep run|--model runs/first")


def _marked(texts: Iterable[str]) -> list[Any]:
    return [
        pytest.param(text, marks=pytest.mark.slow) if _SLOW.search(text) else text for text in texts
    ]


def _refusal(command: str) -> str:
    """What a command says that needs an extra which is not installed."""
    needs_compiler = "tpu-check" in command and importlib.util.find_spec("libtpu") is None
    return "pip install 'official-maskrcnn[tpu-check]'" if needs_compiler else ""


@pytest.mark.parametrize("verb", _marked(_PAGES))
def test_the_examples_of_a_help_page_run(verb: str, pages_folder: Folder):
    for page in (*_NEEDS.get(verb, ()), verb):
        for example in _examples(page):
            pages_folder.run(example, _refusal(example))


def _blocks(language: str) -> list[str]:
    blocks = re.findall(rf"```{language}\n(.*?)```", _README, re.DOTALL)
    return [block.replace("\\\n", " ").strip() for block in blocks]


@pytest.fixture(scope="module")
def at_home(readme_folder: Folder) -> Callable[[str], str]:
    """The folder with the README's mine.yaml and its data, and how a text names that data."""
    data = readme_folder.path.parent / "data"
    for split in ("train", "val"):
        readme_folder.run(
            f"python3 -m official_maskrcnn data synthetic --images 20 --output {data}/{split}"
        )
        (data / f"instances_{split}.json").symlink_to(data / split / "instances.json")

    def place(text: str) -> str:
        text = text.replace("num_classes: 13 ", "num_classes: 30 ")  # the synthetic categories
        return (
            re.sub(r"/data/(train|val)(?=[\s\n])", rf"{data}/\1/images", text)
            .replace("/data/instances", f"{data}/instances")
            .replace("/data/records", f"{data}/records")
        )

    (mine,) = [block for block in _blocks("yaml") if "image_dir: /data/train" in block]
    (readme_folder.path / "mine.yaml").write_text(place(mine + "\n"))
    photograph = readme_folder.path.parent / "shared" / "data" / "nuts" / "images" / "11.jpg"
    (readme_folder.path / "photograph.jpg").symlink_to(photograph)
    return place


def _commands(block: str) -> list[str]:
    """Its lines; one that sets a variable goes with those after it."""
    lines = block.splitlines()
    variables = [line for line in lines if re.fullmatch(r"\w+=\S+", line)]
    return ["; ".join([*variables, line]) for line in lines if line not in variables]


_COMMANDS = [command for block in _blocks("shell") for command in _commands(block)]


def test_the_readme_has_commands():
    assert len(_COMMANDS) >= 10


@pytest.mark.parametrize("command", _marked(c for c in _COMMANDS if c != "make demo"))
def test_the_commands_of_the_readme_run(command: str, readme_folder: Folder, at_home):
    readme_folder.run(at_home(command), _refusal(command))


@pytest.mark.slow
def test_the_readme_s_python_runs(readme_folder: Folder, at_home):
    code = "\n".join(_blocks("python"))
    code = code.replace('"trainer.train_steps=6000"', f'"{_SHORT}"')
    assert _SHORT in code
    (readme_folder.path / "example.py").write_text(code)
    lines = readme_folder.run("python3 example.py").splitlines()
    assert 0 <= float(lines[0]) <= 1 and re.fullmatch(r"\(\d+, 600, 800\)", lines[-1])


@pytest.mark.slow
def test_make_demo_runs_public_commands(readme_folder: Folder):
    """`make demo` itself, after the set-up that made this environment."""
    bin_folder = readme_folder.path.parent / "bin"
    listed = readme_folder.run(
        f"make --no-print-directory --dry-run demo BIN={bin_folder} INSTALLED={bin_folder}/python"
    )
    commands = listed.replace("\\\n", " ").splitlines()
    assert ["synthetic" in command for command in commands] == [True, True, False, False]
    for command in commands:
        assert "pip" not in command
        readme_folder.run(command)
    assert list((readme_folder.path / "runs" / "demo" / "model" / "predictions").glob("*.png"))


def test_the_tables_of_the_pages_are_those_of_the_measurements(monkeypatch):
    monkeypatch.syspath_prepend(str(_ROOT / "benchmarks"))
    pages = importlib.import_module("support.pages")
    for page, tables in pages.tables_by_page().items():
        text = page.read_text()
        for name, table in tables.items():
            assert f"<!-- {name} -->\n\n{table}\n\n<!-- end of {name} -->" in text
