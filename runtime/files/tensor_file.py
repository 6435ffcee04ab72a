"""Files of arrays in the safetensors format, read only where their size is what their header says, and there is room.

The header comes first, and says where each array ends: so a file that is longer, cut off or made up is known before
memory is taken for it.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from greenroom.errors import InvalidSnapshot, UnusablePath
from greenroom.files.json_depth import MAX_HEADER_BYTES, check_json_depth
from greenroom.files.regular import open_regular

__all__ = ["read_tensor_file"]

_MAX_DEPTH = 3
"""The header, an entry, its shape."""


class _Entry(msgspec.Struct, frozen=True):
    data_offsets: tuple[int, int]


def read_tensor_file(path: Path, most: int) -> bytes:
    """All of a file of at most `most` bytes, of which no more is read than the header says, and no less.

    Raises `InvalidSnapshot` for a file that is longer or shorter than its header says, or has none; `UnusablePath` for
    what is no regular file, for more than `most` bytes, and where there is no memory; `OSError`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise UnusablePath(path, f"has {size} bytes, and there is room for {most}")
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise InvalidSnapshot(f"{path} is cut off, or no safetensors file: it has {size} bytes")
        header = file.read(length)
        wanted = 8 + length + _data_bytes(path, header)
        if size != wanted:
            raise InvalidSnapshot(f"{path} has {size} bytes, its header tells of {wanted}")
        try:
            return b"".join([head, header, file.read(wanted - 8 - length)])
        except MemoryError as cause:
            raise UnusablePath(path, f"has {size} bytes, for which there is no memory") from cause


def _data_bytes(path: Path, header: bytes) -> int:
    """Where the last array ends, from the header's end on."""
    try:
        check_json_depth(header, _MAX_DEPTH)
        found = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        found.pop("__metadata__", None)
        ends = [msgspec.json.decode(raw, type=_Entry).data_offsets[1] for raw in found.values()]
    except ValueError as error:
        raise InvalidSnapshot(f"{path} has a header that is none of safetensors: {error}") from error
    return max(ends, default=0)
