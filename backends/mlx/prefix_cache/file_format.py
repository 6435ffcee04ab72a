"""How arrays and the tokens that they belong to become bytes, and back: a safetensors file that can be checked.

What it says of itself is compared with what was asked for, and with a checksum, before any of it becomes an array: MLX
reads lazily, and would fail on a short file only when it computes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import mlx.core as mx
import msgspec
import numpy as np

from greenroom.backends.mlx.tensor_header import MAX_HEADER_BYTES, TensorEntry, parse_header

__all__ = [
    "FORMAT",
    "Form",
    "Kind",
    "Metadata",
    "SavedArrays",
    "Unusable",
    "base64_of",
    "bytes_of",
    "form_of_arrays",
    "parse",
    "read_header",
    "sign",
    "token_bytes",
]

Kind = Literal["block", "snapshot", "prefix"]
Form = Mapping[str, tuple[tuple[int, ...], mx.Dtype]]
"""Shape and type of every array, by name."""
FORMAT = "greenroom-prefix-2"
_TYPES = {
    "BOOL": mx.bool_,
    "U8": mx.uint8,
    "I8": mx.int8,
    "U16": mx.uint16,
    "I16": mx.int16,
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "U32": mx.uint32,
    "I32": mx.int32,
    "F32": mx.float32,
    "U64": mx.uint64,
    "I64": mx.int64,
    "C64": mx.complex64,
}
"""What safetensors calls MLX's types."""


class SavedArrays(NamedTuple):
    """What a file holds: arrays by name, evaluated, and the caller's own text."""

    arrays: dict[str, mx.array]
    note: str


class Unusable(Exception):
    """Why a file is not what was asked for."""


class Metadata(msgspec.Struct, frozen=True):
    """What a file says of itself; safetensors allows strings alone. `tokens` are base64 of little-endian int32."""

    format: str
    kind: str
    namespace: str
    tokens: str
    note: str
    arrays: str
    """JSON, by name: type and shape."""
    checksum: str = ""
    """Of everything above and of the arrays' bytes."""


def token_bytes(tokens: Sequence[int]) -> bytes:
    """Ids as little-endian int32."""
    return np.asarray(tokens, "<i4").tobytes()


def base64_of(raw: bytes) -> str:
    """Bytes as `Metadata` has them."""
    return base64.b64encode(raw).decode()


def form_of_arrays(arrays: Mapping[str, mx.array]) -> Form:
    """The `Form` that arrays have."""
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def sign(metadata: Metadata, arrays: Mapping[str, mx.array]) -> Metadata:
    """`metadata` with what the arrays are, and the checksum."""
    names = {dtype: name for name, dtype in _TYPES.items()}
    for name, array in arrays.items():
        if array.dtype not in names:
            raise TypeError(f"array {name!r} has the type {array.dtype}, which files do not hold")
    described = {name: (names[array.dtype], array.shape) for name, array in arrays.items()}
    metadata = msgspec.structs.replace(metadata, arrays=_describe(described))
    return msgspec.structs.replace(
        metadata, checksum=_checksum(metadata, {name: bytes_of(array) for name, array in arrays.items()})
    )


def _describe(arrays: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    return msgspec.json.encode(arrays, order="sorted").decode()


def bytes_of(array: mx.array) -> memoryview:
    """An array's bytes, in order. NumPy has no bfloat16, and need not: it sees bytes."""
    flat = mx.contiguous(array).reshape(-1)
    return np.asarray(flat.view(mx.uint8) if flat.size else mx.zeros(0, mx.uint8)).data


def _checksum(metadata: Metadata, parts: Mapping[str, memoryview]) -> str:
    digest = hashlib.blake2b(msgspec.json.encode(msgspec.structs.replace(metadata, checksum="")), digest_size=32)
    for name in sorted(parts):
        digest.update(parts[name])
    return digest.hexdigest()


def parse(data: bytes, wanted: Metadata, form: Form | None) -> SavedArrays:
    """The arrays in a file's bytes. Raises `Unusable` unless all of it is as it was written, and as is wanted."""
    tensors, metadata, body = read_header(data)
    for field in ("format", "kind", "namespace", "tokens"):
        if getattr(metadata, field) != getattr(wanted, field):
            raise Unusable(f"it has another {field}")
    if metadata.arrays != _describe({name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}):
        raise Unusable("its header and its metadata disagree about the arrays")
    parts = {name: body[slice(*tensor.data_offsets)] for name, tensor in tensors.items()}
    if metadata.checksum != _checksum(metadata, parts):
        raise Unusable("its checksum is wrong")
    arrays = {name: _array(tensor, parts[name]) for name, tensor in tensors.items()}
    if form is not None and dict(form) != form_of_arrays(arrays):
        raise Unusable("its arrays have other shapes or types")
    mx.eval(arrays)
    return SavedArrays(arrays, metadata.note)


def read_header(data: bytes) -> tuple[dict[str, TensorEntry], Metadata, memoryview]:
    """A safetensors file's entries by name, its metadata and the bytes behind its header. Raises `Unusable`."""
    start = 8 + int.from_bytes(data[:8], "little")
    if not 8 < start <= min(len(data), 8 + MAX_HEADER_BYTES):
        raise Unusable("it is cut off, or no safetensors file")
    try:
        tensors, raw = parse_header(data[8:start], len(data) - start)
        metadata = msgspec.json.decode(raw, type=Metadata)
    except ValueError as error:
        raise Unusable(f"its header is not ours ({error})") from error
    return tensors, metadata, memoryview(data)[start:]


def _array(tensor: TensorEntry, part: memoryview) -> mx.array:
    dtype = _TYPES.get(tensor.dtype)
    if dtype is None:
        raise Unusable(f"it has an array of type {tensor.dtype}")
    if not part:
        return mx.zeros(tensor.shape, dtype)
    return mx.array(np.frombuffer(part, np.uint8)).view(dtype).reshape(tensor.shape)
