"""The sides of a comparison, each in a process of its own, measured in turn."""

import contextlib
import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

import rich.console
import rich.progress
import rich.table

from support import pages
from support.serve import Measurement


class Side:
    """A running side; `first` is its first measurement, whose seconds count from its start."""

    def __init__(self, command: Sequence[str]):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | {"STARTED": str(time.time()), "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        self.first = self._read()

    def measure(self) -> Measurement:
        """One more measurement."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _read(self) -> Measurement:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            command = " ".join(map(str, self._process.args))[:300]
            sys.exit(f"{command} failed:\n{self._errors.read()[-3000:]}")
        return json.loads(line)


@contextlib.contextmanager
def _running(commands: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Side]]:
    sides: dict[str, Side] = {}
    try:
        for name, command in commands.items():
            sides[name] = Side(command)
        yield sides
    finally:
        for side in sides.values():
            side.close()


def alternate(
    commands: Mapping[str, Sequence[str]], repeats: int, label: str
) -> dict[str, Measurement]:
    """Measures all sides in turn.

    Args:
      commands: what starts each side; its process calls `serve`.
      repeats: measurements of each, after the first and one to warm up.
      label: of the progress bar.

    Returns:
      Of each side the medians, and `first_seconds`: from its start to its first result.
    """
    measured: dict[str, list[Measurement]] = {name: [] for name in commands}
    with rich.progress.Progress(console=rich.console.Console(stderr=True)) as progress:
        task = progress.add_task(label, total=(repeats + 2) * len(commands))
        with _running(commands) as sides:
            progress.advance(task, len(sides))
            for repeat in range(repeats + 1):
                for name, side in sides.items():
                    numbers = side.measure()
                    progress.advance(task)
                    if repeat:
                        measured[name].append(numbers)
            first = {name: side.first["seconds"] for name, side in sides.items()}
    return {
        name: {
            **{key: statistics.median(n[key] for n in numbers) for key in numbers[0]},
            "first_seconds": first[name],
        }
        for name, numbers in measured.items()
    }


def report(script: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table, writes it as a CSV file beside the script, and into the documentation."""
    cells = [[f"{c:.4g}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    table = rich.table.Table(*header)
    for row in cells:
        table.add_row(*row)
    console = rich.console.Console()
    (console if console.is_terminal else rich.console.Console(width=160)).print(table)
    with pathlib.Path(script).with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *cells])
    pages.update()
