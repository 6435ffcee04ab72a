"""What is closed by leaving `async with`, and what must be over before a cancellation may go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Protocol, Self

from anyio import CancelScope, get_cancelled_exc_class

__all__ = ["Closing", "wait_shielded"]


class Closing:
    """An async context manager over its own `aclose`."""

    async def aclose(self) -> None:
        """End it, and return once that is done. Again is nothing."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class _Event(Protocol):
    """An event of anyio, asyncio or trio."""

    def wait(self) -> Awaitable[object]:
        """Return once it is set."""


async def wait_shielded(event: _Event, is_over: Callable[[], bool]) -> None:
    """Return once `is_over()`, through any cancellation; one that came meanwhile is raised afterwards.

    `event` is set when that becomes true. A second native cancel of asyncio breaks a shield, hence the loop.
    """
    interruption: BaseException | None = None
    while not is_over():
        try:
            with CancelScope(shield=True):
                await event.wait()
        except get_cancelled_exc_class() as error:
            interruption = error
    if interruption is not None:
        raise interruption
