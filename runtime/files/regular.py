"""Regular files alone are read and written, and appear whole: written under a name of their own, and moved in one step.

A pipe would keep its reader waiting, a device has no end, and a rename would put a file in the place of either: so what
a path leads to is looked at first.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from greenroom.errors import UnusablePath

__all__ = ["find_target", "open_regular", "part_of", "read_file", "replace_file"]

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextmanager
def part_of(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, readable by its owner alone, to be written and moved there; else it is deleted.

    Its name is unlike that of any other writer, in this process or another, and ends as `path` does.
    """
    handle, name = tempfile.mkstemp(f".part{path.suffix}", f"{path.stem}.", path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def find_target(path: Path) -> Path:
    """Where a file for `path` is to be moved: there, or where a link there leads; it need not exist.

    Raises `UnusablePath` for what is no regular file, which would be replaced, and `OSError`.
    """
    with suppress(FileNotFoundError):  # nothing is there, or a link to a file that is yet to be made
        _require_regular(path)
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def replace_file(path: Path, data: bytes) -> None:
    """Have `data` at `path`, readable by its owner alone: all of it, or after a failure what was there before.

    Where a link is there, the file that it leads to is replaced. Raises `UnusablePath`, `OSError`.
    """
    target = find_target(path)
    with part_of(target) as part:
        part.write_bytes(data)
        part.replace(target)


def read_file(path: Path, most: int | None = None) -> bytes:
    """All of a regular file. Raises `UnusablePath` for anything else, and for more than `most` bytes; `OSError`."""
    size = _require_regular(path).st_size
    if most is not None and size > most:
        raise UnusablePath(path, f"has {size} bytes, and at most {most} are read")
    try:
        return path.read_bytes()
    except MemoryError as cause:
        raise UnusablePath(path, f"has {size} bytes, for which there is no memory") from cause


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """A regular file, to be read. Raises `UnusablePath` for anything else, `OSError`."""
    _require_regular(path)
    with path.open("rb") as file:
        yield file


def _require_regular(path: Path) -> os.stat_result:
    try:
        status = path.stat()
    except ValueError as cause:  # a null character, or what the file system cannot spell
        raise UnusablePath(repr(str(path)), f"is no path: {cause}") from cause
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "something else")
        raise UnusablePath(path, f"is {kind}, not a regular file: give the path of a file")
    return status
