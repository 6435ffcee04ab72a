"""Tools that requests bring, checked once: agents bring the same ones with each of their questions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from anyio import CapacityLimiter, to_thread

from greenroom import Tool
from greenroom.serve.faults import invalid

__all__ = ["KnownTools"]

_THREADS = 2
_MOST_BYTES = 8 * 2**20
"""Of the tools' JSON that are kept: what is made of it takes some times as much."""


class KnownTools:
    """The newest tools of one app's requests, by their JSON.

    To check a schema takes milliseconds for each of its parts. So it is done on another thread, where it delays no
    stream, and not again for what is known.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limiter: CapacityLimiter | None = None
        self._known: OrderedDict[bytes, Tool] = OrderedDict()
        """The one that was not asked for the longest time first."""
        self._num_bytes = 0

    def __repr__(self) -> str:
        return f"<KnownTools tools={len(self._known)} bytes={self._num_bytes}>"

    def __len__(self) -> int:
        return len(self._known)

    async def find(self, given: Sequence[Mapping[str, Any]]) -> list[Tool]:
        """A tool for each, given in OpenAI's form. Raises `RequestRefused` for too many, and as `Tool` does."""
        if len(given) > self._most:
            raise invalid(f"tools has at most {self._most} here, got {len(given)}", "tools", code="invalid_value")
        keys = [msgspec.json.encode(each) for each in given]
        found = {key: self._known[key] for key in keys if key in self._known}
        unknown = {key: each for key, each in zip(keys, given, strict=True) if key not in found}
        if unknown:
            if self._limiter is None:
                self._limiter = CapacityLimiter(_THREADS)
            made = await to_thread.run_sync(_make, list(unknown.values()), limiter=self._limiter)
            found |= zip(unknown, made, strict=True)
        for key in keys:
            self._keep(key, found[key])
        return [found[key] for key in keys]

    def _keep(self, key: bytes, tool: Tool) -> None:
        if key not in self._known:
            self._num_bytes += len(key)
        self._known[key] = tool
        self._known.move_to_end(key)
        while self._num_bytes > _MOST_BYTES:
            oldest, _ = self._known.popitem(last=False)
            self._num_bytes -= len(oldest)


def _make(given: Sequence[Mapping[str, Any]]) -> list[Tool]:
    return [Tool.from_schema(each) for each in given]
