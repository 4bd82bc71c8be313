"""Runs a sweep: each run a process in a folder of its own, several at a time, until all have ended.

OUTPUT/NAME/seedN is the model_dir of a run. Beside what a training writes it has

    config.yaml     the whole configuration, with which the run was started first
    outcome.json    how its processes ended: exit_code of the last, tries, seconds of all
    run.log         what they said

A run is finished when the exit code is 0. Any other is started again by the next `run_sweep`, and
goes on from its checkpoint.
"""

import contextlib
import dataclasses
import datetime
import enum
import json
import pathlib
import shlex
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from official_maskrcnn.configs import display, loading
from official_maskrcnn.configs.overrides import Fault
from official_maskrcnn.configs.sweep import Run, shared_faults
from official_maskrcnn.data.locks import only_process
from official_maskrcnn.errors import UserError
from official_maskrcnn.training.sweeps import run_process
from official_maskrcnn.training.sweeps.executors import Executor, Process

_CONFIG, _OUTCOME, _LOG = "config.yaml", "outcome.json", "run.log"
_SECONDS_BETWEEN_LOOKS = 0.5
_USER_ERROR = 2  # exit code of what no repetition mends


class State(enum.Enum):
    """Of a job; the last three are ends."""

    WAITING = "waiting"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    FINISHED = "finished"


