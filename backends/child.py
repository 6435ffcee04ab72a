"""`python -m greenroom.backends.child`: the process in which a backend computes for another one, which started it.

It is given three descriptors: a socket over which calls come and answers go, and two files for masks and logits. It
ends when it is told to, and at once when whoever started it has gone: its standard input is the other end of a pipe,
which a thread of its own watches, so that it ends in the midst of a pass, or of one that hangs. On Linux the pipe's end
is a signal besides, which needs no thread: native code may never give the interpreter's lock back.
"""

from __future__ import annotations

import faulthandler
import fcntl
import logging
import os
import select
import signal
import socket
import sys
import threading
from contextlib import suppress

from greenroom.backends.protocol import Backend
from greenroom.backends.remote.channel import Channel, ChannelClosed
from greenroom.backends.remote.crossing import Crossing, find
from greenroom.backends.remote.failures import as_failure
from greenroom.backends.remote.follow import Follower
from greenroom.backends.remote.messages import Call, Logged, ModelThere, Refused, Start, pack_info
from greenroom.backends.remote.shared_rows import SharedRows

__all__ = ["main"]

_LOOK_SECONDS = 1.0
"""How often it is asked who the parent is: another process may hold the pipe's end for one that has died."""
_ORPHANED = 3
"""The status with which it ends where nobody is left to tell."""


def main(arguments: list[str]) -> int:
    """Serve one backend, from `Start` to `EndChild`; returns the process's status."""
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever presses it means the parent, which says what is to be done
    _die_with_pipe()
    threading.Thread(target=_watch_parent, args=(os.getppid(),), name="greenroom-parent", daemon=True).start()
    descriptor, masks, logits = map(int, arguments)
    channel: Channel[Call] = Channel(socket.socket(fileno=descriptor), Call)
    try:
        return _serve(channel, SharedRows(masks), SharedRows(logits))
    except ChannelClosed:
        return _ORPHANED


def _serve(channel: Channel[Call], masks: SharedRows, logits: SharedRows) -> int:
    start = channel.receive()
    if not isinstance(start, Start):
        return _ORPHANED
    logger = logging.getLogger("greenroom")
    logger.addHandler(_Telling(channel))
    logger.setLevel(start.log_level)
    backend: Backend | None = None
    try:
        backend = find(start.factory.make)(**start.factory.arguments)
        crossing: Crossing = find(start.factory.crossing)(**start.factory.arguments)
        info = backend.load()
        channel.send(ModelThere(pack_info(info), crossing.describe(info)))
    except ChannelClosed:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever ends the load is raised where it was asked for
        channel.send(Refused(as_failure(error)))
        return 1
    Follower(backend, info, channel, masks=masks, logits=logits, adapters=crossing).run()
    backend.close()
    return 0


class _Telling(logging.Handler):
    """Sends records to where the log is kept."""

    def __init__(self, channel: Channel[Call]) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """Send it."""
        with suppress(ChannelClosed):
            self._channel.send(Logged(record.levelno, self.format(record)))


def _die_with_pipe() -> None:
    """Have the kernel end the process with the pipe. Where it cannot (macOS ignores the signal), the thread does."""
    with suppress(OSError, AttributeError):
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)


def _watch_parent(parent: int) -> None:
    """End the process at once when the pipe does, or the parent is another one."""
    while True:
        ready, _, _ = select.select([0], [], [], _LOOK_SECONDS)
        if (ready and not os.read(0, 1)) or os.getppid() != parent:
            os._exit(_ORPHANED)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(status)  # destructors of a device's threads may hang or abort, and nothing is left to be done
