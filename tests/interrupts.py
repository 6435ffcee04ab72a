"""Cancelling a coroutine wherever it waits: at its first await, then at its second, until it gets through."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from enum import Enum
from typing import Any, Generic, TypeVar

import anyio
import sniffio

__all__ = ["CANCELLED", "How", "interrupted", "ways"]

T = TypeVar("T")


class How(Enum):
    """By a scope, by a scope while what is waited for has come, or by asyncio's own `Task.cancel`."""

    SCOPE = "scope"
    LATE = "late"
    NATIVE = "native"


class _Cancelled(Enum):
    CANCELLED = "cancelled"


CANCELLED = _Cancelled.CANCELLED
_MEANWHILE = 0.003
"""Seconds for which the loop stands still, so that the answer and the cancellation reach it together."""


class _Counted(Generic[T]):
    """Awaits `coroutine`, and calls `strike` when it is about to wait for the `place`th time."""

    def __init__(self, coroutine: Awaitable[T], place: int, strike: Callable[[], object]) -> None:
        self._coroutine = coroutine
        self._place = place
        self._strike = strike

    def __await__(self) -> Generator[Any, Any, T]:
        inner: Any = self._coroutine.__await__()
        resume = inner.send
        given: Any = None
        for place in range(1, 1 << 20):
            try:
                asked = resume(given)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if place == self._place:
                self._strike()
            try:
                given, resume = (yield asked), inner.send
            except BaseException as error:  # noqa: BLE001 - whatever the loop throws belongs to the coroutine
                given, resume = error, inner.throw
        raise AssertionError("it never ends")


async def interrupted(coroutine: Awaitable[T], place: int, how: How = How.SCOPE) -> T | _Cancelled:
    """Its result; `CANCELLED` where it waited for the `place`th time, was cancelled there, and let that through."""
    if how is How.NATIVE:
        task = asyncio.ensure_future(_awaited(coroutine, place))
        try:
            return await task
        except asyncio.CancelledError:
            return CANCELLED
    found: list[T] = []
    with anyio.CancelScope() as scope:

        def strike() -> None:
            if how is How.LATE:
                time.sleep(_MEANWHILE)
            scope.cancel()

        found.append(await _Counted(coroutine, place, strike))
    return found[0] if found else CANCELLED


async def _awaited(coroutine: Awaitable[T], place: int) -> T:
    task = asyncio.current_task()
    assert task is not None
    return await _Counted(coroutine, place, task.cancel)


def ways() -> tuple[How, ...]:
    """How a coroutine may be cancelled on this loop."""
    is_asyncio = sniffio.current_async_library() == "asyncio"
    return (How.SCOPE, How.LATE, How.NATIVE) if is_asyncio else (How.SCOPE, How.LATE)
