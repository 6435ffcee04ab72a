"""Whether the device, or the whole system, is short of memory: looked at now and then, while passes are read.

On a Mac the system says so itself. Elsewhere too, what MLX holds may come near what the device can give, whoever it is
that takes the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import mlx.core as mx

from greenroom.backends.host import sysctl
from greenroom.backends.mlx.memory_plan import DeviceMemory

__all__ = ["MemoryPressure", "most_to_hold", "system_pressure"]

_EVERY = 1.0
"""Seconds between two looks."""
_NEAR = 0.95
_WARNING = 2
"""1 is normal, 2 a warning, 4 critical."""
_LEVEL = "kern.memorystatus_vm_pressure_level"


def most_to_hold(device: DeviceMemory) -> int | None:
    """Bytes of active and kept memory from which on the device is short of it; None where nobody can say."""
    if device.kind == "metal":
        return int(device.usable * _NEAR)
    if device.kind == "cuda":
        return mx.get_active_memory() + int(device.usable * _NEAR)
    return None


def system_pressure() -> int:
    """What macOS says of the memory of the whole system; 1 elsewhere."""
    return sysctl(_LEVEL) or 1


def _held() -> int:
    return mx.get_active_memory() + mx.get_cache_memory()


class MemoryPressure:
    """Counts the looks in a row that found too little memory."""

    def __init__(
        self,
        most: int | None,
        *,
        held: Callable[[], int] = _held,
        level: Callable[[], int] = system_pressure,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`most`: see `most_to_hold`."""
        self._most = most
        self._held = held
        self._level = level
        self._clock = clock
        self._next = clock()
        self.count = 0

    def __repr__(self) -> str:
        return f"<MemoryPressure most={self._most} count={self.count}>"

    def look(self) -> bool:
        """Look, if it is time to; whether this look found too little."""
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + _EVERY
        is_short = self._level() >= _WARNING or (self._most is not None and self._held() > self._most)
        self.count = self.count + 1 if is_short else 0
        return is_short
