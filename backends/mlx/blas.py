"""A fast float32 product for MLX on Linux, arranged before MLX itself is loaded.

The CPU wheel of MLX links a reference BLAS that multiplies at 1-2 GFLOP/s. The dynamic linker takes the first `sgemm`
it meets, so an OpenBLAS that is loaded globally *before* `mlx.core` serves MLX too, some fifteen times faster.
Loading it afterwards has no effect, and nothing can repair that within the process: then a `BlasWarning` says so,
once.

`GREENROOM_OPENBLAS` set to `0` or `off` leaves things alone; any other value is the library to load. This module
knows nothing of models, and imports no MLX before `prepare` has run.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import os
import sys
import warnings
from pathlib import Path
from typing import Literal

from greenroom.errors import MissingExtra

__all__ = ["BlasStatus", "BlasWarning", "prepare", "status"]

BlasStatus = Literal["loaded", "absent", "off", "too_late", "not_needed"]

_LIBRARY = "libopenblas.so.0"
_status: BlasStatus | None = None
_MISSING = {
    "darwin": "mlx cannot be imported: it needs macOS 14 or newer, and a Python that is arm64 (not one under Rosetta)",
    "linux": "mlx is installed without the part that computes: pip install 'greenroom[cpu]', or 'greenroom[cuda]' with "
    "an NVIDIA GPU",
}


class BlasWarning(RuntimeWarning):
    """MLX was imported before greenroom could put a fast BLAS under it: products on the CPU are far slower."""


def status() -> BlasStatus | None:
    """What `prepare` found; None before it ran."""
    return _status


def prepare() -> BlasStatus:
    """Load OpenBLAS where it helps, then make sure that `mlx.core` can be imported. Only the first call acts.

    Raises `MissingExtra` where MLX is installed without the part that computes.
    """
    global _status  # noqa: PLW0603 - a fact about the process, like the linker's own table
    if _status is None:
        _status = _load()
        _check_import()
    return _status


def _load() -> BlasStatus:
    if not sys.platform.startswith("linux") or _has_cuda():
        return "not_needed"
    wanted = os.environ.get("GREENROOM_OPENBLAS", "")
    if wanted.lower() in {"0", "off"}:
        return "off"
    library = wanted or _LIBRARY
    if "mlx.core" in sys.modules:
        if not _is_mapped(library):
            warnings.warn(
                f"mlx was imported before greenroom, so {library} could not be put under it and float32 products on "
                "the CPU stay slow: import greenroom.backends.mlx.backend first, or preload it with LD_PRELOAD",
                BlasWarning,
                stacklevel=3,
            )
            return "too_late"
        return "loaded"
    try:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return "absent"
    return "loaded"


def _has_cuda() -> bool:
    for name in ("mlx-cuda-13", "mlx-cuda-12", "mlx-cuda"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.distribution(name)
            return True
    return False


def _is_mapped(library: str) -> bool:
    try:
        with Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as maps:
            return any(Path(library).name.split(".so")[0] in line for line in maps)
    except OSError:
        return False


def _check_import() -> None:
    try:
        importlib.import_module("mlx.core")
    except ImportError as error:
        raise MissingExtra(_MISSING.get(sys.platform, _MISSING["linux"])) from error
