"""What the runtime says of itself at a moment: plain counts."""

from __future__ import annotations

import msgspec

__all__ = ["Statistics", "StepTimes"]


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


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of requests by state, bytes held, and totals since the runtime was entered.

    `running` requests have a row that prefills or decodes, `paused` ones a row whose reader lags behind. `kv_bytes` is
    the KV of open rows' tokens, `reserved_bytes` what they are expected to need, `prefix_bytes` the KV kept of prompts
    that are over, `allocated_bytes` all that is held for KV: places of rows, as long as they are, and those prefixes.
    `discarded_draws` counts what passes drew for rows that had ended by then, or whose token was forced: the price of
    building a pass before the last one is read. `prefix_hits` counts the rows that began with a part of their prompt,
    `reused_tokens` what they began with. `prompt_budget` is how many tokens of prompts a step runs beside streams, as
    far as its times are known.
    """

    running: int = 0
    waiting: int = 0
    paused: int = 0
    kv_bytes: int = 0
    prefix_bytes: int = 0
    allocated_bytes: int = 0
    reserved_bytes: int = 0
    steps: int = 0
    generated_tokens: int = 0
    discarded_draws: int = 0
    prefix_hits: int = 0
    reused_tokens: int = 0
    prompt_budget: int = 0
    times: StepTimes = StepTimes()

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens a second of work, 0.0 before there is any."""
        return self.generated_tokens / self.times.total if self.times.total else 0.0
