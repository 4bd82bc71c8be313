#!/usr/bin/env python3
"""Writes config_errors.md: what the program says to each kind of wrong configuration.

python3 docs/make_config_errors.py           # writes the page
python3 docs/make_config_errors.py --check   # exit code 1 if the page is not up to date
"""

import argparse
import contextlib
import functools
import pathlib
import re
import subprocess
import sys
import tempfile

from config_error_cases import ACCEPTED, REFUSED, Case

import official_maskrcnn.tasks  # noqa: F401 - enters the rules that need the model's code
from official_maskrcnn.configs.fields import leaves, show_value
from official_maskrcnn.configs.loading import LoadedExperiment, load
from official_maskrcnn.errors import UserError

PAGE = pathlib.Path(__file__).resolve().with_name("config_errors.md")
_TRAIN = PAGE.parent.parent / "train.py"
_CONFIG_FILE = "mine.yaml"
_LONGEST = 160  # characters of a line of input that are shown
_INTRODUCTION = """\
# What the program says to a wrong configuration

Each row of these tables is an input and the message that it gets, word for word. A message names
the field by its whole path, the place that set it (file and line, or flag), the value given, what
the field accepts, and the nearest right name or value where there is one.

Unless a row says otherwise, the experiment is `deep_mask_head_rcnn_resnetfpn_coco`, and the input
is the text of one `--params_override`. `mine.yaml` is a file given as `--config_file`. All faults
of a configuration come in one message, one a line, below a line that counts them:

```
{head}
```

`train.py` then ends with exit code 2, before it creates or reads anything else; in Python,
`official_maskrcnn.load_experiment` raises `official_maskrcnn.UserError`.

This page is made by `python3 docs/make_config_errors.py`.
"""
_ACCEPTED_INTRODUCTION = """\
## Accepted as meant

Inputs that look wrong but have one plain meaning, and the value that the field then has.
"""


def outcome(case: Case) -> LoadedExperiment | str:
    """What becomes of an input: the loaded experiment, or the message that refuses it.

    Raises:
      Exception: anything but a `UserError`, which would be a fault of the program.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, text in case.files.items():
            if name.endswith("/"):
                pathlib.Path(name).mkdir()
            else:
                pathlib.Path(name).write_text(text)
        if case.command_line:
            return _run_train(case.command_line)
        config_files = [case.config_file] if case.config_file else []
        if case.config is not None:
            content = case.config if isinstance(case.config, bytes) else case.config.encode()
            pathlib.Path(_CONFIG_FILE).write_bytes(content)
            config_files.append(_CONFIG_FILE)
        flags = {"--tpu": f"runtime.tpu={case.tpu}"} if case.tpu else {}
        try:
            return load(case.experiment, config_files, case.overrides, flags, case.mode)
        except UserError as error:
            return str(error)


def _run_train(flags: tuple[str, ...]) -> str:
    """What train.py says to wrong flags, after checking that it calls them the user's fault."""
    command = [sys.executable, str(_TRAIN), *flags]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    _, found, message = result.stderr.rpartition("error: ")
    if result.returncode != 2 or not found or "Traceback" in result.stderr:
        raise AssertionError(f"{flags} gives exit code {result.returncode}:\n{result.stderr}")
    return message.strip()


@functools.cache
def messages() -> dict[str, list[tuple[Case, str]]]:
    """Every case with the message that refuses it, by kind.

    Raises:
      AssertionError: a case is accepted.
    """
    answers: dict[str, list[tuple[Case, str]]] = {}
    for kind, cases in REFUSED.items():
        answers[kind] = []
        for case in cases:
            answer = outcome(case)
            if not isinstance(answer, str):
                raise AssertionError(f"accepted: {case}")
            answers[kind].append((case, answer))
    return answers


def page() -> str:
    """The page as Markdown."""
    answers = messages()
    head = next(answer for group in answers.values() for _, answer in group).splitlines()[0]
    parts = [_INTRODUCTION.format(head=head)]
    for kind, group in answers.items():
        rows = [(_input(case), _lines(_faults(answer))) for case, answer in group]
        parts.append(f"## {kind}\n\n{_table(('Input', 'Message'), rows)}")
    rows = []
    for accepted in ACCEPTED:
        loaded = outcome(accepted.case)
        if isinstance(loaded, str):
            raise AssertionError(f"refused: {accepted}: {loaded}")
        value = show_value(dict(leaves(loaded.config))[accepted.path])
        rows.append((_input(accepted.case), _lines([f"{accepted.path}: {value}"])))
    parts.append(f"{_ACCEPTED_INTRODUCTION}\n{_table(('Input', 'Value'), rows)}")
    return "\n".join(parts)


def _faults(message: str) -> list[str]:
    """The lines of a message, without the head that counts them."""
    lines = message.splitlines()
    if re.match(r"\d+ faults? in the configuration \(.*\):$", lines[0]):
        lines = lines[1:]
    return [line.strip() for line in lines]


def _input(case: Case) -> str:
    """An input as the user writes it, for a cell of a table."""
    parts = [_lines([f"{name}: {text}"]) for name, text in _shown_files(case)]
    flags = list(case.command_line)
    if case.experiment != Case.experiment:
        flags.append(f"--experiment={case.experiment}")
    if case.mode:
        flags.append(f"--mode={case.mode}")
    if case.config_file:
        flags.append(f"--config_file={case.config_file}")
    if case.tpu:
        flags.append(f"--tpu={case.tpu}")
    if len(case.overrides) > 1:
        flags += [f"--params_override={text}" for text in case.overrides]
    else:
        flags += case.overrides
    parts += [_code(flag) for flag in flags]
    if case.config is not None:
        text = case.config if isinstance(case.config, str) else repr(case.config)[2:-1]
        parts.append(
            f"`{_CONFIG_FILE}`:<br>{_lines(text.splitlines())}" if text else "an empty file"
        )
    return "<br>".join(parts)


def _shown_files(case: Case) -> list[tuple[str, str]]:
    return [(name, text) for name, text in case.files.items() if not name.endswith("/")]


def _lines(lines: list[str]) -> str:
    return "<br>".join(map(_code, lines))


def _code(text: str) -> str:
    """A line as a code span in a table: shortened, and with nothing that ends span or cell."""
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    if len(text) > _LONGEST and len(set(text[-_LONGEST:])) <= 2:  # a row of brackets
        text = f"{text[:40]}... ({len(text)} characters)"
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}".replace("|", "\\|")


def _table(header: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [header, ("---", "---"), *rows]
    return "".join(f"| {left} | {right} |\n" for left, right in lines)


def main() -> None:
    """Writes or checks the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare, and exit with 1")
    wanted, text = parser.parse_args(), page()
    if not wanted.check:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        sys.exit(f"{PAGE.name} is not up to date: run python3 docs/make_config_errors.py")


if __name__ == "__main__":
    main()
