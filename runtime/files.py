"""Files that appear whole: written beside their place under a name of their own, and moved there in one step."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["part_of", "replace_file"]


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


def replace_file(path: Path, data: bytes) -> None:
    """Have `data` at `path`, readable by its owner alone: all of it, or after a failure what was there before."""
    with part_of(path) as part:
        part.write_bytes(data)
        part.replace(path)
