"""How much memory KV may use by default, and MLX's limits and streams while a model is loaded."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx

from greenroom.errors import ModelLoadFailed

__all__ = ["DeviceLimits", "ThreadStreams", "check_room", "default_kv_bytes", "device_info", "uses_cpu"]

_HOST_SHARE = 0.25
"""Of the memory that a CPU host says is available: the rest belongs to the app and to what a pass needs."""
_DEVICE_SHARE = 0.85
"""Of what a GPU has left beside the weights: the rest is for what a pass needs and for growing buffers."""
_UNKNOWN = 1 << 30
_CACHE_SHARE = 4
"""Of the memory for KV, this part may be buffers that a pass needs and the next one takes again."""
_LEAST_CACHE = 512 << 20


def uses_cpu() -> bool:
    """Whether MLX computes on the CPU."""
    return bool(mx.default_device() == mx.Device(mx.cpu))


def device_info() -> dict[str, Any]:
    """MLX's description of the default device; empty where it has none."""
    try:
        return dict(mx.device_info())
    except (RuntimeError, AttributeError):
        return {}


def default_kv_bytes() -> int:
    """Bytes for KV, once the weights are loaded."""
    if uses_cpu():
        return int(_available_host_bytes() * _HOST_SHARE)
    info = device_info()
    total = info.get("max_recommended_working_set_size") or info.get("total_memory") or info.get("memory_size")
    if not total:
        return _UNKNOWN
    return max(0, int((int(total) - mx.get_active_memory()) * _DEVICE_SHARE))


def check_room(name: str, kv_bytes: int, needed: int) -> None:
    """Raise `ModelLoadFailed` where the weights leave no room for `needed` bytes, a row of some hundred tokens."""
    if kv_bytes >= needed:
        return
    held = mx.get_active_memory()
    advice = "take a smaller model or one in fewer bits, or close what else is in memory"
    if mx.metal.is_available():
        advice += "; `sudo sysctl iogpu.wired_limit_mb=<megabytes>` lets Metal use more of it"
    raise ModelLoadFailed(
        f"{name} takes {held / 1e9:.2f} GB, which leaves {kv_bytes / 1e9:.3f} GB for keys and values, and a short "
        f"conversation takes {needed / 1e9:.3f} GB: {advice}"
    )


def _available_host_bytes() -> int:
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (ValueError, OSError):
        return 4 * _UNKNOWN


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

    def __init__(self, kv_bytes: int) -> None:
        self._cache = max(_LEAST_CACHE, kv_bytes // _CACHE_SHARE)
        with self._lock:
            first = not self._open
            self._open[id(self)] = self._cache
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
