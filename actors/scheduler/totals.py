"""What is counted since the runtime was entered: ends, tokens and times, each where it happens.

A histogram costs one bisection a request. What has been frozen for `Statistics` is kept until something is added.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import pairwise

from greenroom.actors.scheduler.request import Request
from greenroom.actors.scheduler.statistics import TOKEN_SECONDS, WAIT_SECONDS, Histogram
from greenroom.events import Info

__all__ = ["Tally", "Totals"]


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

    def freeze(self) -> Histogram:
        """What it has come to."""
        if self._frozen is None:
            counts = tuple(self._counts)
            self._frozen = Histogram(bounds=self._bounds, counts=counts, count=sum(counts), sum=self._sum)
        return self._frozen


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
        "refusals",
        "reused_tokens",
        "steps",
        "time_per_token",
        "time_to_first_token",
    )

    def __init__(self) -> None:
        self.discarded_draws = self.generated_tokens = self.prompt_tokens = 0
        self.prefix_hits = self.reused_tokens = self.steps = 0
        self.ends: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.queue_time = Tally(WAIT_SECONDS)
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
            self.queue_time.add(timing.first_chunk - request.submit.submitted)

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
