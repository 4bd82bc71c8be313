"""SIGTERM: what it does where, and to a whole process."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from official_maskrcnn.tasks.metrics_file import read_metrics
from official_maskrcnn.training.preemption import Preempted, Preemption

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)


def test_the_signal_raises_unless_postponed() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption, pytest.raises(Preempted) as error:
        with preemption.postponed():
            _terminate()
            assert preemption.is_requested
        _terminate()
    assert error.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_is_saved_anyway_ends_at_once() -> None:
    with Preemption() as preemption, preemption.postponed():
        with pytest.raises(Preempted), preemption.at_once():
            _terminate()
        _terminate()  # postponed again
        with pytest.raises(Preempted), preemption.at_once():
            pytest.fail("the signal had come before")


def _start(folder: pathlib.Path, steps: int) -> subprocess.Popen[str]:
    code = (
        "import sys; from tests.training.replica_run import run_fake_task; "
        f"run_fake_task('one_device', 'train', sys.argv[1], train_steps={steps})"
    )
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.PIPE, text=True)


def test_a_training_saves_and_goes_on_after_the_signal(tmp_path: pathlib.Path) -> None:
    process = _start(tmp_path, steps=20_000)
    deadline = time.monotonic() + 120
    while len(read_metrics(str(tmp_path), "train")) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    asked = time.monotonic()
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors[-2000:]
    assert time.monotonic() - asked < 30
    assert "the same command goes on" in errors and "Traceback" not in errors
    newest = max(int(path.stem.split("-")[1]) for path in tmp_path.glob("ckpt-*.index"))
    assert f"stopped and saved at step {newest}" in errors
    assert newest >= max(read_metrics(str(tmp_path), "train"))  # no step is lost

    params = (tmp_path / "params.yaml").read_text()
    assert "train_steps: 20000" in params
    process = _start(tmp_path, steps=newest + 1)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-2000:]
    assert len(json.loads((tmp_path / "run.json").read_text())["earlier"]) == 1
    assert max(read_metrics(str(tmp_path), "train")) == newest + 1
