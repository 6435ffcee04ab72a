"""Memory that two processes see, for what is too large for messages: masks there, logits back.

It is a file without a name, so that it is gone with its last user, however that one ended. One end writes and says
where; it writes to two halves in turn, since no more than two steps are under way: what was said of a step stands until
that has been read. The file grows where a half is too small, and what stood in the old halves stays there.
"""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np
import numpy.typing as npt

__all__ = ["SharedRows", "new_shared_file"]

_LEAST = 1 << 16
_ALIGNMENT = 64


def new_shared_file() -> int:
    """A descriptor of an empty file that has no name; the caller closes it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("greenroom", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class SharedRows:
    """One end's view of such a file; it owns the descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None
        self._base = self._half = 0
        """Where the halves begin, and how large one is, for who writes."""
        self._turn = 0

    def __repr__(self) -> str:
        return f"<SharedRows bytes={0 if self._map is None else len(self._map)}>"

    def begin(self, nbytes: int) -> int:
        """Where the next step's bytes go: the place of the first one."""
        if nbytes > self._half:
            self._base += 2 * self._half
            self._half = max(_LEAST, 2 * -(-nbytes // _ALIGNMENT) * _ALIGNMENT)
            os.ftruncate(self._descriptor, self._base + 2 * self._half)
        self._turn = 1 - self._turn
        return self._base + self._turn * self._half

    def write(self, place: int, rows: npt.NDArray[np.generic]) -> None:
        """Put `rows` there."""
        np.frombuffer(self._require(place + rows.nbytes), rows.dtype, rows.size, place)[:] = rows.reshape(-1)

    def read(self, place: int, shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[np.generic]:
        """A copy of what stands there."""
        count = int(np.prod(shape))
        end = place + count * np.dtype(dtype).itemsize
        return np.frombuffer(self._require(end), dtype, count, place).reshape(shape).copy()

    def close(self) -> None:
        """Again is nothing."""
        self._map = None  # what numpy still holds of it keeps it
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _require(self, end: int) -> mmap.mmap:
        """The file in memory, at least up to there."""
        if self._map is None or len(self._map) < end:
            self._map = mmap.mmap(self._descriptor, 0)
        return self._map
