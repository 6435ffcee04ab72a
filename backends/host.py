"""What the machine under a backend says of itself, whatever computes on it."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
from pathlib import Path

__all__ = ["available_memory", "is_mac", "physical_memory", "sysctl"]

_MEMORY = 8 << 30
"""Of a machine that does not say how much it has."""


def is_mac() -> bool:
    """Whether this is macOS, asked while running: type checkers take `sys.platform` for their own."""
    return platform.system() == "Darwin"


def physical_memory() -> int | None:
    """Bytes; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def available_memory() -> int:
    """Bytes that can be had without swapping, as the system says; half of all where it does not say."""
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return (physical_memory() or _MEMORY) // 2


def sysctl(name: str) -> int | None:
    """A whole number that macOS's kernel tells under that name; None elsewhere, and where it tells none."""
    if not is_mac():
        return None
    library = ctypes.CDLL(ctypes.util.find_library("c"))
    value, size = ctypes.c_int64(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int64))
    failed = library.sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    return None if failed else value.value
