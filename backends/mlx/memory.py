"""How much memory KV may use by default, and MLX's wired limit while a model is loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mlx.core as mx

__all__ = ["WiredLimit", "default_kv_bytes", "device_info", "uses_cpu"]

_HOST_SHARE = 0.25
"""Of the memory that a CPU host says is available: the rest belongs to the app and to what a pass needs."""
_DEVICE_SHARE = 0.85
"""Of what a GPU has left beside the weights: the rest is for what a pass needs and for growing buffers."""
_UNKNOWN = 1 << 30


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


class WiredLimit:
    """Raises the wired limit to what Metal recommends; elsewhere it does nothing."""

    def __init__(self) -> None:
        size = device_info().get("max_recommended_working_set_size") if mx.metal.is_available() else None
        self._previous: int | None = mx.set_wired_limit(int(size)) if size else None

    def restore(self) -> None:
        """Put the limit back that was there before."""
        if self._previous is not None:
            mx.set_wired_limit(self._previous)
            self._previous = None
