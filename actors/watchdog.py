"""A note in the log where code of the user's keeps the engine: every stream of the runtime waits for it.

Nothing is measured around a callback. A thread looks once in a while how long the engine's step has lasted; where that
is seconds, the engine's stack says whose code it is in. A long pass is no such thing: a backend's code is its own.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from types import FrameType

__all__ = ["SECONDS", "Watchdog"]

_log = logging.getLogger("greenroom")

SECONDS = 2.0
"""In a step, before somebody is named for it."""
_OURS = "greenroom."
_COMPUTING = "greenroom.backends."


class Watchdog:
    """Watches the engine on the thread `ident`; `began` says when its step did, None while it waits for work."""

    def __init__(self, ident: int, began: Callable[[], float | None], seconds: float = SECONDS) -> None:
        self._ident = ident
        self._began = began
        self._seconds = seconds
        self._stop = Event()
        self._named: float | None = None
        """The beginning of the step for which somebody was named."""
        self._thread = Thread(target=self._run, name="greenroom-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Have it end. Any thread."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds / 2):
            self.look()

    def look(self) -> None:
        """Name who keeps the engine, once for each step."""
        began = self._began()
        if began is None or began == self._named or time.perf_counter() - began < self._seconds:
            return
        found = _callback(sys._current_frames().get(self._ident))  # noqa: SLF001 - the only way to another thread's stack
        if found is not None:
            self._named = began
            _log.warning("the engine has been in %s for %.0f s: every stream waits for it", found, self._seconds)


def _callback(frame: FrameType | None) -> str | None:
    """The outermost function that is not ours, and which of ours called it; None where there is none."""
    stack: list[FrameType] = []
    while frame is not None:
        stack.append(frame)
        frame = frame.f_back
    caller: FrameType | None = None
    for each in reversed(stack):
        module = str(each.f_globals.get("__name__", ""))
        if module.startswith(_COMPUTING):
            return None
        if module.startswith(_OURS):
            caller = each
        elif caller is not None:
            place = f"{Path(each.f_code.co_filename).name}:{each.f_code.co_firstlineno}"
            return f"{each.f_code.co_qualname} ({place}), called by {caller.f_code.co_qualname},"
    return None
