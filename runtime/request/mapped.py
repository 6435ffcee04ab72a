"""The results of many prompts: `runtime.map(prompts)`, some at once, from a source that may be lazy and asynchronous.

A task of its own takes prompts and runs them, as far ahead of the reader as is bounded; so rows are busy while the
reader is, and results nobody takes hold no more than that.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sized
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast

from anyio import get_cancelled_exc_class

from greenroom.actors.client import LoopPoster, loop_poster
from greenroom.errors import InvalidParameter, StreamInUse, TooBusy
from greenroom.events import Event, Info, Token
from greenroom.inputs.prompts import Prompt
from greenroom.lifetimes import Closing, HomeLoop, forget_locals
from greenroom.request.ahead import Ahead
from greenroom.request.streams import EventStream, Result, result_of
from greenroom.structured.background_task import Background
from greenroom.structured.structures import Structures
from greenroom.values import boolean, choice, integer

__all__ = ["Errors", "Mapped", "Results"]

T = TypeVar("T")
Errors = Literal["raise", "return"]


@dataclass(frozen=True, slots=True)
class Mapped(Generic[T]):
    """What came of one prompt. `index` is its place among the prompts, from 0."""

    index: int
    prompt: Prompt
    result: Result | None
    """The generation as far as it came; None where none began, or it failed."""
    error: Exception | None = None
    found: T | None = None

    @property
    def value(self) -> T:
        """The object of the type `into`, or without one the `Result`. Raises the error that there is instead."""
        if self.error is not None:
            raise self.error
        return cast("T", self.found)

    @property
    def text(self) -> str:
        """All of the text. Raises the error where the generation failed."""
        return self._whole().text

    @property
    def info(self) -> Info:
        """How it ended. Raises the error where the generation failed."""
        return self._whole().info

    def _whole(self) -> Result:
        if self.result is None:
            raise cast("Exception", self.error)
        return self.result


class Results(Closing, Generic[T]):
    """`async for mapped in runtime.map(prompts)`: one `Mapped` for each prompt, in their order or as they are ready.

    Leaving `async with`, a cancellation that lands in the loop's own wait, an error that is raised and dropping the
    last reference end what still runs. A `break` with it still bound does not.
    """

    def __init__(
        self,
        prompts: Iterable[Prompt] | AsyncIterable[Prompt],
        begin: Callable[[Prompt], EventStream],
        structured: Callable[[AsyncIterable[Any]], Structures[T]] | None,
        *,
        limit: int,
        errors: Errors,
        ordered: bool,
        bar: bool,
    ) -> None:
        integer("limit", limit, 1, None, "an integer of at least 1")
        choice("errors", errors, ("raise", "return"))
        boolean("ordered", ordered)
        boolean("progress_bar", bar)
        if isinstance(prompts, str | bytes) or not isinstance(prompts, Iterable | AsyncIterable):
            raise InvalidParameter("prompts", prompts, "a list, or another (async) iterable, of prompts")
        self._bar = _Bar(prompts, is_shown=bar)
        self._ahead = _Work(begin, structured, self._bar).ahead(prompts, limit=limit, is_ordered=ordered)
        self._raises = errors == "raise"
        self._home = HomeLoop()
        self._task: Background | None = None
        self._post: LoopPoster | None = None
        self._has_reader = False
        self._is_ended = False

    def __repr__(self) -> str:
        return f"<Results {self._ahead!r}>"

    def __del__(self) -> None:
        task, post = getattr(self, "_task", None), getattr(self, "_post", None)
        if task is not None and post is not None and not task.is_over:
            post(Background.cancel, task)  # from whatever thread this is

    def __aiter__(self) -> AsyncIterator[Mapped[T]]:
        return self

    async def __anext__(self) -> Mapped[T]:
        self._home.require("these results")
        if self._has_reader:
            raise StreamInUse("two tasks read the results of one map at once: give each a map of its own")
        self._has_reader = True
        try:
            return await self._next()
        except get_cancelled_exc_class():
            await self.aclose()
            raise
        finally:
            self._has_reader = False

    async def _next(self) -> Mapped[T]:
        if self._is_ended:
            raise StopAsyncIteration
        if self._task is None:
            self._post = loop_poster()
            self._task = Background(partial(self._bar.run, self._ahead.run))
        found = await self._ahead.take()
        if found is not None and not (self._raises and found[0].error is not None):
            return found[0]
        problem = self._ahead.failure if found is None else found[0].error
        await self.aclose()
        if problem is None:
            raise StopAsyncIteration
        raise problem

    async def aclose(self) -> None:
        """End what still runs, and return once it is settled. Results that were not read are dropped.

        On another loop than the one that read, it raises `WrongEventLoop` once it has asked for the end.
        """
        self._is_ended = True
        if self._task is None:
            return
        if self._post is not None and not self._home.is_here():
            self._post(Background.cancel, self._task)
            self._home.require("these results")
        self._task.cancel()
        await self._task.wait()


_Ahead: TypeAlias = Ahead[Prompt, Mapped[T]]


class _Work(Generic[T]):
    """What runs beside the reader, which holds it: this knows no `Results`, so a dropped one ends it."""

    def __init__(
        self,
        begin: Callable[[Prompt], EventStream],
        structured: Callable[[AsyncIterable[Any]], Structures[T]] | None,
        bar: _Bar,
    ) -> None:
        self._begin = begin
        self._structured = structured
        self._bar = bar

    def ahead(self, prompts: Iterable[Prompt] | AsyncIterable[Prompt], *, limit: int, is_ordered: bool) -> _Ahead[T]:
        """Of these prompts."""
        self._ahead: _Ahead[T] = Ahead(prompts, self._run, limit=limit, is_ordered=is_ordered)
        return self._ahead

    async def _run(self, index: int, prompt: Prompt) -> Mapped[T]:
        events: list[Event | Token] = []
        found, error = None, None
        try:
            async with await self._submit(prompt) as stream:
                found = await self._read(stream, events)
        except Exception as problem:  # noqa: BLE001 - the prompt's own; raised or returned at its place
            forget_locals(problem)
            error = problem
        self._bar.advance()
        return Mapped(index, prompt, _whole(events), error, found)

    async def _submit(self, prompt: Prompt) -> EventStream:
        """Begun; where too many wait, once another one of these is over. Raises `TooBusy` where there is no other."""
        while True:
            try:
                return self._begin(prompt)
            except TooBusy:
                if self._ahead.num_running <= 1:
                    raise
            await self._ahead.wait()

    async def _read(self, stream: EventStream, events: list[Event | Token]) -> T:
        recorded = _Recorded(stream, events)
        if self._structured is None:
            async for _ in recorded:
                pass
            return cast("T", _whole(events))
        last = None
        async with self._structured(recorded) as growing:
            async for last in growing:  # noqa: B007 - the last one is what is wanted
                pass
        return cast("T", last)


class _Recorded(AsyncIterator[Event]):
    """The events of a stream, which are kept as well."""

    def __init__(self, stream: EventStream, events: list[Event | Token]) -> None:
        self._stream = stream
        self._events = events

    async def __anext__(self) -> Event:
        event = await anext(self._stream)
        self._events.append(event)
        return event


def _whole(events: list[Event | Token]) -> Result | None:
    """A generation that came to its end; None for one that did not."""
    if not events or not isinstance(events[-1], Info):
        return None
    return result_of(events[:-1], events[-1])


class _Bar:
    """A bar on standard error, where that is a terminal; nothing where none was asked for."""

    def __init__(self, prompts: object, *, is_shown: bool) -> None:
        self._progress: Any = None
        if is_shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=Console(stderr=True))
            self._progress.add_task("", total=len(prompts) if isinstance(prompts, Sized) else None)

    async def run(self, work: Callable[[Background], Awaitable[None]], background: Background) -> None:
        """Show it while `work` runs."""
        with self._progress or nullcontext():
            await work(background)

    def advance(self) -> None:
        """One more is done."""
        if self._progress is not None:
            self._progress.advance(self._progress.task_ids[0])
