"""MLX's streams of the engine thread, given back when its last backend closes.

Streams belong to the thread that uses them. One that is left behind by a thread that has ended can abort the whole
process when it exits ("terminate called without an active exception"), so the last close clears them; a thread whose
streams were cleared has no default ones, so the first load makes new ones. The main thread keeps its own: it ends with
the process.
"""

from __future__ import annotations

import threading

import mlx.core as mx

__all__ = ["ThreadStreams"]


class _Users(threading.local):
    count = 0


_users = _Users()


class ThreadStreams:
    """Held by a loaded backend; made and released on its thread."""

    def __init__(self) -> None:
        self._held = threading.current_thread() is not threading.main_thread()
        if not self._held:
            return
        if not _users.count:
            # Loading files runs on the CPU's stream, whatever the device.
            for device in {mx.cpu, mx.default_device().type}:
                mx.set_default_stream(mx.new_stream(device))
        _users.count += 1

    def release(self) -> None:
        """No array of the thread's streams may be used afterwards, unless another backend is loaded on the thread."""
        if not self._held:
            return
        self._held = False
        _users.count -= 1
        if not _users.count:
            mx.clear_streams()
