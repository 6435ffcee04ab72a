"""Typed objects that grow while their JSON streams: `structures(source, T)` and `stream.structures(T)`.

A task of its own reads the source and parses. So a consumer that is slow finds the newest object, and one that is fast
finds every one. Objects that nobody takes are never made.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from typing import Any, Generic, Literal, Self, TypedDict, TypeVar, Unpack, overload

from anyio import get_cancelled_exc_class
from anyio.lowlevel import checkpoint_if_cancelled
from typing_extensions import TypeForm

from greenroom.actors.client import LoopPoster, loop_poster
from greenroom.constraints.structures import MISSING, Find, Missing, Path, Snapshots, Validate
from greenroom.errors import StreamInUse, TruncatedJson, UnsupportedType, shown
from greenroom.events import Info
from greenroom.lifetimes import Closing, HomeLoop
from greenroom.structured.background_task import Background
from greenroom.structured.reader import Structure, StructureFeed, close
from greenroom.values import boolean, choice

__all__ = ["Marked", "SnapshotOptions", "StructureOptions", "Structures", "Truncated", "structures"]

T = TypeVar("T")
Truncated = Literal["raise", "mark"]


class Structures(Closing, Generic[T]):
    """Growing objects of a type: `async for obj in structures(source, T)`.

    Each is a value: later chunks never change it (what is whole is shared between them). Only objects that differ from
    the one before are yielded. The last one is complete, or the loop raises after it: `TruncatedJson` where the text
    ended early (with `truncated="mark"` the loop just ends), `MalformedJson`, `JsonTooLarge`, `InvalidStructure`, or
    whatever the source raised; `CalledInstead` or `CallRejected` where there were calls of tools in place of a text.

    Leaving `async with`, a cancellation that lands in the loop's own wait, and dropping the last reference end the
    source too. A `break` with it still bound does not.
    """

    def __init__(
        self,
        source: AsyncIterable[Any],
        snapshots: Snapshots[T],
        *,
        truncated: Truncated,
        every_chunk: bool,
        stops: bool = False,
    ) -> None:
        self._feed = StructureFeed(source, snapshots, every_chunk=every_chunk, stops=stops)
        self._marks = truncated == "mark"
        self._task: Background | None = None
        self._post: LoopPoster | None = None
        self._home = HomeLoop()
        self._latest: Structure[T] | None = None
        self._is_ended = False
        self._has_reader = False

    def __repr__(self) -> str:
        return f"<Structures {self._feed!r}>"

    def __del__(self) -> None:
        task, post = getattr(self, "_task", None), getattr(self, "_post", None)
        if task is not None and post is not None and not task.is_over:
            post(Background.cancel, task)  # from whatever thread this is

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return (await self.receive()).value

    @property
    def latest(self) -> Structure[T] | None:
        """The last object that was yielded, with its marks."""
        return self._latest

    @property
    def is_complete(self) -> bool:
        """Whether the last object that was yielded is the whole."""
        return self._latest is not None and self._latest.is_complete

    @property
    def done(self) -> frozenset[Path]:
        """The paths that were whole in the last object that was yielded, in the document's keys."""
        return self._latest.done.paths if self._latest is not None else frozenset()

    @property
    def error(self) -> TruncatedJson | None:
        """Why the text ended early, once it has."""
        return self._feed.error if isinstance(self._feed.error, TruncatedJson) else None

    @property
    def info(self) -> Info | None:
        """The closing event of the generation, where the source is a stream of ours that has ended."""
        return self._feed.info

    def marked(self) -> Marked[T]:
        """The same objects, each with its marks: `async for moment in structures(...).marked()`."""
        return Marked(self)

    async def nested(self) -> AsyncIterator[AsyncIterator[T]]:
        """The same objects, each as a stream of one: struct-strm's two nested loops run over this as they are.

        Source: struct-strm, "Streaming Examples" (`async for structure in stream: async for obj in structure`).
        """
        async for obj in self:
            yield _once(obj)

    async def receive(self, *, with_marks: bool = False) -> Structure[T]:
        """The next object. Raises `StopAsyncIteration` behind the last.

        `with_marks`: where the text ended early and that is a mark, the last one comes even if only its mark is new.
        """
        self._home.require("this stream of structures")
        if self._has_reader:
            raise StreamInUse("two tasks read one stream of structures at once: give each a stream of its own")
        self._has_reader = True
        try:
            found = await self._next_moment(with_marks=with_marks)
        except get_cancelled_exc_class():
            await self.aclose()
            raise
        finally:
            self._has_reader = False
        self._latest = found
        return found

    async def _next_moment(self, *, with_marks: bool) -> Structure[T]:
        feed = self._feed
        if self._task is None and not self._is_ended:
            self._post = loop_poster()
            self._task = Background(feed.read)
        elif feed.has_news:
            await checkpoint_if_cancelled()
        while self._task is not None and not self._is_ended:
            if feed.has_news and not feed.is_over and (moment := feed.moment()) is not None:
                return moment
            if feed.is_over:
                return self._last(with_marks=with_marks)
            await feed.wait(self._task)
        raise StopAsyncIteration

    def _last(self, *, with_marks: bool) -> Structure[T]:
        """The last moment, once the source has ended. Raises the source's error, or `StopAsyncIteration`."""
        feed = self._feed
        is_truncated = self._marks and isinstance(feed.error, TruncatedJson)
        if feed.has_news or (is_truncated and with_marks):
            moment = feed.moment(is_marked=is_truncated)
            self._is_ended = is_truncated
            if moment is not None and (with_marks or not is_truncated or moment.value is not MISSING):
                return moment
        self._is_ended = True
        if feed.error is not None and not is_truncated:
            raise feed.error
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the source and return once it has ended. What was not read is dropped.

        On another loop than the one that read, it raises `WrongEventLoop` once it has asked for the end.
        """
        self._is_ended = True
        if self._task is not None:
            if self._post is not None and not self._home.is_here():
                self._post(Background.cancel, self._task)
                self._home.require("this stream of structures")
            self._task.cancel()
            await self._task.wait()
        else:
            await close(self._feed.source)


async def _once(value: T) -> AsyncIterator[T]:
    yield value


class Marked(Generic[T]):
    """The moments of a growing object, each with its marks. The last one is complete, or has its error."""

    def __init__(self, structures: Structures[T]) -> None:
        self._structures = structures

    def __repr__(self) -> str:
        return f"<Marked {self._structures!r}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Structure[T]:
        return await self._structures.receive(with_marks=True)


class SnapshotOptions(TypedDict, total=False):
    """What `Snapshots` takes by name."""

    missing: Missing
    partial_strings: bool
    validate: Validate
    max_depth: int
    max_size: int
    find: Find


class StructureOptions(SnapshotOptions, total=False):
    """What `structures` takes by name."""

    truncated: Truncated
    every_chunk: bool


@overload
def structures(
    source: AsyncIterable[Any], kind: Mapping[str, Any], **options: Unpack[StructureOptions]
) -> Structures[Any]: ...


@overload
def structures(source: AsyncIterable[Any], kind: TypeForm[T], **options: Unpack[StructureOptions]) -> Structures[T]: ...


def structures(source: AsyncIterable[Any], kind: Any, **options: Unpack[StructureOptions]) -> Structures[Any]:
    """Growing objects of the type `kind`, from any async iterable of str, bytes, or greenroom's own events.

    `kind`: a pydantic model, a msgspec Struct, a dataclass, a TypedDict, a list, dict or union of them, or a JSON
    schema as a dict. `missing`, `partial_strings`, `validate`, `max_depth`, `max_size` and `find` are `Snapshots`';
    with `find="json"` nothing is read behind the end of the object, and the source is closed there.
    `truncated`: what a text that ends early does, "raise" (the default) or "mark". `every_chunk`: yield for each chunk,
    changed or not.

    Raises `UnsupportedType` and `InvalidParameter` at the call. Nothing is read before the first
    `async for`.
    """
    if not hasattr(source, "__aiter__"):
        raise UnsupportedType(
            f"structures reads an async iterable, got {shown(source)}: a synchronous one would block the event loop "
            "(write `async def` around it, or use the client's async variant); for a text that is there already, take "
            "`Snapshots`"
        )
    return structures_of(kind, **options)(source)


def structures_of(
    kind: Any, *, truncated: Truncated = "raise", every_chunk: bool = False, **options: Unpack[SnapshotOptions]
) -> Callable[[AsyncIterable[Any]], Structures[Any]]:
    """`structures` of a kind, for a source that is to come: what can be refused is refused here."""
    choice("truncated", truncated, ("raise", "mark"))
    boolean("every_chunk", every_chunk)
    snapshots: Snapshots[Any] = Snapshots(kind, **options)
    stops = options.get("find") is not None
    return lambda source: Structures(
        source, snapshots.fork(), truncated=truncated, every_chunk=every_chunk, stops=stops
    )
