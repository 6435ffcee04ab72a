"""How much memory weights leave for KV, for buffers that MLX keeps, and for what a pass needs.

A Mac's memory belongs to everybody: weights and all limits together stay under nine tenths of what Metal recommends,
and leave the system a fifth of the memory, at least 3 GiB. Elsewhere on a GPU it is what the device reports free once
the weights are there; on a CPU a share of what the host says is available.

Plain calls on plain numbers, so that any device can be asked about on any machine.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import mlx.core as mx

from greenroom.backends.host import available_memory, physical_memory
from greenroom.backends.mlx.device import device_info, uses_cpu
from greenroom.errors import ModelLoadFailed

__all__ = ["DeviceMemory", "MemoryPlan", "check_room", "device_memory", "plan_memory"]

_MIB, _GIB = 1 << 20, 1 << 30
_RECOMMENDED_SHARE = 0.9
_SYSTEM_SHARE, _SYSTEM_LEAST = 0.2, 3 * _GIB
_FREE_SHARE = 0.9
_HOST_SHARE = 0.25
"""Of the memory that a CPU host says is available: the rest belongs to the app and to what a pass needs."""
_SCRATCH_SHARE, _SCRATCH_LEAST, _SCRATCH_MOST = 12, 256 * _MIB, _GIB
"""What a pass over some thousand tokens needs beside KV: activations, and logits of a large vocabulary."""
_CACHE_SHARE = 8
_CACHES = ((16 * _GIB, 512 * _MIB), (36 * _GIB, _GIB))
"""By physical memory: the most that MLX may keep of freed buffers."""
_CACHE_MOST = 2 * _GIB


class DeviceMemory(NamedTuple):
    """What a device, or its host, says of its memory, in bytes."""

    kind: Literal["metal", "cuda", "cpu"]
    total: int
    """Physical memory, of the device."""
    usable: int
    """Metal: what it recommends to use, in all. Else what is free, the weights being there."""


class MemoryPlan(NamedTuple):
    """Bytes for what is beside the weights."""

    kv: int
    """KV of rows, with the prefixes of prompts that are over."""
    cache: int
    """Freed buffers, which MLX takes again."""
    scratch: int
    """What a pass needs meanwhile."""


def plan_memory(device: DeviceMemory, weights: int) -> MemoryPlan:
    """Divide what a device has left beside `weights`, which are loaded. `kv` is 0 where they leave nothing."""
    if device.kind == "cpu":
        kv = int(device.usable * _HOST_SHARE)
        return MemoryPlan(kv, min(_GIB, max(64 * _MIB, kv // 4)), 0)
    room = max(0, _most(device) - weights) if device.kind == "metal" else int(device.usable * _FREE_SHARE)
    largest = next((cache for total, cache in _CACHES if device.total <= total), _CACHE_MOST)
    cache = min(largest, room // _CACHE_SHARE)
    scratch = min(max(room // _SCRATCH_SHARE, _SCRATCH_LEAST), _SCRATCH_MOST)
    return MemoryPlan(max(0, room - cache - scratch), cache, scratch)


def check_room(name: str, device: DeviceMemory, weights: int, needed: int) -> None:
    """Raise `ModelLoadFailed` where weights leave no room for `needed` bytes, a row of some hundred tokens."""
    kv = plan_memory(device, weights).kv
    if kv >= needed:
        return
    advice = "take a smaller model or one in fewer bits, or close what else is in memory"
    if device.kind == "metal":
        # By what has to be recommended for it, with the scratch and the cache that belong to that.
        wanted = int((weights + 2 * (needed + _SCRATCH_LEAST)) / _RECOMMENDED_SHARE)
        if plan_memory(device._replace(usable=wanted), weights).kv >= needed:
            advice += f"; `sudo sysctl iogpu.wired_limit_mb={-(-wanted // _MIB)}` lets Metal use more of it"
    raise ModelLoadFailed(
        f"{name} takes {weights / 1e9:.2f} GB of the {_limit(device) / 1e9:.2f} GB that models may use here, which "
        f"leaves {kv / 1e9:.3f} GB for keys and values, and a short conversation takes {needed / 1e9:.3f} GB: {advice}"
    )


def device_memory() -> DeviceMemory:
    """What the default device says, once the weights are loaded."""
    if uses_cpu():
        return DeviceMemory("cpu", _host_bytes(), available_memory())
    info = device_info()
    total = int(info.get("memory_size") or info.get("total_memory") or _host_bytes())
    if mx.metal.is_available():
        return DeviceMemory("metal", total, int(info.get("max_recommended_working_set_size") or total * 2 // 3))
    free = info.get("free_memory")  # of all processes; what MLX keeps of freed buffers is ours to use
    usable = int(free) + mx.get_cache_memory() if free is not None else total - mx.get_active_memory()
    return DeviceMemory("cuda", total, usable)


def _most(device: DeviceMemory) -> int:
    """What weights and all limits together may come to on a Mac."""
    system = max(int(device.total * _SYSTEM_SHARE), _SYSTEM_LEAST)
    return min(int(device.usable * _RECOMMENDED_SHARE), device.total - system)


def _limit(device: DeviceMemory) -> int:
    return max(0, _most(device)) if device.kind == "metal" else device.total


def _host_bytes() -> int:
    return physical_memory() or 8 * _GIB
