"""What the engine does where its backend is lost: every row is forgotten, another one is loaded, and requests go on.

A loss is met in the midst of a step, by whichever call comes upon it. The step is taken to its end all the same, so
that nothing is lost of what it has to tell; then all rows are forgotten, which is what memory pressure does to one.
While the other backend loads, the engine steps without one: what ends is settled, and nobody gets a row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from greenroom.backends.protocol import Backend
from greenroom.backends.restarts import Restartable
from greenroom.errors import BackendLost, EngineFailed

__all__ = ["Recovery"]

_log = logging.getLogger("greenroom")


class Recoverable(Protocol):
    """What is asked of `Scheduler`; the contracts are there."""

    @property
    def num_requests(self) -> int:
        """Requests that are not settled."""

    def forget_rows(self, rows: Collection[int], loss: BackendLost, now: float) -> bool:
        """Every row is lost, while these were in a pass."""

    def resume(self) -> None:
        """There is another backend."""


class Recovery:
    """Of one life of the engine; touched by its thread alone."""

    def __init__(self, backend: Backend, scheduler: Recoverable, news: Callable[[], object]) -> None:
        """`news` has the engine step, and is called on any thread."""
        self._backend = backend if isinstance(backend, Restartable) else None
        self._scheduler = scheduler
        self._loss: BackendLost | None = None
        self._in_passes: set[int] = set()
        """Rows of passes that were submitted, and were met with the loss when they were read."""
        self._called_about: set[int] = set()
        """Those that the call was about which came upon the loss first."""
        self.is_loading = False
        """There is no backend, and another one is on its way."""
        if self._backend is not None:
            self._backend.watch(news)

    def __repr__(self) -> str:
        return f"<Recovery loss={self._loss!r} loading={self.is_loading}>"

    def notes(self, error: BaseException, rows: Collection[int] = (), *, was_submitted: bool = False) -> bool:
        """Whether `error` is the loss of the backend, and so none of `rows`, which the call was about, is to fail.

        `was_submitted`: the call was to read a pass of them.
        """
        if not isinstance(error, BackendLost):
            return False
        if self.is_loading:
            return True
        if was_submitted:
            self._in_passes.update(rows)
        elif self._loss is None:
            self._called_about.update(rows)
        self._loss = self._loss or error
        return True

    def look(self) -> None:
        """There is news: a backend may be lost while nobody calls it."""
        loss = self._backend.find_loss() if self._backend is not None and not self.is_loading else None
        if loss is not None:
            self.notes(loss)

    def begin(self, in_flight: Iterable[Collection[int]], now: float) -> bool:
        """Between two steps: whether the backend was lost, in which case another one is being loaded.

        `in_flight` are the rows of the passes that were not read. Raises `EngineFailed` where there will be none.
        """
        loss, self._loss = self._loss, None
        if loss is None:
            return False
        # A pass under way is to blame before the call that found nobody there any more.
        rows = self._in_passes.union(*in_flight) or self._called_about
        self._in_passes, self._called_about = set(), set()
        is_search = self._scheduler.forget_rows(rows, loss, now)
        self._load(loss, counts=not is_search)
        return True

    def finish(self) -> bool:
        """While another one loads: whether it is there, from now on. Raises as `begin`."""
        if self._backend is None:
            return False
        try:
            if not self._backend.resume():
                return False
        except EngineFailed:
            raise
        except Exception as error:  # noqa: BLE001 - why it could not be loaded; it may be the next time
            self._load(error, counts=True)
            return False
        self.is_loading = False
        self._scheduler.resume()
        _log.warning("another backend is there: %d requests go on", self._scheduler.num_requests)
        return True

    def _load(self, loss: Exception, *, counts: bool) -> None:
        if self._backend is None:
            raise EngineFailed(f"the backend is lost, and nothing else runs in this process: {loss}") from loss
        self.is_loading = True
        while True:
            _log.warning("the backend is lost, another one is loaded: %s", loss)
            try:
                self._backend.restart(counts=counts)
            except BackendLost as again:
                loss, counts = again, True
            else:
                return
