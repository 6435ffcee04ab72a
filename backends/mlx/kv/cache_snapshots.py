"""A row's own caches as one snapshot and back, whatever kinds of cache mlx-lm made for the model.

The arrays of the caches' states go by name; what else is in them (offsets, windows, the names of kinds) is written down
as JSON. A snapshot stands for exactly the tokens that the caches had seen: such caches cannot be cut.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from greenroom.backends.mlx.prefix_cache.layers import CacheSnapshot

__all__ = ["can_snapshot", "restore_caches", "snapshot_of"]


def can_snapshot(caches: Sequence[Any]) -> bool:
    """Whether all of `caches` are of kinds whose state can be taken and given back."""
    return all(hasattr(type(cache), "from_state") for cache in caches)


def snapshot_of(caches: Sequence[Any]) -> CacheSnapshot:
    """The state of `caches`. The arrays are theirs: copy them before the caches go on."""
    arrays: dict[str, mx.array] = {}
    plain: list[dict[str, Any]] = []
    for number, cache in enumerate(caches):
        leaves: Any = tree_flatten(cache.state)
        arrays |= {f"{number}/{name}": leaf for name, leaf in leaves if isinstance(leaf, mx.array)}
        plain.append({name: leaf for name, leaf in leaves if not isinstance(leaf, mx.array)})
    return CacheSnapshot(arrays, json.dumps(plain))


def restore_caches(snapshot: CacheSnapshot, make_cache: Callable[[], list[Any]]) -> list[Any]:
    """Caches in the state of `snapshot`, which hold its very arrays."""
    found = []
    for number, (fresh, plain) in enumerate(zip(make_cache(), json.loads(snapshot.note), strict=True)):
        head = f"{number}/"
        leaves = {name.removeprefix(head): leaf for name, leaf in snapshot.arrays.items() if name.startswith(head)}
        leaves |= plain
        found.append(type(fresh).from_state(tree_unflatten(list(leaves.items()))) if leaves else fresh)
    return found
