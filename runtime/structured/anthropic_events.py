"""Anthropic's answers, told by their shape: objects of its client, or the dicts of its JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from greenroom.structured.fields import field, joined
from greenroom.structured.reader import Ending

__all__ = ["AnthropicReader"]

_STOPS = {"max_tokens": "length", "model_context_window_exceeded": "length"}


class AnthropicReader:
    """The text of the answer, or the input of `tool`'s first call.

    The helper's stream has each text twice, as a raw delta and as an event of its own: the raw one is read.
    """

    def __init__(self, tool: str | None) -> None:
        self._tool = tool
        self._block: int | None = None
        """The index of the tool's block."""
        self._said: list[str] = []

    def read(self, event: Any) -> Iterator[str | Ending]:
        """The text that an event adds, and why the answer ended."""
        kind = field(event, "type")
        if kind == "content_block_start":
            if self._block is None and self._is_tool_s(field(event, "content_block")):
                self._block = field(event, "index")
        elif kind == "content_block_delta":
            yield from self._delta(event)
        elif kind == "message_delta":
            yield from self._stop(field(field(event, "delta"), "stop_reason"))
        elif kind == "error":
            error = field(event, "error")
            yield Ending("failed", joined(": ", field(error, "type"), field(error, "message")), is_refusal=True)

    def end(self) -> Ending | None:
        """Why the object is missing, where the tool was not called."""
        if self._tool is None or self._block is not None:
            return None
        said = "".join(self._said)
        return Ending("no_call", f"{self._tool!r}" + (f"; it says {said[:200]!r}" if said else ""), is_refusal=True)

    def whole(self, message: Any) -> list[str | Ending] | None:
        """The same of a finished message; None for what is none."""
        blocks = field(message, "content")
        if not isinstance(blocks, list):
            return None
        texts = [str(field(block, "text")) for block in blocks if field(block, "type") == "text"]
        found: list[str | Ending] = [*texts]
        if self._tool is not None:
            self._said = texts
            calls = [(place, field(block, "input")) for place, block in enumerate(blocks) if self._is_tool_s(block)]
            found = []
            if calls:
                self._block, arguments = calls[0]
                found.append(msgspec.json.encode(arguments).decode())
        return [*found, *self._stop(field(message, "stop_reason"))]

    def _delta(self, event: Any) -> Iterator[str]:
        delta = field(event, "delta")
        text = field(delta, "text") if field(delta, "type") == "text_delta" else None
        if self._tool is None:
            if text:
                yield str(text)
        elif field(event, "index") == self._block:
            yield str(field(delta, "partial_json") or "")
        elif text:
            self._said.append(str(text))

    def _stop(self, reason: Any) -> Iterator[Ending]:
        if isinstance(reason, str):
            yield Ending(_STOPS.get(reason, reason), "".join(self._said), is_refusal=reason == "refusal")

    def _is_tool_s(self, block: Any) -> bool:
        return bool(field(block, "type") == "tool_use" and field(block, "name") == self._tool)
