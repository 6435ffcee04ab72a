"""The event loop's side of a request: a mailbox that the engine's deliveries fall into.

A mailbox is touched on the event loop alone, except `cancel` and `drop`, which any thread may call, and what a reader
without a loop uses: `reader`, `take` and `listen`. Nothing in the engine waits for a mailbox: what a reader has not
read is bounded by its credit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Literal, Protocol

from anyio import EndOfStream, Event, get_cancelled_exc_class
from anyio.lowlevel import checkpoint_if_cancelled

from greenroom.actors.decoder import Payload
from greenroom.actors.messages import Awaited, Cancel, Credit, Delivery, Ended, Inbound, Outbound, Started
from greenroom.errors import GenerationFailed, StreamInUse
from greenroom.events import Info, StopDetail
from greenroom.lifetimes import HomeLoop, forget_locals, running_loop, wait_shielded

__all__ = ["Mailbox", "PendingRequest", "Status"]

Status = Literal["queued", "running", "finished", "cancelled", "failed"]

_LUMP = 64
"""Credit goes back in lumps of a quarter: few messages, and a reader who has read all leaves three quarters unspent."""


class _Listener(Protocol):
    """What is told of news: an event of the loop's, or one thread's."""

    def set(self) -> object:
        """There is something."""


class Mailbox:
    """One request's events, its end, and who waits for them."""

    def __init__(self, request: int, put: Callable[[Inbound], object]) -> None:
        """`put` gives the engine a message, from any thread."""
        self.request = request
        self.info: Info | None = None
        self.error: Exception | None = None
        self.is_started = False
        self._put = put
        self._events: deque[tuple[Payload | Info, int]] = deque()
        self._unreturned = 0
        self.reader = Lock()
        """Held by who reads, a task or a thread: there is one at a time."""
        self._news: _Listener = Event()
        self._settled = Event()
        self._home = HomeLoop(running_loop())
        self._is_closed = False
        """Nobody will read any more: closed or dropped."""
        self._at_end: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return f"<Mailbox {self.request} {self.status} events={len(self._events)}>"

    @property
    def status(self) -> Status:
        """Where the request stands, as far as the event loop has heard."""
        if self.error is not None:
            return "failed"
        if self.info is not None:
            return "cancelled" if self.info.stop_reason == "cancelled" else "finished"
        return "running" if self.is_started else "queued"

    @property
    def is_settled(self) -> bool:
        """Whether the request's one terminal message has come."""
        return self.info is not None

    # Any thread.

    def cancel(self, detail: StopDetail) -> None:
        """Ask for the end: synchronous, idempotent, never refused."""
        if self.info is None:
            self._put(Cancel(self.request, detail))

    def drop(self) -> None:
        """The last reference to the stream is gone: nobody will read."""
        self._is_closed = True
        self.cancel("dropped")

    # The engine's deliveries, on the event loop.

    def deliver(self, message: Outbound) -> None:
        """Take a message about this request."""
        match message:
            case Started():
                self.is_started = True
            case Delivery(events=events, tokens=tokens):
                if not self._is_closed:
                    self._events.extend((event, 0) for event in events[:-1])
                    self._events.append((events[-1], tokens))
                    self._news.set()
            case Ended(info=info, error=error):
                self.info = info
                self.error = error
                if error is not None:
                    forget_locals(error)
                if error is None and not self._is_closed:
                    self._events.append((info, 0))
                self._news.set()
                self._settled.set()
                self.forget()

    def on_end(self, call: Callable[[], object]) -> None:
        """Have `call` called once the request is settled. On the event loop, before it can be."""
        self._at_end.append(call)

    def forget(self) -> None:
        """Make the calls of `on_end`: nothing will come any more."""
        while self._at_end:
            self._at_end.pop()()

    # Readers.

    async def receive(self) -> Payload | Info:
        """The next event. Raises `EndOfStream` behind the last one, or the request's error, once; `WrongEventLoop`.

        Cancelled while it waits, it cancels the request, waits until it is settled, and lets the cancellation go on.
        """
        self._home.require("this stream")
        self.require_reader()
        try:
            if self._events:
                await checkpoint_if_cancelled()
            while not self._events:
                if self._is_closed or self.info is not None:
                    self._end()
                self._news = news = Event()
                await news.wait()
        except get_cancelled_exc_class():
            self.cancel("scope")
            await self.settle()
            raise
        finally:
            self.reader.release()
        event, worth = self._events.popleft()
        self._return_credit(worth)
        return event

    def require_reader(self) -> None:
        """Take `reader`, which is to be released. Raises `StreamInUse` where somebody reads."""
        if not self.reader.acquire(blocking=False):
            raise StreamInUse("two tasks read one stream at once: give each a stream of its own")

    # A reader without a loop: on any thread that holds `reader`.

    def take(self) -> Payload | Info | None:
        """The next event, where there is one."""
        try:
            event, worth = self._events.popleft()
        except IndexError:
            return None
        self._return_credit(worth)
        return event

    def listen(self, listener: _Listener) -> bool:
        """Have `listener` told of what comes next. False where something is there, or nothing will be."""
        self._news = listener
        return not self._events and self.info is None and not self._is_closed

    def _end(self) -> None:
        error, was_closed = self.error, self._is_closed
        self._is_closed = True
        if error is not None and not was_closed:
            raise error
        raise EndOfStream

    def _return_credit(self, worth: int) -> None:
        self._unreturned += worth
        if self._unreturned >= _LUMP and self.info is None:
            self._put(Credit(self.request, self._unreturned))
            self._unreturned = 0

    async def close(self, detail: StopDetail) -> None:
        """Cancel, forget what was not read, and return once settled.

        On another loop, which never hears of that, it raises `WrongEventLoop` once it has cancelled.
        """
        if not self.is_settled and not self._home.is_here():
            self.cancel(detail)
            self._home.require("this stream")
        self._is_closed = True
        self._events.clear()
        self.cancel(detail)
        await self.settle()

    async def settle(self) -> None:
        """Wait for the end, through any cancellation; one that came meanwhile is raised afterwards.

        The wait is bounded by the passes in flight.
        """
        await wait_shielded(self._settled, self._settled.is_set)

    async def wait(self) -> Info:
        """The closing event, or the request's error; any number of times, by any number of tasks of its loop."""
        self._home.require("this request")
        if self.info is None:
            self._put(Awaited(self.request, on=True))
            try:
                await self._settled.wait()
            finally:
                if self.info is None:
                    self._put(Awaited(self.request, on=False))
        else:
            await checkpoint_if_cancelled()
        if self.error is not None:
            raise self.error
        if self.info is None:
            raise RuntimeError(f"{self!r} was woken without an end")
        return self.info


class PendingRequest:
    """A request that was announced: its mailbox, and whether it is queued, or over before that."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self._done = Event()
        self._error: Exception | None = None
        mailbox.on_end(self._done.set)

    def __repr__(self) -> str:
        return f"<PendingRequest is_done={self._done.is_set()} {self.mailbox!r}>"

    def resolve(self, error: Exception | None) -> None:
        """The preparation has ended. On the event loop."""
        self._error = error
        self._done.set()

    async def wait(self) -> None:
        """Until the request is queued, or over: then its stream has the `Info`. Raises why it is not queued.

        What fails once it is queued is its stream's to raise, however fast it does.

        Cancelled, it settles the request first.
        """
        try:
            await self._done.wait()
        except get_cancelled_exc_class():
            await self.mailbox.close("scope")
            raise
        error = self.mailbox.error if self.mailbox.is_settled else self._error
        if error is not None and not _was_queued(error):
            raise error


def _was_queued(error: Exception) -> bool:
    """Whether a request that failed had been taken: one that was refused before has run no prompt."""
    return isinstance(error, GenerationFailed) and error.info is not None and error.info.prompt_tokens > 0
