"""The device that MLX computes on, and MLX's limits and streams while a model is loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import mlx.core as mx

__all__ = ["DeviceLimits", "ThreadStreams", "device_info", "held_bytes", "uses_cpu"]


def uses_cpu() -> bool:
    """Whether MLX computes on the CPU."""
    return bool(mx.default_device() == mx.Device(mx.cpu))


def device_info() -> dict[str, Any]:
    """MLX's description of the default device; empty where it has none."""
    try:
        return dict(mx.device_info())
    except (RuntimeError, AttributeError):
        return {}


def held_bytes() -> int:
    """What all arrays of the process take now. Any thread."""
    return int(mx.get_active_memory())


class DeviceLimits:
    """What MLX may wire and keep of freed buffers, while models are loaded.

    The wired limit goes to what Metal recommends; elsewhere there is none. MLX's own cache of freed buffers is bounded,
    because it would otherwise grow to all of the memory, which in an app belongs to others too. The limits are the
    process's: several models share them, and the last one that goes puts back what was there before the first.
    """

    _lock = threading.Lock()
    _open: ClassVar[dict[int, int]] = {}
    """What each open one allows to be cached."""
    _before: ClassVar[list[Callable[[], object]]] = []

    def __init__(self, cache_bytes: int) -> None:
        self._cache = cache_bytes
        with self._lock:
            first = not self._open
            self._open[id(self)] = cache_bytes
            cached = mx.set_cache_limit(max(self._open.values()))
            if not first:
                return
            self._before.append(partial(mx.set_cache_limit, cached))
            size = device_info().get("max_recommended_working_set_size") if mx.metal.is_available() else None
            if size:
                self._before.append(partial(mx.set_wired_limit, mx.set_wired_limit(int(size))))

    def keep_freed(self, *, keeps: bool) -> None:
        """Whether buffers that are freed from now on are kept for the next pass: not where nobody runs.

        Those that were freed before go too, then; and none that a copy under way still reads comes to be kept.
        """
        with self._lock:
            if id(self) not in self._open:
                return
            self._open[id(self)] = self._cache if keeps else 0
            mx.set_cache_limit(max(self._open.values()))
        if not keeps:
            mx.clear_cache()

    def restore(self) -> None:
        """This model is gone. Idempotent."""
        with self._lock:
            if self._open.pop(id(self), None) is None:
                return
            if self._open:
                mx.set_cache_limit(max(self._open.values()))
                return
            while self._before:
                self._before.pop()()


class _Users(threading.local):
    count = 0


_users = _Users()


class ThreadStreams:
    """MLX's streams of the engine thread, given back when its last backend closes.

    Held by a loaded backend; made and released on its thread. Streams belong to the thread that uses them. One that is
    left behind by a thread that has ended can abort the whole process when it exits ("terminate called without an
    active exception"), so the last close clears them; a thread whose streams were cleared has no default ones, so the
    first load makes new ones. The main thread keeps its own: it ends with the process.
    """

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
