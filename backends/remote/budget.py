"""How often something may be begun again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

__all__ = ["RestartBudget"]


class RestartBudget:
    """At most `most` times in `seconds`, of any stretch of time."""

    def __init__(self, most: int = 3, seconds: float = 600.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self.seconds = seconds
        self._clock = clock
        self._spent: deque[float] = deque()

    def __repr__(self) -> str:
        return f"<RestartBudget {len(self._spent)} of {self.most} in {self.seconds:g} s>"

    def spend(self) -> bool:
        """Whether it may be begun again now, which counts."""
        now = self._clock()
        while self._spent and now - self._spent[0] >= self.seconds:
            self._spent.popleft()
        if len(self._spent) >= self.most:
            return False
        self._spent.append(now)
        return True
