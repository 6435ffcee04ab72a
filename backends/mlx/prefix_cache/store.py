"""Keys and values of prompts that are over, kept for those that begin alike.

KV is held in a tree of blocks. A block has 64 tokens and begins at a multiple of 64; the last one of an entry may be
shorter. It is found under the block before it by its own tokens, compared as they are, so there is no collision that
could hand out the wrong KV, and what entries share is held once. A radix tree would share to the token, but it would
split and copy blocks whenever entries part; here a block never changes, in memory or in a file. The price is that
entries which part within a block hold that block each. Part of a block can be used, as any prefix of KV can.

Other caches, recurrent or rotating ones, cannot be cut. A snapshot of them is held by all of its tokens, and is used
with exactly those.

The least recently used go first. Using a block uses those before it too, and later: so the oldest block never has one
behind it, and dropping it breaks no chain. What is held are copies, and what is handed out are arrays of their own.

Nobody waits for a copy while it is put here. But MLX writes into a buffer in place only if nothing reads it any more,
and a pool of rows is one buffer a layer: who writes there next waits first (`settle`), or copies the whole pool.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import mlx.core as mx

from greenroom.backends.mlx.layer_shape import LayerShape
from greenroom.backends.mlx.prefix_cache.files import PrefixFiles
from greenroom.backends.mlx.prefix_cache.layers import (
    CacheSnapshot,
    Layers,
    Stacking,
    Stacks,
    arrays_of,
    cut_stacks,
    join_stacks,
)
from greenroom.backends.prefixes import common_prefix_length

__all__ = ["BLOCK", "Hit", "PrefixNamespace", "PrefixStore", "SnapshotHit"]

BLOCK = 64
"""Tokens of a block: few enough that little is lost where entries part, enough that blocks are few."""
_SCRATCH = 128 << 20
"""Bytes of an entry that are copied twice, at a time: out of all layers at once, and from there into blocks."""
_Tokens = tuple[int, ...]


class Hit(NamedTuple):
    """The KV of the first `length` tokens, not computed yet. Writing into its arrays changes nothing in the store."""

    length: int
    stacks: Stacks
    stacking: Stacking

    @property
    def layers(self) -> Layers:
        """Keys and values layer by layer."""
        return self.stacking.layers_of(self.stacks)


class SnapshotHit(NamedTuple):
    """The caches after exactly `length` tokens. Writing into the arrays changes nothing in the store."""

    length: int
    snapshot: CacheSnapshot


class _Entry:
    """What is held for `tokens`; `siblings` is the table in which it is found by them."""

    __slots__ = ("namespace", "nbytes", "siblings", "tokens")

    def __init__(
        self, namespace: str, siblings: dict[_Tokens, Any], tokens: _Tokens, arrays: Iterable[mx.array]
    ) -> None:
        self.namespace = namespace
        self.siblings = siblings
        self.tokens = tokens
        self.nbytes = sum(array.nbytes for array in arrays)


class _Block(_Entry):
    """KV of `tokens`, which follow those of `before`; others follow it."""

    __slots__ = ("before", "following", "stacks")

    def __init__(
        self, namespace: str, before: _Block | None, siblings: dict[_Tokens, _Block], tokens: _Tokens, stacks: Stacks
    ) -> None:
        super().__init__(namespace, siblings, tokens, stacks)
        self.before = before
        self.stacks = stacks
        self.following: dict[_Tokens, _Block] = {}

    def all_tokens(self) -> _Tokens:
        """Its own tokens and all before them."""
        parts, block = [self.tokens], self.before
        while block is not None:
            parts.append(block.tokens)
            block = block.before
        return tuple([token for part in reversed(parts) for token in part])


class _SnapshotEntry(_Entry):
    """A snapshot after `tokens`."""

    __slots__ = ("snapshot",)

    def __init__(
        self, namespace: str, siblings: dict[_Tokens, _SnapshotEntry], tokens: _Tokens, snapshot: CacheSnapshot
    ) -> None:
        super().__init__(namespace, siblings, tokens, snapshot.arrays.values())
        self.snapshot = snapshot


class PrefixStore:
    """KV and snapshots within `budget` bytes, for one thread.

    `shapes` are the layers' of all KV that comes here; a model of snapshots alone has none. A namespace names all else
    that KV depends on: the very weights, adapter and noise seed, and how caches are made. With `files`, what is dropped
    is written there if it is a whole block or a snapshot, and what is missing is looked for there.
    """

    def __init__(self, budget: int, shapes: Sequence[LayerShape], files: PrefixFiles | None = None) -> None:
        self._budget = self._largest = budget
        self.shapes = tuple(shapes)
        """Of the layers; none where snapshots are held."""
        self.stacking = Stacking(self.shapes)
        """How blocks hold the layers."""
        self._bytes_per_token = sum(shape.bytes_per_token for shape in shapes)
        self._files = files
        self._first: dict[str, dict[_Tokens, _Block]] = {}
        """By namespace: the blocks with which entries begin."""
        self._snapshots: dict[str, dict[_Tokens, _SnapshotEntry]] = {}
        self._recent: OrderedDict[_Entry, None] = OrderedDict()
        """The least recently used first."""
        self._under_way: list[mx.array] = []
        """Copies that nobody has waited for."""
        self.nbytes = 0
        """Bytes of all that is held."""
        self.hits = 0
        self.misses = 0
        self.hit_tokens = 0
        """Tokens of all hits."""
        self.evictions = 0
        """Blocks and snapshots that were dropped for want of room."""

    @property
    def budget(self) -> int:
        """The most bytes that it holds."""
        return self._budget

    def __repr__(self) -> str:
        return f"<PrefixStore held={len(self._recent)} bytes={self.nbytes} of {self._budget} hits={self.hits}>"

    def match(self, namespace: str, tokens: Sequence[int]) -> int:
        """How many of `tokens`, from the first on, have their KV in memory. Uses and counts nothing."""
        wanted = tuple(tokens)
        path = self._whole_blocks(namespace, wanted)
        return len(path) * BLOCK + _closest(self._following(namespace, path), wanted[len(path) * BLOCK :])[1]

    def find(self, namespace: str, tokens: Sequence[int], *, least: int = 1) -> Hit | None:
        """KV of the longest prefix of `tokens` that is held; None where that is shorter than `least`.

        The last token of a prompt must be run for its logits: ask without it.
        """
        wanted = tuple(tokens)
        path = self._whole_blocks(namespace, wanted)
        self._use(path)
        self._load(namespace, wanted, path)
        start = len(path) * BLOCK
        tail, common = _closest(self._following(namespace, path), wanted[start:])
        if start + common < max(least, 1):
            self.misses += 1
            return None
        parts = [block.stacks for block in path]
        if tail is not None:
            self._use([*path, tail])
            parts.append(tuple([stack[:, :, :common] for stack in tail.stacks]))
        self._count_hit(start + common)
        return Hit(start + common, join_stacks(parts), self.stacking)

    def whole_length(self, namespace: str, tokens: Sequence[int]) -> int:
        """How many of `tokens` are held in whole blocks: those that `put` would not copy."""
        return len(self._whole_blocks(namespace, tuple(tokens))) * BLOCK

    def put(self, namespace: str, tokens: Sequence[int], layers: Layers, *, behind: int = 0) -> None:
        """Keep the KV of `tokens`: starts to copy what is not held yet (`settle`). Too large an entry is not kept.

        `layers` may leave out the first `behind` tokens, which are held in whole blocks. Raises `ValueError` unless
        they have the store's shapes and as many tokens as follow.
        """
        kept = tuple(tokens)
        if not self.stacking.fits(layers, len(kept) - behind):
            given = [(array.shape, array.dtype) for layer in layers for array in layer]
            raise ValueError(f"{len(kept) - behind} tokens have KV of {self.shapes}, not of the shapes {given}")
        if len(kept) * self._bytes_per_token > self._budget:
            return
        path = self._whole_blocks(namespace, kept)
        self._use(path)
        start = len(path) * BLOCK
        following = self._following(namespace, path)
        tail, common = _closest(following, kept[start:])
        if start + common == len(kept):
            self._use([*path, tail] if tail is not None else path)
            return
        self._drop_outgrown(tail, common)
        self._make_room((len(kept) - start) * self._bytes_per_token)
        cuts = [(at, min(at + BLOCK, len(kept))) for at in range(start, len(kept), BLOCK)]
        blocks = self._copy_blocks(layers, [(at - behind, stop - behind) for at, stop in cuts])
        for (at, stop), stacks in zip(cuts, blocks, strict=True):
            self._insert_block(namespace, path, kept[at:stop], stacks)

    def find_snapshot(self, namespace: str, tokens: Sequence[int]) -> SnapshotHit | None:
        """The longest snapshot after a prefix of `tokens`. Ask without a prompt's last token, as for `find`."""
        wanted = tuple(tokens)
        snapshots = self._snapshots.get(namespace, {})
        alike = [entry for entry in snapshots.values() if wanted[: len(entry.tokens)] == entry.tokens]
        entry = max(alike, key=lambda entry: len(entry.tokens), default=None)
        entry = self._load_snapshot(namespace, wanted, len(entry.tokens) if entry is not None else 0) or entry
        if entry is None:
            self.misses += 1
            return None
        self._use([entry])
        self._count_hit(len(entry.tokens))
        return SnapshotHit(len(entry.tokens), _copy_snapshot(entry.snapshot))

    def put_snapshot(self, namespace: str, tokens: Sequence[int], snapshot: CacheSnapshot) -> None:
        """Keep the caches after `tokens`: starts to copy them (`settle`). Too large, they are not kept."""
        kept = tuple(tokens)
        nbytes = sum(array.nbytes for array in snapshot.arrays.values())
        if not kept or nbytes > self._budget:
            return
        before = self._snapshots.get(namespace, {}).get(kept)
        if before is not None:
            self._drop(before)
        self._make_room(nbytes)
        snapshot = _copy_snapshot(snapshot)
        self._start(snapshot.arrays.values())
        self._insert_snapshot(namespace, kept, snapshot)

    def forget(self, namespace: str, tokens: Sequence[int]) -> None:
        """Drop what memory holds of prefixes of `tokens`: what was computed there is in doubt."""
        doubted = tuple(tokens)
        path = self._whole_blocks(namespace, doubted)
        tail, _ = _closest(self._following(namespace, path), doubted[len(path) * BLOCK :])
        snapshots = self._snapshots.get(namespace, {}).values()
        alike = [entry for entry in snapshots if doubted[: len(entry.tokens)] == entry.tokens]
        for entry in (*alike, *([] if tail is None else [tail]), *reversed(path)):
            self._drop(entry)

    def settle(self) -> None:
        """Wait for copies under way: then what they are made of may be written again, in place.

        What is dropped meanwhile is held until then. Where the device fails, nothing of what is held is trusted.
        """
        copies, self._under_way = self._under_way, []
        if not copies:
            return
        try:
            mx.eval(copies)
        except Exception:  # noqa: BLE001 - whatever the device says, nothing was kept
            self.clear()

    def limit(self, most: int) -> None:
        """Hold at most `most` bytes until told otherwise, and never more than the budget; the rest goes to files."""
        self._budget = min(self._largest, most)
        self._make_room(0)

    def release(self) -> None:
        """Drop everything; what files can hold goes there."""
        self._make_room(self._budget)

    def flush(self) -> None:
        """Write everything that files can hold, the least recently used first; it stays here too."""
        self.settle()
        for entry in self._recent:
            self._save(entry)

    def clear(self) -> None:
        """Drop everything. Files stay, and nothing is written."""
        self._recent.clear()
        self._first.clear()
        self._snapshots.clear()
        self.nbytes = 0

    def _copy_blocks(self, layers: Layers, cuts: Sequence[tuple[int, int]]) -> list[Stacks]:
        """Start to copy the tokens between `cuts`: a kernel for each array of `layers`, and one for each block."""
        blocks: list[Stacks] = []
        count = max(1, _SCRATCH // (BLOCK * self._bytes_per_token))
        for first in range(0, len(cuts), count):
            some = cuts[first : first + count]
            begin = some[0][0]
            stacks = self.stacking.stack(layers, begin, some[-1][1])
            parts = [cut_stacks(stacks, start - begin, stop - begin) for start, stop in some]
            self._start([array for part in parts for array in part])
            blocks += parts
        return blocks

    def _start(self, copies: Iterable[mx.array]) -> None:
        started = list(copies)
        mx.async_eval(started)
        self._under_way += started

    def _following(self, namespace: str, path: list[_Block]) -> dict[_Tokens, _Block]:
        return path[-1].following if path else self._first.get(namespace, {})

    def _whole_blocks(self, namespace: str, tokens: _Tokens) -> list[_Block]:
        """The whole blocks that hold the beginning of `tokens`."""
        path: list[_Block] = []
        for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
            block = self._following(namespace, path).get(tokens[start : start + BLOCK])
            if block is None:
                break
            path.append(block)
        return path

    def _use(self, path: Sequence[_Entry]) -> None:
        for entry in reversed(path):
            self._recent.move_to_end(entry)

    def _count_hit(self, length: int) -> None:
        self.hits += 1
        self.hit_tokens += length

    def _insert(self, entry: _Entry) -> None:
        entry.siblings[entry.tokens] = entry
        self._recent[entry] = None
        self.nbytes += entry.nbytes

    def _insert_block(self, namespace: str, path: list[_Block], tokens: _Tokens, stacks: Stacks) -> None:
        """Put a block behind those of `path`, and into it."""
        before = path[-1] if path else None
        siblings = before.following if before is not None else self._first.setdefault(namespace, {})
        block = _Block(namespace, before, siblings, tokens, stacks)
        self._insert(block)
        path.append(block)
        self._use(path)

    def _insert_snapshot(self, namespace: str, tokens: _Tokens, snapshot: CacheSnapshot) -> _SnapshotEntry:
        entry = _SnapshotEntry(namespace, self._snapshots.setdefault(namespace, {}), tokens, snapshot)
        self._insert(entry)
        return entry

    def _drop_outgrown(self, tail: _Block | None, common: int) -> None:
        """Drop a short last block whose tokens a longer one is about to hold."""
        if tail is not None and common == len(tail.tokens):
            self._drop(tail)

    def _make_room(self, nbytes: int) -> None:
        while self.nbytes + nbytes > self._budget:
            oldest = next(iter(self._recent))
            self._drop(oldest)
            self.evictions += 1
            self._save(oldest)

    def _drop(self, entry: _Entry) -> None:
        del self._recent[entry]
        self.nbytes -= entry.nbytes
        del entry.siblings[entry.tokens]
        if not entry.siblings:
            for top in (self._first, self._snapshots):
                if top.get(entry.namespace) is entry.siblings:
                    del top[entry.namespace]

    def _save(self, entry: _Entry) -> None:
        if self._files is None:
            return
        if isinstance(entry, _SnapshotEntry):
            self._files.save("snapshot", entry.namespace, entry.tokens, entry.snapshot.arrays, entry.snapshot.note)
        elif isinstance(entry, _Block) and len(entry.tokens) == BLOCK:
            self._files.save("block", entry.namespace, entry.all_tokens(), arrays_of(entry.stacks))

    def _load(self, namespace: str, tokens: _Tokens, path: list[_Block]) -> None:
        """Lengthen `path` by the blocks that files hold, as far as memory may hold all of it."""
        if self._files is None:
            return
        form = self.stacking.form(BLOCK)
        for start in range(len(path) * BLOCK, len(tokens) - BLOCK + 1, BLOCK):
            stop = start + BLOCK
            if stop * self._bytes_per_token > self._budget:
                return
            saved = self._files.load("block", namespace, tokens[:stop], form)
            if saved is None:
                return
            self._drop_outgrown(*_closest(self._following(namespace, path), tokens[start:stop]))
            self._make_room(BLOCK * self._bytes_per_token)
            self._insert_block(namespace, path, tokens[start:stop], self.stacking.stacks_of(saved.arrays))

    def _load_snapshot(self, namespace: str, tokens: _Tokens, longer: int) -> _SnapshotEntry | None:
        """The longest snapshot that files hold after more than `longer` of `tokens`."""
        if self._files is None:
            return None
        for length in self._files.lengths("snapshot", namespace):
            if not longer < length <= len(tokens):
                continue
            saved = self._files.load("snapshot", namespace, tokens[:length])
            if saved is None:
                continue
            nbytes = sum(array.nbytes for array in saved.arrays.values())
            if nbytes <= self._budget:
                self._make_room(nbytes)
                return self._insert_snapshot(namespace, tokens[:length], CacheSnapshot(*saved))
        return None


class PrefixNamespace(NamedTuple):
    """A store, and the namespace of a model in it."""

    store: PrefixStore
    namespace: str

    def name_of(self, adapter_key: str) -> str:
        """The namespace of what an adapter has made; with an empty key, of what the model by itself has."""
        return f"{self.namespace} adapter {adapter_key}" if adapter_key else self.namespace

    def of(self, adapter_key: str) -> PrefixNamespace:
        """The same store, and that namespace."""
        return PrefixNamespace(self.store, self.name_of(adapter_key))


def _closest(blocks: Mapping[_Tokens, _Block], tokens: _Tokens) -> tuple[_Block | None, int]:
    """The block that begins with the most of `tokens`, and how many; None and 0 if none does."""
    common = [(block, common_prefix_length(block.tokens, tokens)) for block in blocks.values()]
    block, length = max(common, key=itemgetter(1), default=(None, 0))
    return (block, length) if length else (None, 0)


def _copy_snapshot(snapshot: CacheSnapshot) -> CacheSnapshot:
    """The same with other arrays: writing into those of one does not change the other."""
    return CacheSnapshot({name: mx.contiguous(array) for name, array in snapshot.arrays.items()}, snapshot.note)
