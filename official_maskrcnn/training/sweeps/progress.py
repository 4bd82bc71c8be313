"""What a person sees of a running sweep: a live table on a terminal, plain log lines elsewhere."""

import collections
import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence
from types import TracebackType

import rich.live
import rich.table
import yaml
from absl import logging

from official_maskrcnn.tasks.metrics_file import read_metrics
from official_maskrcnn.training import progress
from official_maskrcnn.training.sweeps.runner import Job, Outcome, State, read_outcome

_SECONDS_BETWEEN_TABLES = 2.0
_SECONDS_BETWEEN_LINES = 60.0
# What comes first if the screen is too small for all.
_ORDER = (State.RUNNING, State.FAILED, State.STOPPED, State.FINISHED, State.WAITING)
_COLORS = {State.RUNNING: "cyan", State.FAILED: "red", State.FINISHED: "green"}


@dataclasses.dataclass(frozen=True)
class _Reading:
    """Where a run stands, by its files."""

    step: int = 0
    total: int = 0  # 0: nobody knows yet
    metrics: str = ""

    def __str__(self) -> str:
        return f"{self.step}/{self.total or '?'}"


class SweepProgress:
    """Shows how the jobs of a sweep stand when it is called; use it as a context manager."""

    def __init__(self, title: str, metrics: Sequence[str]):
        """Shows these metrics of the last evaluation, and before the first one the loss."""
        self._title, self._metrics = title, metrics
        self._last_look = -_SECONDS_BETWEEN_LINES
        self._said: dict[str, tuple[State, int]] = {}  # state and tries of a run, as told last
        self._first: dict[tuple[str, int], tuple[int, float]] = {}  # step and time, by try
        self._live: rich.live.Live | None = None
        if progress.console.is_terminal:
            self._live = rich.live.Live(console=progress.console, auto_refresh=False)

    def __enter__(self) -> "SweepProgress":
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

    def __call__(self, jobs: Sequence[Job]) -> None:
        """Shows how the jobs stand, if it is time for it."""
        now = time.monotonic()
        if self._live is not None:
            is_over = not any(job.state in (State.WAITING, State.RUNNING) for job in jobs)
            if is_over or now - self._last_look >= _SECONDS_BETWEEN_TABLES:
                self._live.update(self._table(jobs), refresh=True)
                self._last_look = now
            return
        for job in jobs:
            if self._said.get(job.run.name, (State.WAITING, 0)) != (job.state, job.tries):
                self._said[job.run.name] = (job.state, job.tries)
                logging.info("%s", self._describe(job))
        if now - self._last_look >= _SECONDS_BETWEEN_LINES:
            logging.info("%s", self._summary(jobs))
            for job in jobs:
                if job.state is State.RUNNING:
                    logging.info("%s", self._describe(job))
            self._last_look = now

    def _describe(self, job: Job) -> str:
        reading = self._read(job)
        text = f"{job.run.name} {job.state.value}"
        if job.state is State.RUNNING:
            left = self._seconds_left(job, reading)
            text += f", try {job.tries}, step {reading}"
            text += f", {progress.format_duration(left)} left" if left is not None else ""
        elif job.error:
            text += f", {job.error}"
        elif job.exit_code:
            text += f", exit code {job.exit_code}, see {job.log}"
        return f"{text}: {reading.metrics}" if reading.metrics else text

    def _summary(self, jobs: Sequence[Job]) -> str:
        counts = collections.Counter(job.state for job in jobs)
        parts = [f"{counts[state]} {state.value}" for state in State if counts[state]]
        left = self._all_seconds_left(jobs)
        if left is not None:
            parts.append(f"about {progress.format_duration(left)} left")
        return f"{self._title}, {len(jobs)} runs: {', '.join(parts)}"

    def _table(self, jobs: Sequence[Job]) -> rich.table.Table:
        table = rich.table.Table(title=self._summary(jobs), title_justify="left")
        for column, justify in (("run", "left"), ("state", "left"), ("step", "right")):
            table.add_column(column, justify=justify)  # type: ignore[arg-type]
        table.add_column("left", justify="right")
        table.add_column("tries", justify="right")
        table.add_column("last metrics")
        height = max(progress.console.height - 7, 3)  # without the table's frame
        shown = sorted(jobs, key=lambda job: _ORDER.index(job.state))
        for job in shown[:height]:
            reading = self._read(job)
            left = self._seconds_left(job, reading)
            table.add_row(
                job.run.name,
                f"[{_COLORS.get(job.state, 'default')}]{job.state.value}",
                str(reading) if reading.total else "",
                "" if left is None else progress.format_duration(left),
                str(job.tries or ""),
                reading.metrics,
            )
        if len(shown) > height:
            table.add_row(f"and {len(shown) - height} more")
        return table

    def _read(self, job: Job) -> _Reading:
        if job.state is State.WAITING and not job.tries:
            return _Reading()
        folder = str(job.folder)
        training, evaluation = (read_metrics(folder, phase) for phase in ("train", "eval"))
        values = evaluation[max(evaluation)] if evaluation else {}
        chosen = {name: values[name] for name in self._metrics if name in values}
        if not values and training:
            chosen = {"total_loss": training[max(training)].get("total_loss")}
        text = ", ".join(f"{k} {'nan' if v is None else f'{v:.3f}'}" for k, v in chosen.items())
        return _Reading(max((0, *training, *evaluation)), _train_steps(job), text)

    def _seconds_left(self, job: Job, reading: _Reading) -> float | None:
        if job.state is not State.RUNNING or not reading.step:
            return None
        now = time.monotonic()
        step, then = self._first.setdefault((job.run.name, job.tries), (reading.step, now))
        if reading.step == step or not reading.total:
            return None
        return (reading.total - reading.step) * (now - then) / (reading.step - step)

    def _all_seconds_left(self, jobs: Sequence[Job]) -> float | None:
        """By the mean of those that are finished."""
        seconds = [outcome.seconds for outcome in _outcomes(jobs)]
        running = [job for job in jobs if job.state is State.RUNNING]
        if not seconds or not running:
            return None
        mean, now = statistics.fmean(seconds), time.monotonic()
        left = [max(mean - (now - job.started), 0) for job in running]
        waiting = sum(job.state is State.WAITING for job in jobs)
        return (sum(left) + waiting * mean) / len(running)


def _outcomes(jobs: Sequence[Job]) -> Iterator[Outcome]:
    for job in jobs:
        outcome = read_outcome(job.folder) if job.state is State.FINISHED else None
        if outcome is not None:
            yield outcome


def _train_steps(job: Job) -> int:
    """Length of a run; if it is given in epochs, 0 until the run has counted its data."""
    path = job.folder / "params.yaml"
    if not job.run.config.trainer.train_steps and path.exists():
        return yaml.safe_load(path.read_text())["trainer"]["train_steps"]
    return job.run.config.trainer.train_steps
