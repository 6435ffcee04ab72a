"""The KV of some tokens in all layers of a model as few arrays: stacked, cut, joined, and as the arrays of a file.

Keys and values of one shape and type, of whatever layers, are one array `[planes, heads, tokens, size]`; most models
have a single one. To copy it is one kernel, where arrays for each layer's keys and for its values are two a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx

from greenroom.backends.mlx.layer_shape import LayerShape
from greenroom.backends.mlx.prefix_cache.file_format import Form

__all__ = ["CacheSnapshot", "Layers", "Stacking", "Stacks", "arrays_of", "cut_stacks", "join_stacks"]

Layers = Sequence[tuple[mx.array, mx.array]]
"""Keys and values of every layer, `[1, heads, tokens, size]`."""
Stacks = tuple[mx.array, ...]
"""The same, as a `Stacking` makes it."""


class CacheSnapshot(NamedTuple):
    """Caches that are used as a whole: their arrays by name, and a text in which the caller keeps all else."""

    arrays: Mapping[str, mx.array]
    note: str = ""


class _Plane(NamedTuple):
    """What keys and values must have in common to be in one array."""

    heads: int
    size: int
    dtype: mx.Dtype


class Stacking:
    """Which keys and values of layers of these shapes are in which array: in their order, a layer's keys first."""

    def __init__(self, shapes: Sequence[LayerShape]) -> None:
        self._planes = [
            plane
            for s in shapes
            for plane in (_Plane(s.heads, s.key_size, s.key_type), _Plane(s.heads, s.value_size, s.value_type))
        ]
        kinds = dict.fromkeys(self._planes)
        self._members = [[at for at, plane in enumerate(self._planes) if plane == kind] for kind in kinds]
        """Of each array, the numbers of its planes: twice the layer's, and one more for values."""

    def fits(self, layers: Layers, length: int) -> bool:
        """Whether layers have these shapes and types, and so many tokens."""
        given = [(array.shape, array.dtype) for layer in layers for array in layer]
        return given == [((1, plane.heads, length, plane.size), plane.dtype) for plane in self._planes]

    def form(self, length: int) -> Form:
        """What the arrays of so many tokens must be, by the names that `arrays_of` gives them."""
        form = {}
        for number, members in enumerate(self._members):
            plane = self._planes[members[0]]
            form[_name(number)] = ((len(members), plane.heads, length, plane.size), plane.dtype)
        return form

    def stack(self, layers: Layers, start: int, stop: int) -> Stacks:
        """A copy of some tokens: a kernel for the keys and one for the values of each layer."""
        planes = [array[:, :, start:stop] for layer in layers for array in layer]
        stacks = []
        for members in self._members:
            some = [planes[at] for at in members]
            stacks.append(mx.concatenate(some) if len(some) > 1 else mx.contiguous(some[0]))
        return tuple(stacks)

    def stacks_of(self, arrays: Mapping[str, mx.array]) -> Stacks:
        """What `arrays_of` made arrays of."""
        return tuple([arrays[_name(number)] for number in range(len(self._members))])

    def layers_of(self, stacks: Stacks) -> Layers:
        """Views of every layer's keys and values."""
        planes: list[mx.array] = [mx.array(0)] * len(self._planes)
        for members, stack in zip(self._members, stacks, strict=True):
            for place, at in enumerate(members):
                planes[at] = stack[place : place + 1]
        return list(zip(planes[::2], planes[1::2], strict=True))


def cut_stacks(stacks: Stacks, start: int, stop: int) -> Stacks:
    """A copy of some tokens, which keeps no larger buffer alive, but for up to 16 KiB that MLX does not mind.

    Of all tokens it is the stacks themselves.
    """
    return tuple(
        [mx.contiguous(stack[:, :, start:stop]) if (start, stop) != (0, stack.shape[2]) else stack for stack in stacks]
    )


def join_stacks(parts: Sequence[Stacks]) -> Stacks:
    """Parts of a chain, one behind the other: a kernel for each, or none where there is one."""
    if len(parts) == 1:
        return parts[0]
    return tuple([mx.concatenate(list(stacks), axis=2) for stacks in zip(*parts, strict=True)])


def arrays_of(stacks: Stacks) -> dict[str, mx.array]:
    """Stacks as a file holds them."""
    return {_name(number): stack for number, stack in enumerate(stacks)}


def _name(number: int) -> str:
    return f"kv.{number}"
