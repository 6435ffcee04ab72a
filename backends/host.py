"""What the machine under a backend says of itself, whatever computes on it."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform

__all__ = ["is_mac", "physical_memory", "sysctl"]


def is_mac() -> bool:
    """Whether this is macOS, asked while running: type checkers take `sys.platform` for their own."""
    return platform.system() == "Darwin"


def physical_memory() -> int | None:
    """Bytes; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def sysctl(name: str) -> int | None:
    """A whole number that macOS's kernel tells under that name; None elsewhere, and where it tells none."""
    if not is_mac():
        return None
    library = ctypes.CDLL(ctypes.util.find_library("c"))
    value, size = ctypes.c_int64(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int64))
    failed = library.sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    return None if failed else value.value
