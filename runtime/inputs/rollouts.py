"""What evolution strategies know of rollouts: seeds in mirrored pairs, and scores as weights.

Plain calls on plain numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from greenroom.errors import InvalidParameter
from greenroom.values import integer, number, sequence

__all__ = ["MOST_SEED", "check_zo_seed", "mirrored", "weigh"]

MOST_SEED = 2**62


def mirrored(count: int, seed: int) -> list[int]:
    """`count` seeds of noise, in pairs of which one is the other's mirror: `s` and `-s`.

    What is alike for both of a pair cancels out of their scores, so fewer rollouts tell as much. The same `seed` gives
    the same ones; `count` is even. Raises `InvalidParameter`.
    """
    integer("count", count, 2, None, "an even integer of at least 2")
    if count % 2:
        raise InvalidParameter("count", count, "an even integer of at least 2")
    integer("seed", seed, 0, 2**64 - 1, "an integer from 0 to 2**64 - 1")
    found: list[int] = []
    for place in range(count // 2):
        digest = hashlib.blake2b(f"{seed}/{place}".encode(), digest_size=8).digest()
        drawn = int.from_bytes(digest, "little") % (MOST_SEED - 1) + 1
        found += [drawn, -drawn]
    return found


def check_zo_seed(name: str, value: object) -> None:
    """Raise `InvalidParameter` for what is no seed of noise."""
    integer(name, value, -MOST_SEED, MOST_SEED, "an integer from -2**62 to 2**62; 0 is no noise")


def weigh(seeds: Sequence[int], scores: Sequence[float]) -> dict[int, float]:
    """How much of each seed's noise is to be added: of all, the sizes sum to one. Empty where no score is better.

    Scores count by their ranks, so neither their scale nor one that is far off matters; equal ones count equally.
    Raises `InvalidParameter` for what is no score, and where there are not as many as seeds.
    """
    sequence("seeds", seeds, "a sequence of seeds")
    sequence("scores", scores, f"{len(seeds)} scores, one for each seed", len(seeds))
    for seed in seeds:
        check_zo_seed("seeds", seed)
    for score in scores:
        number("scores", score, "finite numbers")
    ordered = sorted(scores)
    places: dict[float, list[int]] = {}
    for place, score in enumerate(ordered):
        places.setdefault(score, []).append(place)
    middle = (len(scores) - 1) / 2
    weights: dict[int, float] = {}
    for seed, score in zip(seeds, scores, strict=True):
        rank = sum(places[score]) / len(places[score]) - middle
        own = rank if seed > 0 else -rank
        if seed:
            weights[abs(seed)] = weights.get(abs(seed), 0.0) + own
    total = sum(abs(weight) for weight in weights.values())
    return {seed: weights[seed] / total for seed in sorted(weights) if weights[seed]} if total else {}