@dataclasses.dataclass
class Job:
    """A run on its way.

    Attributes:
      run: what is trained.
      folder: its model_dir.
      state: where it stands.
      tries: processes that were started for it, by this call of `run_sweep`.
      failures: those of them that ended wrongly.
      started: time.monotonic() of the last start.
      exit_code: of the process that ended last.
      error: why the system could not start it, or note its end; it is FAILED then.
      process: the one that runs.
    """

    run: Run
    folder: pathlib.Path
    state: State = State.WAITING
    tries: int = 0
    failures: int = 0
    started: float = 0.0
    exit_code: int | None = None
    error: OSError | None = None
    process: Process | None = None

    @property
    def log(self) -> pathlib.Path:
        """What its processes said."""
        return self.folder / _LOG


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How the processes of a run ended: exit code of the last, number and wall time of all."""

    exit_code: int
    tries: int
    seconds: float


Command = Callable[[Run, pathlib.Path], Sequence[str]]
Watch = Callable[[Sequence[Job]], None]


def train_command(run: Run, folder: pathlib.Path) -> Sequence[str]:
    """The command that trains and evaluates a run in its folder."""
    return [
        *(sys.executable, "-m", "official_maskrcnn", "train", run.row.experiment),
        *("--model_dir", str(folder), "--config_file", str(folder / _CONFIG)),
    ]


def run_sweep(
    runs: Sequence[Run],
    output: pathlib.Path,
    executor: Executor,
    retries: int,
    watch: Watch = lambda jobs: None,
    command: Command = train_command,
) -> list[Job]:
    """Runs what is not finished yet.

    A process that fails does not stop the others. Its run is started again, at the end of the
    queue, unless it said that the user's input is wrong (exit code 2), or the system refused to
    start it or to note its end. One that was preempted (143) is always started again.

    Args:
      runs: of a sweep.
      output: the sweep's folder.
      executor: starts the processes.
      retries: how often a run is started again that failed.
      watch: called with all jobs about twice a second, and at the end.
      command: what is started for a run.

    Returns:
      All runs, each FINISHED or FAILED.

    Raises:
      UserError: another process works in the folder, it cannot be written to, or it has runs that
        were started with another configuration.
      KeyboardInterrupt, SystemExit: after SIGINT, or SIGTERM. The processes were told to stop, and
        have ended.
    """
    jobs = [Job(run, output / run.name) for run in runs]
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error}") from error
    refusal = f"{{owner}} runs a sweep in {output}: wait for its end, or stop it"
    with only_process(output, refusal), _stop_signals() as signals:
        _prepare(jobs)
        queue = deque(job for job in jobs if job.state is State.WAITING)
        running: list[Job] = []
        try:
            while (queue or running) and not signals:
                while queue and len(running) < executor.slots:
                    job = queue.popleft()
                    if _start(job, executor, command):
                        running.append(job)
                for job in [job for job in running if _has_ended(job, retries)]:
                    running.remove(job)
                    if job.state is State.WAITING:
                        queue.append(job)
                watch(jobs)
                if running:
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
        finally:
            _stop(running, signals, lambda: watch(jobs))
    if signals:
        raise KeyboardInterrupt if signals[0] == signal.SIGINT else SystemExit(128 + signals[0])
    return jobs


def read_outcome(folder: pathlib.Path) -> Outcome | None:
    """How a run's processes ended so far; None if none did.

    Raises:
      UserError: the file is damaged.
    """
    path = folder / _OUTCOME
    try:
        return Outcome(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}); delete it, and sweep run goes on with this run"
        ) from error


def config_differences(run: Run, folder: pathlib.Path) -> list[tuple[str, str, str]]:
    """Path, value in the folder and value of the plan, wherever a run was started with another.

    A field that the folder's configuration does not have yet counts with its default.
    """
    path = folder / _CONFIG
    if not path.exists() or path.read_text() == loading.to_yaml(run.config):
        return []
    started = loading.load_experiment(run.row.experiment, [str(path)])
    return display.differences(started.as_dict(), run.config.as_dict())


def _prepare(jobs: Sequence[Job]) -> None:
    """Makes the folders; refuses all runs at once whose configuration is another than theirs."""
    found: dict[Fault, list[str]] = {}
    for job in jobs:
        for path, old, new in config_differences(job.run, job.folder):
            fault = Fault(path, "", f"{old} when the run was started, {new} now")
            found.setdefault(fault, []).append(job.run.name)
    loading.raise_faults(
        shared_faults(found, len(jobs)),
        "the runs that are there (delete their folders, or give another --output)",
    )
    for job in jobs:
        outcome = read_outcome(job.folder)
        if outcome is not None and outcome.exit_code == 0:
            job.state = State.FINISHED
        else:
            job.folder.mkdir(parents=True, exist_ok=True)
            loading.save_params(job.run.config, str(job.folder / _CONFIG))


def _start(job: Job, executor: Executor, command: Command) -> bool:
    """Whether a process could be started for the job; else it has failed."""
    words = command(job.run, job.folder)
    now = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
    try:
        with open(job.log, "a", encoding="utf-8") as log:
            log.write(f"== {now}: {shlex.join(words)}\n")
        job.process = executor.start(words, str(job.log))
    except OSError as error:
        job.state, job.error = State.FAILED, error
        return False
    job.state, job.started, job.tries = State.RUNNING, time.monotonic(), job.tries + 1
    return True


def _has_ended(job: Job, retries: int) -> bool:
    """Whether a job's process has; then the job's state says what comes next."""
    assert job.process is not None
    code = job.process.poll()
    if code is None:
        return False
    job.process, job.exit_code = None, code
    try:
        _write_outcome(job, code)
    except OSError as error:  # the disk is full, or the folder gone: no other run's fault
        job.state, job.error = State.FAILED, error
        return True
    if code == 0:
        job.state = State.FINISHED
    elif code == run_process.PREEMPTED:
        job.state = State.WAITING
    else:
        job.failures += 1
        is_final = code == _USER_ERROR or job.failures > retries
        job.state = State.FAILED if is_final else State.WAITING
    return True


def _write_outcome(job: Job, code: int) -> None:
    before = read_outcome(job.folder) or Outcome(0, 0, 0.0)
    seconds = before.seconds + time.monotonic() - job.started
    outcome = Outcome(code, before.tries + 1, round(seconds, 1))
    partial = job.folder / f"{_OUTCOME}.partial"  # not files.write_json: no folder anew
    partial.write_text(json.dumps(dataclasses.asdict(outcome)))
    partial.replace(job.folder / _OUTCOME)


def _stop(running: Sequence[Job], signals: Sequence[int], watch: Callable[[], None]) -> None:
    """Asks the processes to end; ends them after a minute, or when a second signal comes."""
    if not running:
        return
    deadline = time.monotonic() + run_process.STOP_SECONDS
    for job in running:
        if job.process:
            job.process.stop()

    def wait(watch: Callable[[], None]) -> None:
        while any(job.process for job in running):
            for job in running:
                if job.process and _has_ended(job, retries=0) and job.state is not State.FINISHED:
                    job.state = State.STOPPED
                elif job.process and (len(signals) > 1 or time.monotonic() > deadline):
                    job.process.kill()
            watch()
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    try:
        wait(watch)
    finally:  # whatever the watch raised, the processes get their time
        wait(lambda: None)


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list instead of ending the process."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda got, _: received.append(got)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
