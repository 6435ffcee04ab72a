"""A generation's events as spans: a thought, a text or a call, each of which ends before the next one begins.

Anthropic's and OpenAI's newer API both tell an answer so, under different names: blocks there, items here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from greenroom.events import Chunk, Event, Info, Reasoning, RejectedToolCall, Token, ToolCall

__all__ = ["SpanCall", "SpanClosed", "SpanEvent", "SpanKind", "SpanOpened", "SpanReader", "SpanText"]

SpanKind = Literal["thought", "text"]


class SpanOpened(msgspec.Struct, frozen=True):
    """A thought or a text begins."""

    kind: SpanKind


class SpanText(msgspec.Struct, frozen=True):
    """More of a thought or of a text; `tokens` where log-probabilities were asked for."""

    kind: SpanKind
    text: str
    tokens: tuple[Token, ...] = ()


class SpanClosed(msgspec.Struct, frozen=True):
    """A thought or a text has ended."""

    kind: SpanKind


class SpanCall(msgspec.Struct, frozen=True):
    """A call, which is a span by itself and whole at once."""

    call: ToolCall


SpanEvent = SpanOpened | SpanText | SpanClosed | SpanCall


class SpanReader:
    """Events in, spans out; at most one span is open.

    A call that could not be used is text: what the model wrote. White space that would be a span of its own, as models
    write it between a thought and a call, is left out.
    """

    def __init__(self) -> None:
        self._open: SpanKind | None = None
        self._space: list[Chunk] = []
        """White space with which a text begins, until it is known to be one."""
        self._characters = {"thought": 0, "text": 0, "call": 0}

    def __repr__(self) -> str:
        return f"<SpanReader open={self._open}>"

    def read(self, event: Event) -> Iterator[SpanEvent]:
        """What an event comes to. An `Info` ends what is open."""
        match event:
            case Chunk():
                yield from self._text(event)
            case RejectedToolCall(raw=raw):
                yield from self._text(Chunk(raw))
            case Reasoning(text=text) if text:
                yield from self._begin("thought")
                self._characters["thought"] += len(text)
                yield SpanText("thought", text)
            case ToolCall():
                yield from self.end()
                self._characters["call"] += len(event.raw)
                yield SpanCall(event)
            case Info():
                yield from self.end()
            case _:
                pass

    def end(self) -> Iterator[SpanClosed]:
        """The end of what is open."""
        self._space.clear()
        if self._open is not None:
            kind, self._open = self._open, None
            yield SpanClosed(kind)

    def thinking_tokens(self, info: Info) -> int:
        """How many of a generation's tokens were thoughts, reckoned by their share of its characters."""
        thought = self._characters["thought"]
        return round(info.generation_tokens * thought / sum(self._characters.values())) if thought else 0

    def _text(self, chunk: Chunk) -> Iterator[SpanEvent]:
        if self._open != "text" and not chunk.text.strip():
            self._space.append(chunk)
            return
        space = self._space.copy()
        yield from self._begin("text")
        for each in (*space, chunk):
            self._characters["text"] += len(each.text)
            yield SpanText("text", each.text, each.tokens)

    def _begin(self, kind: SpanKind) -> Iterator[SpanEvent]:
        if self._open != kind:
            yield from self.end()
            self._open = kind
            yield SpanOpened(kind)
        self._space.clear()
