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

import hashlib
import logging
import math
import os
import re
import stat
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import mlx.core as mx
import msgspec

from greenroom.backends.mlx.prefix_cache.file_format import (
    FORMAT,
    Form,
    Kind,
    Metadata,
    SavedArrays,
    Unusable,
    base64_of,
    parse,
    sign,
    token_bytes,
)
from greenroom.errors import InvalidSnapshot, UnusablePath
from greenroom.files.regular import find_target, part_of
from greenroom.files.tensor_file import read_tensor_file

__all__ = ["PREFIX_FILE_BYTES", "Form", "Kind", "PrefixFileWarning", "PrefixFiles", "SavedArrays"]

PREFIX_FILE_BYTES = 4 << 30
"""Of all files in a folder: some tens of thousands of tokens of a model of eight billion parameters."""
_MOST_METADATA = 1 << 20
"""Bytes that a file says of itself, but for its tokens."""
_log = logging.getLogger("greenroom")
_NAME = re.compile(r"(?P<about>[0-9a-f]{16}-[a-z]+)-(?P<length>\d+)-[0-9a-f]{32}(?P<part>\.\w+\.part)?\.safetensors")


class PrefixFileWarning(RuntimeWarning):
    """A file in the cache folder cannot be used, or not be written. The prompt is run instead."""


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
        self._is_failing = False
        """Whether the last file could not be written."""

    def __repr__(self) -> str:
        return f"<PrefixFiles {str(self._folder)!r} bytes={self.nbytes} of {self._budget}>"

    def prepare(self) -> None:
        """Make the folder, and prove that it can be written. Raises `UnusablePath`."""
        try:
            self._make_folder()
            with part_of(self._folder / "probe") as probe:
                probe.write_bytes(b"x")
        except (OSError, ValueError) as cause:
            why = f"was given as prefix_folder and cannot be written ({cause}): give a folder that can, or none"
            raise UnusablePath(self._folder, why) from cause

    @property
    def nbytes(self) -> int:
        """Bytes of all files, half-written ones too. Lists the folder."""
        return sum(status.st_size for _, status in self._listed())

    def lengths(self, kind: Kind, namespace: str) -> list[int]:
        """How many tokens the files of one kind are for, the most first. Lists the folder."""
        about = _about(kind, namespace)
        found = [_NAME.fullmatch(path.name) for path, _ in self._listed()]
        return sorted({int(m["length"]) for m in found if m and not m["part"] and m["about"] == about}, reverse=True)

    def load(self, kind: Kind, namespace: str, tokens: Sequence[int], form: Form | None = None) -> SavedArrays | None:
        """What was saved for exactly these tokens; None if there is nothing, or, with a warning, nothing usable.

        With `form`, arrays of any other names, shapes or types are not usable.
        """
        ids = token_bytes(tokens)
        path = self._path(kind, namespace, ids, len(tokens))
        if path.name in self._unusable:
            return None
        try:
            data = read_tensor_file(path, min(self._budget, _most_bytes(form, len(tokens))))
            saved = parse(data, Metadata(FORMAT, kind, namespace, base64_of(ids), "", ""), form)
        except FileNotFoundError:
            return None
        except (Unusable, InvalidSnapshot, OSError) as error:
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
        ids = token_bytes(tokens)
        path = self._path(kind, namespace, ids, len(tokens))
        if path.name not in self._unusable and _touch(path):
            return True
        if sum(array.nbytes for array in arrays.values()) > self._budget:
            return False
        metadata = sign(Metadata(FORMAT, kind, namespace, base64_of(ids), note, ""), arrays)
        try:
            is_there = self._write(path, arrays, metadata)
        except (OSError, RuntimeError) as error:  # MLX raises the latter when it cannot write
            if not self._is_failing:
                _warn(f"{path} cannot be written, nor may others be until one is: {error}")
            self._is_failing = True
            return False
        self._is_failing = False
        self._unusable.discard(path.name)
        return is_there

    def _write(self, path: Path, arrays: Mapping[str, mx.array], metadata: Metadata) -> bool:
        self._make_folder()
        target = find_target(path)
        with part_of(target) as part:
            mx.save_safetensors(str(part), dict(arrays), msgspec.to_builtins(metadata))
            if not self._make_room(part, path):
                return False
            part.replace(target)
            return True

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

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
                        status = entry.stat()
                        if stat.S_ISREG(status.st_mode):
                            yield Path(entry.path), status

    def _path(self, kind: Kind, namespace: str, ids: bytes, length: int) -> Path:
        tokens = hashlib.blake2b(ids, digest_size=16).hexdigest()
        return self._folder / f"{_about(kind, namespace)}-{length}-{tokens}.safetensors"


def _about(kind: Kind, namespace: str) -> str:
    return f"{hashlib.blake2b(namespace.encode(), digest_size=8).hexdigest()}-{kind}"


def _most_bytes(form: Form | None, num_tokens: int) -> int:
    """Of a file of arrays of that form, with what it says of itself."""
    if form is None:
        return sys.maxsize
    arrays = sum(math.prod(shape) * dtype.size for shape, dtype in form.values())
    return arrays + _MOST_METADATA + 8 * num_tokens  # a token is six characters of base64


def _touch(path: Path) -> bool:
    """Mark a file as used now; whether it is there."""
    try:
        os.utime(path)
    except OSError:
        return False
    return True


def _warn(message: str) -> None:
    """Where warnings are errors, a line in the log: nobody could catch one on the thread of all requests."""
    try:
        warnings.warn(message, PrefixFileWarning, stacklevel=3)
    except PrefixFileWarning:
        _log.warning("%s", message)
