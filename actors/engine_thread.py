"""Engine threads that are over before the process is.

A thread that has used MLX keeps a little state of its own (the random key) whose C++ destructor takes the GIL, and it
runs after Python holds the thread for ended. If the interpreter is being finalized at that moment, Python makes the
thread exit inside the destructor and the whole process aborts. So an engine is joined down to the operating system's
thread, and an interpreter that exits with engines still running first stops and joins them.
"""

from __future__ import annotations

import atexit
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread, current_thread
from weakref import WeakKeyDictionary

__all__ = ["is_here", "join", "start"]

_LOOK_SECONDS = 0.0005
_EXIT_SECONDS = 10.0
"""How long an exiting interpreter waits for a thread: a pass takes less, and a hung device must not hang the exit."""

_HAS_TASKS: bool = Path("/proc/self/task").exists()

_running: WeakKeyDictionary[Thread, Callable[[], None]] = WeakKeyDictionary()
"""Threads that were not joined yet, and how each is told to end."""


def start(main: Callable[[], None], stop: Callable[[], None], name: str) -> Thread:
    """Run `main` on a thread of its own. `stop` tells it to end, from any thread, and must not refer to the thread."""
    thread = Thread(target=main, name=name, daemon=True)  # a daemon: only then are exit handlers run before its end
    _running[thread] = stop
    thread.start()
    return thread


def is_here() -> bool:
    """Whether this is such a thread: what waits for an engine here waits for itself."""
    return current_thread() in _running


def join(thread: Thread, seconds: float = _EXIT_SECONDS) -> None:
    """Wait until the thread is over for the operating system too."""
    deadline = time.monotonic() + seconds
    thread.join(seconds)
    # From 3.13 on `Thread.join` joins the operating system's thread; before, only Python's part of it.
    while sys.version_info < (3, 13) and _exists(thread) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    _running.pop(thread, None)


def _exists(thread: Thread) -> bool:
    if _HAS_TASKS:
        return Path(f"/proc/self/task/{thread.native_id}").exists()
    try:
        signal.pthread_kill(thread.ident or 0, 0)  # macOS looks the thread up; glibc would follow the pointer
    except ProcessLookupError:
        return False
    return True


@atexit.register
def _stop_all() -> None:
    for stop in list(_running.values()):
        stop()
    for thread in list(_running):
        join(thread)
