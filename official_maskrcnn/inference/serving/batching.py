"""Requests that arrive together are worked on together, in one thread."""

import asyncio
import collections
import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclasses.dataclass(eq=False)
class _Job(Generic[Item, Answer]):
    item: Item
    answer: asyncio.Future[Answer]
    arrival: float = dataclasses.field(default_factory=time.monotonic)


class Batcher(Generic[Item, Answer]):
    """Collects items for a function that takes several at once and blocks.

    While the function works, what arrives waits, and then goes together. Whoever stops waiting (by
    the cancellation of `submit`) takes the item out. Use it from one event loop.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Answer | Exception]],
        max_batch: int,
        max_wait: float,
    ):
        """Starts with `start`.

        Args:
          work: gives an answer or an exception for each item; runs in a thread of its own, always
            the same one.
          max_batch: items at a time.
          max_wait: seconds that the first of a batch waits for others.
        """
        self._work, self._max_batch, self._max_wait = work, max_batch, max_wait
        self._waiting: collections.deque[_Job[Item, Answer]] = collections.deque()
        self._arrived = asyncio.Event()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="model")
        self._loop: asyncio.Task[None] | None = None
        self._began: float | None = None

    def __len__(self) -> int:
        """Number of items that wait."""
        return len(self._waiting)

    @property
    def busy_seconds(self) -> float:
        """Since when the batch that is in work now is so; 0 if none is."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    @property
    def is_running(self) -> bool:
        """Whether items are worked on."""
        return self._loop is not None and not self._loop.done()

    def start(self) -> None:
        """Begins to work."""
        self._loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends; whoever still waits for an answer gets none. A batch in work is not waited for."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait([self._loop])
        for job in self._waiting:
            job.answer.cancel()
        self._waiting.clear()
        self._thread.shutdown(wait=False)

    async def submit(self, item: Item) -> Answer:
        """The answer for an item.

        Raises:
          Exception: what `work` gave or raised in place of an answer.
        """
        job = _Job[Item, Answer](item, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._arrived.set()
        try:
            return await job.answer
        finally:
            if job in self._waiting:
                self._waiting.remove(job)

    async def _run(self) -> None:
        while True:
            await self._collect()
            batch = [
                self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))
            ]
            if batch:
                await self._answer(batch)

    async def _collect(self) -> None:
        """Waits for a first item, and for others until it has waited long enough."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        deadline = self._waiting[0].arrival + self._max_wait
        while 0 < len(self._waiting) < self._max_batch:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), remaining)
            except TimeoutError:
                break

    async def _answer(self, batch: Sequence[_Job[Item, Answer]]) -> None:
        self._began = time.monotonic()
        try:
            answers: Sequence[
                Answer | Exception
            ] = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._work, [job.item for job in batch]
            )
        except Exception as error:
            answers = [error] * len(batch)
        finally:
            self._began = None
        for job, answer in zip(batch, answers, strict=True):
            if job.answer.done():  # whoever asked is gone
                continue
            if isinstance(answer, Exception):
                job.answer.set_exception(answer)
            else:
                job.answer.set_result(answer)
