"""What is counted since the runtime was entered: ends, tokens and times, each where it happens.

A histogram costs one bisection a request. What has been frozen for `Statistics` is kept until something is added. Who
names a client can name as many as there are words: so the histograms of the newest clients alone are kept apart.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Hashable
from itertools import pairwise
from typing import Generic, TypeVar

from greenroom.actors.scheduler.request import Request
from greenroom.actors.scheduler.statistics import TOKEN_SECONDS, WAIT_SECONDS, Histogram
from greenroom.events import Info

__all__ = ["MOST_KEPT_APART", "OTHERS", "Tallies", "Tally", "Totals"]

MOST_KEPT_APART = 64
"""Clients whose waits are told apart, and levels of priority likewise."""
OTHERS = ""
"""The client that stands for all others: those that name none, and those that were not served of late."""
_Key = TypeVar("_Key", bound=Hashable)


class Tally:
    """A histogram that grows."""

    __slots__ = ("_bounds", "_counts", "_frozen", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds` are the buckets' upper ones, which belong to them; ascending."""
        if not all(low < high for low, high in pairwise(bounds)):
            raise ValueError(f"bounds must ascend, got {bounds}")
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._frozen: Histogram | None = None

    def __repr__(self) -> str:
        return f"<Tally {self.freeze()!r}>"

    def add(self, value: float) -> None:
        """Count `value`."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value
        self._frozen = None

    def merge(self, other: Tally) -> None:
        """Count all that `other` has, which has the same bounds."""
        self._counts = [ours + theirs for ours, theirs in zip(self._counts, other._counts, strict=True)]
        self._sum += other._sum
        self._frozen = None

    def freeze(self) -> Histogram:
        """What it has come to."""
        if self._frozen is None:
            counts = tuple(self._counts)
            self._frozen = Histogram(bounds=self._bounds, counts=counts, count=sum(counts), sum=self._sum)
        return self._frozen


class Tallies(Generic[_Key]):
    """A histogram a key. Of more than `most` keys, that which was not added to for longest becomes part of `rest`."""

    __slots__ = ("_bounds", "_by_key", "_frozen", "_most", "_rest")

    def __init__(self, bounds: tuple[float, ...], rest: _Key, most: int = MOST_KEPT_APART) -> None:
        self._bounds = bounds
        self._rest = rest
        self._most = most
        self._by_key: OrderedDict[_Key, Tally] = OrderedDict()
        """That which was added to last is last; `rest` is not counted."""
        self._frozen: dict[_Key, Histogram] | None = None

    def __repr__(self) -> str:
        return f"<Tallies keys={len(self._by_key)}>"

    def add(self, key: _Key, value: float) -> None:
        """Count `value` for `key`."""
        self._of(key).add(value)
        while len(self._by_key) - (self._rest in self._by_key) > self._most:
            oldest = next(each for each in self._by_key if each != self._rest)
            self._of(self._rest).merge(self._by_key.pop(oldest))
        self._frozen = None

    def freeze(self) -> dict[_Key, Histogram]:
        """What they have come to; the same object until something is added, so nobody may write into it."""
        if self._frozen is None:
            self._frozen = {key: tally.freeze() for key, tally in self._by_key.items()}
        return self._frozen

    def _of(self, key: _Key) -> Tally:
        tally = self._by_key.get(key)
        if tally is None:
            tally = self._by_key[key] = Tally(self._bounds)
        self._by_key.move_to_end(key)
        return tally


class Totals:
    """Touched by the engine thread alone."""

    __slots__ = (
        "_frozen",
        "_told",
        "discarded_draws",
        "ends",
        "failures",
        "generated_tokens",
        "prefix_hits",
        "prompt_tokens",
        "queue_time",
        "queue_time_by_client",
        "queue_time_by_priority",
        "refusals",
        "restarts",
        "reused_tokens",
        "steps",
        "time_per_token",
        "time_to_first_token",
    )

    def __init__(self) -> None:
        self.discarded_draws = self.generated_tokens = self.prompt_tokens = 0
        self.prefix_hits = self.reused_tokens = self.restarts = self.steps = 0
        self.ends: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.queue_time = Tally(WAIT_SECONDS)
        self.queue_time_by_client = Tallies(WAIT_SECONDS, rest=OTHERS)
        self.queue_time_by_priority = Tallies(WAIT_SECONDS, rest=0)
        self.time_to_first_token = Tally(WAIT_SECONDS)
        self.time_per_token = Tally(TOKEN_SECONDS)
        self._told: tuple[int, int, int] | None = None
        self._frozen: tuple[dict[str, int], dict[str, int], dict[str, int]] = ({}, {}, {})

    def __repr__(self) -> str:
        return f"<Totals steps={self.steps} generated={self.generated_tokens} ends={dict(self.ends)}>"

    def count_start(self, request: Request) -> None:
        """Its first pass was submitted."""
        timing = request.timing
        timing.is_counted = True
        if timing.first_chunk is not None and not request.is_step:
            submit = request.submit
            waited = timing.first_chunk - submit.submitted
            self.queue_time.add(waited)
            self.queue_time_by_client.add(submit.client or OTHERS, waited)
            self.queue_time_by_priority.add(submit.priority, waited)

    def count_first_token(self, request: Request, now: float) -> None:
        """Its prompt is through: what of it was not there already was run."""
        self.prompt_tokens += max(0, request.prompt_end - request.progress.num_cached)
        if not request.is_step:
            self.time_to_first_token.add(now - request.submit.submitted)

    def count_end(self, request: Request, info: Info, error: Exception | None) -> None:
        """It is settled. A step by hand is no request of its own; where it fails, that is told."""
        if error is not None:
            self.failures[type(error).__name__] += 1
        elif not request.is_step:
            self.ends[info.stop_detail] += 1
        if not request.is_step and info.generation_tokens > 1:
            self.time_per_token.add(info.generate_time / (info.generation_tokens - 1))

    def frozen_counts(self) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """Copies of the ends, the failures and the refusals; the same ones until something is added."""
        told = (self.ends.total(), self.failures.total(), self.refusals.total())
        if told != self._told:
            self._told = told
            self._frozen = (dict(self.ends), dict(self.failures), dict(self.refusals))
        return self._frozen
