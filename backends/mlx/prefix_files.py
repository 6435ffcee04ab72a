"""Arrays of prompts that are over, in files, for the processes that come after.

One safetensors file holds one thing: a block of KV or a snapshot, for all the tokens up to its end. Its name is made of
hashes, so looking for it costs one `open`; what it says of itself is compared with what was asked for, so a hash that
collides, or a file from elsewhere, is noticed. The data is checked before any of it becomes an array: MLX reads lazily,
and would fail on a short file only when it computes.

Several processes may share a folder. A file appears whole, by a rename, and may vanish at any time, which is a miss.
What was used longest ago is deleted first; the file system's times of modification say when that was. The files hold
the tokens of prompts as they are: they, and the folder where it is made here, are readable by their owner alone.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import mlx.core as mx
import msgspec
import numpy as np

__all__ = ["PREFIX_FILE_BYTES", "Form", "Kind", "PrefixFileWarning", "PrefixFiles", "Saved"]

Kind = Literal["block", "snapshot"]
Form = Mapping[str, tuple[tuple[int, ...], mx.Dtype]]
"""Shape and type of every array, by name."""

PREFIX_FILE_BYTES = 4 << 30
"""Of all files in a folder: some tens of thousands of tokens of a model of eight billion parameters."""
_FORMAT = "greenroom-prefix-1"
_NAME = re.compile(r"(?P<about>[0-9a-f]{16}-[a-z]+)-(?P<length>\d+)-[0-9a-f]{32}(?P<part>\.\w+\.part)?\.safetensors")
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


class PrefixFileWarning(RuntimeWarning):
    """A file in the cache folder cannot be used, or not be written. The prompt is run instead."""


class Saved(NamedTuple):
    """What a file holds: arrays by name, evaluated, and the caller's own text."""

    arrays: dict[str, mx.array]
    note: str


class _Unusable(Exception):
    """Why a file is not what was asked for."""


class _Tensor(msgspec.Struct, frozen=True):
    """A safetensors header's entry for one array."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Metadata(msgspec.Struct, frozen=True):
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


class PrefixFiles:
    """The files in `folder`, which is made if need be, within `budget` bytes.

    While a file is being written, the folder may hold that file on top. Files of other names are neither counted nor
    touched. No method raises for what the file system or a file's content does: it warns, and nothing is found.
    """

    def __init__(self, folder: str | Path, budget: int) -> None:
        self._folder = Path(folder)
        self._budget = budget
        self._unusable: set[str] = set()
        """Names of files that were read and were not what their names say: not read again, but written over."""

    def __repr__(self) -> str:
        return f"<PrefixFiles {str(self._folder)!r} bytes={self.nbytes} of {self._budget}>"

    @property
    def nbytes(self) -> int:
        """Bytes of all files, half-written ones too. Lists the folder."""
        return sum(status.st_size for _, status in self._listed())

    def lengths(self, kind: Kind, namespace: str) -> list[int]:
        """How many tokens the files of one kind are for, the most first. Lists the folder."""
        about = _about(kind, namespace)
        found = [_NAME.fullmatch(path.name) for path, _ in self._listed()]
        return sorted({int(m["length"]) for m in found if m and not m["part"] and m["about"] == about}, reverse=True)

    def load(self, kind: Kind, namespace: str, tokens: Sequence[int], form: Form | None = None) -> Saved | None:
        """What was saved for exactly these tokens; None if there is nothing, or, with a warning, nothing usable.

        With `form`, arrays of any other names, shapes or types are not usable.
        """
        raw = _raw(tokens)
        path = self._path(kind, namespace, raw, len(tokens))
        if path.name in self._unusable:
            return None
        try:
            data = path.read_bytes()
            saved = _parsed(data, _Metadata(_FORMAT, kind, namespace, _text(raw), "", ""), form)
        except FileNotFoundError:
            return None
        except (_Unusable, OSError) as error:
            self._unusable.add(path.name)
            _warn(f"{path} is ignored: {error}")
            return None
        _touch(path)
        return saved

    def save(
        self, kind: Kind, namespace: str, tokens: Sequence[int], arrays: Mapping[str, mx.array], note: str = ""
    ) -> bool:
        """Write a file, unless there is one; whether there is one now. Deletes others to keep within the budget.

        Raises `TypeError` for float64, which no device but the CPU could load.
        """
        raw = _raw(tokens)
        path = self._path(kind, namespace, raw, len(tokens))
        if path.name not in self._unusable and _touch(path):
            return True
        if sum(array.nbytes for array in arrays.values()) > self._budget:
            return False
        metadata = _signed(_Metadata(_FORMAT, kind, namespace, _text(raw), note, ""), arrays)
        try:
            is_there = self._write(path, arrays, metadata)
        except (OSError, RuntimeError) as error:  # MLX raises the latter when it cannot write
            _warn(f"{path} cannot be written: {error}")
            return False
        self._unusable.discard(path.name)
        return is_there

    def _write(self, path: Path, arrays: Mapping[str, mx.array], metadata: _Metadata) -> bool:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(".part.safetensors", f"{path.stem}.", self._folder)
        os.close(handle)
        part = Path(name)
        try:
            mx.save_safetensors(name, dict(arrays), msgspec.to_builtins(metadata))
            if not self._make_room(part, path):
                return False
            part.replace(path)
            return True
        finally:
            with suppress(OSError):
                part.unlink()

    def _make_room(self, part: Path, path: Path) -> bool:
        """Delete what was used longest ago until there is room for `part` in the place of `path`."""
        room = self._budget - part.stat().st_size
        if room < 0:
            return False
        others = [(other, status) for other, status in self._listed() if other not in (part, path)]
        others.sort(key=lambda found: (found[1].st_mtime_ns, found[0].name))
        held = sum(status.st_size for _, status in others)
        for other, status in others:
            if held <= room:
                break
            other.unlink(missing_ok=True)
            held -= status.st_size
        return True

    def _listed(self) -> Iterator[tuple[Path, os.stat_result]]:
        with suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name):
                    with suppress(FileNotFoundError):
                        yield Path(entry.path), entry.stat()

    def _path(self, kind: Kind, namespace: str, raw: bytes, length: int) -> Path:
        tokens = hashlib.blake2b(raw, digest_size=16).hexdigest()
        return self._folder / f"{_about(kind, namespace)}-{length}-{tokens}.safetensors"


def _about(kind: Kind, namespace: str) -> str:
    return f"{hashlib.blake2b(namespace.encode(), digest_size=8).hexdigest()}-{kind}"


def _raw(tokens: Sequence[int]) -> bytes:
    return np.asarray(tokens, "<i4").tobytes()


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _touch(path: Path) -> bool:
    """Mark a file as used now; whether it is there."""
    try:
        os.utime(path)
    except OSError:
        return False
    return True


def _warn(message: str) -> None:
    warnings.warn(message, PrefixFileWarning, stacklevel=3)


def _signed(metadata: _Metadata, arrays: Mapping[str, mx.array]) -> _Metadata:
    """`metadata` with what the arrays are, and the checksum."""
    names = {dtype: name for name, dtype in _TYPES.items()}
    for name, array in arrays.items():
        if array.dtype not in names:
            raise TypeError(f"array {name!r} has the type {array.dtype}, which files do not hold")
    described = {name: (names[array.dtype], array.shape) for name, array in arrays.items()}
    metadata = msgspec.structs.replace(metadata, arrays=_described(described))
    return msgspec.structs.replace(
        metadata, checksum=_checksum(metadata, {name: _bytes_of(array) for name, array in arrays.items()})
    )


def _described(arrays: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    return msgspec.json.encode(arrays, order="sorted").decode()


def _bytes_of(array: mx.array) -> memoryview:
    """An array's bytes, in order. NumPy has no bfloat16, and need not: it sees bytes."""
    flat = mx.contiguous(array).reshape(-1)
    return np.asarray(flat.view(mx.uint8) if flat.size else mx.zeros(0, mx.uint8)).data


