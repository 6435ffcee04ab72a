"""Streams of other clients as growing objects: OpenAI's, Anthropic's, transformers'. None of them is a dependency.

Everything is told by its shape: a client's own classes are never imported, and what merely looks like them works too.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Any, NoReturn, Protocol, TypeVar, Unpack, overload

from typing_extensions import TypeForm

from greenroom.errors import StreamRefused, UnsupportedType, shown
from greenroom.structured.anthropic_events import AnthropicReader
from greenroom.structured.openai_events import OpenAIReader
from greenroom.structured.reader import Ending
from greenroom.structured.structures import StructureOptions, Structures, structures

__all__ = ["parse_anthropic_stream", "parse_hf_stream", "parse_openai_stream"]

T = TypeVar("T")


@overload
def parse_openai_stream(
    stream: Any, kind: Mapping[str, Any], *, tool: str | None = ..., **options: Unpack[StructureOptions]
) -> Structures[Any]: ...


@overload
def parse_openai_stream(
    stream: Any, kind: TypeForm[T], *, tool: str | None = ..., **options: Unpack[StructureOptions]
) -> Structures[T]: ...


def parse_openai_stream(
    stream: Any, kind: Any, *, tool: str | None = None, **options: Unpack[StructureOptions]
) -> Structures[Any]:
    """Growing objects from OpenAI's async client; the options are those of `greenroom.structures`.

    `stream` is what `client.chat.completions.stream(...)` gives (entered or not), what `create(..., stream=True)` gives
    (awaited or not), the same of `client.responses`, a finished completion, whose object is yielded once, or a list of
    chunks; chunks may be dicts. Of several choices the first is followed. `tool`: the object is the arguments of that
    tool's first call, instead of the text.

    Where the object does not come whole: `StreamRefused` for a refusal, a content filter, an error that the other side
    reports, and a tool that is not called; `TruncatedJson` with its `reason` where a limit of tokens ended it.
    """
    return structures(_texts(stream, OpenAIReader(tool)), kind, **options)


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
    tool's first call, instead of the text. Where the object does not come whole, see `parse_openai_stream`.
    """
    return structures(_texts(stream, AnthropicReader(tool)), kind, **options)


@overload
def parse_hf_stream(stream: Any, kind: Mapping[str, Any], **options: Unpack[StructureOptions]) -> Structures[Any]: ...


@overload
def parse_hf_stream(stream: Any, kind: TypeForm[T], **options: Unpack[StructureOptions]) -> Structures[T]: ...


def parse_hf_stream(stream: Any, kind: Any, **options: Unpack[StructureOptions]) -> Structures[Any]:
    """Growing objects from transformers' `AsyncTextIteratorStreamer`, any async iterable of str, or a finished str.

    The options are those of `greenroom.structures`. Give the streamer `skip_prompt=True` and
    `skip_special_tokens=True`: what is not JSON is an error.
    """
    return structures(_texts(stream, _TextReader()), kind, **options)


class _Reader(Protocol):
    """How one client's answers are read."""

    def read(self, event: Any) -> Iterable[str | Ending]:
        """The text that an event adds, and why the answer ended."""

    def whole(self, answer: Any) -> Iterable[str | Ending] | None:
        """The same of a finished answer; None for what is none."""

    def end(self) -> Ending | None:
        """Why the object is missing, where it is."""


async def _texts(stream: Any, reader: _Reader) -> AsyncGenerator[str | Ending, None]:
    """The text of whatever was given: awaited, entered, iterated, or taken whole; and why it ended."""
    async with AsyncExitStack() as stack:
        if inspect.isawaitable(stream):
            stream = await stream
        if hasattr(stream, "__aenter__"):
            stream = await stack.enter_async_context(stream)
        elif hasattr(stream, "aclose"):
            await stack.enter_async_context(aclosing(stream))
        events = await stack.enter_async_context(aclosing(_events(stream, reader)))
        async for event in events:
            yield event
            if isinstance(event, Ending) and event.reason == "failed":
                raise StreamRefused(event.reason, event.text)
        ending = reader.end()
        if ending is not None:
            yield ending


async def _events(stream: Any, reader: _Reader) -> AsyncGenerator[str | Ending, None]:
    if hasattr(stream, "__aiter__"):
        async for event in stream:
            for part in reader.read(event):
                yield part
        return
    if isinstance(stream, list | tuple):  # of events that were kept
        for event in stream:
            for part in reader.read(event):
                yield part
        return
    found = reader.whole(stream)
    if found is None:
        _refuse(stream)
    for part in found:
        yield part


def _refuse(stream: Any) -> NoReturn:
    if hasattr(stream, "__next__") or hasattr(stream, "__enter__"):
        raise UnsupportedType(
            f"{shown(stream)} is a synchronous stream, which would block the event loop: use the client's async "
            "variant (AsyncOpenAI, AsyncAnthropic, AsyncTextIteratorStreamer), or pass a list of its events"
        )
    raise UnsupportedType(f"{shown(stream)} is neither a stream nor a finished answer")


class _TextReader:
    def read(self, event: Any) -> Iterator[str]:
        if isinstance(event, str):
            yield event

    def whole(self, answer: Any) -> list[str] | None:
        return [answer] if isinstance(answer, str) else None

    def end(self) -> None:
        return None
