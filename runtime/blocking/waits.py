"""A thread waits for work on a loop: until it is done, until its time is over, or until it is interrupted.

What ends a wait early cancels the work, as a cancel scope around it would, and the thread goes on once the work has
settled: a row that it was for is over then.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from typing import Any, Generic, TypeVar, cast

from anyio import CancelScope, get_cancelled_exc_class

from greenroom.actors import engine_thread
from greenroom.actors.decoder import Payload
from greenroom.actors.mailbox import Mailbox
from greenroom.blocking.loop_thread import LoopThread
from greenroom.errors import BlocksEventLoop, RuntimeClosed, WaitTimeout
from greenroom.events import Info
from greenroom.inputs.parameters import seconds
from greenroom.lifetimes import running_loop

__all__ = ["fail_after", "read", "wait_for"]

T = TypeVar("T")

_deadline: ContextVar[float | None] = ContextVar("greenroom_blocking_deadline", default=None)


@contextmanager
def fail_after(timeout: float | None) -> Iterator[None]:
    """Inside, every wait of this thread is over `timeout` seconds from now: what waits then raises `WaitTimeout`.

    What it waited for is cancelled first, as by `anyio.fail_after`, and has settled. Of several the earliest counts,
    None is without end. Closing, and leaving a `with`, are not cut short: they take a pass. Raises `InvalidParameter`.
    """
    seconds("timeout", timeout)
    ends = [_deadline.get(), None if timeout is None else time.monotonic() + timeout]
    token = _deadline.set(min([end for end in ends if end is not None], default=None))
    try:
        yield
    finally:
        _deadline.reset(token)


def read(thread: LoopThread, mailbox: Mailbox) -> Payload | Info | None:
    """The next event, without a task on the loop for each: this thread is told of what comes by the delivery itself.

    None where the loop has to say what is to be done: at the end, which may be an error, and when the time is over.
    Interrupted, it cancels the request, and raises once that is settled.
    """
    deadline = _deadline.get()
    mailbox.require_reader()
    try:
        event = mailbox.take() if deadline is None or time.monotonic() < deadline else None
        if event is None:
            _require_free(thread, mailbox)
            event = _wait_for_event(thread, mailbox, deadline)
        return event
    finally:
        mailbox.reader.release()


def _wait_for_event(thread: LoopThread, mailbox: Mailbox, deadline: float | None) -> Payload | Info | None:
    try:
        while deadline is None or time.monotonic() < deadline:
            news = _Signal()
            if not mailbox.listen(news):
                return mailbox.take()
            news.wait(deadline)
            event = mailbox.take()
            if event is not None:
                return event
    except BaseException:
        mailbox.cancel("scope")
        wait_for(thread, mailbox, mailbox.settle, has_deadline=False)
        raise
    return None


class _Signal:
    """Set once by another thread; waited for by this one."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()  # its wait can be interrupted, and it is the cheapest there is
        self._lock.acquire()

    def set(self) -> None:
        """Let the wait end. Again is nothing."""
        with suppress(RuntimeError):  # released already
            self._lock.release()

    def wait(self, deadline: float | None = None) -> bool:
        """Whether it was set by then, on `time.monotonic`'s clock. Once."""
        if deadline is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=min(max(deadline - time.monotonic(), 0.0), threading.TIMEOUT_MAX))


def wait_for(thread: LoopThread, what: object, function: Callable[[], Awaitable[T]], *, has_deadline: bool = True) -> T:
    """The result of `function` on the thread's loop. `what` it is for is named in errors.

    Raises what it raises, `WaitTimeout`, `BlocksEventLoop`, `ForkedProcess`; and an interrupt, behind which the work
    has settled. A second interrupt does not wait for that.
    """
    _require_free(thread, what)
    work = _Work(function)
    deadline = _deadline.get() if has_deadline else None
    if deadline is not None and time.monotonic() >= deadline:
        work.cancel()  # before it begins: it gets as far as its first wait
    thread.start(work.run, copy_context())
    try:
        is_over = work.over.wait(deadline)
    except BaseException:
        thread.post(_Work.cancel, work)
        work.over.wait()
        raise
    if not is_over:
        thread.post(_Work.cancel, work)
        work.over.wait()
    return work.result()


class _Work(Generic[T]):
    """What one thread waits for, and what came of it."""

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self._function: Callable[[], Awaitable[T]] | None = function
        self.over = _Signal()
        self._scope: CancelScope | None = None
        self._is_cancelled = False
        self._has_value = False
        self._value: Any = None
        self._error: BaseException | None = None

    # On the loop; `cancel` also before it runs.

    async def run(self) -> None:
        function, self._function = self._function, None
        try:
            with CancelScope() as self._scope:
                if self._is_cancelled:
                    self._scope.cancel()
                self._value = await cast("Callable[[], Awaitable[T]]", function)()
                self._has_value = True
        except get_cancelled_exc_class():
            self._error = RuntimeClosed("the event loop of this runtime has ended")
            raise
        except BaseException as error:  # noqa: BLE001 - an exit or an interrupt of a callback's is its caller's
            self._error = error
        finally:
            del function
            self.over.set()

    def cancel(self) -> None:
        self._is_cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    # On the thread that waits, once it is over.

    def result(self) -> T:
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # else it and this frame hold each other
        if not self._has_value:
            raise WaitTimeout("the time that `fail_after` gave is over: what was waited for was cancelled")
        return cast("T", self._value)


def _require_free(thread: LoopThread, what: object) -> None:
    """Raise where a wait would never end, or stop an event loop; a notebook's cell stops its own in any case."""
    thread.require_process(what)
    if engine_thread.is_here() or (running_loop() is not None and not _is_notebook()):
        raise BlocksEventLoop


def _is_notebook() -> bool:
    if "ipykernel" not in sys.modules or threading.current_thread() is not threading.main_thread():
        return False
    shell = sys.modules["IPython"].get_ipython()
    return getattr(shell, "kernel", None) is not None
