"""Reads a source of text in the background and keeps the newest state of the object that grows from it."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any, Generic, TypeVar

import msgspec
from anyio import move_on_after

from greenroom.constraints.structures import MISSING, Done, Snapshots
from greenroom.errors import CalledInstead, CallRejected, StreamRefused, TruncatedJson, UnsupportedType, shown
from greenroom.events import Chunk, Info, Reasoning, RejectedToolCall, Token, ToolCall, ToolResult
from greenroom.structured.background_task import Background, Signal

__all__ = ["Ending", "Structure", "StructureFeed", "close"]

T = TypeVar("T")
_SILENT = (Reasoning, Token, ToolResult)
CLOSE_SECONDS = 10
"""How long a source may take to close: a generation needs one pass, a connection a round trip."""


class Structure(msgspec.Struct, Generic[T], frozen=True):
    """One moment of a growing object.

    `is_complete`: `value` is the whole, validated unless `validate` is "never"; nothing follows. `done` says which
    paths were whole, in the document's keys. `error` is set on the last moment of a text that ended early, where
    `truncated` is "mark"; if there was nothing to show, its `value` is `MISSING`.
    """

    value: T
    is_complete: bool
    done: Done
    error: TruncatedJson | None = None


class Ending(msgspec.Struct, frozen=True):
    """Why another client's text ended: `reason` in one word, `text` in the other side's own.

    It counts where the object is not whole; `is_refusal`: then that is no text cut off, but an answer of another kind.
    """

    reason: str
    text: str = ""
    is_refusal: bool = False


class StructureFeed:
    """What the task that reads and the iterator that yields share. On the event loop alone."""

    def __init__(
        self, source: AsyncIterable[Any], snapshots: Snapshots[Any], *, every_chunk: bool, stops: bool = False
    ) -> None:
        self.source = source
        self.snapshots = snapshots
        self.error: Exception | None = None
        self.info: Info | None = None
        self.is_over = False
        self.has_news = False
        self._calls: list[ToolCall] = []
        self._rejected: RejectedToolCall | None = None
        self._has_text = False
        self._every_chunk = every_chunk
        self._stops = stops
        """Whether nothing is read behind the end of the object."""
        self._ending: Ending | None = None
        self._waiter: Signal | None = None

    def __repr__(self) -> str:
        return f"<StructureFeed {self.snapshots!r}{' over' if self.is_over else ''}>"

    async def read(self, task: Background) -> None:
        """Read the source to its end, one chunk a turn of the loop where somebody waits for each."""
        iterator: Any = None
        try:
            iterator = aiter(self.source)
            async for item in iterator:
                self._take(item)
                if self.has_news:
                    self._wake()
                    await task.pause()
                    await self._wait_taken(task)
                if self._stops and self.snapshots.is_complete:
                    break
            self._require_text()
            self.has_news |= self._finish()
        except Exception as error:  # noqa: BLE001 - whatever the source raises is the consumer's
            self.error = error
        finally:
            await close(iterator)
            self.is_over = True
            self._wake()

    def _finish(self) -> bool:
        try:
            return self.snapshots.finish()
        except TruncatedJson as error:
            ending = self._ending
            if ending is not None and ending.is_refusal:
                raise StreamRefused(ending.reason, ending.text, error.partial) from None
            if ending is not None:
                raise TruncatedJson(error.position, error.partial, reason=ending.reason, text=error.text) from None
            raise

    def _take(self, item: Any) -> None:
        if isinstance(item, Chunk):
            item = item.text
        if isinstance(item, (str, bytes)):
            self._has_text |= bool(item.strip())
            try:
                self.has_news |= self.snapshots.feed(item) or self._every_chunk
            except Exception:
                self.has_news = True  # what came before the fault is shown
                raise
        elif isinstance(item, Info):
            self.info = item
            self._ending = Ending(item.stop_reason)
        elif isinstance(item, ToolCall):
            self._calls.append(item)
        elif isinstance(item, RejectedToolCall):
            self._rejected = self._rejected or item
        elif isinstance(item, Ending):
            self._ending = item
        elif not isinstance(item, _SILENT):
            raise UnsupportedType(f"the source yields {shown(item)}: structures are made of str, bytes or Chunks")

    def _require_text(self) -> None:
        """Raise `CallRejected` or `CalledInstead` where there are calls and no text."""
        if not self._has_text and self._rejected is not None:
            raise CallRejected(self._rejected, info=self.info)
        if not self._has_text and self._calls:
            raise CalledInstead(self._calls, info=self.info)

    async def _wait_taken(self, task: Background) -> None:
        """Wait until the reader that was woken took the news: trio does not say who runs first."""
        while self.has_news and self._waiter is not None:
            await task.pause()

    def _wake(self) -> None:
        if self._waiter is not None:
            self._waiter.set()

    async def wait(self, task: Background) -> None:
        """Return when there is news, or the end."""
        self._waiter = task.signal()
        try:
            await self._waiter.wait()
        finally:
            self._waiter = None

    def moment(self, *, is_marked: bool = False) -> Structure[Any] | None:
        """The object as it is now; None while there is nothing to show. `is_marked`: it is the last, with its error."""
        self.has_news = False
        value = self.snapshots.snapshot()
        if value is MISSING and not is_marked:
            return None
        error = self.error if is_marked and isinstance(self.error, TruncatedJson) else None
        return Structure(value, self.snapshots.is_complete, self.snapshots.done, error)


async def close(source: Any) -> None:
    """Close a generator or a stream, if it is one: through any cancellation, but not for ever."""
    aclose = getattr(source, "aclose", None)
    if aclose is not None:
        with move_on_after(CLOSE_SECONDS, shield=True):
            await aclose()
