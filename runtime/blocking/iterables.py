"""What can be iterated without a loop, read on worker threads: a source that waits holds up no other request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Generic, Self, TypeVar

from anyio import to_thread

__all__ = ["as_async"]

T = TypeVar("T")

_END: Any = object()


def as_async(source: Any) -> Any:
    """An async view of something that is iterated, a stream of another client's for one; anything else is itself.

    Texts and lists are there already, and are themselves too.
    """
    is_there = isinstance(source, (str, bytes, list, tuple, dict)) or hasattr(source, "__aiter__")
    if is_there or not (hasattr(source, "__iter__") or hasattr(source, "__enter__")):
        return source
    return _Entered(source) if hasattr(source, "__enter__") else _Iterated(source)


async def _on_a_thread(function: Callable[[], T]) -> T:
    """The result of `function`; whoever is cancelled does not wait for it."""
    return await to_thread.run_sync(function, abandon_on_cancel=True)


class _Iterated(Generic[T]):
    """An async iterator over a sync iterable."""

    def __init__(self, source: Iterable[T]) -> None:
        self._source = source
        self._iterator: Any = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._source!r}>"

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        value = await _on_a_thread(self._next)
        if value is _END:
            raise StopAsyncIteration
        found: T = value
        return found

    def _next(self) -> Any:
        if self._iterator is None:
            self._iterator = iter(self._source)
        return next(self._iterator, _END)

    async def aclose(self) -> None:
        """Close what can be closed. One that runs still, since its reader was cancelled, ends by itself."""
        for each in (self._iterator, self._source):
            close = getattr(each, "close", None)
            if close is not None:
                with suppress(ValueError):  # a generator that runs cannot be closed
                    await _on_a_thread(close)


class _Entered(_Iterated[T]):
    """The same of a context manager, such as a client's stream."""

    async def __aenter__(self) -> Self:
        self._source = await _on_a_thread(self._source.__enter__)  # type: ignore[attr-defined]
        return self

    async def __aexit__(self, *failure: object) -> None:
        await to_thread.run_sync(partial(self._source.__exit__, *failure))  # type: ignore[attr-defined]
