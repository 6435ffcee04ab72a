"""Keys and values of prompts that are over, kept for those that begin alike.

Tokens are held in blocks of 64. A block is found by the block before it and its own tokens, compared as they are, so no
collision can hand out the wrong KV, and what two prompts share is held once. A prompt reuses whole blocks.

The least recently used go first. Using a block uses those before it too, and later: so the oldest block never has one
behind it, and dropping it breaks no chain. Blocks are copies; whoever uses one copies it again, into its own slot.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import mlx.core as mx

__all__ = ["BLOCK", "Layers", "PrefixStore"]

BLOCK = 64
"""Tokens of a block: shorter prefixes cost less to run than to keep."""
Layers = list[tuple[mx.array, mx.array]]
"""Keys and values of every layer, `[1, heads, tokens, size]`."""
_ROOT = 0


class _Block:
    __slots__ = ("layers", "number")

    def __init__(self, number: int, layers: Layers) -> None:
        self.number = number
        self.layers = layers


class PrefixStore:
    """Blocks of one model's KV, within `budget` bytes. For one thread."""

    def __init__(self, budget: int, bytes_per_token: int) -> None:
        self._block_bytes = bytes_per_token * BLOCK
        self._most = budget // self._block_bytes if bytes_per_token else 0
        self._blocks: OrderedDict[tuple[int, tuple[int, ...]], _Block] = OrderedDict()
        """By (number of the block before, tokens), the least recently used first."""
        self._numbers = _ROOT
        self.evictions = 0

    def __repr__(self) -> str:
        return f"<PrefixStore blocks={len(self._blocks)} of {self._most}>"

    @property
    def is_open(self) -> bool:
        """Whether its budget holds anything at all."""
        return self._most > 0

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return len(self._blocks) * self._block_bytes

    def match(self, tokens: Sequence[int]) -> int:
        """How many of `tokens`, from the first on, are held. Uses nothing."""
        return BLOCK * len(self._path(tokens))

    def take(self, tokens: Sequence[int]) -> Layers:
        """Keys and values of the `match(tokens)` first tokens, which is not 0."""
        path = self._path(tokens)
        self._use(path)
        blocks = [self._blocks[key].layers for key in path]
        layers = [[list(part) for part in zip(*layer, strict=True)] for layer in zip(*blocks, strict=True)]
        return [(mx.concatenate(keys, axis=2), mx.concatenate(values, axis=2)) for keys, values in layers]

    def put(self, tokens: Sequence[int], read: Callable[[int, int], Layers]) -> None:
        """Keep the whole blocks of `tokens`. `read(start, stop)` copies keys and values of what is not held yet."""
        whole = min(len(tokens) // BLOCK, self._most)
        path = self._path(tokens[: whole * BLOCK])
        self._use(path)
        new: list[mx.array] = []
        for start in range(len(path) * BLOCK, whole * BLOCK, BLOCK):
            while len(self._blocks) >= self._most:
                self._blocks.popitem(last=False)
                self.evictions += 1
            before = self._blocks[path[-1]].number if path else _ROOT
            self._numbers += 1
            block = _Block(self._numbers, read(start, start + BLOCK))
            path.append((before, tuple(tokens[start : start + BLOCK])))
            self._blocks[path[-1]] = block
            self._use(path)
            new += [array for layer in block.layers for array in layer]
        mx.eval(new)

    def clear(self) -> None:
        """Drop everything."""
        self._blocks.clear()

    def _path(self, tokens: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
        """The keys of the blocks that hold the beginning of `tokens`."""
        path: list[tuple[int, tuple[int, ...]]] = []
        before = _ROOT
        for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
            key = (before, tuple(tokens[start : start + BLOCK]))
            block = self._blocks.get(key)
            if block is None:
                break
            path.append(key)
            before = block.number
        return path

    def _use(self, path: list[tuple[int, tuple[int, ...]]]) -> None:
        for key in reversed(path):
            self._blocks.move_to_end(key)
