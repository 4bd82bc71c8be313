"""Order, bounded memory and the end of worker processes; what a person sees of it."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from official_maskrcnn.data import parallel
from official_maskrcnn.ops import drawing

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _taken(items: Iterator[int], taken: list[int]) -> Iterator[int]:
    for item in items:
        taken.append(item)
        yield item


@pytest.mark.parametrize("workers", [0, 2])
def test_results_in_order_and_items_taken_as_needed(workers):
    taken: list[int] = []
    counts = range(1, 101)
    colors = parallel.parallel_map(
        drawing.distinct_colors, _taken(iter(counts), taken), len(counts), workers
    )
    for done, result in enumerate(colors, start=1):
        assert len(result) == done
        assert len(taken) <= done + 8
    assert taken == list(counts)


def test_few_items_need_no_process(monkeypatch):
    monkeypatch.setattr(parallel.concurrent.futures, "ProcessPoolExecutor", None)
    assert list(parallel.parallel_map(abs, [-1, -2], 2)) == [1, 2]


def test_errors_of_workers_are_raised_here():
    with pytest.raises(TypeError, match="bad operand"):
        list(parallel.parallel_map(abs, ["a", "b"], 2, workers=2))


# Without `if __name__ == "__main__"`, and with a main module that must not run twice.
_SCRIPT = """
import os, sys, time
from official_maskrcnn.data import parallel
print("main", flush=True)
for pid in parallel.parallel_map(os.{function}, [{items}] * 3, 3, workers=2):
    print("result", pid, flush=True)
"""


def _run_script(tmp_path, function: str, items: str) -> subprocess.Popen:
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT.format(function=function, items=items))
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    command = [sys.executable, str(script)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_the_main_program_is_not_imported_by_workers(tmp_path):
    output, _ = _run_script(tmp_path, "strerror", "1").communicate(timeout=60)
    assert output.splitlines() == ["main"] + ["result Operation not permitted"] * 3


def _children(pid: int) -> set[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    )
    return {int(child) for child in listed.stdout.split()}


def _is_alive(pid: int) -> bool:
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_workers_end_with_a_killed_parent(tmp_path):
    process = _run_script(tmp_path, "system", "'sleep 3'")
    assert process.stdout is not None and process.stdout.readline() == "main\n"
    deadline = time.monotonic() + 20
    while len(workers := _children(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    workers = _children(process.pid)
    assert len(workers) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(map(_is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_is_alive, workers))


def test_lines_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(parallel, "_SECONDS_BETWEEN_LINES", 0.0)
    assert list(parallel.track("ab", 2, "Reading")) == ["a", "b"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        "Reading: 1 of 2",
        "Reading: 2 of 2",
        "Reading: 2 done",
    ]
    assert all(line.endswith(" images/s") for line in lines)
    assert list(parallel.track("ab", 2, "Reading", enabled=False)) == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(parallel.track("ab", 2, "Reading")) == ["a", "b"]
    shown = capsys.readouterr().err
    assert "Reading" in shown and "2/2" in shown and "images/s" in shown
