"""Adapters made, perturbed and moved by noise that a seed makes again anywhere: what evolution strategies need.

There is one table of normal numbers, drawn once from a counter-based generator, in float32. A factor's noise is blocks
of it, at places that a hash of its module's path and the seed gives: a copy instead of a draw, which was half of the
time in which a generation's members were made. So noise need not be kept, nor sent, and the same seeds and scores give
the same bytes. It is as large as the factor at its beginning: an `a` is noised in units of `1 / sqrt(inputs)`, a `b` in
units of 1.

Source: the shared noise table of "Evolution Strategies as a Scalable Alternative to Reinforcement Learning", Salimans
et al., 2017, section 2.1.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from greenroom.backends.mlx.adapters.factors import Factors, Numbers
from greenroom.backends.mlx.adapters.targets import Target
from greenroom.errors import InvalidAdapter

__all__ = ["create_factors", "noised"]

_PLACES = 1 << 22
"""Where a block of the table may begin."""
_BLOCK = 1 << 14
"""Numbers with places one after the other in the table."""


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
        drawn = _generator(f"beginning\0{seed}\0a\0{path}").random((*front, target.inputs, rank), np.float32)
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
        _add_noise(a.reshape(-1), size * unit, f"noise\0{seed}\0a\0{path}")
        _add_noise(b.reshape(-1), size, f"noise\0{seed}\0b\0{path}")
    return Factors(a, b)


def _add_noise(numbers: Numbers, size: float, name: str) -> None:
    """In place: blocks of the table, sixteen by each hash of the name."""
    table, step = _table(), np.float32(size)
    for place in range(0, numbers.size, _BLOCK):
        number = place // _BLOCK
        if number % 16 == 0:
            places = np.frombuffer(hashlib.blake2b(f"{name}\0{number}".encode()).digest(), "<u4") % _PLACES
        block = numbers[place : place + _BLOCK]
        first = int(places[number % 16])
        block += step * table[first : first + block.size]


@cache
def _table() -> Numbers:
    """16 MiB of normal numbers, the same everywhere."""
    table = _generator("table").standard_normal(_PLACES + _BLOCK, np.float32)
    table.setflags(write=False)
    return table


def _unit(inputs: int) -> float:
    return 1 / math.sqrt(inputs)


def _generator(name: str) -> np.random.Generator:
    key = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
