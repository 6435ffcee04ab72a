"""Things that a server keeps in memory by their id, for a while since they were last used."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

__all__ = ["KeptByUse"]

T = TypeVar("T")


class KeptByUse(Generic[T]):
    """The oldest by use is first. What is older than `seconds` is forgotten at the next look; `forgotten` is told."""

    def __init__(
        self, seconds: float, forgotten: Callable[[T], object], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._forgotten = forgotten
        self._now = now
        self._kept: OrderedDict[str, tuple[T, float]] = OrderedDict()
        """By id, with the time when it was last used."""

    def __repr__(self) -> str:
        return f"<KeptByUse {len(self._kept)}>"

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, identity: str) -> bool:
        return identity in self._kept

    def __iter__(self) -> Iterator[T]:
        """The oldest first."""
        return (thing for thing, _ in self._kept.values())

    def get(self, identity: str) -> T | None:
        """What has that id; that does not count as use."""
        found = self._kept.get(identity)
        return None if found is None else found[0]

    def use(self, identity: str, thing: T) -> None:
        """Keep it, and count it as used now."""
        self._kept[identity] = thing, self._now()
        self._kept.move_to_end(identity)

    def expire(self) -> None:
        """Forget what was not used for too long."""
        oldest = self._now() - self._seconds
        while self._kept:
            identity, (_, used) = next(iter(self._kept.items()))
            if used > oldest:
                return
            self.forget(identity)

    def forget(self, identity: str) -> T:
        """Forget what has that id."""
        thing, _ = self._kept.pop(identity)
        self._forgotten(thing)
        return thing

    def forget_oldest(self) -> T:
        """Forget what was not used for the longest time."""
        return self.forget(next(iter(self._kept)))