def _checksum(metadata: _Metadata, parts: Mapping[str, memoryview]) -> str:
    digest = hashlib.blake2b(msgspec.json.encode(msgspec.structs.replace(metadata, checksum="")), digest_size=32)
    for name in sorted(parts):
        digest.update(parts[name])
    return digest.hexdigest()


def _parsed(data: bytes, wanted: _Metadata, form: Form | None) -> Saved:
    """The arrays in a file's bytes. Raises `_Unusable` unless all of it is as it was written, and as is wanted."""
    tensors, metadata, body = _header(data)
    for field in ("format", "kind", "namespace", "tokens"):
        if getattr(metadata, field) != getattr(wanted, field):
            raise _Unusable(f"it has another {field}")
    if metadata.arrays != _described({name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}):
        raise _Unusable("its header and its metadata disagree about the arrays")
    parts = {name: body[slice(*tensor.data_offsets)] for name, tensor in tensors.items()}
    if metadata.checksum != _checksum(metadata, parts):
        raise _Unusable("its checksum is wrong")
    arrays = {name: _array(tensor, parts[name]) for name, tensor in tensors.items()}
    if form is not None and dict(form) != {name: (array.shape, array.dtype) for name, array in arrays.items()}:
        raise _Unusable("its arrays have other shapes or types")
    mx.eval(arrays)
    return Saved(arrays, metadata.note)


def _header(data: bytes) -> tuple[dict[str, _Tensor], _Metadata, memoryview]:
    """A safetensors file's entries by name, its metadata and the bytes behind its header."""
    start = 8 + int.from_bytes(data[:8], "little")
    if not 8 < start <= len(data):
        raise _Unusable("it is cut off, or no safetensors file")
    try:
        entries = msgspec.json.decode(data[8:start], type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(entries.pop("__metadata__", b"{}"), type=_Metadata)
        tensors = {name: msgspec.json.decode(entry, type=_Tensor) for name, entry in entries.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _Unusable(f"its header is not ours ({error})") from error
    return tensors, metadata, memoryview(data)[start:]


def _array(tensor: _Tensor, part: memoryview) -> mx.array:
    dtype = _TYPES.get(tensor.dtype)
    if dtype is None or min(tensor.shape, default=0) < 0 or len(part) != math.prod(tensor.shape) * dtype.size:
        raise _Unusable(f"an array of type {tensor.dtype} and shape {tensor.shape} does not have {len(part)} bytes")
    if not part:
        return mx.zeros(tensor.shape, dtype)
    return mx.array(np.frombuffer(part, np.uint8)).view(dtype).reshape(tensor.shape)
