"""What the runtime says of itself at a moment: plain counts."""

from __future__ import annotations

import msgspec

__all__ = ["Statistics"]


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of requests by state, bytes held, and totals since the runtime was entered.

    `running` requests have a row that prefills or decodes, `paused` ones a row whose reader lags behind. `kv_bytes` is
    the KV of open rows, `reserved_bytes` what they are expected to need.
    """

    running: int = 0
    waiting: int = 0
    paused: int = 0
    kv_bytes: int = 0
    prefix_bytes: int = 0
    reserved_bytes: int = 0
    steps: int = 0
    generated_tokens: int = 0
