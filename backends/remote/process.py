"""The child process of a remote backend: started, listened to, reaped.

It is a new program, never a fork: a device that was used cannot be. It is a session of its own, so that Ctrl-C reaches
its parent alone. A thread reads what it says on its standard error, the last lines of which explain a death, and waits
for its end, so that none is left as a zombie.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from greenroom.backends.remote.channel import Channel
from greenroom.backends.remote.messages import Answer
from greenroom.backends.remote.shared_rows import SharedRows, new_shared_file

__all__ = ["ChildProcess"]

_LINES = 20
"""Of its standard error, the last ones, that are kept."""
_LOOK_SECONDS = 0.5
"""How often it is asked whether it is over, where it says nothing."""
_PIECE = 1 << 16
_REAP_SECONDS = 5.0
"""After a SIGKILL, which no process outlives unless the system's kernel holds it."""
MODULE = "greenroom.backends.child"
_OWN_SIGNALS = {
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
}
"""By which a process ends that has done something itself."""


class ChildProcess:
    """One child. `ended` is called once, on a thread, when it is over and reaped."""

    def __init__(self, ended: Callable[[], object]) -> None:
        """Start it. Raises `OSError` where no process can be had."""
        ours, theirs = socket.socketpair()
        files = [new_shared_file(), new_shared_file()]
        self._tail: deque[str] = deque(maxlen=_LINES)
        self._over = threading.Event()
        try:
            inherited = [theirs.fileno(), *files]
            self._process = subprocess.Popen(  # noqa: S603 - this very interpreter, and a module of ours
                [sys.executable, "-P", "-m", MODULE, *map(str, inherited)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=inherited,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        except BaseException:
            ours.close()
            for file in files:
                os.close(file)
            raise
        finally:
            theirs.close()
        self.channel: Channel[Answer] = Channel(ours, Answer)
        self.masks, self.logits = map(SharedRows, files)
        self._ended = ended
        self._thread = threading.Thread(target=self._listen, name="greenroom-child", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<ChildProcess {self.pid} {'over' if self.is_over else 'running'}>"

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def is_over(self) -> bool:
        """Whether it has ended and is reaped."""
        return self._over.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for its end; whether that came. Any thread but its own."""
        return self._over.wait(seconds)

    def kill(self) -> None:
        """End it at once, and wait for that; give back what belongs to it. Again is nothing."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self.wait(_REAP_SECONDS)
        self.channel.close()
        self.masks.close()
        self.logits.close()
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(_REAP_SECONDS)

    @property
    def was_killed(self) -> bool:
        """Whether it has ended by a signal that others send: a person, or a system that is short of memory."""
        status = self._process.returncode if self.is_over else None
        return status is not None and status < 0 and -status not in _OWN_SIGNALS

    def describe_end(self) -> str:
        """How it ended, and its last words."""
        status = self._process.returncode if self.is_over else None
        if status is None:
            how = "does not answer"
        elif status < 0:
            how = f"was ended by {_signal_name(-status)}"
        else:
            how = f"ended with status {status}"
        words = "\n".join(self._tail)
        return f"the backend's process {self.pid} {how}" + (f"; its last words:\n{words}" if words else "")

    def _listen(self) -> None:
        stream = self._process.stderr
        if stream is not None:
            with stream, suppress(OSError, ValueError):
                self._read_words(stream.fileno())
        self._process.wait()
        self._over.set()
        self._ended()

    def _read_words(self, descriptor: int) -> None:
        """Until the pipe ends, or the process has, where one that it has started holds the pipe still."""
        unended = b""
        while True:
            ready, _, _ = select.select([descriptor], [], [], _LOOK_SECONDS)
            if not ready and self._process.poll() is not None:
                break
            if ready:
                found = os.read(descriptor, _PIECE)
                *lines, unended = (unended + found).split(b"\n")
                self._tail.extend([line.decode(errors="replace").rstrip() for line in lines])
                if not found:
                    break
        if unended:
            self._tail.append(unended.decode(errors="replace"))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
