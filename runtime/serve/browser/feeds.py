"""One stream of news a page: all answers of a page come over it, and end with it.

Browsers open few connections to one place, so eight answers at once cannot have one each.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import anyio
import msgspec
from anyio.abc import TaskGroup

from greenroom.serve.browser.answers import PageAnswer
from greenroom.serve.browser.chats import ChatBounds
from greenroom.serve.browser.live import LiveSampler
from greenroom.serve.browser.requests import FeedOpened
from greenroom.serve.faults import Fault, RequestRefused
from greenroom.serve.sse import sse_frame
from greenroom.serve.streamed_body import StreamedBody

__all__ = ["PageFeed", "PageFeeds"]

_LIVE_SECONDS = 0.5
_NAME_BYTES = 18
_AHEAD = 64
"""News that wait for a page; behind them its answers wait, and their rows are paused."""


class PageFeed:
    """Of one page. `caller` is who asks, whose share its answers are of."""

    def __init__(self, owner: str, caller: str, most_answers: int) -> None:
        self.id = secrets.token_urlsafe(_NAME_BYTES)
        self.owner = owner
        self.caller = caller
        self._most_answers = most_answers
        self._answers: set[PageAnswer] = set()
        self._num_coming = 0
        """Answers that room is kept for."""
        self._group: TaskGroup | None = None
        self._sending, self._receiving = anyio.create_memory_object_stream[bytes](_AHEAD)

    def __repr__(self) -> str:
        return f"<PageFeed {'open' if self._group else 'closed'} answers={len(self._answers)}>"

    @contextmanager
    def room(self, count: int) -> Iterator[None]:
        """Have room for so many answers, which the block starts. Raises `RequestRefused` where there is none."""
        if self._group is None:
            raise _no_feed()
        if len(self._answers) + self._num_coming + count > self._most_answers:
            message = f"{self._most_answers} answers of one page run at most: stop one, or wait"
            raise RequestRefused(Fault(429, "busy", message, "rate_limit_exceeded", retry_after=1))
        self._num_coming += count
        try:
            yield
        finally:
            self._num_coming -= count

    def start(self, answer: PageAnswer) -> None:
        """Have an answer run, and told, while the page listens."""
        if self._group is None:
            answer.settle()
            raise _no_feed()
        self._answers.add(answer)
        self._group.start_soon(self._run, answer)

    async def _run(self, answer: PageAnswer) -> None:
        await answer.run(self._tell)
        self._answers.discard(answer)

    async def _tell(self, news: msgspec.Struct) -> None:
        await self._sending.send(sse_frame(msgspec.json.encode(news)))

    async def write(self, body: StreamedBody, sampler: LiveSampler) -> None:
        """Write news until nothing more can come, because the app's runtimes are over. Answers end with it."""
        failure: Exception | None = None
        with self._sending, self._receiving:
            try:
                async with anyio.create_task_group() as self._group:
                    try:
                        await self._write(self._group, body, sampler)
                    except Exception as error:  # noqa: BLE001 - out of the group as it is, and not in a group of errors
                        failure = error
                    self._group.cancel_scope.cancel()
            finally:
                self._group = None
                for answer in self._answers:  # those that were cancelled before they began
                    answer.settle()
        if failure is not None:
            raise failure

    async def _write(self, group: TaskGroup, body: StreamedBody, sampler: LiveSampler) -> None:
        await body.write(sse_frame(msgspec.json.encode(FeedOpened(self.id))))
        group.start_soon(self._watch, sampler)
        while True:
            frames = [await self._receiving.receive()]
            with suppress(anyio.WouldBlock):
                while len(frames) < _AHEAD:
                    frames.append(self._receiving.receive_nowait())
            await body.write(b"".join(frames))
            if not frames[-1]:
                return

    async def _watch(self, sampler: LiveSampler) -> None:
        """Tell the numbers when they are others than before. An empty frame is the end."""
        before = None
        while True:
            numbers = sampler.sample()
            if numbers != before:
                await self._tell(numbers)
            if numbers.is_over and not self._answers:
                await self._sending.send(b"")
                return
            before = numbers
            await anyio.sleep(_LIVE_SECONDS)


class PageFeeds:
    """The feeds of one app that are open."""

    def __init__(self, bounds: ChatBounds) -> None:
        self._bounds = bounds
        self._open: dict[str, PageFeed] = {}

    def __repr__(self) -> str:
        return f"<PageFeeds {len(self._open)}>"

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def open(self, owner: str, caller: str) -> Iterator[PageFeed]:
        """A feed, until the block is left. Raises `RequestRefused` (429) where there are too many."""
        if len(self._open) >= self._bounds.most_feeds:
            message = f"{self._bounds.most_feeds} pages are open at most: close one"
            raise RequestRefused(Fault(429, "busy", message, "rate_limit_exceeded", retry_after=1))
        feed = PageFeed(owner, caller, self._bounds.most_answers)
        self._open[feed.id] = feed
        try:
            yield feed
        finally:
            del self._open[feed.id]

    def get(self, identity: str, owner: str) -> PageFeed:
        """The open feed of that name. Raises `RequestRefused` (404) for none of `owner`'s."""
        feed = self._open.get(identity)
        if feed is None or feed.owner != owner:
            raise _no_feed()
        return feed


def _no_feed() -> RequestRefused:
    message = "this page is not connected any more: open its feed again"
    return RequestRefused(Fault(404, "not_found", message, "feed_not_found", "feed"))
