"""What happens to a long training: kills, damage, full disks, lost workers; a small real model.

`pytest -m slow -s tests/training/test_faults.py` prints the figures of docs/reliability.md.
"""

import contextlib
import json
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from official_maskrcnn.tasks.metrics_file import read_metrics
from tests.training.small_training import (
    SmallTraining,
    assert_same_trainings,
    last_step,
    losses,
    read_log,
    run_record,
    saved_steps,
    wait_until,
)

pytestmark = pytest.mark.slow
_STEPS, _INTERVAL = 160, 5
_MOMENTS = ("start", "write", "evaluation", "anywhere") * 3


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallTraining:
    return SmallTraining(tmp_path_factory.mktemp("small"))


def _shortened(steps: int) -> tuple[str, str]:
    rates = "trainer.optimizer_config.learning_rate.stepwise"
    return f"trainer.train_steps={steps}", f"{rates}.boundaries=[{steps - 2}]"


@pytest.fixture(scope="module")
def undisturbed(small: SmallTraining) -> pathlib.Path:
    """A training that nothing happened to."""
    small.finish(small.folder / "undisturbed")
    return small.folder / "undisturbed"


def _is_writing(folder: pathlib.Path) -> bool:
    """Whether a checkpoint is half-written: its data are there, its index is not."""
    if any(folder.glob("ckpt-*_temp")):
        return True
    data = {path.name.partition(".")[0] for path in folder.glob("ckpt-*.data*")}
    return not data <= {path.stem for path in folder.glob("ckpt-*.index")}


def _is_evaluating(folder: pathlib.Path) -> bool:
    """Whether the checkpoint before an evaluation is there, and its figures are not."""
    due = {step for step in saved_steps(folder) if step % 20 == 0}
    return not due <= set(read_metrics(str(folder), "eval"))


def _wait_for(moment: str, folder: pathlib.Path, rng: random.Random) -> None:
    if moment == "start":
        time.sleep(rng.uniform(0, 20))
        return
    first = last_step(folder)
    assert wait_until(lambda: last_step(folder) > first), read_log(folder)[-3000:]
    if moment == "write":
        assert wait_until(lambda: _is_writing(folder))
    elif moment == "evaluation":
        assert wait_until(lambda: _is_evaluating(folder))
        time.sleep(rng.uniform(0, 0.5))
    else:
        time.sleep(rng.uniform(0, 2))


def test_kills_at_any_moment_change_nothing(
    small: SmallTraining, undisturbed: pathlib.Path
) -> None:
    folder = small.folder / "killed"
    rng = random.Random(3)
    lost, killed = [], []
    for moment in _MOMENTS:
        if last_step(folder) == _STEPS:
            break
        process = small.start(folder)
        _wait_for(moment, folder, rng)
        process.kill()
        if process.wait() == -signal.SIGKILL:  # else it had come to its end
            killed.append(moment)
            lost.append(last_step(folder) - max(saved_steps(folder), default=0))
    small.finish(folder)
    print(f"\n{len(killed)} kills ({', '.join(killed)}); steps lost: {lost}")
    assert len(killed) >= 10 and {"write", "evaluation"} <= set(killed)
    assert max(lost) <= _INTERVAL
    assert_same_trainings(undisturbed, folder, _STEPS)
    assert not list(folder.glob("*_temp"))
    best = [json.loads((f / "best" / "metrics.json").read_text()) for f in (undisturbed, folder)]
    assert best[0] == best[1]


def test_sigterm_loses_no_step(small: SmallTraining, undisturbed: pathlib.Path) -> None:
    folder = small.folder / "terminated"
    seconds = []
    for wait in (1.0, 2.5, 4.0):
        process = small.start(folder)
        first = last_step(folder)
        assert wait_until(lambda: last_step(folder) > first, 120)  # noqa: B023
        time.sleep(wait)
        asked = time.monotonic()
        process.terminate()
        assert process.wait(timeout=60) == 143, read_log(folder)[-3000:]
        seconds.append(round(time.monotonic() - asked, 1))
        assert max(saved_steps(folder)) >= last_step(folder)
    print(f"\nSIGTERM: ended after {seconds} s, no step lost")
    assert max(seconds) < 30
    small.finish(folder)
    assert_same_trainings(undisturbed, folder, _STEPS)
    assert len(run_record(folder)["earlier"]) == 3


def _records(small: SmallTraining) -> list[pathlib.Path]:
    return sorted(small.folder.glob("cache/*/*.tfrecord"))


@pytest.fixture
def records(small: SmallTraining, undisturbed: pathlib.Path, tmp_path: pathlib.Path) -> str:
    """A copy of the training records, as overrides in place of the images."""
    for path in _records(small)[:1]:
        shutil.copy(path, tmp_path / "train.tfrecord")
    return f"task.train_data.input_path={tmp_path}/train.tfrecord"


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_flipped_bit_in_a_record(
    small: SmallTraining, records: str, tmp_path: pathlib.Path, allowed: int
) -> None:
    path = tmp_path / "train.tfrecord"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    limit = f"task.train_data.max_faulty_examples={allowed}"
    said = small.finish(
        tmp_path / "run", records, limit, *_shortened(35), expected=0 if allowed else 2
    )
    assert f"{path}, record " in said and "Traceback" not in said
    if allowed:
        assert last_step(tmp_path / "run") == 35
        assert said.count("left out, 1 so far") == 1
    else:
        assert "damaged example(s) so far" in said and "max_faulty_examples (0)" in said


