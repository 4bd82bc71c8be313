"""SIGTERM, by which a machine is taken away: what was learned is saved, and the process ends."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from absl import logging

EXIT_CODE = 128 + signal.SIGTERM  # 143, as shells have it
_REASON = "stopped by SIGTERM"


class Preempted(SystemExit):
    """Ends the process with EXIT_CODE; the same command goes on with the job."""

    def __init__(self, reason: str):
        super().__init__(EXIT_CODE)
        logging.warning("%s: the same command goes on from here (exit code %d)", reason, EXIT_CODE)


class Preemption:
    """Listens for SIGTERM as a context manager, in the main thread; elsewhere it does nothing.

    The signal raises `Preempted` at once, except within `postponed`.

    Attributes:
      is_requested: whether the signal came.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._is_postponed = False

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)

    @contextlib.contextmanager
    def postponed(self) -> Iterator[None]:
        """The signal is only noted inside."""
        with self._set_postponed(True):
            yield

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """The signal raises inside, within `postponed` too; also one that came before."""
        with self._set_postponed(False):
            if self.is_requested:
                raise Preempted(_REASON)
            yield

    @contextlib.contextmanager
    def _set_postponed(self, value: bool) -> Iterator[None]:
        before, self._is_postponed = self._is_postponed, value
        try:
            yield
        finally:
            self._is_postponed = before

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.is_requested = True
        if not self._is_postponed:
            raise Preempted(_REASON)
