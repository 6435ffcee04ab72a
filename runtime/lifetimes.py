"""What is closed by leaving `async with`, what must be over before a cancellation goes on, whose loop something is."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from anyio import CancelScope, NoEventLoopError, get_cancelled_exc_class, get_current_task

from greenroom.errors import CallbackFailed, WrongEventLoop

__all__ = [
    "Closing",
    "HomeLoop",
    "as_exception",
    "call_user",
    "calling",
    "contained",
    "passes",
    "running_loop",
    "wait_shielded",
]

T = TypeVar("T")


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


def as_exception(what: str, cause: BaseException) -> Exception:
    """What code of a user's raised, as an error of its request: an exit that it made itself is nobody else's.

    `what` names the code. An `Exception` is itself.
    """
    if isinstance(cause, Exception):
        return cause
    error = CallbackFailed(f"{what} raised {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error


def contained(what: str, function: Callable[[], T]) -> T:
    """The result of `function`, which calls code of a user's, on a thread that is no event loop's.

    What it raises that is no `Exception` is raised as a `CallbackFailed`: nobody interrupts such a thread.
    """
    try:
        return function()
    except Exception:
        raise
    except BaseException as cause:
        raise as_exception(what, cause) from cause


async def call_user(what: str, function: Callable[[], Any]) -> Any:
    """The result of `function`, sync or async code of a user's on this loop. What that raises is a `CallbackFailed`.

    A `KeyboardInterrupt` is the user's own and passes, as does a cancellation that somebody asked for, or the end of
    the task's coroutine; one that nobody asked for is a failure like others.
    """
    task = _task()
    try:
        found = function()
        return await found if inspect.isawaitable(found) else found
    except BaseException as cause:
        if passes(cause) or (isinstance(cause, GeneratorExit) and _task() != task):
            raise
        raise CallbackFailed(f"{what} raised {type(cause).__name__}: {cause}") from cause


@contextmanager
def calling(what: str) -> Iterator[None]:
    """The same around sync code of a user's."""
    try:
        yield
    except BaseException as cause:
        if passes(cause):
            raise
        raise CallbackFailed(f"{what} raised {type(cause).__name__}: {cause}") from cause


def passes(cause: BaseException) -> bool:
    """Whether it is to pass through code on an event loop: an interrupt, or a cancellation that somebody asked for."""
    if isinstance(cause, KeyboardInterrupt):
        return True
    if not isinstance(cause, asyncio.CancelledError):
        return "trio" in sys.modules and isinstance(cause, sys.modules["trio"].Cancelled)  # nobody else can make one
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0


def _task() -> int | None:
    """Which task runs this; None where none does."""
    try:
        return get_current_task().id
    except (RuntimeError, NoEventLoopError):
        return None


def running_loop() -> object | None:
    """The loop of asyncio or the token of trio that this runs on, in a task or a callback; None where there is none.

    In a task of trio's it is trio's, though a loop of asyncio may run around it.
    """
    trio: Any = getattr(sys.modules.get("trio"), "lowlevel", None)
    if trio is not None and trio.in_trio_task():
        token: object = trio.current_trio_token()
        return token
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return trio.current_trio_token() if trio is not None and trio.in_trio_run() else None


class HomeLoop:
    """The event loop that something belongs to: on another one a wait for it would never end."""

    __slots__ = ("_loop",)

    def __init__(self, loop: object | None = None) -> None:
        """Without a `loop` it is the first that is asked about."""
        self._loop = loop

    def is_here(self) -> bool:
        """Whether it belongs to the loop that is running."""
        here = running_loop()
        if self._loop is None:
            self._loop = here
        return here is self._loop and here is not None

    def require(self, what: str) -> None:
        """Raise `WrongEventLoop`, which names `what` it is, unless it belongs to the loop that is running."""
        if not self.is_here():
            raise WrongEventLoop(what, running_loop())
