"""The results of a sweep: a CSV line for each run that has ended, and mean and spread of each row.

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
import re
import statistics
from collections.abc import Mapping, Sequence

import rich.markup
import rich.table

from official_maskrcnn.configs.sweep import Row, Run, Sweep
from official_maskrcnn.errors import UserError
from official_maskrcnn.evaluation import files
from official_maskrcnn.tasks.metrics_file import read_metrics
from official_maskrcnn.training import sweeps

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
    lines: list[Sequence[object]] = [
        ["run", *sweep.axes, "seed", *results.columns, *_AFTER_METRICS]
    ]
    for run in sweep.runs:
        if run.name in results.by_run:
            result = results.by_run[run.name]
            labels = [run.row.labels.get(axis, "") for axis in sweep.axes]
            values = [_number(result.metrics.get(metric)) for metric in results.columns]
            after = [result.steps, f"{result.seconds:.0f}", run.digest]
            lines.append([run.name, *labels, run.seed, *values, *after])
    files.write_text(path, _to_csv(lines))


def rich_table(results: Results) -> rich.table.Table:
    """Mean and spread of each row, for the terminal."""
    sweep = results.sweep
    table = rich.table.Table(title=sweep.name, caption=_caption(sweep))
    for axis in sweep.axes:
        table.add_column(axis)
    for name in (*sweep.metrics, "runs"):
        table.add_column(name, justify="right")
    for row in sweep.rows:
        table.add_row(*map(rich.markup.escape, _cells(results, row)))
    return table


def markdown_table(results: Results) -> str:
    """Mean and spread of each row, for a README."""
    sweep = results.sweep
    head = [*sweep.axes, *sweep.metrics, "runs"]
    rule = ["---"] * len(sweep.axes) + ["---:"] * (len(sweep.metrics) + 1)
    lines = [head, rule, *(_cells(results, row) for row in sweep.rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{_caption(sweep)}\n"


def csv_table(results: Results) -> str:
    """Mean, spread and number of runs of each row, for programs."""
    sweep = results.sweep
    columns = [f"{metric} {what}" for metric in sweep.metrics for what in ("mean", "std", "n")]
    lines: list[Sequence[object]] = [["row", *sweep.axes, *columns]]
    for row in sweep.rows:
        line: list[object] = [row.name, *(row.labels.get(axis, "") for axis in sweep.axes)]
        for metric in sweep.metrics:
            values = results.values(row, metric)
            mean, deviation = mean_and_deviation(values)
            line += [_number(mean), _number(deviation), len(values)]
        lines.append(line)
    return _to_csv(lines)


def plot(results: Results, path: pathlib.Path) -> None:
    """Draws mean, spread and the single seeds of every row as PNG, a panel for each metric.

    Raises:
      UserError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    sweep = results.sweep
    figure, panels = pyplot.subplots(
        ncols=len(sweep.metrics),
        figsize=(2 + 4 * len(sweep.metrics), 1.2 + 0.32 * len(sweep.rows)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for panel, metric in zip(panels[0], sweep.metrics, strict=True):
        for position, row in enumerate(sweep.rows):
            values = results.values(row, metric)
            mean, deviation = mean_and_deviation(values)
            panel.plot(values, [position] * len(values), "o", color="tab:blue", alpha=0.4, ms=4)
            if mean is not None:
                panel.errorbar(mean, position, xerr=deviation, fmt="|", color="black", capsize=3)
        panel.set_xlabel(metric)
        panel.grid(axis="x", alpha=0.3)
    panels[0][0].set_yticks(range(len(sweep.rows)), [row.name for row in sweep.rows])
    panels[0][0].invert_yaxis()
    figure.suptitle(f"{sweep.name}: {_caption(sweep)}", fontsize="medium")
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error
    finally:
        pyplot.close(figure)


def insert_markdown(text: str, name: str, table: str) -> str:
    """A text with the table between the lines `<!-- NAME -->` and `<!-- /NAME -->`.

    Raises:
      UserError: the text does not have these lines.
    """
    pattern = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)"
    if not re.search(pattern, text, re.DOTALL):
        raise UserError(
            f"no place for the table: give it the lines <!-- {name} --> and <!-- /{name} -->"
        )
    return re.sub(pattern, lambda found: f"{found[1]}\n{table}\n{found[2]}", text, flags=re.DOTALL)


def mean_and_deviation(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean, and sample standard deviation (divisor n - 1); None where there are too few values."""
    mean = statistics.fmean(values) if values else None
    return mean, statistics.stdev(values) if len(values) > 1 else None


def _read_folder(run: Run, folder: pathlib.Path) -> tuple[Result | None, str]:
    """The result of a finished run; or None and why there is none."""
    outcome = sweeps.read_outcome(folder)
    if outcome is None:
        return None, "not finished" if folder.exists() else "not started"
    if outcome.exit_code != 0:
        return None, f"ended with exit code {outcome.exit_code}"
    if sweeps.config_differences(run, folder):
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


def _cells(results: Results, row: Row) -> list[str]:
    sweep = results.sweep
    ended = sum(Run(row, seed).name in results.by_run for seed in sweep.seeds)
    cells = [row.labels.get(axis, "") for axis in sweep.axes]
    for metric in sweep.metrics:
        mean, deviation = mean_and_deviation(results.values(row, metric))
        cells.append("" if mean is None else f"{mean:.3f}")
        cells[-1] += "" if deviation is None else f" ± {deviation:.3f}"
    return [*cells, f"{ended} of {len(sweep.seeds)}"]


def _caption(sweep: Sweep) -> str:
    return f"mean ± sample standard deviation over seeds {', '.join(map(str, sweep.seeds))}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def _to_csv(lines: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
