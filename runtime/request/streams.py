"""What `generate` returns: an async iterator of events that is also an async context manager.

A stream is a thin view of its request's mailbox. Dropping the last reference to it cancels the request; leaving
`async with stream` cancels and waits until it is settled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, Self, TypeVar, Unpack, cast, overload

import msgspec
from anyio import EndOfStream
from typing_extensions import TypeForm

from greenroom.actors.mailbox import Mailbox
from greenroom.actors.task import GenerationTask
from greenroom.events import Chunk, Event, Info, Token
from greenroom.lifetimes import Closing
from greenroom.structured.structures import StructureOptions, Structures, structures

__all__ = ["EventStream", "Result", "Stream", "TokenStream", "mailbox_of", "result_of"]

E = TypeVar("E")
T = TypeVar("T")


class Result(msgspec.Struct, frozen=True):
    """A whole generation: its text, its events in order (without the closing one), and how it ended."""

    text: str
    events: tuple[Event | Token, ...]
    info: Info


def result_of(events: Sequence[Event | Token], info: Info) -> Result:
    """A generation with these events, in order, and this closing one."""
    return Result("".join([event.text for event in events if isinstance(event, Chunk)]), tuple(events), info)


class Stream(Closing, Generic[E]):
    """Events in the model's order, then exactly one `Info`, last; or the request's error.

    A `break` with the stream still bound stops nothing: prefer `async with`.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._mailbox!r}>"

    def __del__(self) -> None:
        mailbox = getattr(self, "_mailbox", None)
        if mailbox is not None and not mailbox.is_settled:
            mailbox.drop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        try:
            return cast("E", await self._mailbox.receive())
        except EndOfStream:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        """Cancel what still runs (detail `stream_closed`), drop what was not read, and return once settled."""
        await self._mailbox.close("stream_closed")

    @property
    def task(self) -> GenerationTask:
        """The handle of the generation behind this stream."""
        return GenerationTask(self._mailbox)

    async def collect(self) -> Result:
        """Read what is left and return it whole. Raises the request's error."""
        events = [cast("Event | Token", event) async for event in self]
        info = events.pop() if events and isinstance(events[-1], Info) else await self.task
        return result_of(events, cast("Info", info))


class EventStream(Stream[Event]):
    """`(Chunk | Reasoning | ToolCall | RejectedToolCall)* Info`."""

    async def text(self) -> str:
        """Read what is left and return its text. Raises the request's error."""
        return (await self.collect()).text

    @overload
    def structures(self, kind: Mapping[str, Any], **options: Unpack[StructureOptions]) -> Structures[Any]: ...

    @overload
    def structures(self, kind: TypeForm[T], **options: Unpack[StructureOptions]) -> Structures[T]: ...

    def structures(self, kind: Any, **options: Unpack[StructureOptions]) -> Structures[Any]:
        """The text as growing objects of the type `kind`: see `greenroom.structures`, which has the options.

        It reads this stream to its end, `Info` included (its `info`); reasoning and tool calls are passed over.
        """
        return structures(self, kind, **options)


class TokenStream(Stream[Token | Info]):
    """`Token* Info`."""


def mailbox_of(stream: Stream[Any]) -> Mailbox:
    """What is behind a stream, for a reader without a loop; a function, so that no stream offers it."""
    return stream._mailbox  # noqa: SLF001
