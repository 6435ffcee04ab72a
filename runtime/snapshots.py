"""Frozen copies of contexts and generations, and their files.

A file has the tokens, not the KV: opening one runs them again, or takes what the prefix store has of them. It is a
safetensors file, whose metadata name the model and the tokenizer, so that tokens never meet a vocabulary that gives
them another meaning.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
import numpy as np
from anyio import to_thread
from safetensors import SafetensorError
from safetensors import numpy as tensors

from greenroom.conversation import NOTHING, Told
from greenroom.errors import GreenroomError, InvalidSnapshot, NotSupported, SnapshotMismatch
from greenroom.house import House

if TYPE_CHECKING:
    from greenroom.context import Context
    from greenroom.generator import Generator
    from greenroom.runtime import Runtime

__all__ = ["Snapshot"]

_FORMAT = "greenroom snapshot 1"


class Snapshot:
    """A frozen copy: of a context, or of a generation, which can go on from it as often as one likes."""

    def __init__(
        self, house: House, tokens: tuple[int, ...], *, told: Told = NOTHING, generator: Generator | None = None
    ) -> None:
        """`generator` is one that nobody else holds, to be copied."""
        self._house = house
        self._told = told
        self._generator = generator
        self.tokens = tokens

    def __repr__(self) -> str:
        kind = "context" if self._generator is None else "generation"
        return f"<Snapshot of a {kind} tokens={len(self.tokens)}>"

    async def restore(self) -> Generator:
        """A new generator, in a context of its own, that stands where the snapshot was taken.

        Raises `NotSupported` for the snapshot of a context: `open` that.
        """
        if self._generator is None:
            raise NotSupported("restore() of a context's snapshot", "open() it, and generate")
        return await self._generator.copy()

    def open(self) -> Context:
        """A new context with these tokens."""
        from greenroom.context import Context

        return Context(self._house, self.tokens, self._told)

    async def save(self, path: str | Path) -> None:
        """Write the tokens, and what they belong to, into a file; an older one is replaced once all is written.

        A generation is saved as a context: its sampler and its constraint are code.
        """
        await to_thread.run_sync(self._write, Path(path))

    def _write(self, path: Path) -> None:
        metadata = {
            "format": _FORMAT,
            "told": msgspec.json.encode(self._told).decode(),
            **fingerprints(self._house),
        }
        data = tensors.save({"tokens": np.array(self.tokens, np.int64)}, metadata)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    async def load(cls, path: str | Path, runtime: Runtime | None = None) -> Self:
        """Read a file for `runtime`, or the one that a module-level `generate` would use.

        Raises `InvalidSnapshot` for a file that is truncated or something else, `SnapshotMismatch` where another model
        or tokenizer wrote it, and `OSError` as reading does.
        """
        from greenroom import current

        house = current.find(runtime).opened()
        tokens, told = await to_thread.run_sync(_read, Path(path), house)
        return cls(house, tokens, told=told)


def _read(path: Path, house: House) -> tuple[tuple[int, ...], Told]:
    data = path.read_bytes()
    try:
        found = tensors.load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = msgspec.json.decode(data[8 : 8 + length]).get("__metadata__", {})
        if metadata.get("format") != _FORMAT:
            raise InvalidSnapshot(f"{path} is a safetensors file, but no snapshot of ours")
        told = Told(*msgspec.json.decode(metadata["told"], type=tuple[str | None, bool]))
        tokens = tuple(found["tokens"].tolist())
    except GreenroomError:
        raise
    except (SafetensorError, msgspec.MsgspecError, KeyError, ValueError, TypeError, AttributeError) as cause:
        raise InvalidSnapshot(f"{path} is no snapshot, or not all of one: {cause}") from cause
    _compare(path, metadata, fingerprints(house))
    if any(not 0 <= token < house.model.vocab_size for token in tokens):
        raise InvalidSnapshot(f"{path} has token ids that the model does not have")
    return tokens, told


def _compare(path: Path, saved: Mapping[str, Any], ours: Mapping[str, str]) -> None:
    for what in ours:
        if saved.get(what) != ours[what]:
            raise SnapshotMismatch(f"{path} was saved with another {what}: {saved.get(what)!r}, not {ours[what]!r}")


def fingerprints(house: House) -> dict[str, str]:
    """What tells a model and a tokenizer from others. Takes up to a second for a large tokenizer, once."""
    if house.fingerprints is None:
        model = house.model
        digest = hashlib.blake2b(digest_size=16)
        try:
            spelled = model.tokenizer.vocabulary()
        except NotSupported:  # a slow tokenizer: what it makes of every id
            spelled = "\n".join([model.tokenizer.decode([token]) for token in range(model.tokenizer.vocab_size)])
        parts = [spelled] if isinstance(spelled, str) else [*map(repr, spelled[0]), *map(str, sorted(spelled[1]))]
        for part in parts:
            digest.update(part.encode() + b"\0")
        weights = model.fingerprint or f"{model.vocab_size}/{model.context_length}/{model.kv_bytes_per_token}"
        house.fingerprints = {"model": weights, "tokenizer": digest.hexdigest()}
    return house.fingerprints
