"""What a person sees of a run: a live line on a terminal, plain log lines elsewhere."""

import time
from collections.abc import Iterator, Mapping
from types import TracebackType

import rich.console
import rich.progress
import rich.table
import rich.text
from absl import logging

console = rich.console.Console(stderr=True)

_SECONDS_BETWEEN_LINES = 10.0
_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class _Bar(rich.progress.Progress):
    """A bar with a line of text below it."""

    def get_renderables(self) -> Iterator[rich.console.RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield rich.text.Text(task.fields["text"], style="dim")


class Progress:
    """Steps done, time left and some numbers; use it as a context manager.

    On a terminal a bar is redrawn, with the numbers below it; elsewhere lines are logged, one in 10
    seconds at most, and the last.
    """

    def __init__(self, title: str, total: int | None, done: int = 0, enabled: bool = True):
        """Counts from `done` to `total`, which is None if nobody knows."""
        self._title, self._total = title, total
        self._first, self._done = done, done
        self._start = self._last_line = time.monotonic()
        self._enabled = enabled
        self._live: _Bar | None = None
        self._text = ""
        self._logged = done
        if enabled and console.is_terminal:
            self._live = _Bar(
                rich.progress.TextColumn("[bold]{task.description}"),
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TimeElapsedColumn(),
                rich.progress.TimeRemainingColumn(),
                console=console,
            )
            self._task = self._live.add_task(title, total=total, completed=done, text="")

    def __enter__(self) -> "Progress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._enabled and kind is None and self._done != self._logged:
            self._log()

    def update(self, done: int, numbers: Mapping[str, float] | None = None) -> None:
        """Shows the count and some numbers by name."""
        self._done = done
        self._text = ", ".join(f"{name} {value:.4g}" for name, value in (numbers or {}).items())
        if self._live is not None:
            self._live.update(self._task, completed=done, text=self._text)
        elif self._enabled and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._log()

    def _log(self) -> None:
        elapsed = time.monotonic() - self._start
        of_total = "" if self._total is None else f"/{self._total}"
        left = ""
        if self._total is not None and self._done > self._first:
            seconds = elapsed / (self._done - self._first) * (self._total - self._done)
            left = f", {format_duration(seconds)} left"
        numbers = f": {self._text}" if self._text else ""
        logging.info("%s %d%s%s%s", self._title, self._done, of_total, left, numbers)
        self._last_line, self._logged = time.monotonic(), self._done


def print_metrics(title: str, metrics: Mapping[str, float]) -> None:
    """Prints AP as a table: boxes and masks, over all, seen and unseen classes."""
    rows = {}
    for kind in ("box", "mask"):
        for split in ("", "/seen", "/unseen"):
            names = {column: f"{kind}/{column}{split}" for column in _COLUMNS}
            rows[f"{kind}{split}"] = {
                column: metrics[name] for column, name in names.items() if name in metrics
            }
    table = rich.table.Table(title=title)
    table.add_column("")
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for row, values in rows.items():
        if values:
            cells = (f"{values[name]:.4f}" if name in values else "" for name in _COLUMNS)
            table.add_row(row, *cells)
    if table.row_count:
        console.print(table)
    else:
        logging.info("%s: %s", title, ", ".join(f"{k} {v:.4g}" for k, v in metrics.items()))


def format_duration(seconds: float) -> str:
    """Seconds as hours:minutes:seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
