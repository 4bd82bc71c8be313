"""The results of a sweep: a CSV line for each run that has ended.

The CSV holds what has been measured, on whatever machine, also metrics that the sweep no longer
asks for. So a sweep can be run in several sittings, and its folders deleted. A line leaves it only
for a new result of its run, or when that is asked for.
"""

import csv
import dataclasses
import difflib
import io
import math
import pathlib
from collections.abc import Mapping, Sequence

from official_maskrcnn import files
from official_maskrcnn.configs.sweep import Row, Run, Sweep
from official_maskrcnn.errors import UserError
from official_maskrcnn.tasks.metrics_file import read_metrics
from official_maskrcnn.training.sweeps import runner

Cell = str | int | float | None
_AFTER_METRICS = ("steps", "seconds", "digest")


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run gave.

    Attributes:
      metrics: by name, all of the evaluation at the end; None where it gave no number.
      steps: of the training.
      seconds: wall time of the run's processes.
    """

    metrics: Mapping[str, float | None]
    steps: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Results:
    """What the runs of a sweep gave.

    Attributes:
      sweep: the plan.
      columns: metrics of the CSV: those of the sweep, then others that it has.
      by_run: results by the name of their run.
      missing: why other runs have none, by name.
    """

    sweep: Sweep
    columns: tuple[str, ...]
    by_run: Mapping[str, Result]
    missing: Mapping[str, str]

    def values(self, row: Row, metric: str) -> list[float]:
        """A metric of all seeds of a row that have ended."""
        names = [Run(row, seed).name for seed in self.sweep.seeds]
        found = [self.by_run[name].metrics.get(metric) for name in names if name in self.by_run]
        return [value for value in found if value is not None]


def gather(
    sweep: Sweep, output: pathlib.Path, csv_path: pathlib.Path, prune: bool = False
) -> Results:
    """Reads the folders of the runs, and for those that are elsewhere the CSV.

    Args:
      sweep: the plan.
      output: the folder of the runs' folders.
      csv_path: need not be there.
      prune: whether lines of the CSV that are of no run with this configuration may get lost.

    Raises:
      UserError: no run has a metric of the sweep, lines would get lost, or the CSV is damaged.
    """
    recorded = _read_csv(csv_path)
    results: dict[str, Result] = {}
    missing: dict[str, str] = {}
    for run in sweep.runs:
        result, reason = _read_folder(run, output / run.name)
        digest, line = recorded.get(run.name, ("", None))
        if result is None and digest == run.digest:
            result = line
        if result is not None:
            results[run.name] = result
        else:
            missing[run.name] = reason if line is None else f"{reason}; its line in {csv_path} is "
            missing[run.name] += "" if line is None else "of another configuration"
    lost = [name for name in recorded if name not in results]
    if lost and not prune:
        _refuse_loss(lost, csv_path)
    if results:
        _refuse_unknown(sweep, {name for result in results.values() for name in result.metrics})
    recorded_metrics = (name for _, line in recorded.values() for name in line.metrics)
    columns = [
        name
        for name in dict.fromkeys((*sweep.metrics, *recorded_metrics))
        if name in sweep.metrics
        or any(result.metrics.get(name) is not None for result in results.values())
    ]
    return Results(sweep, tuple(columns), results, missing)


def write_csv(results: Results, path: pathlib.Path) -> None:
    """Writes one line for each run that has ended; a `UserError` says why it cannot."""
    sweep = results.sweep
    lines: list[Sequence[Cell]] = [["run", *sweep.axes, "seed", *results.columns, *_AFTER_METRICS]]
    for run in sweep.runs:
        if run.name in results.by_run:
            result = results.by_run[run.name]
            labels = [run.row.labels.get(axis, "") for axis in sweep.axes]
            values = [result.metrics.get(metric) for metric in results.columns]
            after: list[Cell] = [result.steps, f"{result.seconds:.0f}", run.digest]
            lines.append([run.name, *labels, run.seed, *values, *after])
    files.write_text(path, to_csv(lines))


def to_csv(lines: Sequence[Sequence[Cell]]) -> str:
    """CSV of some lines, numbers with five decimals and None as an empty cell."""

    def cell(value: Cell) -> Cell:
        return f"{value:.5f}" if isinstance(value, float) else value

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([map(cell, line) for line in lines])
    return text.getvalue()


def _read_folder(run: Run, folder: pathlib.Path) -> tuple[Result | None, str]:
    """The result of a finished run; or None and why there is none."""
    outcome = runner.read_outcome(folder)
    if outcome is None:
        return None, "not finished" if folder.exists() else "not started"
    if outcome.exit_code != 0:
        return None, f"ended with exit code {outcome.exit_code}"
    if runner.config_differences(run, folder):
        return None, f"{folder} is of another configuration"
    lines = read_metrics(str(folder), "eval")
    if not lines:
        return None, f"{folder} has no evaluation in metrics.jsonl"
    steps = max(lines)
    return Result(lines[steps], steps, outcome.seconds), ""


def _read_csv(path: pathlib.Path) -> dict[str, tuple[str, Result]]:
    """Digest and result of each line, by the name of its run."""
    if not path.exists():
        return {}
    found: dict[str, tuple[str, Result]] = {}
    for line in csv.DictReader(io.StringIO(files.read_text(path))):
        absent = {"run", "seed", *_AFTER_METRICS} - {name for name, value in line.items() if value}
        if absent:
            raise UserError(f"{path} is damaged: a line has no {', '.join(sorted(absent))}")
        if line["run"] in found:
            raise UserError(f"{path} is damaged: two lines are of {line['run']}; take one out")
        names = list(line)
        metrics = names[names.index("seed") + 1 : names.index("steps")]
        values = {name: _read_number(path, line, name) if line[name] else None for name in metrics}
        steps, seconds = (_read_number(path, line, name) for name in ("steps", "seconds"))
        found[line["run"]] = line["digest"], Result(values, int(steps), seconds)
    return found


def _read_number(path: pathlib.Path, line: Mapping[str, str], name: str) -> float:
    try:
        value = float(line[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{path} is damaged: {name} of {line['run']} is {line[name]!r}, no number")
    return value


def _refuse_loss(names: Sequence[str], path: pathlib.Path) -> None:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    raise UserError(
        f"{path} has {len(names)} line(s) of another configuration, or of no run of the sweep: "
        f"{shown}; give the changes (k=v) that they were made with, or another --csv, or --prune "
        "to take them out"
    )


def _refuse_unknown(sweep: Sweep, offered: set[str]) -> None:
    for metric in sweep.metrics:
        if metric not in offered:
            near = difflib.get_close_matches(metric, offered, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(offered))}"
            raise UserError(f"metrics ({sweep.path}): no run has {metric!r}; {hint}")
