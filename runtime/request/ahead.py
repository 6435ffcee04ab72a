"""Work on many things from a source, some at once, as far ahead of who takes the results as is bounded."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable
from contextlib import aclosing
from typing import Generic, TypeVar

from anyio import Event, create_task_group

from greenroom.structured.background_task import Background

__all__ = ["Ahead"]

P = TypeVar("P")
R = TypeVar("R")
_AHEAD = 4
"""Results that may wait to be taken, by what may run: one slow thing in front stops no other one."""


class Ahead(Generic[P, R]):
    """`Background(ahead.run)` works; `take` gives the results, by their source's order or as they are ready.

    `work` is given the place of each thing in the source, from 0, and handles its own errors.
    """

    def __init__(
        self,
        source: Iterable[P] | AsyncIterable[P],
        work: Callable[[int, P], Awaitable[R]],
        *,
        limit: int,
        is_ordered: bool,
    ) -> None:
        self._source = source
        self._work = work
        self._limit = limit
        self._is_ordered = is_ordered
        self._num_taken = 0
        self._ready: dict[int, R] = {}
        """Finished and not taken, by place."""
        self._changed = Event()
        self.num_running = 0
        self.failure: Exception | None = None
        """What the source raised; what it gave before has results all the same."""
        self.is_over = False

    def __repr__(self) -> str:
        return f"<Ahead running={self.num_running} ready={len(self._ready)} taken={self._num_taken}>"

    async def take(self) -> tuple[R] | None:
        """The next result; None behind the last."""
        while True:
            key = self._num_taken if self._is_ordered else next(iter(self._ready), -1)
            if key in self._ready:
                self._num_taken += 1
                found = (self._ready.pop(key),)
                self._tell()
                return found
            if self.is_over:
                return None
            await self.wait()

    async def wait(self) -> None:
        """Return once something was finished or taken, or all is over."""
        await self._changed.wait()

    async def run(self, background: Background) -> None:
        """Take from the source while there is room, and work on each in a task."""
        del background
        try:
            async with create_task_group() as group:
                place = 0
                try:
                    async with aclosing(_Taking(self._source)) as taking:
                        async for each in taking:
                            self.num_running += 1
                            group.start_soon(self._run_one, place, each)
                            place += 1
                            while self._is_full:
                                await self.wait()
                except Exception as error:  # noqa: BLE001 - the source's own; raised behind what it gave before
                    self.failure = error
        finally:
            self.is_over = True
            self._tell()

    @property
    def _is_full(self) -> bool:
        return self.num_running >= self._limit or len(self._ready) >= _AHEAD * self._limit

    def _tell(self) -> None:
        changed, self._changed = self._changed, Event()
        changed.set()

    async def _run_one(self, place: int, each: P) -> None:
        self._ready[place] = await self._work(place, each)
        self.num_running -= 1
        self._tell()


class _Taking(AsyncIterator[P]):
    """What a source gives, one after the other; an asynchronous generator is closed where it is left."""

    def __init__(self, source: Iterable[P] | AsyncIterable[P]) -> None:
        self._each = aiter(source) if isinstance(source, AsyncIterable) else iter(source)

    async def __anext__(self) -> P:
        if isinstance(self._each, AsyncIterator):
            return await anext(self._each)
        try:
            return next(self._each)
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        """Have its own `finally` run, where it has one."""
        if isinstance(self._each, AsyncGenerator):
            await self._each.aclose()
        elif isinstance(self._each, Generator):
            self._each.close()
