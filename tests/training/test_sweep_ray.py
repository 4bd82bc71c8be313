"""Sweeps on a real Ray of this machine: runs as tasks, failures, lost machines, stopping."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from official_maskrcnn.errors import UserError
from official_maskrcnn.training.sweeps.executors import RayExecutor
from official_maskrcnn.training.sweeps.runner import State, read_outcome, run_sweep
from tests.training.test_sweeps import _fake, _is_running, _load, _states, _tries, _when

_ROOT = pathlib.Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow  # make test-slow installs the extra


@pytest.fixture(scope="module")
def executor():
    import ray

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a shell
    executor = RayExecutor(jobs=None, address=None, cpus=1, gpus=0)
    signal.signal(signal.SIGINT, before)
    yield executor
    ray.shutdown()


def test_a_run_is_a_task_and_ray_runs_as_many_as_it_has_cores(executor, tmp_path):
    import ray

    sweep = _load(tmp_path)
    behaviours = {
        "w_1/seed1": "1,0",  # fails once
        "w_1/seed2": "2",  # the user's input is wrong
        "w_2/seed1": "143,0",  # preempted
        "w_2/seed2": "parent,0",  # the machine is lost
    }
    jobs = run_sweep(sweep.runs, tmp_path, executor, 1, command=_fake(behaviours))
    assert _states(jobs) == {
        "w_1/seed1": ("finished", 2),
        "w_1/seed2": ("failed", 1),
        "w_2/seed1": ("finished", 2),
        "w_2/seed2": ("finished", 2),
        "w_3/seed1": ("finished", 1),
        "w_3/seed2": ("finished", 1),
    }
    spans = [span[:2] for job in jobs for span in _tries(job.folder)]
    at_once = max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)
    assert at_once <= ray.cluster_resources()["CPU"] == executor.slots
    jobs = run_sweep(sweep.runs, tmp_path, executor, 1, command=_fake())
    assert [job.tries for job in jobs] == [0, 1, 0, 0, 0, 0]


def test_a_signal_stops_tasks_politely_those_that_wait_too(executor, tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "_jobs", 10**3)
    sweep = _load(tmp_path)
    first = tmp_path / sweep.runs[0].name
    thread = _when((first / "ready").exists, lambda: os.kill(os.getpid(), signal.SIGINT))
    command = _fake({run.name: "wait" for run in sweep.runs})
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep.runs, tmp_path, executor, 0, command=command)
    thread.join()
    for run in sweep.runs:
        outcome = read_outcome(tmp_path / run.name)
        assert outcome.exit_code == 143 and outcome.seconds < 30  # after 60 they would be killed
        assert not _is_running(tmp_path / run.name)
    jobs = run_sweep(sweep.runs, tmp_path, executor, 0, command=_fake())
    assert {job.state for job in jobs} == {State.FINISHED}


_RUNNER = """
import pathlib, sys
from tests.training import test_sweeps
from official_maskrcnn.configs.sweep import load_sweep
from official_maskrcnn.training.sweeps.executors import RayExecutor
from official_maskrcnn.training.sweeps.runner import run_sweep
sweep = load_sweep(sys.argv[1])
command = test_sweeps._fake({run.name: "wait" for run in sweep.runs})
run_sweep(sweep.runs, pathlib.Path(sys.argv[2]), RayExecutor(1, None, 1, 0), 0, command=command)
"""


def test_tasks_do_not_outlive_a_killed_runner(tmp_path):
    sweep = _load(tmp_path)
    folder = tmp_path / "out" / sweep.runs[0].name
    runner = subprocess.Popen(
        [sys.executable, "-c", _RUNNER, sweep.path, str(tmp_path / "out")],
        cwd=_ROOT,
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
    )
    while not (folder / "ready").exists():
        assert runner.poll() is None
        time.sleep(0.1)
    assert _is_running(folder)
    runner.kill()
    runner.wait()
    deadline = time.monotonic() + 30
    while _is_running(folder):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_cluster_that_is_not_there_is_the_user_s_mistake(monkeypatch):
    import ray

    def fail(*arguments, **options):
        raise ConnectionError("no running Ray instance")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(UserError, match="cannot reach Ray at auto: no running Ray instance"):
        RayExecutor(1, "auto", 1, 0)
