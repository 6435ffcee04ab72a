"""Where the engine's thread can be stopped before a step, and let go step by step.

`Gate` is the place itself, `Holding` its public side: holding the double, from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Gate", "Holding"]


class Gate:
    """Open until `hold`. One thread passes; any thread may hold, release and wait."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_held = False
        self._is_waiting = False
        self._released = 0

    def __repr__(self) -> str:
        state = f"held released={self._released}" if self._is_held else "open"
        return f"<Gate {state} waiting={self._is_waiting}>"

    def hold(self) -> None:
        """No further step passes. Steps that were released before still do."""
        with self._changed:
            self._is_held = True

    def release(self, steps: int = 1) -> None:
        """Let `steps` more pass; without effect where nothing is held."""
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        with self._changed:
            if self._is_held:
                self._released += steps
                self._changed.notify_all()

    def open(self) -> None:
        """End the hold."""
        with self._changed:
            self._is_held = False
            self._released = 0
            self._changed.notify_all()

    def wait(self, timeout: float) -> None:
        """Until a thread stands here with nothing released to it. Raises `TimeoutError`."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_waiting and not self._released, timeout):
                raise TimeoutError(f"nothing came to {self!r} within {timeout} seconds")

    def pass_through(self) -> None:
        """One step passes; blocks while the gate is held and nothing is released."""
        with self._changed:
            if not self._is_held:
                return
            self._is_waiting = True
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._released or not self._is_held)
            finally:
                self._is_waiting = False
            self._released = max(self._released - 1, 0)


class Holding:
    """Lets a test stop the engine before a step is read, and let it go step by step.

    While held, the engine's thread stands inside `read`. A hold must end before the runtime is left, which waits for
    that thread: `held` sees to it.
    """

    def __init__(self) -> None:
        self._gate = Gate()

    def hold(self) -> None:
        """No further step can be read until it is released. Any thread."""
        self._gate.hold()

    def release(self, n: int = 1) -> None:
        """Let `n` more steps be read; without effect where nothing is held. Any thread."""
        self._gate.release(n)

    def release_all(self) -> None:
        """End the hold. Any thread."""
        self._gate.open()

    def wait_held(self, timeout: float = 10.0) -> None:
        """Block until the engine stands before a step that is not released: call it beside the event loop.

        Raises `TimeoutError` after `timeout` seconds: nothing is under way then.
        """
        self._gate.wait(timeout)

    @contextmanager
    def held(self) -> Iterator[None]:
        """`hold` on entry, `release_all` on exit."""
        self.hold()
        try:
            yield
        finally:
            self.release_all()
