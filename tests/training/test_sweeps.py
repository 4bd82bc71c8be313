"""Running a sweep: how many at a time, what is tried again, what is refused, how it is stopped."""

import io
import itertools
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

import pytest
import rich.console

from official_maskrcnn.configs.sweep import Run, Sweep, load_sweep
from official_maskrcnn.data.locks import only_process
from official_maskrcnn.errors import UserError
from official_maskrcnn.training import progress
from official_maskrcnn.training.sweeps import executors, run_process, runner
from official_maskrcnn.training.sweeps.executors import LocalExecutor
from official_maskrcnn.training.sweeps.progress import SweepProgress
from official_maskrcnn.training.sweeps.runner import Job, State, read_outcome, run_sweep

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_FAKE = _ROOT / "tests" / "training" / "fake_run.py"
_SWEEP = """
experiment: deep_mask_head_rcnn_resnetfpn_coco
params_override: {trainer.train_steps: 30000}
axes:
  list: {field: task.losses.mask_weight, name: w, values: [1, 2, 3]}
seeds: [1, 2]
metrics: [mask/AP]
"""


def _load(folder: pathlib.Path, text: str = _SWEEP) -> Sweep:
    file = folder / "sweep.yaml"
    file.write_text(text)
    return load_sweep(str(file))


@pytest.fixture
def sweep(tmp_path: pathlib.Path) -> Sweep:
    return _load(tmp_path)


def _fake(behaviours: dict[str, str] | None = None) -> Callable[..., Sequence[str]]:
    """The command that stands in for a training; behaviours by the run's name."""

    def command(run: Run, folder: pathlib.Path) -> Sequence[str]:
        behaviour = (behaviours or {}).get(run.name, "0")
        return [sys.executable, "-S", str(_FAKE), str(folder), "30000", behaviour]

    return command


def _tries(folder: pathlib.Path) -> list[list]:
    return [json.loads(line) for line in (folder / "tries").read_text().splitlines()]


def _states(jobs: Sequence[Job]) -> dict[str, tuple[str, int]]:
    return {job.run.name: (job.state.value, job.tries) for job in jobs}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(runner, "_SECONDS_BETWEEN_LOOKS", 0.02)


def test_every_run_has_its_folder_and_its_configuration_and_what_is_finished_stays(sweep, tmp_path):
    output = tmp_path / "out"
    jobs = run_sweep(sweep.runs[:4], output, LocalExecutor(4), 0, command=_fake())
    names = ["w_1/seed1", "w_1/seed2", "w_2/seed1", "w_2/seed2"]
    assert _states(jobs) == dict.fromkeys(names, ("finished", 1))
    for job in jobs:
        outcome = read_outcome(job.folder)
        assert (outcome.exit_code, outcome.tries) == (0, 1)
        assert 0.3 <= outcome.seconds < 20
        assert "this is try 1" in job.log.read_text()
    config = (output / "w_2" / "seed2" / "config.yaml").read_text()
    assert "mask_weight: 2.0" in config and "seed: 2" in config

    jobs = run_sweep(sweep.runs, output, LocalExecutor(2), 0, command=_fake())
    assert [job.tries for job in jobs] == [0, 0, 0, 0, 1, 1]
    assert {job.state for job in jobs} == {State.FINISHED}


def test_jobs_is_how_many_run_at_a_time(sweep, tmp_path):
    run_sweep(sweep.runs, tmp_path, LocalExecutor(2), 0, command=_fake())
    spans = [_tries(tmp_path / run.name)[0][:2] for run in sweep.runs]
    at_once = [sum(start <= moment < end for start, end in spans) for moment, _ in spans]
    assert max(at_once) == 2


