"""Server-sent events: the frames of a stream."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

__all__ = ["DONE", "sse_frame", "tagged_frames"]

DONE = b"data: [DONE]\n\n"
"""The end of a stream of OpenAI's that came to its end."""


def sse_frame(data: bytes, event: str | None = None) -> bytes:
    """One event, of JSON: that has no line break outside of a string, and inside of one as an escape."""
    return b"data: " + data + b"\n\n" if event is None else b"event: " + event.encode() + b"\ndata: " + data + b"\n\n"


def tagged_frames(events: Iterable[msgspec.Struct]) -> bytes:
    """Events that are named by their structs' tags. Each is encoded before the next one is made."""
    return b"".join([sse_frame(msgspec.json.encode(event), str(event.__struct_config__.tag)) for event in events])
