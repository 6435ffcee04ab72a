"""What a run is asked for and what it leaves: requests, and when each of their tokens came. Standard library alone.

Everything compared, in this process or in another environment, takes `Request`s and returns a `Record`; so the figures
are derived in one place, in the same way for everybody.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["GREEDY", "Record", "Request", "Stream", "percentile", "prompt", "ragged"]

GREEDY: Mapping[str, Any] = {"temperature": 0.0}


class Request(NamedTuple):
    """A prompt and how many tokens are wanted behind it; None: until all requests that have a number are done.

    It comes `at` so many seconds, or at a `beat`, and leaves early at the beat `until`. Beats are the tokens of the
    mix's first request, counted from when all that came without a beat have their first token.
    """

    ids: tuple[int, ...]
    tokens: int | None
    at: float = 0.0
    beat: int = 0
    until: int | None = None
    sampling: Mapping[str, Any] = GREEDY


class Stream(NamedTuple):
    """One request's tokens: when it was due, when each token was in the reader's hands (seconds of the run), ids."""

    asked: float
    times: tuple[float, ...]
    ids: tuple[int, ...] = ()


class Record(NamedTuple):
    """One run: seconds in all, tokens in all, and its streams, in the requests' order (none: they were not watched)."""

    seconds: float
    tokens: int
    streams: tuple[Stream, ...] = ()

    def gaps(self, which: slice = slice(None), *, since: float = 0.0, until: float = math.inf) -> list[float]:
        """Seconds between neighbouring tokens of a stream, both of them within `since` and `until`."""
        return [
            after - before
            for stream in self.streams[which]
            for before, after in zip(stream.times, stream.times[1:], strict=False)
            if before >= since and after <= until
        ]

    @property
    def worst_gap(self) -> float:
        """The longest wait for a token behind another one."""
        return max(self.gaps())

    @property
    def waits(self) -> list[float]:
        """Time to first token, a stream each."""
        return [stream.times[0] - stream.asked for stream in self.streams]

    @property
    def started(self) -> float:
        """When the last stream had its first token."""
        return self.started_of(len(self.streams))

    def started_of(self, count: int) -> float:
        """When the last of the first `count` streams had its first token."""
        return max(stream.times[0] for stream in self.streams[:count])

    @property
    def step(self) -> float:
        """Seconds of a step, from when every stream had its first token; for streams of one length."""
        return (self.seconds - self.started) / (len(self.streams[0].times) - 1)

    def same_tokens(self, other: Record) -> float:
        """The share of streams that have the same ids in both runs."""
        pairs = list(zip(self.streams, other.streams, strict=True))
        return sum(mine.ids == theirs.ids for mine, theirs in pairs) / len(pairs)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def prompt(rng: random.Random, tokens: int, vocab: int = 32_000) -> tuple[int, ...]:
    """Random ids, the same for the same generator."""
    return tuple(rng.randrange(vocab) for _ in range(tokens))


def ragged(*, is_smoke: bool = False, long_share: int = 0) -> list[Request]:
    """48 requests: prompts of 16-200 tokens (one in `long_share` of 1,000-2,000), outputs of 8-64. Tiny for a smoke."""
    count, prompts, longs, outputs = (
        (6, (4, 24), (40, 80), (3, 6)) if is_smoke else (48, (16, 200), (1000, 2000), (8, 64))
    )
    rng = random.Random(3)  # noqa: S311 - a workload is no secret
    found = []
    for i in range(count):
        is_long = long_share > 0 and i % long_share == long_share - 1
        found.append(Request(prompt(rng, rng.randint(*(longs if is_long else prompts))), rng.randint(*outputs)))
    return found