def test_cores_and_gpus_are_shared_out(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "_gpus", lambda: ["4", "5", "6", "7"])
    run_sweep(sweep.runs, tmp_path, LocalExecutor(2), 0, command=_fake())
    cores, gpus = zip(*(_tries(tmp_path / run.name)[0][2:] for run in sweep.runs), strict=True)
    assert set(gpus) == {"4,5", "6,7"}
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) > 1:
        assert sorted(itertools.chain(*set(map(tuple, cores)))) == mine


@pytest.mark.parametrize(
    ("items", "slots", "expected"),
    [
        ("abcd", 2, ["ab", "cd"]),
        ("abcde", 2, ["ab", "cde"]),
        ("abcd", 4, ["a", "b", "c", "d"]),
        ("ab", 3, ["a", "b", "a"]),
        ("", 2, ["", ""]),
    ],
)
def test_shares(items, slots, expected):
    assert [executors._share(items, slot, slots) for slot in range(slots)] == expected


def test_a_failure_is_isolated_and_tried_again_but_not_a_mistake_of_the_user(sweep, tmp_path):
    behaviours = {
        "w_1/seed1": "1",  # fails always
        "w_1/seed2": "1,0",  # fails once
        "w_2/seed1": "2",  # the user's input is wrong
        "w_2/seed2": "143,143,143,0",  # preempted three times
        "w_3/seed1": "-9,-15,0",  # killed for memory, then preempted before it could answer
    }
    jobs = run_sweep(sweep.runs, tmp_path, LocalExecutor(3), 1, command=_fake(behaviours))
    assert _states(jobs) == {
        "w_1/seed1": ("failed", 2),
        "w_1/seed2": ("finished", 2),
        "w_2/seed1": ("failed", 1),
        "w_2/seed2": ("finished", 4),
        "w_3/seed1": ("finished", 3),
        "w_3/seed2": ("finished", 1),
    }
    assert [job.exit_code for job in jobs] == [1, 0, 2, 0, 0, 0]
    outcome = read_outcome(tmp_path / "w_2" / "seed2")
    assert (outcome.exit_code, outcome.tries) == (0, 4)
    assert outcome.seconds >= 4 * 0.3

    jobs = run_sweep(sweep.runs, tmp_path, LocalExecutor(3), 0, command=_fake())  # mended
    assert _states(jobs)["w_1/seed1"] == ("finished", 1)
    assert _states(jobs)["w_2/seed1"] == ("finished", 1)
    assert _states(jobs)["w_2/seed2"] == ("finished", 0)


