"""Adapters made, perturbed and moved by noise that a seed makes again anywhere: what evolution strategies need.

The noise of a factor is drawn by its module's path and the seed, from a counter-based generator, in float32: so it need
not be kept, nor sent, and the same seeds and scores give the same bytes. It is as large as the factor at its beginning:
an `a` is noised in units of `1 / sqrt(inputs)`, a `b` in units of 1.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

from greenroom.backends.mlx.adapters.factors import Factors, Numbers
from greenroom.backends.mlx.adapters.targets import Target
from greenroom.errors import InvalidAdapter

__all__ = ["create_factors", "noised"]


def create_factors(targets: Mapping[str, Target], keys: Sequence[str], rank: int, seed: int) -> dict[str, Factors]:
    """Of an adapter that adds nothing yet: `a` is uniform, as mlx-lm begins, and `b` zero.

    `keys` are modules by their paths, or by what these end with. Raises `InvalidAdapter` for those that name none.
    """
    named = {key: [path for path in targets if path == key or path.endswith(f".{key}")] for key in keys}
    missing = [f"{key}: the model has no module of that name that can be adapted" for key in keys if not named[key]]
    if missing:
        raise InvalidAdapter("what was asked for", missing)
    found: dict[str, Factors] = {}
    for path in dict.fromkeys([path for paths in named.values() for path in paths]):
        target = targets[path]
        front = (target.experts,) if target.kind == "experts" else ()
        drawn = _generator(path, "a", seed, "beginning").random((*front, target.inputs, rank), np.float32)
        a = (drawn * 2 - 1) * np.float32(_unit(target.inputs))
        found[path] = Factors(a, np.zeros((*front, rank, target.outputs), np.float32))
    return found


def noised(factors: Mapping[str, Factors], steps: Mapping[int, float]) -> dict[str, Factors]:
    """With so much of each seed's noise added, in the order of `steps`. Seeds are above 0."""
    return {path: _add(path, each, steps) for path, each in factors.items()}


def _add(path: str, factors: Factors, steps: Mapping[int, float]) -> Factors:
    a, b = factors.a.copy(), factors.b.copy()
    unit = _unit(a.shape[-2])
    for seed, size in steps.items():
        a += np.float32(size * unit) * _noise(path, "a", seed, a.shape)
        b += np.float32(size) * _noise(path, "b", seed, b.shape)
    return Factors(a, b)


def _unit(inputs: int) -> float:
    return 1 / math.sqrt(inputs)


def _noise(path: str, factor: str, seed: int, shape: tuple[int, ...]) -> Numbers:
    return _generator(path, factor, seed, "noise").standard_normal(shape, np.float32)


def _generator(path: str, factor: str, seed: int, use: str) -> np.random.Generator:
    key = hashlib.blake2b(f"{use}\0{seed}\0{factor}\0{path}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
