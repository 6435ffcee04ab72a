"""What the prompts in a pass may cost, learned from the time that passes took.

What is measured is how long streams wait for a pass: from the moment at which the numbers of the one before were there
(or the pass was built, where nothing ran before it) to the moment at which its own are. So time in which nobody had
anything to run does not count, and where two passes are under way at once each counts for what it added. Times come as
values; nothing here reads a clock.

    seconds of a pass = those of one without prompts + seconds a token * cost of the prompts' tokens

Both estimates are exponentially weighted averages. Accidents (a kernel compiled at its first use, a machine that
slept) only ever make a pass longer. So one that took over twice what was expected counts only if the one before did
too, and estimates fall faster than they rise. What a short chunk takes says little of a long one; so it counts for
less, and no chunk costs over twice what was tried lately.
"""

from __future__ import annotations

import math
from collections import deque

from greenroom.actors.scheduler.prefill_budget import UNIT

__all__ = ["StepBudget"]

_SPEED = 0.25
"""Of an estimate, towards each measurement: a real change is followed within some ten passes."""
_SPEED_DOWN = 0.5
"""The same for a measurement of less than half: the estimate was an accident's."""
_LEAST_SHARE = 0.125
"""Of a pass with prompts, what at least counts as theirs, where the estimate of the rest is stale."""
_LONGEST = 100.0
"""Times the target: longer is too long by any measure, and numbers stay finite."""
_SHORTEST = 1e-6
"""Seconds: no pass is shorter, whatever a clock says."""
_FORGET = 0.75
"""What is kept, from chunk to chunk, of the length that was tried."""


class StepBudget:
    """How much of prompts a pass takes, so that streams wait about `target` seconds for it.

    No more than `most` tokens in any case, decoding rows included; that many where nobody decodes, or without a target.
    """

    def __init__(self, most: int, target: float | None) -> None:
        self.most = most
        """Tokens of a pass, whatever is learned."""
        self._target = target
        self._seconds = _Average()
        """Of a pass without prompts."""
        self._seconds_a_token = _Average()
        """Of a prompt's token without a past, beside the rest of its pass."""
        self._tried: float = UNIT
        """The highest cost that was measured lately."""
        self._under_way: deque[tuple[float, float]] = deque()
        """(cost of prompts, moment at which it was built) of each submitted pass, oldest first."""
        self._last = -math.inf
        """When the last numbers came."""

    def __repr__(self) -> str:
        return f"<StepBudget {self.beside_streams:.0f} of {self.most} tokens for {self._target} s>"

    @property
    def beside_streams(self) -> float:
        """What the prompts of a pass may cost together while somebody decodes."""
        if self._target is None:
            return self.most
        most = min(self.most, 2 * self._tried)
        if self._seconds_a_token.value is None:
            return most
        rest = self._target - (self._seconds.value or 0.0)
        return min(most, max(UNIT, rest / self._seconds_a_token.value))

    def cost(self, num_prompts: int, *, has_streams: bool) -> float:
        """What the prompts of the next pass may cost together: with more than one, two can go on."""
        if not has_streams:
            return self.most
        return min(self.most, max(self.beside_streams, UNIT * min(num_prompts, 2)))

    def submit(self, cost: float, built: float) -> None:
        """Take note of a pass that is under way."""
        self._under_way.append((cost, built))

    def drop(self) -> None:
        """Forget the oldest pass under way: it failed, and its time says nothing."""
        if self._under_way:
            self._under_way.popleft()

    def forget(self) -> None:
        """Nothing is under way, and nobody can say what the next pass comes behind."""
        self._under_way.clear()
        self._last = -math.inf

    def read(self, now: float) -> None:
        """Learn from the oldest pass under way, whose numbers are there now."""
        if not self._under_way:
            return
        cost, built = self._under_way.popleft()
        seconds = now - max(built, self._last)
        self._last = now
        if self._target is not None and _SHORTEST < seconds < math.inf:
            self._learn(min(seconds, _LONGEST * self._target), cost)

    def _learn(self, seconds: float, cost: float) -> None:
        # 1. A pass without prompts, or with so little of them that it tells nothing.
        if cost < UNIT:
            self._seconds.follow(seconds)
            return
        # 2. A pass with prompts: it takes no less than one without.
        weight = min(1.0, cost / self.beside_streams)
        self._tried = max(cost, _FORGET * self._tried)
        self._seconds.lower(seconds)
        theirs = max(seconds - (self._seconds.value or 0.0), _LEAST_SHARE * seconds)
        self._seconds_a_token.follow(theirs / cost, weight)


class _Average:
    """An exponentially weighted one."""

    __slots__ = ("_was_slow", "value")

    def __init__(self) -> None:
        self.value: float | None = None
        """None before anything was measured."""
        self._was_slow = False

    def follow(self, found: float, weight: float = 1.0) -> None:
        """Go towards what was measured, but for the first of what may be an accident."""
        value = self.value
        if value is None:
            self.value = found
            return
        was_slow, self._was_slow = self._was_slow, found > 2 * value
        if not self._was_slow or was_slow:
            self.value = value + weight * (_SPEED_DOWN if found < value / 2 else _SPEED) * (found - value)

    def lower(self, most: float) -> None:
        """It is no more than that."""
        if self.value is not None:
            self.value = min(self.value, most)