def test_a_run_that_the_system_fails_leaves_the_others_alone(sweep, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(progress, "console", rich.console.Console(file=io.StringIO()))

    def command(run: Run, folder: pathlib.Path) -> Sequence[str]:
        if run.name == "w_1/seed1":
            return ["rm", "-rf", str(folder)]  # where its end is to be noted
        return ["no such program"] if run.name == "w_1/seed2" else _fake()(run, folder)

    with caplog.at_level(logging.INFO), SweepProgress("mine", sweep.metrics) as watch:
        jobs = run_sweep(sweep.runs, tmp_path, LocalExecutor(2), 3, watch, command)
    assert [(job.state.value, job.tries) for job in jobs] == [
        *(("failed", 1), ("failed", 0)),
        *[("finished", 1)] * 4,
    ]
    said = "\n".join(record.getMessage() for record in caplog.records)
    for job, reason in zip(jobs, ("outcome.json", "no such program"), strict=False):
        assert reason in str(job.error)
        assert f"{job.run.name} failed, {job.error}" in said


def test_a_damaged_outcome_is_named_before_anything_starts(sweep, tmp_path):
    (tmp_path / "w_1" / "seed2").mkdir(parents=True)
    (tmp_path / "w_1" / "seed2" / "outcome.json").touch()
    with pytest.raises(UserError, match=r"w_1/seed2/outcome.json is damaged .*; delete it"):
        run_sweep(sweep.runs, tmp_path, LocalExecutor(1), 0, command=_fake())
    assert not list(tmp_path.rglob("tries"))


def test_other_configurations_are_refused_with_the_differences_all_at_once(sweep, tmp_path):
    output = tmp_path / "out"
    run_sweep(sweep.runs, output, LocalExecutor(4), 0, command=_fake())
    changed = _load(tmp_path, _SWEEP.replace("30000", "40000").replace("[1, 2, 3]", "[1, 2.5]"))
    with pytest.raises(UserError) as error:
        run_sweep(changed.runs, output, LocalExecutor(4), 0, command=_fake())
    assert str(error.value).splitlines() == [
        "1 fault in the runs that are there (delete their folders, or give another --output):",
        "  trainer.train_steps: 30000 when the run was started, 40000 now "
        "[2 of 4: w_1/seed1, w_1/seed2]",
    ]

    config = output / "w_1" / "seed1" / "config.yaml"  # of a release without this field
    text = config.read_text()
    assert "  max_to_keep: 5\n" in text
    config.write_text(text.replace("  max_to_keep: 5\n", ""))
    jobs = run_sweep(sweep.runs, output, LocalExecutor(4), 0, command=_fake())
    assert all(job.tries == 0 for job in jobs)


def test_one_runner_in_a_folder(sweep, tmp_path):
    with (
        only_process(tmp_path, ""),
        pytest.raises(UserError, match=rf"process {os.getpid()} on .* runs a sweep in"),
    ):
        run_sweep(sweep.runs, tmp_path, LocalExecutor(1), 0, command=_fake())
    assert len(run_sweep(sweep.runs[:1], tmp_path, LocalExecutor(1), 0, command=_fake())) == 1
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to"):
        run_sweep(sweep.runs, tmp_path / "file" / "x", LocalExecutor(1), 0, command=_fake())


def _when(condition: Callable[[], bool], action: Callable[[], None]) -> threading.Thread:
    def wait() -> None:
        while not condition():
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_stops_all_politely_and_the_next_call_goes_on(sweep, tmp_path, number, error):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    folders = [tmp_path / run.name for run in sweep.runs[:2]]
    behaviours = {run.name: "wait" for run in sweep.runs}
    thread = _when(
        lambda: all((folder / "ready").exists() for folder in folders),
        lambda: os.kill(os.getpid(), number),
    )
    with pytest.raises(error) as stopped:
        run_sweep(sweep.runs, tmp_path, LocalExecutor(2), 0, command=_fake(behaviours))
    thread.join()
    if error is SystemExit:
        assert stopped.value.code == 143
    for folder in folders:
        assert read_outcome(folder).exit_code == 143
    assert not (tmp_path / sweep.runs[2].name / "tries").exists()
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before

    jobs = run_sweep(sweep.runs, tmp_path, LocalExecutor(3), 0, command=_fake())
    assert {job.state for job in jobs} == {State.FINISHED}


def test_runs_may_save_also_when_the_runner_itself_fails(sweep, tmp_path):
    folders = [tmp_path / run.name for run in sweep.runs[:2]]

    def watch(jobs: Sequence[Job]) -> None:
        if all((folder / "ready").exists() for folder in folders):
            raise RuntimeError("a fault of the display")

    behaviours = {run.name: "wait" for run in sweep.runs}
    with pytest.raises(RuntimeError, match="a fault of the display"):
        run_sweep(sweep.runs, tmp_path, LocalExecutor(2), 0, watch, _fake(behaviours))
    assert [read_outcome(folder).exit_code for folder in folders] == [143, 143]


@pytest.mark.parametrize("twice", [True, False])
def test_what_does_not_stop_is_killed_in_time_or_at_the_second_signal(
    sweep, tmp_path, monkeypatch, twice
):
    monkeypatch.setattr(run_process, "STOP_SECONDS", 60.0 if twice else 0.5)
    folder = tmp_path / sweep.runs[0].name

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        if twice:
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGINT)

    thread = _when((folder / "ready").exists, interrupt)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_sweep(
            *(sweep.runs[:1], tmp_path, LocalExecutor(1), 0),
            command=_fake({sweep.runs[0].name: "ignore"}),
        )
    thread.join()
    assert time.monotonic() - start < 30
    assert read_outcome(folder).exit_code == 137


