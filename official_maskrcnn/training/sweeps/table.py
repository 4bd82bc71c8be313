"""What the runs of a sweep gave, to be looked at: mean and spread of each row, and a plot."""

import pathlib
import re
import statistics
from collections.abc import Sequence

import rich.markup
import rich.table

from official_maskrcnn.configs.sweep import Row, Run, Sweep
from official_maskrcnn.errors import UserError
from official_maskrcnn.training.sweeps.results import Cell, Results, to_csv


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
    lines: list[Sequence[Cell]] = [["row", *sweep.axes, *columns]]
    for row in sweep.rows:
        line: list[Cell] = [row.name, *(row.labels.get(axis, "") for axis in sweep.axes)]
        for metric in sweep.metrics:
            values = results.values(row, metric)
            mean, deviation = mean_and_deviation(values)
            line += [mean, deviation, len(values)]
        lines.append(line)
    return to_csv(lines)


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
