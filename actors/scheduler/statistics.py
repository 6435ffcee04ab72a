"""What the runtime says of itself at a moment: plain counts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import msgspec

from greenroom.actors.scheduler.expectation import UNKNOWN

__all__ = ["TOKEN_SECONDS", "WAIT_SECONDS", "Histogram", "Statistics", "StepTimes"]

WAIT_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0),
)
"""Upper bounds of what a request waits, in seconds."""
TOKEN_SECONDS = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04),
    *(0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0),
)
"""Upper bounds of what a token takes, in seconds: about a third more each where people notice."""
_CANCELLED = ("handle", "stream_closed", "dropped", "scope", "timeout", "shutdown")


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Values by size, since the runtime was entered: `count` of them, their `sum` in seconds, and a count a bucket.

    `counts` are plain: each value is in the one bucket whose upper bound, of `bounds`, is the first that it does not
    exceed; the last of `counts`, one more than there are bounds, is of those above all of them.
    """

    bounds: tuple[float, ...] = WAIT_SECONDS
    counts: tuple[int, ...] = (0,) * (len(WAIT_SECONDS) + 1)
    count: int = 0
    sum: float = 0.0

    def __repr__(self) -> str:
        return f"<Histogram count={self.count} mean={self.mean:.4g}>"

    @property
    def mean(self) -> float:
        """Seconds, 0.0 before there is any value."""
        return self.sum / self.count if self.count else 0.0

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Upper bounds and how many values do not exceed them, as Prometheus counts; the last bound is infinite."""
        return zip((*self.bounds, float("inf")), accumulate(self.counts), strict=True)


_NO_TOKENS = Histogram(bounds=TOKEN_SECONDS, counts=(0,) * (len(TOKEN_SECONDS) + 1))


class StepTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of the engine thread since the runtime was entered, without the time in which it had nothing to do.

    `forward` builds passes, `mask` fills the masks of constrained rows while their pass runs, `sample` draws and
    submits (where submitting blocks, as on CPU, most of the computation is in it), `read` waits for the numbers, and
    `host` is all else: deciding, decoding, delivering.
    """

    forward: float = 0.0
    mask: float = 0.0
    sample: float = 0.0
    read: float = 0.0
    host: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.forward + self.mask + self.sample + self.read + self.host


class Statistics(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Counts of requests by state, bytes held, and totals since the runtime was entered.

    `running` requests have a row that prefills or decodes, `paused` ones a row whose reader lags behind. `kv_bytes` is
    the KV of open rows' tokens, `reserved_bytes` what they are expected to need, `prefix_bytes` the KV kept of prompts
    that are over, `allocated_bytes` all that is held for KV: places of rows, as long as they are, and those prefixes.
    `kv_limit` is the most of it, in bytes, adapters included; 0 before the runtime has loaded.
    `expected_tokens` is what an output is expected to come to before it has begun, learned from those that are over.
    `adapter_bytes` is what adapters take on the device, of the same budget.
    `discarded_draws` counts what passes drew for rows that had ended by then, or whose token was forced: the price of
    building a pass before the last one is read. `prefix_hits` counts the rows that began with a part of their prompt,
    `reused_tokens` what they began with. `prompt_budget` is how many tokens of prompts a step runs beside streams, as
    far as its times are known.

    `ends` counts the requests that are settled by their `stop_detail`, `failures` those that failed by the error's
    name, and `refusals`, likewise, those that never came to a pass: too many waited, the prompt was too long. A
    parameter that is out of its range is no request yet. `restarts` counts how often the backend was lost, with all
    rows, and another one took its place. `prompt_tokens` were run in prompts that are through, without
    what was reused, and once: `replays` counts the rows that gave their KV back where memory was short, and are run
    again.

    `queue_time` is from the call to the first piece of the prompt, `time_to_first_token` from the call to the first
    token, once a request; `time_per_token` is a request's mean between its first token and its last. A generator's
    steps by hand, and passes that only ask for logits, count tokens and failures, and are no requests here.

    `queue_time_by_client` and `queue_time_by_priority` are `queue_time` apart, of the 64 clients that were served last,
    where "" is all others and those who name none, and of the 64 levels, where others count as 0.
    """

    running: int = 0
    waiting: int = 0
    paused: int = 0
    kv_bytes: int = 0
    prefix_bytes: int = 0
    allocated_bytes: int = 0
    kv_limit: int = 0
    adapter_bytes: int = 0
    reserved_bytes: int = 0
    expected_tokens: int = UNKNOWN
    steps: int = 0
    generated_tokens: int = 0
    discarded_draws: int = 0
    prefix_hits: int = 0
    reused_tokens: int = 0
    prompt_budget: int = 0
    prompt_tokens: int = 0
    replays: int = 0
    restarts: int = 0
    ends: dict[str, int] = {}
    failures: dict[str, int] = {}
    refusals: dict[str, int] = {}
    queue_time: Histogram = Histogram()
    queue_time_by_client: dict[str, Histogram] = {}
    queue_time_by_priority: dict[int, Histogram] = {}
    time_to_first_token: Histogram = Histogram()
    time_per_token: Histogram = _NO_TOKENS
    times: StepTimes = StepTimes()

    @property
    def cancellations(self) -> int:
        """How many of `ends` came from outside: a handle, a stream or a scope, a timeout, a shutdown."""
        return sum(self.ends.get(detail, 0) for detail in _CANCELLED)

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens a second of work, 0.0 before there is any."""
        return self.generated_tokens / self.times.total if self.times.total else 0.0