def test_a_data_file_that_vanishes_and_returns(
    small: SmallTraining, undisturbed: pathlib.Path, records: str, tmp_path: pathlib.Path
) -> None:
    folder, path = tmp_path / "run", tmp_path / "train.tfrecord"
    process = small.start(folder, records)
    assert wait_until(lambda: last_step(folder) >= 6)
    path.rename(tmp_path / "away")
    assert process.wait(timeout=120) == 2
    said = read_log(folder)
    assert f"{path}, record " in said and "No such file" in said and "Traceback" not in said
    assert saved_steps(folder)
    (tmp_path / "away").rename(path)
    small.finish(folder, records)
    assert_same_trainings(undisturbed, folder, _STEPS)


def test_a_full_disk(
    small: SmallTraining, undisturbed: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    disk = ("-t", "tmpfs", "-o", "size=256m", "tmpfs", str(folder))
    if subprocess.run(["mount", *disk], check=False).returncode:
        pytest.fail("a small disk is mounted for this test, which needs the rights of root")
    try:
        process = small.start(folder, "trainer.max_to_keep=2")
        assert wait_until(lambda: last_step(folder) >= 6), read_log(folder)[-3000:]
        filler = folder / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        assert process.wait(timeout=120) == 2, read_log(folder)[-3000:]
        said = read_log(folder)
        assert "No space left" in said and "Traceback" not in said, said[-3000:]
        assert saved_steps(folder)
        filler.unlink()
        small.finish(folder, "trainer.max_to_keep=2")
        assert_same_trainings(undisturbed, folder, _STEPS)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _start_workers(
    small: SmallTraining, folder: pathlib.Path, *overrides: str
) -> list[subprocess.Popen[str]]:
    """Two workers of two virtual devices each."""
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("localhost", 0))
        hosts = [f"localhost:{each.getsockname()[1]}" for each in (one, other)]
    tasks = [{"type": "worker", "index": index} for index in range(2)]
    return [
        small.start(
            folder,
            *("runtime.distribution_strategy=multi_worker_mirrored", *overrides),
            environment={"TF_CONFIG": json.dumps({"cluster": {"worker": hosts}, "task": task})},
            virtual_cpus=2,
        )
        for task in tasks
    ]


def test_two_workers_of_two_devices_train_as_one(small: SmallTraining) -> None:
    # Sums in another order differ by 1e-7, which an untrained network soon makes 10 times as much a
    # step, until another proposal is sampled. So few proposals, and small steps.
    rate = "trainer.optimizer_config"
    gently = (
        "task.model.roi_generator.num_proposals=2",
        f"{rate}.learning_rate.stepwise.values=[0.0001,0.00001]",
        f"{rate}.warmup.linear.warmup_learning_rate=0.00001",
        *_shortened(8),
    )
    folders = {name: small.folder / f"replicas_{name}" for name in ("one", "workers")}
    small.finish(folders["one"], *gently)
    workers = _start_workers(small, folders["workers"], *gently)
    for worker in workers:
        assert worker.wait(timeout=300) == 0, read_log(folders["workers"])[-4000:]
    one, other = (losses(folder) for folder in folders.values())
    assert list(one) == list(other) == list(range(1, 9))
    names = [name for name in one[1] if name.endswith("loss")]
    values = [np.array([[run[step][n] for n in names] for step in run]) for run in (one, other)]
    difference = np.abs(values[0] - values[1]) / np.abs(values[0]).max(axis=0)
    print(f"\n2 workers x 2 devices against 1: losses differ by {difference.max():.1e} at most")
    assert difference.max() < 1e-3
    assert run_record(folders["workers"])["replicas"] == 4
    evaluations = [read_metrics(str(folder), "eval") for folder in folders.values()]
    assert evaluations[0].keys() == evaluations[1].keys() == {8}


def test_a_lost_worker_stops_the_others_and_the_job_goes_on(small: SmallTraining) -> None:
    folder = small.folder / "lost_worker"
    overrides = ("trainer.validation_interval=160",)
    workers = _start_workers(small, folder, *overrides)
    assert wait_until(lambda: last_step(folder) >= 6), read_log(folder)[-4000:]
    workers[1].kill()
    killed = time.monotonic()
    assert workers[0].wait(timeout=180) == 143, read_log(folder)[-4000:]
    seconds = time.monotonic() - killed
    print(f"\none of two workers killed: the other ended after {seconds:.0f} s")
    assert "another worker of the job is lost" in read_log(folder)
    before = saved_steps(folder)
    assert before
    for worker in _start_workers(small, folder, *overrides):
        assert worker.wait(timeout=400) == 0, read_log(folder)[-4000:]
    assert list(losses(folder)) == list(range(1, _STEPS + 1))
    assert f"resumed from {folder}/ckpt-{max(before)}" in read_log(folder)


def test_sigterm_to_one_worker_stops_all(small: SmallTraining) -> None:
    folder = small.folder / "one_terminated"
    workers = _start_workers(small, folder, "trainer.validation_interval=160")
    assert wait_until(lambda: last_step(folder) >= 6), read_log(folder)[-4000:]
    time.sleep(1)
    workers[1].terminate()
    assert [worker.wait(timeout=60) for worker in workers] == [143, 143], read_log(folder)[-4000:]
    assert max(saved_steps(folder)) >= last_step(folder)
