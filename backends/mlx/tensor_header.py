"""The header of a safetensors file, checked before anything else reads the file.

Parsers recurse, and MLX reads arrays lazily: over an entry that does not fit its bytes it would fail where it computes.
"""

from __future__ import annotations

import math

import msgspec

from greenroom.files.json_depth import MAX_HEADER_BYTES, check_json_depth

__all__ = ["MAX_HEADER_BYTES", "TensorEntry", "parse_header"]

_MAX_DEPTH = 3
"""The header, an entry, its shape."""
_MAX_DIMENSIONS = 16
_MAX_DIMENSION = 2**31 - 1
"""MLX counts in int32."""
_MAX_ITEMS = 2**48
"""Of the dimensions that are not 0: strides are int64."""
_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}


class TensorEntry(msgspec.Struct, frozen=True):
    """What a header says of one array; its offsets count from the header's end."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def parse_header(header: bytes, num_bytes: int) -> tuple[dict[str, TensorEntry], msgspec.Raw]:
    """The entries by name, and the metadata's JSON, of a file with `num_bytes` behind its header.

    Raises `ValueError`, which says what is wrong with which array.
    """
    check_json_depth(header, _MAX_DEPTH)
    found = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
    metadata = found.pop("__metadata__", msgspec.Raw(b"{}"))
    entries = {}
    for name, raw in found.items():
        try:
            entries[name] = msgspec.json.decode(raw, type=TensorEntry)
        except msgspec.ValidationError as error:
            raise ValueError(f"the array {name!r}: {error}") from error
        _check(name, entries[name], num_bytes)
    return entries, metadata


def _check(name: str, entry: TensorEntry, num_bytes: int) -> None:
    begin, end = entry.data_offsets
    if not 0 <= begin <= end <= num_bytes:
        raise ValueError(f"the array {name!r} has the bytes {begin} to {end} of {num_bytes}: the file is cut off")
    shape = entry.shape
    is_small = len(shape) <= _MAX_DIMENSIONS and all(0 <= size <= _MAX_DIMENSION for size in shape)
    if not is_small or math.prod([size or 1 for size in shape]) > _MAX_ITEMS:
        raise ValueError(f"the array {name!r} has the shape {shape}, which no array has")
    item_bytes = _ITEM_BYTES.get(entry.dtype)
    if item_bytes is not None and math.prod(shape) * item_bytes != end - begin:
        raise ValueError(
            f"the array {name!r} of type {entry.dtype} and shape {shape} does not have {end - begin} bytes"
        )
