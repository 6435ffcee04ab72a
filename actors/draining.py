"""A runtime that takes nothing new on and lets what runs finish: asked for from anywhere, awaited on its loop.

A request is refused from the moment of the call. What is left ends by itself, or at the deadline, which the engine
thread keeps: an event loop that is busy does not put it off.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from anyio import Event
from anyio.lowlevel import checkpoint_if_cancelled

from greenroom.errors import RuntimeDraining
from greenroom.lifetimes import HomeLoop

__all__ = ["Drain", "Hold"]


class Drain:
    """Awaitable any number of times, on the runtime's loop: `await drain` returns once nothing runs any more.

    It gives how many requests were ended before they were through. Cancelling the await changes nothing.
    """

    def __init__(self, home: HomeLoop, num_open: Callable[[], int]) -> None:
        """`num_open` says how many requests have not settled."""
        self._home = home
        self._num_open = num_open
        self.is_over = False
        """Whether nothing runs any more, as far as the event loop has heard."""
        self.is_asked = False
        """Whether requests are refused. Set by any thread, and never back."""
        self.num_cut = 0
        """Requests that were ended before they were through."""
        self._holds: list[Hold] = []
        self._waiters: list[Event] = []
        self._is_going_on = False

    @staticmethod
    def nothing() -> Drain:
        """Of a runtime that is not entered: it is over."""
        drain = Drain(HomeLoop(), int)
        drain.end()
        return drain

    def __repr__(self) -> str:
        state = "over" if self.is_over else "running" if self.is_asked else "not asked for"
        return f"<Drain {state} cut={self.num_cut}>"

    def __await__(self) -> Generator[Any, Any, int]:
        return self.wait().__await__()

    async def wait(self) -> int:
        """The same as `await drain`. Raises `WrongEventLoop`."""
        if self.is_over:
            await checkpoint_if_cancelled()
            return self.num_cut
        self._home.require("this drain")
        over = Event()
        self._waiters.append(over)
        try:
            await over.wait()
        finally:
            self._waiters.remove(over)
        return self.num_cut

    # On the event loop.

    def require_accepting(self) -> None:
        """Raise `RuntimeDraining` where nothing new is taken on, unless it belongs to what a hold has begun."""
        if self.is_asked and not self._is_going_on:
            raise RuntimeDraining

    def hold(self, stop: Callable[[], object]) -> Hold:
        """What is begun now is waited for until its hold is given back; `stop` ends it at the deadline.

        Raises `RuntimeDraining`.
        """
        self.require_accepting()
        hold = Hold(self, stop)
        self._holds.append(hold)
        return hold

    def check(self) -> None:
        """It is over, where it was asked for and neither requests are open nor anything is held."""
        if self.is_asked and not self._holds and not self._num_open():
            self.end()

    def stop_holders(self) -> None:
        """The deadline has come: end what is held."""
        holds, self._holds = self._holds, []
        for hold in holds:
            hold.stop()

    def end(self) -> None:
        """Nothing runs any more, or the runtime was left."""
        self.is_over = True
        for waiter in self._waiters:
            waiter.set()

    def give_back(self, hold: Hold) -> None:
        """See `Hold.release`."""
        if hold in self._holds:
            self._holds.remove(hold)
            self.check()

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """See `Hold.going_on`."""
        self._is_going_on = True
        try:
            yield
        finally:
            self._is_going_on = False


class Hold:
    """What takes several requests, such as the rounds of a turn: a drain lets it make them, and waits between them."""

    __slots__ = ("_drain", "stop")

    def __init__(self, drain: Drain, stop: Callable[[], object]) -> None:
        self._drain = drain
        self.stop = stop

    def going_on(self) -> AbstractContextManager[None]:
        """A block without an await: the requests made in it belong to what was begun."""
        return self._drain.going_on()

    def release(self) -> None:
        """It is over. Again is nothing."""
        self._drain.give_back(self)
