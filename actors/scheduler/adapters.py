"""Which adapters there are, and which of them requests still need: one that was closed goes once nobody does."""

from __future__ import annotations

from collections import Counter

from greenroom.backends.protocol import DropAdapter
from greenroom.errors import AdapterClosed

__all__ = ["Adapters"]


class Adapters:
    """By number; 0 is none, and always there."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._closed: set[int] = set()
        """Of these, the ones that were closed while requests need them."""
        self._failed: dict[int, Exception] = {}
        """Why they could not be opened, until they are closed."""
        self._needs: Counter[int] = Counter()
        """Requests by what they need."""

    def __repr__(self) -> str:
        return f"<Adapters open={len(self._open)} needed={len(self._needs)}>"

    def open(self, adapter: int, error: Exception | None) -> None:
        """One more is there; or could not be had, and why."""
        if error is None:
            self._open.add(adapter)
        else:
            self._failed[adapter] = error

    def close(self, adapter: int) -> DropAdapter | None:
        """Nobody will ask for it: drop it, now or when the last request with it is over."""
        self._failed.pop(adapter, None)
        if adapter not in self._open:
            return None
        self._closed.add(adapter)
        return self._drop(adapter)

    def find_problem(self, adapter: int) -> Exception | None:
        """Why a request cannot have it."""
        if adapter == 0 or adapter in self._open:
            return None
        return self._failed.get(adapter) or AdapterClosed("the adapter was closed before the request came")

    def begin(self, adapter: int) -> None:
        """A request has come that needs it."""
        if adapter:
            self._needs[adapter] += 1

    def end(self, adapter: int) -> DropAdapter | None:
        """A request that needed it is over."""
        if adapter == 0:
            return None
        self._needs[adapter] -= 1
        if not self._needs[adapter]:
            del self._needs[adapter]
        return self._drop(adapter)

    def _drop(self, adapter: int) -> DropAdapter | None:
        if adapter not in self._closed or adapter in self._needs:
            return None
        self._closed.discard(adapter)
        self._open.discard(adapter)
        return DropAdapter(adapter)
