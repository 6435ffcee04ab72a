"""What is closed by leaving `async with`, what must be over before a cancellation goes on, whose loop something is.

And whose process: a child made by fork has neither the threads nor the devices of its parent. And how long work may
take on a thread where it can be interrupted.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import FrameType, TracebackType
from typing import Any, Protocol, Self, TypeVar

from anyio import CancelScope, NoEventLoopError, get_cancelled_exc_class, get_current_task

from greenroom.errors import CallbackFailed, ForkedProcess, WrongEventLoop

__all__ = [
    "Closing",
    "HomeLoop",
    "HomeProcess",
    "as_exception",
    "call_user",
    "calling",
    "contained",
    "forget_locals",
    "limiting_time",
    "passes",
    "running_loop",
    "time_limit",
    "wait_shielded",
]

T = TypeVar("T")
_SUSPENDS = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_HERE = threading.local()
"""Of each thread: what limits the time of work there."""


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


def forget_locals(error: BaseException) -> None:
    """Let go of what our own functions held when `error` came out of them; where it came from is told as before.

    Who keeps an error keeps its traceback, and with that every local of every frame: a prompt of a million tokens,
    until a circle is collected. Coroutines and generators are left alone: to clear one that is suspended closes it.
    """
    for frame in _frames(error.__traceback__):
        is_ours = str(frame.f_globals.get("__name__")).partition(".")[0] == "greenroom"
        if is_ours and not frame.f_code.co_flags & _SUSPENDS:
            with suppress(RuntimeError):  # it runs still
                frame.clear()


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    """Those that an error came through, and those above, which the outermost of them keeps."""
    above = None if traceback is None else traceback.tb_frame.f_back
    while above is not None:
        yield above
        above = above.f_back
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


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


class HomeProcess:
    """The process that something belongs to: in a child made by fork its threads do not run."""

    __slots__ = ("_depth",)

    depth = 0
    """How many forks lie between the first process of this interpreter and this one."""

    def __init__(self) -> None:
        """This one."""
        self._depth = HomeProcess.depth

    def is_here(self) -> bool:
        """Whether it belongs to this process."""
        return self._depth == HomeProcess.depth

    def require(self, what: str) -> None:
        """Raise `ForkedProcess`, which names `what` it is, in a child of the process that it belongs to."""
        if not self.is_here():
            raise ForkedProcess(f"{what} belongs to the process that this one was forked from")


def _count_fork() -> None:
    HomeProcess.depth += 1


os.register_at_fork(after_in_child=_count_fork)


class HomeLoop:
    """The event loop, and the process, that something belongs to: on another one a wait for it would never end."""

    __slots__ = ("_loop", "_process")

    def __init__(self, loop: object | None = None) -> None:
        """Without a `loop` it is the first that is asked about."""
        self._loop = loop
        self._process = HomeProcess()

    def is_here(self) -> bool:
        """Whether it belongs to the loop that is running."""
        here = running_loop()
        if self._loop is None:
            self._loop = here
        return here is self._loop and here is not None

    def require(self, what: str) -> None:
        """Raise `WrongEventLoop`, which names `what` it is, unless it belongs to the loop that is running.

        In a child made by fork it raises `ForkedProcess`.
        """
        self._process.require(what)
        if not self.is_here():
            raise WrongEventLoop(what, running_loop())


TimeLimit = Callable[[float, Exception], AbstractContextManager[None]]
"""What is done inside of it is interrupted after so many seconds, and fails with the error."""


@contextmanager
def limiting_time(limit: TimeLimit) -> Iterator[None]:
    """Inside, work on this thread is limited by `limit` where it asks for a `time_limit`."""
    _HERE.limit = limit
    try:
        yield
    finally:
        _HERE.limit = None


def time_limit(seconds: float, error: Exception) -> AbstractContextManager[None]:
    """What is done inside is interrupted after `seconds`, and whoever waits for it is told `error`.

    That is so on a thread that prepares; on another one nothing is interrupted.
    """
    limit: TimeLimit | None = getattr(_HERE, "limit", None)
    return nullcontext() if limit is None else limit(seconds, error)
