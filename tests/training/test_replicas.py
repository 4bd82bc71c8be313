"""Several replicas and several processes, compared with one."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from official_maskrcnn.tasks.metrics_file import read_metrics
from tests.training.replica_run import run_fake_task, written

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _start(*arguments: str, tf_config: dict[str, Any] | None = None) -> subprocess.Popen[str]:
    environment = dict(os.environ, PYTHONPATH=str(_ROOT), CUDA_VISIBLE_DEVICES="-1")
    if tf_config is not None:
        environment["TF_CONFIG"] = json.dumps(tf_config)
    command = [sys.executable, "-m", "tests.training.replica_run", *arguments]
    return subprocess.Popen(
        command,
        cwd=_ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors[-4000:]
    return json.loads(output.splitlines()[-1])


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def one_device(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("one_device")
    metrics = run_fake_task("one_device", "train_and_eval", str(folder))
    return {"metrics": metrics, **written(str(folder))}


def _assert_equal_runs(result: dict[str, Any], expected: dict[str, Any]) -> None:
    # Batch statistics are synchronised, so that all that differs is the order of summation.
    assert result["metrics"] == pytest.approx(expected["metrics"], rel=1e-4)
    assert result["losses"] == pytest.approx(expected["losses"], rel=1e-4)
    assert result["files"] == expected["files"]
    assert result["metrics"]["images"] == result["metrics"]["distinct_images"] == 7
    assert result["metrics"]["id_sum"] == sum(range(1, 8))


def test_two_mirrored_devices_are_equal_to_one(
    tmp_path: pathlib.Path, one_device: dict[str, Any]
) -> None:
    result = _finish(_start("mirrored", "train_and_eval", str(tmp_path), "2"))
    _assert_equal_runs(result, one_device)
    assert json.loads((tmp_path / "run.json").read_text())["replicas"] == 2


@pytest.mark.slow
def test_two_workers_are_equal_to_one(tmp_path: pathlib.Path, one_device: dict[str, Any]) -> None:
    hosts = [f"localhost:{port}" for port in _free_ports(2)]
    workers = [
        _start(
            *("multi_worker_mirrored", "train_and_eval", str(tmp_path)),
            tf_config={"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}},
        )
        for index in range(2)
    ]
    results = [_finish(worker) for worker in workers]
    assert results[0]["metrics"] == results[1]["metrics"]
    _assert_equal_runs(results[0], one_device)
    assert (tmp_path / "metrics.jsonl").read_text().count('"phase": "eval"') == 2  # the chief's


def test_continuous_eval_follows_a_training_in_another_process(tmp_path: pathlib.Path) -> None:
    follower = _start("one_device", "continuous_eval", str(tmp_path))
    run_fake_task("one_device", "train", str(tmp_path), train_steps=4)
    deadline = time.monotonic() + 120
    while 4 not in read_metrics(str(tmp_path), "eval") and time.monotonic() < deadline:
        time.sleep(0.2)
    run_fake_task("one_device", "train", str(tmp_path), train_steps=8)
    result = _finish(follower)
    lines = (tmp_path / "validation" / "metrics.jsonl").read_text().splitlines()
    evaluations = [json.loads(line) for line in lines]
    assert [line["step"] for line in evaluations] == [4, 8]
    assert list(read_metrics(str(tmp_path), "train")) == [4, 8]
    assert result["metrics"]["images"] == 7
    best = json.loads((tmp_path / "best" / "metrics.json").read_text())
    assert best["metrics"]["mask/AP"] == max(line["mask/AP"] for line in evaluations)