_RUNNER = """
import pathlib, sys
from tests.training import test_sweeps
from official_maskrcnn.configs.sweep import load_sweep
from official_maskrcnn.training.sweeps.executors import LocalExecutor
from official_maskrcnn.training.sweeps.runner import run_sweep
sweep = load_sweep(sys.argv[1])
behaviours = {run.name: "wait" for run in sweep.runs}
command = test_sweeps._fake(behaviours)
run_sweep(sweep.runs, pathlib.Path(sys.argv[2]), LocalExecutor(2), 0, command=command)
"""


def _is_running(folder: pathlib.Path) -> bool:
    found = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, check=False)
    return found.returncode == 0


def test_runs_do_not_outlive_a_killed_runner_and_the_folder_is_free(sweep, tmp_path):
    output = tmp_path / "out"
    folders = [output / run.name for run in sweep.runs[:2]]
    runner = subprocess.Popen(
        [sys.executable, "-c", _RUNNER, sweep.path, str(output)],
        cwd=_ROOT,
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
    )
    while not all((folder / "ready").exists() for folder in folders):
        assert runner.poll() is None
        time.sleep(0.05)
    assert all(map(_is_running, folders))
    runner.kill()
    runner.wait()
    deadline = time.monotonic() + 10
    while any(map(_is_running, folders)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    jobs = run_sweep(sweep.runs, output, LocalExecutor(3), 0, command=_fake())
    assert {job.state for job in jobs} == {State.FINISHED}


def test_plain_lines_tell_what_happens(sweep, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(progress, "console", rich.console.Console(file=io.StringIO()))
    command = _fake({"w_1/seed2": "1"})
    with caplog.at_level(logging.INFO), SweepProgress("mine", sweep.metrics) as watch:
        run_sweep(sweep.runs[:3], tmp_path, LocalExecutor(2), 1, watch, command)
    said = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("w_1/seed1 running, try 1, step") for line in said)
    assert "w_1/seed1 finished: mask/AP 30.000" in said
    assert "w_1/seed2 waiting, exit code 1" in "\n".join(said)
    assert any(line.startswith("w_1/seed2 running, try 2, step 30000/30000") for line in said)
    assert any(line.startswith("w_1/seed2 failed, exit code 1, see ") for line in said)
    assert any(line.startswith("mine, 3 runs: 1 waiting, 2 running") for line in said)


def test_a_terminal_gets_a_live_table(sweep, tmp_path, monkeypatch):
    screen = io.StringIO()
    console = rich.console.Console(file=screen, force_terminal=True, width=140, height=10)
    monkeypatch.setattr(progress, "console", console)
    with SweepProgress("mine", sweep.metrics) as watch:
        run_sweep(
            *(sweep.runs, tmp_path, LocalExecutor(3), 0, watch), command=_fake({"w_2/seed1": "2"})
        )
    shown = screen.getvalue()
    for part in (
        "mine, 6 runs: 1 failed, 5 finished",
        "30000/30000",
        "mask/AP 30.000",
        "and 3 more",
    ):
        assert part in shown, part


def test_time_left_is_by_the_steps_of_this_try(sweep, tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = SweepProgress("mine", sweep.metrics)
    job = Job(sweep.runs[0], tmp_path, State.RUNNING, tries=2)
    lines = tmp_path / "metrics.jsonl"
    for step, moment in ((10000, 1000.0), (20000, 1100.0)):
        now[0] = moment
        lines.write_text(json.dumps({"time": 0, "step": step, "phase": "train"}) + "\n")
        left = watch._seconds_left(job, watch._read(job))
    assert left == pytest.approx(100.0)
