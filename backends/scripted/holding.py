"""The public side of the gate: holding the double, from any thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from greenroom.backends.scripted.gate import Gate

__all__ = ["Holding"]


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
