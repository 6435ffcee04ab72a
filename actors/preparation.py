"""Work for a preparing thread: what it comes to, that nobody wants it any more, and how it is interrupted.

Python runs it, and calls of native code inside of it: a template of a model's authors, a constraint of the user's. An
interruption is an exception that Python raises on the thread between two of its instructions. Native code is not
interrupted: the thread meets the exception once it returns.
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from greenroom.constraints.compiler import CompiledElsewhere, forsake, waiting_by_callback
from greenroom.constraints.watch import starting_within
from greenroom.lifetimes import as_exception, limiting_time

__all__ = ["Preparation"]

_AGAIN = 1.0
"""Seconds after which an interruption is sent again: code may catch everything, and go on."""
_TRIES = 200
_TRY_SECONDS = 0.001
"""A thread that interrupts another one takes microseconds for it."""


class _Interrupted(BaseException):  # no Exception: a template's or a user's `except` must let it through
    """Nobody wants the work any more, or its time is over."""


class Preparation:
    """`work`, which returns a value; `done` is called with that, or with an error, once, on whichever thread.

    It is called with neither where it was given up. `number` is its place among others.
    """

    def __init__(self, number: int, work: Callable[[], Any], done: Callable[[Any, Exception | None], object]) -> None:
        self.number = number
        self.began = math.inf
        """In monotonic seconds, when a thread took it; infinity while none has."""
        self.abandoned = math.inf
        """The same, when it was given up."""
        self._work = work
        self._done = [done]
        """Until it is called."""
        self._limit = math.inf
        self._limit_error: Exception | None = None
        self._thread = 0
        self._token: list[None] = []
        """Of whoever sends an interruption, or ends them: there is one while the work runs."""
        self._next_interruption = -math.inf
        self._awaited: list[CompiledElsewhere] = []

    def __repr__(self) -> str:
        state = "over" if self.is_over else "waiting" if self.began == math.inf else "running"
        return f"<Preparation {self.number} {state} is_abandoned={self.is_abandoned}>"

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody wants it any more."""
        return self.abandoned < math.inf

    @property
    def is_over(self) -> bool:
        """Whether it was told what became of it."""
        return not self._done

    def run(self) -> CompiledElsewhere | None:
        """Do it on this thread. Returned is what it waits for, where it is to be run again then."""
        found = self._run()
        if isinstance(found, CompiledElsewhere):
            self.began = math.inf
            self._awaited.append(found)
            return found
        self.finish(*found)
        return None

    def give_up(self) -> None:
        """Nobody wants it any more. What a thread does for it goes on until that ends, or is interrupted."""
        if not self.is_over:
            self.abandoned = time.monotonic()
            self.finish(None, None)

    def finish(self, value: Any, error: Exception | None) -> None:
        """It has come to `value` or to `error`. Again is nothing."""
        try:
            done = self._done.pop()
        except IndexError:
            return
        self._work = _nothing
        done(value, error)

    def interrupt_if_overdue(self, now: float, patience: float) -> None:
        """Interrupt it where its limit of time is over, or where it was given up `patience` seconds ago."""
        if now >= max(min(self._limit, self.abandoned + patience), self._next_interruption):
            self._next_interruption = now + _AGAIN
            self._interrupt()

    def _interrupt(self) -> None:
        """Have the thread that runs it raise. Any other thread; nothing where none runs it."""
        try:
            self._token.pop()
        except IndexError:  # not begun, or over, or somebody else does it
            return
        try:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(_Interrupted))
        finally:
            self._token.append(None)

    def _run(self) -> tuple[Any, Exception | None] | CompiledElsewhere:
        """An interruption is raised within the `try`, wherever the work then is: before it begins none is sent."""
        found: tuple[Any, Exception | None] | CompiledElsewhere | None = None
        is_begun = False
        while True:
            try:
                if not is_begun:
                    self._thread, is_begun = threading.get_ident(), True
                    self._token.append(None)
                if found is None:
                    found = self._attempt()
                self._end_interruptions()
            except _Interrupted:
                forsake()
                found = (None, self._limit_error if not self.is_abandoned else None)
            else:
                return found

    def _attempt(self) -> tuple[Any, Exception | None] | CompiledElsewhere:
        try:
            with waiting_by_callback(self._awaited), limiting_time(self._limited), starting_within(self._uninterrupted):
                return self._work(), None
        except CompiledElsewhere as elsewhere:
            return elsewhere
        except _Interrupted:
            raise
        except BaseException as error:  # noqa: BLE001 - its own request fails with it, whatever it is
            return None, as_exception("what prepares this request", error)

    def _end_interruptions(self) -> None:
        """None is sent behind this; one that was is raised here."""
        for _ in range(_TRIES):
            try:
                self._token.pop()
            except IndexError:  # one is being sent; or was raised here, behind the `pop`
                time.sleep(_TRY_SECONDS)
            else:
                time.sleep(0)
                return

    @contextmanager
    def _uninterrupted(self) -> Iterator[None]:
        """None is sent inside."""
        self._end_interruptions()
        try:
            yield
        finally:
            self._token.append(None)

    @contextmanager
    def _limited(self, seconds: float, error: Exception) -> Iterator[None]:
        """What is done inside fails with `error` where it takes longer than `seconds`."""
        self._limit_error, self._limit = error, time.monotonic() + seconds
        try:
            yield
        finally:
            self._limit = math.inf


def _nothing(*_: Any) -> None:
    return None
