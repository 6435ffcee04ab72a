"""Prompts that begin alike: one that waits while another runs what both begin with reuses it and runs the rest."""

from __future__ import annotations

from collections.abc import Iterable

from greenroom.actors.scheduler.request import Request, RequestState
from greenroom.backends.prefixes import common_prefix_length

__all__ = ["Overlaps"]

_WORTH_WAITING = 64
"""Tokens: less of a common prefix is run twice rather than waited for."""


class Overlaps:
    """How much requests that wait have in common with prompts that run: each pair is compared once, not each step."""

    def __init__(self) -> None:
        self._lengths: dict[int, dict[int, int]] = {}
        """Of a request that waits, by the request whose prompt it was compared with."""

    def __repr__(self) -> str:
        return f"<Overlaps requests={len(self._lengths)}>"

    def is_being_run(self, request: Request, rows: Iterable[Request]) -> bool:
        """Whether the next chunks of another prompt in `rows` are what this one begins with: then it waits for them."""
        if request.submit.kv is not None:
            return False
        known = self._lengths.setdefault(request.id, {})
        for other in rows:
            is_alike = other.submit.kv is None and other.submit.adapter == request.submit.adapter
            if other.state is RequestState.PREFILL and is_alike:
                if other.id not in known:
                    known[other.id] = common_prefix_length(request.tokens, other.tokens, len(request.tokens) - 1)
                if known[other.id] >= other.progress.num_computed + _WORTH_WAITING:
                    return True
        return False

    def forget(self, request: Request) -> None:
        """It waits no more."""
        self._lengths.pop(request.id, None)

    def clear(self) -> None:
        """Nobody waits."""
        self._lengths.clear()
