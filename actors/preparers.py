"""The threads that prepare requests: they tokenize prompts, render chat templates and compile constraints.

Work is done in the order in which it came, by one thread, as long as that goes on: then what is ready is ready in that
order too. Where a piece of work has stalled, as a constraint that compiles for seconds, another thread goes on with the
next. Work that nobody wants any more is not waited for: its thread goes on until it ends, and is interrupted where it
does not. While too much of such work runs, no new work is taken.

All threads are daemons: none of them keeps a process from its exit.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, ClassVar

from greenroom.actors.preparation import Preparation
from greenroom.errors import PreparersBusy, RuntimeClosed

__all__ = ["Preparers"]

STALLED = 0.05
"""Seconds from which on a piece of work holds up no other: most take a tenth of it."""
MOST_WANTED = 8
"""Pieces of work that run at once, those that were given up not counted."""
MOST_ABANDONED = 8
"""Pieces of work that were given up and still run, at most: of the whole process."""
_LINGERS = 1.0
"""Seconds after which one that was given up counts as such: what ends by itself is no reason to refuse another."""
PATIENCE = 30.0
"""Seconds after which one that was given up is interrupted: what it compiles may be wanted by the next request."""
_IDLE_SECONDS = 10.0
"""How long a thread without work waits for some."""


class Preparers:
    """Threads as they are needed, of one runtime. Methods are for any thread."""

    _running_anywhere: ClassVar[set[Preparation]] = set()
    """Of all runtimes."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._has_work = threading.Condition(self._lock)
        self._is_busy = threading.Condition(self._lock)
        self._queue: deque[Preparation] = deque()
        self._resumed: set[Preparation] = set()
        """Those that have waited for another thread, and go on: each came before whatever is in the queue."""
        self._running: set[Preparation] = set()
        self._open: set[Preparation] = set()
        """All that are not over."""
        self._numbers = count()
        self._num_threads = 0
        self._is_watched = False
        """There is a thread that looks after the others."""
        self._is_asleep = False
        """It has nothing to look after."""
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Preparers threads={self._num_threads} running={len(self._running)} waiting={len(self._queue)}>"

    def require_room(self) -> None:
        """Raise `PreparersBusy` where as much work as may was given up and still runs, `RuntimeClosed` once closed."""
        if self._is_closed:
            raise RuntimeClosed("the runtime is being left")
        latest = time.monotonic() - _LINGERS
        num_abandoned = sum(each.abandoned < latest for each in tuple(self._running_anywhere))
        if num_abandoned >= MOST_ABANDONED:
            raise PreparersBusy(num_abandoned)

    def submit(self, work: Callable[[], Any], done: Callable[[Any, Exception | None], object]) -> Preparation:
        """Have `work` done: see `Preparation`. Raises `PreparersBusy`, `RuntimeClosed`.

        It is called again from its beginning where it asked for a constraint that another thread compiled.
        """
        self.require_room()
        with self._lock:
            preparation = Preparation(next(self._numbers), work, done)
            self._open.add(preparation)
            self._queue.append(preparation)
            self._staff()
        return preparation

    def give_up(self, preparation: Preparation) -> None:
        """Nobody wants it any more: nothing waits for it. Of no effect where it is over."""
        preparation.give_up()
        with self._lock:
            self._open.discard(preparation)
            self._staff()

    def close(self) -> None:
        """Give everything up; what runs is interrupted, and not waited for. Again is nothing."""
        with self._lock:
            self._is_closed = True
            given_up = tuple(self._open)
            self._open.clear()
            self._queue.clear()
            self._resumed.clear()
            self._has_work.notify_all()
            self._is_busy.notify()
        for each in given_up:
            each.give_up()
            each.interrupt_if_overdue(time.monotonic(), 0.0)

    # Within the lock.

    def _staff(self) -> None:
        """See to it that a thread takes what may be taken."""
        if not self._may_begin():
            return
        if self._num_threads > len(self._running):
            self._has_work.notify()
            return
        self._num_threads += 1
        threading.Thread(target=self._work, name="greenroom-prepare", daemon=True).start()

    def _may_begin(self) -> bool:
        """Whether something is to be begun now: none that is wanted goes on, but for those that have stalled."""
        if not (self._queue or self._resumed) or len(self._running) >= MOST_WANTED + MOST_ABANDONED:
            return False
        wanted = [each for each in self._running if not each.is_abandoned]
        begun_before = time.monotonic() - STALLED
        return len(wanted) < MOST_WANTED and all(each.began <= begun_before for each in wanted)

    def _take(self) -> Preparation | None:
        """The first that waits, as begun; None where it is over, or is done by another thread."""
        if self._resumed:
            taken = min(self._resumed, key=lambda each: each.number)
            self._resumed.discard(taken)
        else:
            taken = self._queue.popleft()
        if taken.is_over or taken in self._running:
            return None
        taken.began = time.monotonic()
        self._running.add(taken)
        self._running_anywhere.add(taken)
        self._watch()
        return taken

    def _watch(self) -> None:
        """Have somebody look after what runs."""
        if self._is_asleep:
            self._is_busy.notify()
        elif not self._is_watched:
            self._is_watched = True
            threading.Thread(target=self._look_after, name="greenroom-prepare-watch", daemon=True).start()

    # Threads.

    def _work(self) -> None:
        while (preparation := self._next()) is not None:
            awaited = preparation.run()
            with self._lock:
                self._running.discard(preparation)
                self._running_anywhere.discard(preparation)
                if awaited is None:
                    self._open.discard(preparation)
                self._staff()
            if awaited is not None:
                awaited.then(partial(self._resume, preparation))
            del preparation, awaited

    def _next(self) -> Preparation | None:
        """What this thread does next; None where it is not needed any more."""
        is_needed = True
        with self._lock:
            while True:
                if self._may_begin():
                    taken = self._take()
                    if taken is not None:
                        return taken
                elif self._is_closed or not is_needed:
                    self._num_threads -= 1
                    return None
                else:
                    is_needed = self._has_work.wait(_IDLE_SECONDS)

    def _resume(self, preparation: Preparation) -> None:
        """What it waited for is over. It may be called again, by a thread that was interrupted in the midst of it."""
        with self._lock:
            self._resumed.add(preparation)
            self._staff()

    def _look_after(self) -> None:
        """Have others go on where one has stalled, and interrupt what is overdue."""
        is_needed = True
        with self._lock:
            while self._running or (is_needed and not self._is_closed):
                now = time.monotonic()
                for each in self._running:
                    each.interrupt_if_overdue(now, 0.0 if self._is_closed else PATIENCE)
                self._staff()
                self._is_asleep = not self._running
                is_needed = self._is_busy.wait(_IDLE_SECONDS if self._is_asleep else STALLED) or not self._is_asleep
                self._is_asleep = False
            self._is_watched = False


def _forget_parent() -> None:
    Preparers._running_anywhere.clear()  # noqa: SLF001 - of threads that this process does not have


os.register_at_fork(after_in_child=_forget_parent)
