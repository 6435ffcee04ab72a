"""An event loop on a thread of its own, for threads that have none.

All that blocks shares one for each library, so that runtimes know each other. It ends once nothing that was made on
it is left: whatever holds a `LoopThread` holds the loop. The thread is a daemon: a process
that exits does not wait for it.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import Context
from threading import Lock, Thread
from typing import Any, Literal

import anyio
from anyio.from_thread import BlockingPortal
from anyio.lowlevel import current_token

from greenroom.actors.client import LoopPoster, loop_poster
from greenroom.errors import MissingExtra
from greenroom.lifetimes import HomeProcess
from greenroom.values import choice

__all__ = ["LoopKind", "LoopThread"]

LoopKind = Literal["asyncio", "trio"]
_Work = Callable[[], Coroutine[Any, Any, None]]

_lock = Lock()
_running: weakref.WeakValueDictionary[str, LoopThread] = weakref.WeakValueDictionary()


class _Loop:
    """What the thread itself holds. Filled once the loop runs.

    Tasks are the library's own: anyio's groups start none from a callback.
    """

    portal: BlockingPortal
    post: LoopPoster
    spawn: Callable[[_Work, Context], object]

    def __init__(self) -> None:
        self.process = HomeProcess()

    async def run(self, started: Future[None]) -> None:
        async with BlockingPortal() as self.portal:
            self.post = loop_poster()
            native: Any = current_token().native_token
            if isinstance(native, asyncio.AbstractEventLoop):
                tasks: set[asyncio.Task[None]] = set()  # the loop alone holds them weakly

                def spawn(work: _Work, context: Context) -> None:
                    task = native.create_task(work(), context=context)
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)

                self.spawn = spawn
            else:
                from trio import lowlevel  # optional: it runs, so it is there

                self.spawn = lambda work, context: lowlevel.spawn_system_task(work, context=context)
            started.set_result(None)
            await self.portal.sleep_until_stopped()

    def start(self, work: tuple[_Work, Context]) -> None:
        self.spawn(*work)

    def stop(self) -> None:
        if self.process.is_here():  # a lock of the loop's may be held for ever in a child made by fork
            self.post(_Loop.end, self)

    def end(self) -> None:
        async def stop() -> None:
            await self.portal.stop(cancel_remaining=True)

        self.spawn(stop, Context())


class LoopThread:
    """The loop of one library, `asyncio` or `trio`: `LoopThread.of(kind)`."""

    def __init__(self, kind: LoopKind) -> None:
        self._kind = kind
        self._loop = loop = _Loop()
        started: Future[None] = Future()

        def main() -> None:
            try:
                anyio.run(loop.run, started, backend=kind)
            except BaseException as error:
                if not started.done():
                    started.set_exception(error)
                    return
                raise

        Thread(target=main, name=f"greenroom-{kind}", daemon=True).start()
        started.result()
        weakref.finalize(self, loop.stop)

    def __repr__(self) -> str:
        return f"<LoopThread {self._kind}>"

    @classmethod
    def of(cls, kind: LoopKind = "asyncio") -> LoopThread:
        """The one that runs, or a new one. Raises `InvalidParameter`, and `MissingExtra` where trio is not there."""
        choice("loop", kind, ("asyncio", "trio"))
        with _lock:
            found = _running.get(kind)
            if found is None or not found._loop.process.is_here():  # noqa: SLF001 - the same class
                found = _running[kind] = cls._started(kind)
            return found

    @classmethod
    def _started(cls, kind: LoopKind) -> LoopThread:
        try:
            return cls(kind)
        except LookupError as error:
            raise MissingExtra(f"{kind} is not installed: install greenroom[{kind}]") from error

    @property
    def portal(self) -> BlockingPortal:
        """The portal of anyio into this loop, for code of one's own."""
        return self._loop.portal

    def require_process(self, what: object) -> None:
        """Raise `ForkedProcess`, which names what it is about, in a child made by fork: the thread does not run."""
        if not self._loop.process.is_here():
            self._loop.process.require(repr(what))

    def start(self, work: _Work, context: Context) -> None:
        """Have the loop run `work`, which raises nothing but a cancellation, as a task in `context`."""
        self._loop.post(self._loop.start, (work, context))

    def post(self, function: Callable[[Any], object], argument: object) -> None:
        """Have the loop call `function(argument)` soon."""
        self._loop.post(function, argument)
