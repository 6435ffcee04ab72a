"""What is held of one conversation as bytes that can be kept anywhere, and back: a part of the prefix store.

The bytes are a safetensors file with all the tokens, the store's namespace and a checksum. Unlike the store's own
files, which are looked for and ignored if they are unfit, these were asked for: what is wrong with them is raised.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence

import mlx.core as mx
import msgspec
import numpy as np

from greenroom.backends.mlx.prefix_cache.file_format import (
    FORMAT,
    Kind,
    Metadata,
    SavedArrays,
    Unusable,
    base64_of,
    bytes_of,
    parse,
    read_header,
    sign,
    token_bytes,
)
from greenroom.backends.mlx.prefix_cache.layers import CacheSnapshot, arrays_of
from greenroom.backends.mlx.prefix_cache.store import PrefixNamespace
from greenroom.errors import InvalidSnapshot, SnapshotMismatch

__all__ = ["export_prefix", "import_prefix"]

_KV: Kind = "prefix"
_CACHES: Kind = "snapshot"


def export_prefix(kept: PrefixNamespace, tokens: Sequence[int]) -> bytes | None:
    """The longest prefix of `tokens` that is held; None where nothing is."""
    store, namespace = kept
    if store.shapes:
        hit = store.find(namespace, tokens)
        if hit is None:
            return None
        return _pack(_KV, namespace, tokens[: hit.length], CacheSnapshot(arrays_of(hit.stacks)))
    found = store.find_snapshot(namespace, tokens)
    return None if found is None else _pack(_CACHES, namespace, tokens[: found.length], found.snapshot)


def import_prefix(kept: PrefixNamespace, data: bytes) -> int:
    """Hold what `export_prefix` gave; how many tokens that is, 0 where it is more than the store may hold.

    Raises `InvalidSnapshot` for bytes that are no such thing, or not all of it, `SnapshotMismatch` for those of other
    weights, or of another version of MLX.
    """
    try:
        kept = _whose(kept, data)
        tokens, saved = _read(kept, data)
        return _hold(kept, tokens, saved)
    except (Unusable, KeyError, ValueError) as error:
        if isinstance(error, SnapshotMismatch):
            raise
        raise InvalidSnapshot(f"the KV cannot be used: {error}") from error


def _whose(kept: PrefixNamespace, data: bytes) -> PrefixNamespace:
    """The namespace that the bytes are of, where that is an adapter's of this very model."""
    _, metadata, _ = read_header(data)
    is_of_adapter = metadata.namespace.startswith(kept.name_of(" ").rstrip())
    return kept._replace(namespace=metadata.namespace) if is_of_adapter else kept


def _read(kept: PrefixNamespace, data: bytes) -> tuple[list[int], SavedArrays]:
    store, namespace = kept
    _, metadata, _ = read_header(data)
    if metadata.format == FORMAT and metadata.namespace != namespace:
        ours = f"{metadata.namespace!r}, not {namespace!r}"
        raise SnapshotMismatch(f"the KV was saved with other weights, or another MLX, which rounds differently: {ours}")
    tokens = np.frombuffer(base64.b64decode(metadata.tokens), "<i4").tolist()
    kind, form = (_KV, store.stacking.form(len(tokens))) if store.shapes else (_CACHES, None)
    return tokens, parse(data, Metadata(FORMAT, kind, namespace, metadata.tokens, "", ""), form)


def _hold(kept: PrefixNamespace, tokens: list[int], saved: SavedArrays) -> int:
    store, namespace = kept
    if not store.shapes:
        store.put_snapshot(namespace, tokens, CacheSnapshot(saved.arrays, saved.note))
        store.settle()
        found = store.find_snapshot(namespace, tokens)
        return 0 if found is None else found.length
    store.put(namespace, tokens, store.stacking.layers_of(store.stacking.stacks_of(saved.arrays)))
    store.settle()
    return store.match(namespace, tokens)


def _pack(kind: Kind, namespace: str, tokens: Sequence[int], held: CacheSnapshot) -> bytes:
    arrays = dict(held.arrays)
    mx.eval(arrays)
    metadata = sign(Metadata(FORMAT, kind, namespace, base64_of(token_bytes(tokens)), held.note, ""), arrays)
    described: Mapping[str, tuple[str, tuple[int, ...]]] = json.loads(metadata.arrays)
    header: dict[str, object] = {"__metadata__": msgspec.to_builtins(metadata)}
    parts, place = [], 0
    for name, array in arrays.items():
        part = bytes_of(array)
        dtype, shape = described[name]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (place, place + len(part))}
        parts.append(part)
        place += len(part)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return b"".join([len(head).to_bytes(8, "little"), head, *parts])
