"""Whether two folders hold the same model, by a digest of a part of each: they are too large to be read for that."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import BinaryIO

from greenroom.backends.mlx.tensor_header import MAX_HEADER_BYTES, parse_header
from greenroom.errors import ModelLoadFailed
from greenroom.files.regular import open_regular, read_file

__all__ = ["fingerprint_of"]

_SAMPLES = 16
"""Places of an array that are looked at, and how many bytes there."""
_SAMPLE_BYTES = 64
_HEADER = struct.Struct("<Q")


def fingerprint_of(folder: Path) -> str:
    """A digest of the configuration, and of each array's name, type, shape and some of its bytes.

    However the arrays are divided among files. Raises `ModelLoadFailed` where a file is none of arrays.
    """
    found: dict[str, bytes] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        try:
            with open_regular(path) as file:
                found |= _arrays(file, path.stat().st_size)
        except (ValueError, OSError, struct.error) as error:
            raise ModelLoadFailed(f"{path} holds no arrays: {error}") from error
    digest = hashlib.blake2b(digest_size=16)
    config = folder / "config.json"
    digest.update(read_file(config) if config.exists() else b"")
    for name in sorted(found):
        digest.update(name.encode() + found[name])
    return digest.hexdigest()


def _arrays(file: BinaryIO, size: int) -> dict[str, bytes]:
    """A digest of each array by its name."""
    length = _HEADER.unpack(file.read(_HEADER.size))[0]
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header would have {length} bytes")
    start = _HEADER.size + length
    entries, _ = parse_header(file.read(length), size - start)
    found = {}
    for name, entry in entries.items():
        begin, end = entry.data_offsets
        digest = hashlib.blake2b(f"{entry.dtype}{entry.shape}".encode(), digest_size=16)
        step = max(_SAMPLE_BYTES, (end - begin) // _SAMPLES)
        for place in range(begin, end, step):
            file.seek(start + place)
            digest.update(file.read(min(_SAMPLE_BYTES, end - place)))
        found[name] = digest.digest()
    return found
