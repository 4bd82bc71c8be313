"""Work on many images: over all cores, in order, with bounded memory, and with progress shown."""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import cv2
import rich.console
import rich.progress

T = TypeVar("T")
R = TypeVar("R")

_MIN_ITEMS_PER_WORKER = 32  # with fewer, starting the process takes longer than the work
_IN_FLIGHT_PER_WORKER = 4
_SECONDS_BETWEEN_LINES = 10.0


def parallel_map(
    function: Callable[[T], R], items: Iterable[T], num_items: int, workers: int | None = None
) -> Iterator[R]:
    """Results of `function` in the order of the items, computed by several processes.

    An item is taken only when there is room for its result, so memory does not grow with their
    number. The processes end with this one, however it ends.

    Args:
      function: from the top level of a module of this package, or a partial of one.
      items: picklable.
      num_items: how many there are.
      workers: processes; by default one for each core, and none for a few items. 0 works here.
    """
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)), num_items // _MIN_ITEMS_PER_WORKER)
        workers = 0 if workers < 2 else workers
    if not workers:
        yield from map(function, items)
        return
    # Spawned, not forked: TensorFlow's threads may run in this process, and do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker)
    pending: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    try:
        for item in items:
            with _hidden_main():
                pending.append(pool.submit(function, item))
            if len(pending) >= _IN_FLIGHT_PER_WORKER * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Keeps a spawned process from importing the program that is running.

    It needs nothing of it; and a program without `if __name__ == "__main__"` would run again.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def track(
    items: Iterable[T],
    total: int | None,
    title: str,
    enabled: bool = True,
    unit: str = "images",
) -> Iterator[T]:
    """Passes items on and shows how many there were, of how many, and how many a second.

    On a terminal that is a progress bar; elsewhere a line every 10 seconds, and one at the end.

    Args:
      items: one for each image, or what `unit` says.
      total: how many there will be; None if nobody knows.
      title: what is done with them.
      enabled: False shows nothing.
      unit: what is counted.
    """
    console = rich.console.Console(stderr=True)
    if not enabled:
        yield from items
    elif console.is_terminal:
        with rich.progress.Progress(
            rich.progress.TextColumn("[bold]{task.description}"),
            rich.progress.BarColumn(bar_width=30),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[rate]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TimeRemainingColumn(),
            console=console,
        ) as progress:
            task = progress.add_task(title, total=total, rate="")
            start = time.monotonic()
            for done, item in enumerate(items, start=1):
                yield item
                progress.update(task, completed=done, rate=_rate(done, start, unit))
    else:
        yield from _track_by_lines(items, total, title, unit)


def _track_by_lines(items: Iterable[T], total: int | None, title: str, unit: str) -> Iterator[T]:
    start = last_line = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last_line >= _SECONDS_BETWEEN_LINES:
            of_total = f" of {total}" if total else ""
            rate = _rate(done, start, unit)
            print(f"{title}: {done}{of_total}, {rate}", file=sys.stderr, flush=True)
            last_line = time.monotonic()
    print(f"{title}: {done} done, {_rate(done, start, unit)}", file=sys.stderr, flush=True)


def _rate(done: int, start: float, unit: str) -> str:
    return f"{done / max(time.monotonic() - start, 1e-6):.1f} {unit}/s"
