"""What importing MLX and mlx-lm does to the process, arranged before either is imported.

MLX takes its BLAS from whatever is loaded first (see `blas`). mlx-lm's `utils` sets the process's limit of open files
to 2,048, and the most that it may ever be to 4,096: a server that had 20,000 is cut down, for good where it is not
root's, and a process whose own bound is lower cannot import it at all. Here that limit is never lowered.

What the two bring, transformers above all, is some 100,000 objects that live as long as the process. Each full run of
Python's collector of circles looks at all of them, for 50 ms and more on two cores, in which every thread stands still
and streams stutter. So what is alive once they are there is left out of later runs (`gc.freeze`, as servers do once
they are set up): circles of the app's own from before are not found any more, all else is freed as ever.
"""

from __future__ import annotations

import gc
import importlib
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from greenroom.backends.mlx import blas

__all__ = ["prepare"]

_WANTED_FILES = 2048
"""What mlx-lm wants for models of many files; macOS begins with 256."""


@cache
def prepare() -> None:
    """Import `mlx.core` and `mlx_lm`. Only the first call acts. Raises `MissingExtra`."""
    blas.prepare()
    with _kept_file_limit():
        importlib.import_module("mlx_lm")
    gc.collect()
    gc.freeze()


@contextmanager
def _kept_file_limit() -> Iterator[None]:
    """Nobody sets the limit of open files meanwhile; it is raised to `_WANTED_FILES`, as far as it may be."""
    set_limit = resource.setrlimit

    def set_other_limit(which: int, limits: tuple[int, int]) -> None:
        if which != resource.RLIMIT_NOFILE:
            set_limit(which, limits)

    resource.setrlimit = set_other_limit
    try:
        yield
    finally:
        resource.setrlimit = set_limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(_WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        set_limit(resource.RLIMIT_NOFILE, (wanted, hard))
