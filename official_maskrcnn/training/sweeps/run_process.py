"""The process of one run of a sweep. Imports no TensorFlow: Ray's workers load this module."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence

PREEMPTED = 128 + signal.SIGTERM  # exit code of a run that was told to stop, and can go on
STOP_SECONDS = 60.0  # a run needs up to 30 to save what it has

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def start(
    command: Sequence[str],
    log: str,
    environment: Mapping[str, str],
    cores: Collection[int] = (),
    directory: str | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a command that appends all it says to a log, and does not outlive this process.

    Args:
      command: program and arguments.
      log: path of the file; its folder exists.
      environment: variables beside those of this process.
      cores: of the CPU, the only ones to run on; empty: as this process.
      directory: to start in; None: as this process.
    """

    def prepare() -> None:  # in the new process: nothing but system calls
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if cores:
            os.sched_setaffinity(0, cores)

    with open(log, "ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=os.environ | environment,
            preexec_fn=prepare,
            start_new_session=True,  # Ctrl-C reaches the runner only, which stops its runs itself
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it started, at once."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def exit_code(process: subprocess.Popen[bytes]) -> int | None:
    """As a shell reports it: 128 and more for a signal; None while the process runs."""
    code = process.poll()
    return 128 - code if code is not None and code < 0 else code


def run(command: Sequence[str], log: str, environment: Mapping[str, str], directory: str) -> int:
    """Runs a command to its end and returns its exit code; stops it if it is interrupted."""
    # Ray interrupts by this handler, which Python leaves out where SIGINT was ignored at its start,
    # as in the background of a shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(command, log, environment, directory=directory)
    try:
        # Not wait(), which Ray's interrupt does not reach.
        while (code := exit_code(process)) is None:
            time.sleep(0.2)
        return code
    except KeyboardInterrupt:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            kill(process)
        return PREEMPTED
