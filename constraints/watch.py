"""Native work that may end the stack, or never end: on threads with a stack of their own, watched by whoever waits.

llguidance recurses over what it compiles, and nothing interrupts it. What is not done in time is given up: its thread
is a daemon that goes on by itself, and while too many of them do, nothing new is begun. The masks of a compiled grammar
need neither: llguidance's own limits bound them, once nothing is forced for ever (see `bounds.forced_loops`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Generic, TypeVar

from greenroom.errors import CompilationTimeout, CompilersBusy, InvalidConstraint

__all__ = ["Watched", "starting_within", "watched"]

T = TypeVar("T")

STACK_BYTES = 128 << 20
"""Of each thread: address space, of which what is used becomes memory."""
LIMIT = 30.0
"""Seconds for one grammar. Large schemas take one, on a busy machine several."""
MOST_ABANDONED = 8
"""Threads that are over the limit and still run, at most."""

_LOCK = threading.Lock()
_RUNNING: set[Watched[Any]] = set()
_HERE = threading.local()


class Watched(Generic[T]):
    """`work`, begun. Raises `CompilersBusy` where too many others never ended."""

    def __init__(self, what: str, work: Callable[[], T]) -> None:
        self._what = what
        self._work = work
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._started = time.monotonic()
        shield: Callable[[], AbstractContextManager[None]] = getattr(_HERE, "shield", nullcontext)
        with shield(), _LOCK:
            abandoned = sum(each.is_late for each in _RUNNING)
            if abandoned >= MOST_ABANDONED:
                raise CompilersBusy(abandoned)
            _RUNNING.add(self)
            size = threading.stack_size(STACK_BYTES)
            try:  # the size is the process's: a thread that starts beside this one has such a stack too
                threading.Thread(target=self._run, name="greenroom-compile", daemon=True).start()
            except RuntimeError as error:
                _RUNNING.discard(self)
                raise CompilersBusy(abandoned) from error
            finally:
                threading.stack_size(size)

    def __repr__(self) -> str:
        return f"<Watched {self._what} is_done={self._done.is_set()}>"

    @property
    def is_late(self) -> bool:
        """Whether it had its time."""
        return time.monotonic() - self._started > LIMIT

    def wait(self, seconds: float) -> bool:
        """Whether it is done; waits for that, until this process has computed for so long, too, or it had its time.

        On a machine that is busy with others little is computed in a second, and none of it is the work's fault.
        """
        late, computed = time.monotonic() + seconds, time.process_time() + seconds
        while not self._done.wait(max(left := late - time.monotonic(), computing := computed - time.process_time(), 0)):
            if self.is_late or max(left, computing) <= 0:
                return False
        return True

    def result(self) -> T:
        """What `work` returned or raised. Raises `CompilationTimeout` once it had its time.

        What is no `Exception`, as llguidance's panics are, is the cause of an `InvalidConstraint`.
        """
        if not self._done.wait(max(self._started + LIMIT - time.monotonic(), 0)):
            raise CompilationTimeout(self._what, LIMIT)
        if isinstance(self._error, Exception):
            raise self._error.with_traceback(None)
        if self._error is not None:
            raise InvalidConstraint(f"{self._what} does not compile: {self._error}") from self._error
        return self._value[0]

    def _run(self) -> None:
        _HERE.is_watched = True
        try:
            self._value.append(self._work())
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            self._error = error
        del self._work
        with _LOCK:
            _RUNNING.discard(self)
        self._done.set()


@contextmanager
def starting_within(shield: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Inside, this thread starts others within `shield()`, in which nobody may interrupt it.

    Until a thread has begun it has its parent's number, and Python takes it for its parent.
    """
    _HERE.shield = shield
    try:
        yield
    finally:
        del _HERE.shield


def watched(what: str, work: Callable[[], T]) -> T:
    """The result of `work`, as `Watched` has it. On a thread of that kind it is just called."""
    if getattr(_HERE, "is_watched", False):
        return work()
    return Watched(what, work).result()


def _forget_parent() -> None:
    global _LOCK  # noqa: PLW0603 - a thread that this process does not have may hold it
    _LOCK = threading.Lock()
    _RUNNING.clear()


os.register_at_fork(after_in_child=_forget_parent)
