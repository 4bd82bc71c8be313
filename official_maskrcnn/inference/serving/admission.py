"""How many may wait for a model, and whether it still works."""

import asyncio
import concurrent.futures
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, ParamSpec, TypeVar

from official_maskrcnn.inference.serving.batching import Batcher
from official_maskrcnn.inference.serving.faults import RequestFault
from official_maskrcnn.inference.serving.metrics import Metrics
from official_maskrcnn.inference.serving.options import ServiceOptions

Item = TypeVar("Item")
Answer = TypeVar("Answer")
P = ParamSpec("P")
R = TypeVar("R")


class Workplace(Generic[Item, Answer]):
    """The thread of a model, a few threads for what is done before and after, and bounds on both.

    Attributes:
      options: of the service.
      metrics: counters.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Answer | Exception]],
        options: ServiceOptions,
        metrics: Metrics,
    ):
        """Starts with `start`; `work` as that of a `Batcher`."""
        self.options, self.metrics = options, metrics
        self._work = work
        self._batcher = Batcher(self._timed, options.max_batch, options.batch_wait)
        threads = min(4, os.cpu_count() or 1)
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="image")
        self._turns = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="turn")
        self._admitted = 0

    def start(self) -> None:
        """Begins to work."""
        self._batcher.start()

    async def stop(self) -> None:
        """Ends; what threads have in work is not waited for."""
        await self._batcher.stop()
        for threads in (self._pool, self._turns):
            threads.shutdown(wait=False, cancel_futures=True)

    @property
    def fault(self) -> str:
        """Why nothing can be answered; empty if it can."""
        if not self._batcher.is_running:
            return "the service does not run"
        seconds = self._batcher.busy_seconds
        if seconds > self.options.time_limit:
            return f"the model has been busy with one batch for {seconds:.0f} s"
        return ""

    @contextlib.contextmanager
    def admit(self, count: int = 1) -> Iterator[None]:
        """Holds room for items: the first of a request before its body is read, until its answer.

        Raises:
          RequestFault: there is no room for all of them.
        """
        if self._admitted + count > self.options.max_requests:
            raise RequestFault(503, "the queue is full: come again in a moment")
        self._admitted += count
        self.metrics.in_progress.inc(count)
        try:
            yield
        finally:
            self._admitted -= count
            self.metrics.in_progress.dec(count)

    async def submit(self, item: Item) -> Answer:
        """The answer for an item, as `Batcher.submit`."""
        return await self._batcher.submit(item)

    async def in_pool(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs what takes long beside the event loop and beside the model."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: function(*args, **kwargs))

    async def in_turn(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs what takes much memory, as `in_pool`, but one at a time.

        The next one waits for the thread, also where nobody waits for its result any more.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._turns, lambda: function(*args, **kwargs))

    def _timed(self, items: Sequence[Item]) -> Sequence[Answer | Exception]:
        start = time.monotonic()
        answers = self._work(items)
        self.metrics.batch_size.observe(len(items))
        self.metrics.model_seconds.observe(time.monotonic() - start)
        return answers
