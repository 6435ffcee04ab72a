"""Streams of other clients as growing objects: OpenAI's, Anthropic's, transformers'. None of them is a dependency.

Everything is told by its shape: a client's own classes are never imported, and what merely looks like them works too.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any, TypeVar, Unpack, overload

import msgspec
from typing_extensions import TypeForm

from greenroom.errors import UnsupportedType, shown
from greenroom.structured.structures import StructureOptions, Structures, structures

__all__ = ["parse_anthropic_stream", "parse_hf_stream", "parse_openai_stream"]

T = TypeVar("T")


@overload
def parse_openai_stream(
    stream: Any, kind: Mapping[str, Any], **options: Unpack[StructureOptions]
) -> Structures[Any]: ...


@overload
def parse_openai_stream(stream: Any, kind: TypeForm[T], **options: Unpack[StructureOptions]) -> Structures[T]: ...


def parse_openai_stream(stream: Any, kind: Any, **options: Unpack[StructureOptions]) -> Structures[Any]:
    """Growing objects from OpenAI's async client; the options are those of `greenroom.structures`.

    `stream` is what `client.chat.completions.stream(...)` gives (entered or not), what `create(..., stream=True)` gives
    (awaited or not), the same of `client.responses`, or a finished completion, whose object is yielded once. Of several
    choices the first is followed.
    """
    return structures(_texts(stream, _openai_delta, _openai_whole), kind, **options)


@overload
def parse_anthropic_stream(
    stream: Any, kind: Mapping[str, Any], *, tool: str | None = ..., **options: Unpack[StructureOptions]
) -> Structures[Any]: ...


@overload
def parse_anthropic_stream(
    stream: Any, kind: TypeForm[T], *, tool: str | None = ..., **options: Unpack[StructureOptions]
) -> Structures[T]: ...


def parse_anthropic_stream(
    stream: Any, kind: Any, *, tool: str | None = None, **options: Unpack[StructureOptions]
) -> Structures[Any]:
    """Growing objects from Anthropic's async client; the options are those of `greenroom.structures`.

    `stream` is what `client.messages.stream(...)` gives (entered or not), what `create(..., stream=True)` gives
    (awaited or not), or a finished message, whose object is yielded once. `tool`: the object is the input of that
    tool's first call, instead of the text.
    """
    reader = _AnthropicReader(tool)
    return structures(_texts(stream, reader.delta, reader.whole), kind, **options)


@overload
def parse_hf_stream(stream: Any, kind: Mapping[str, Any], **options: Unpack[StructureOptions]) -> Structures[Any]: ...


@overload
def parse_hf_stream(stream: Any, kind: TypeForm[T], **options: Unpack[StructureOptions]) -> Structures[T]: ...


def parse_hf_stream(stream: Any, kind: Any, **options: Unpack[StructureOptions]) -> Structures[Any]:
    """Growing objects from transformers' `AsyncTextIteratorStreamer`, any async iterable of str, or a finished str.

    The options are those of `greenroom.structures`. Give the streamer `skip_prompt=True` and
    `skip_special_tokens=True`: what is not JSON is an error.
    """
    return structures(_texts(stream, _as_text, _as_text), kind, **options)


async def _texts(stream: Any, delta: Any, whole: Any) -> AsyncIterator[str]:
    """The text of whatever was given: awaited, entered, iterated, or taken whole."""
    async with AsyncExitStack() as stack:
        if inspect.isawaitable(stream):
            stream = await stream
        if hasattr(stream, "__aenter__"):
            stream = await stack.enter_async_context(stream)
        if not hasattr(stream, "__aiter__"):
            found = whole(stream)
            if found is None:
                raise UnsupportedType(f"{shown(stream)} is neither a stream nor a finished answer")
            yield found
            return
        async for event in stream:
            text = delta(event)
            if text:
                yield text


def _openai_delta(event: Any) -> str | None:
    """The text that an event adds: one of the helper's, of the Responses API's, or a raw chunk."""
    kind = getattr(event, "type", None)
    if kind in ("content.delta", "response.output_text.delta"):
        return str(event.delta)
    choices = getattr(event, "choices", None)
    if kind is not None or not choices:
        return None
    first = [choice for choice in choices if getattr(choice, "index", 0) == 0]
    return getattr(first[0].delta, "content", None) if first else None


def _openai_whole(completion: Any) -> str | None:
    choices = getattr(completion, "choices", None)
    if choices:
        return str(choices[0].message.content or "")
    text = getattr(completion, "output_text", None)
    return text if isinstance(text, str) else None


class _AnthropicReader:
    """The helper's stream has each text twice, as a raw delta and as an event of its own: the raw one is read."""

    def __init__(self, tool: str | None) -> None:
        self._tool = tool
        self._block: int | None = None
        """The index of the tool's block."""

    def delta(self, event: Any) -> str | None:
        """The text that an event adds."""
        kind = getattr(event, "type", None)
        if kind == "content_block_start" and self._is_tool_s(event.content_block) and self._block is None:
            self._block = event.index
        if kind != "content_block_delta":
            return None
        if self._tool is None:
            return getattr(event.delta, "text", None) if event.delta.type == "text_delta" else None
        return event.delta.partial_json if event.index == self._block else None

    def whole(self, message: Any) -> str | None:
        """The text of a finished message."""
        blocks = getattr(message, "content", None)
        if not isinstance(blocks, list):
            return None
        if self._tool is None:
            return "".join([block.text for block in blocks if block.type == "text"])
        inputs = [block.input for block in blocks if self._is_tool_s(block)]
        return msgspec.json.encode(inputs[0]).decode() if inputs else ""

    def _is_tool_s(self, block: Any) -> bool:
        return bool(block.type == "tool_use" and block.name == self._tool)


def _as_text(piece: Any) -> str | None:
    return piece if isinstance(piece, str) else None
