"""A backend that can be lost as a whole, and begins again: what the engine asks of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from greenroom.errors import BackendLost

__all__ = ["Restartable"]


@runtime_checkable
class Restartable(Protocol):
    """A `Backend` that is lost with all rows and steps, and may begin again. Called on the engine thread.

    Any method of a backend raises `BackendLost` from then on, until it has begun again: with no row, the same model,
    and the adapters that were open.
    """

    def watch(self, news: Callable[[], object]) -> None:
        """Have `news` called, on any thread, when the backend is lost, and when a restart has come to an end."""

    def find_loss(self) -> BackendLost | None:
        """Why it is lost; None where it is not."""

    def restart(self, *, counts: bool = True) -> None:
        """Begin to load again, without waiting for it. Raises `EngineFailed` where that was tried too often.

        And `BackendLost` where even that cannot be done. One that does not count is for who looks for a culprit.
        """

    def resume(self) -> bool:
        """Whether it is there again, from now on; False while it loads.

        Raises `BackendLost` where it was lost once more, and what `load` raises.
        """
