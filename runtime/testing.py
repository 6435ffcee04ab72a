"""Doubles for the tests of apps: text that streams without a model. See `Scripted` for a model that is a script."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from itertools import cycle
from typing import Any

import msgspec
from anyio.lowlevel import checkpoint

from greenroom.errors import InvalidParameter

__all__ = ["simulate"]


async def simulate(obj: Any, *, chunk: int | Iterable[int] = 4) -> AsyncIterator[str]:
    """A stream of an object's JSON, in pieces of `chunk` characters, or of these sizes in turn, again and again.

    `obj`: a pydantic model, a msgspec Struct, a dataclass, or what JSON has; a str is streamed as it is, so that broken
    text can be tried too. Others run between the pieces.
    """
    sizes = [chunk] if isinstance(chunk, int) else list(chunk)
    if not sizes or min(sizes) < 1:
        raise InvalidParameter("chunk", chunk, "a positive number of characters, or several")
    text = _text(obj)
    place = 0
    for size in cycle(sizes):
        if place >= len(text):
            return
        await checkpoint()
        yield text[place : place + size]
        place += size


def _text(obj: Any) -> str:
    if isinstance(obj, str):
        return obj
    if hasattr(obj, "model_dump_json"):
        text: str = obj.model_dump_json(by_alias=True)
        return text
    return msgspec.json.encode(obj, enc_hook=_dumped).decode()


def _dumped(obj: Any) -> Any:
    """Models of pydantic within something else."""
    if hasattr(obj, "model_dump"):
        return obj.model_dump(mode="json", by_alias=True)
    raise TypeError(f"{obj!r} has no JSON")
