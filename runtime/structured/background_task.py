"""One task beside the caller's, without a task group: for an iterator that reads ahead, however it is left.

Such a task belongs to no scope of the caller's: whoever starts it cancels it, and the event loop does so at its end. It
uses asyncio's and trio's own events, since every chunk of a stream passes through one: anyio's cost half as much again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any, Protocol

from anyio.lowlevel import current_token

from greenroom.lifetimes import wait_shielded

__all__ = ["Background", "Signal"]

_log = logging.getLogger("greenroom")


class Signal(Protocol):
    """What both libraries' events have."""

    def set(self) -> None:
        """Wake who waits."""

    def wait(self) -> Awaitable[Any]:
        """Return once it is set."""


class Background:
    """Runs `function`, which handles its own errors, on the event loop of the caller, from now on."""

    def __init__(self, function: Callable[[Background], Awaitable[None]]) -> None:
        self.is_over = False
        self._function = function
        self._is_trio = hasattr(current_token().native_token, "run_sync_soon")
        self._over = self.signal()
        self._cancel: Callable[[], object]
        if self._is_trio:
            from trio import CancelScope as TrioScope  # optional: only an app that runs on trio has it
            from trio import lowlevel

            scope = TrioScope()
            self._cancel = scope.cancel
            lowlevel.spawn_system_task(self._run_in, scope, context=copy_context())
        else:
            self._task = asyncio.get_running_loop().create_task(self._run())  # the loop alone holds it weakly
            self._cancel = self._task.cancel

    def __repr__(self) -> str:
        return f"<Background {'over' if self.is_over else 'running'}>"

    def signal(self) -> Signal:
        """A new event of this loop's library."""
        if not self._is_trio:
            return asyncio.Event()
        from trio import Event

        return Event()

    async def pause(self) -> None:
        """Let the others run once."""
        if not self._is_trio:
            await asyncio.sleep(0)
            return
        from trio.lowlevel import checkpoint

        await checkpoint()

    def cancel(self) -> None:
        """Ask for its end; on its loop's thread."""
        if not self.is_over:
            self._cancel()

    async def wait(self) -> None:
        """Return once it is over, through any cancellation; one that came meanwhile is raised afterwards."""
        await wait_shielded(self._over, lambda: self.is_over)

    async def _run_in(self, scope: Any) -> None:
        with scope:
            await self._run()

    async def _run(self) -> None:
        try:
            await self._function(self)
        except asyncio.CancelledError:
            if self._is_trio:
                raise
        except Exception:  # noqa: BLE001 - raised here it would end a trio run
            _log.exception("a task in the background failed; this is a defect of greenroom")
        finally:
            self.is_over = True
            self._over.set()
