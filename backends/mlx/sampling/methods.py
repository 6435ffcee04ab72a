"""The methods that lead from logits to drawn tokens, for rows that are not greedy.

candidates  `top_k` up to 256: the k largest are found without sorting, and the rest is arithmetic on `[n, k]`.
nucleus     `top_p` without such a `top_k`: drawn from the 512 likeliest, or where they do not hold the nucleus as an
            open row: on a CPU that is waited for, since drawing costs more; on a GPU both are drawn in the graph.
filtered    other filters: what they keep is found exactly, then an inverse CDF.
open        temperature alone: the inverse CDF; in numpy where MLX computes on the CPU.

What filters keep of a whole vocabulary is found by bisection over the float's bits on a CPU, and by a sort on a GPU,
where thirty sweeps are thirty times some launches. Nothing there waits for the pass.

Which method a row takes depends on its own parameters, and on its own logits at most: never on the rows beside it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from greenroom.backends.mlx.chains import chain
from greenroom.backends.mlx.device_profile import DeviceProfile, choose_profile
from greenroom.backends.mlx.rows import ints
from greenroom.backends.mlx.sampling import cpu
from greenroom.backends.mlx.sampling.topk import largest, numbers_to
from greenroom.backends.mlx.sampling.uniforms import mixed_seeds, uniforms
from greenroom.backends.protocol import Sampling

__all__ = ["METHODS", "Group", "method_of"]

_MOST_CANDIDATES = 256
_NUCLEUS_CANDIDATES = 512


class Group:
    """Rows that are drawn by the same method, with their parameters as columns `[n, 1]`."""

    def __init__(
        self, places: list[int], samplings: list[Sampling], vocab_size: int, device: DeviceProfile | None = None
    ) -> None:
        profile = choose_profile(device)
        self.draws_on_host, self.is_fused = profile.draws_on_host, profile.fuses_sampling
        self.places = places
        self.at = mx.array(places)
        self.seeds = mixed_seeds([sampling.seed for sampling in samplings])
        self.index = np.array(places)
        top_k = [sampling.top_k or vocab_size for sampling in samplings]
        self.widest = max(top_k)
        self.temperatures = np.array([[sampling.temperature] for sampling in samplings], dtype=np.float32)
        self.temperature = mx.array(self.temperatures)
        self.top_k = mx.array(top_k, dtype=mx.uint32)[:, None]
        # Who has no top_p loses nothing beside one who has, not even what sums no longer tell from nothing.
        self.top_p = _column([sampling.top_p if sampling.top_p < 1 else math.inf for sampling in samplings])
        self.min_p = _column([sampling.min_p for sampling in samplings])
        self.has_top_k = any(k < vocab_size for k in top_k)
        self.has_top_p = any(sampling.top_p < 1 for sampling in samplings)
        self.has_min_p = any(sampling.min_p > 0 for sampling in samplings)

    def uniforms(self, positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
        """The rows' uniform numbers `[n, 1]`."""
        return uniforms(self.seeds, positions[self.index])[:, None]


def method_of(sampling: Sampling, vocab_size: int) -> str:
    """The method of a row: `greedy` or a name in `METHODS`."""
    if sampling.temperature == 0:
        return "greedy"
    if 0 < sampling.top_k <= min(_MOST_CANDIDATES, vocab_size):
        return "candidates"
    has_top_k = 0 < sampling.top_k < vocab_size
    if sampling.top_p < 1 and not has_top_k:
        return "nucleus"
    return "filtered" if has_top_k or sampling.min_p > 0 else "open"


def _column(values: list[float]) -> mx.array:
    return mx.array(values, dtype=mx.float32)[:, None]


@chain
def _exponentials(x: mx.array, first: mx.array, temperature: mx.array) -> mx.array:
    return mx.exp((x - first) / temperature)


@chain
def _first_exponentials(
    x: mx.array, first: mx.array, temperature: mx.array, rank: mx.array, top_k: mx.array
) -> mx.array:
    return mx.where(rank < top_k, mx.exp((x - first) / temperature), 0)


@chain
def _within(weights: mx.array, before: mx.array, top_p: mx.array, total: mx.array) -> mx.array:
    return mx.where(before < top_p * total, weights, 0)


@chain
def _at_least(weights: mx.array, min_p: mx.array) -> mx.array:
    return mx.where(weights >= min_p, weights, 0)


@chain
def _reached(sums: mx.array, uniform: mx.array, total: mx.array, weights: mx.array) -> mx.array:
    return (sums > uniform * total) & (weights > 0)


def _candidates(x: mx.array, group: Group, uniform: npt.NDArray[np.float32]) -> mx.array:
    weights, ids = _ranked(x, group.widest, group)
    return _draw_ranked(_cut(weights, group), ids, group, mx.array(uniform))


def _ranked(x: mx.array, k: int, group: Group) -> tuple[mx.array, mx.array]:
    """The k likeliest of each row, descending, the first one's weight being 1, and their ids; 0 behind its top_k."""
    values, ids = largest(x, k, is_fused=group.is_fused)
    weights = _first_exponentials(
        values, values[:, :1], group.temperature, numbers_to(k), group.top_k, is_fused=group.is_fused
    )
    return weights, ids


class _Mass(NamedTuple):
    """Of weights that descend, how much stands before each, and how much all of them are."""

    before: mx.array
    total: mx.array


def _mass_of(weights: mx.array) -> _Mass:
    # cumsum adds in order, so that columns behind a row's own top_k change nothing, not even the last bit.
    before = mx.cumsum(weights, axis=-1, inclusive=False)
    return _Mass(before, before[:, -1:] + weights[:, -1:])


def _cut(weights: mx.array, group: Group, mass: _Mass | None = None) -> mx.array:
    """`weights` after top_p, for which they descend, and min_p: 0 where those forbid."""
    if group.has_top_p:
        before, total = mass or _mass_of(weights)
        weights = _within(weights, before, group.top_p, total, is_fused=group.is_fused)
    if group.has_min_p:
        weights = _at_least(weights, group.min_p, is_fused=group.is_fused)
    return weights


def _draw_ranked(weights: mx.array, ids: mx.array, group: Group, uniform: mx.array) -> mx.array:
    """Draw from what is left of candidates that descend."""
    return mx.take_along_axis(ids, _place(weights, group, uniform)[:, None], axis=-1)[:, 0]


def _place(weights: mx.array, group: Group, uniform: mx.array) -> mx.array:
    """Where a draw from `weights` `[n, width]` falls, by inverse CDF in their order."""
    sums = mx.cumsum(weights, axis=-1)
    return mx.argmax(_reached(sums, uniform, sums[:, -1:], weights, is_fused=group.is_fused), axis=-1)


def _nucleus(x: mx.array, group: Group, drawn: npt.NDArray[np.float32]) -> mx.array:
    count = min(_NUCLEUS_CANDIDATES, x.shape[-1])
    draw = _nucleus_in_graph if group.is_fused else _nucleus_with_wait
    return draw(x, count, group, mx.array(drawn))


def _nucleus_with_wait(x: mx.array, count: int, group: Group, uniform: mx.array) -> mx.array:
    """Wait for which rows' candidates do not hold their nucleus, and draw for those alone: where computing is dear."""
    _, ids = largest(x, count)
    weights = _weights(x, group)
    total = weights.sum(axis=-1, keepdims=True)
    likeliest = mx.take_along_axis(weights, ids, axis=-1)
    tokens = _draw_ranked(_cut(likeliest, group, _mass_of(likeliest)._replace(total=total)), ids, group, uniform)
    if count == x.shape[-1]:
        return tokens
    held = likeliest.sum(axis=-1, keepdims=True) >= group.top_p * total
    if group.has_min_p:
        held = held | (likeliest[:, -1:] < group.min_p)
    missing = [i for i, enough in enumerate(ints(held[:, 0])) if not enough]
    if not missing:
        return tokens
    at = mx.array(missing)
    found = _keep(weights[at], weights[at], group.top_p[at] * total[at])
    found = mx.where(found >= group.min_p[at], found, 0) if group.has_min_p else found
    tokens[at] = _place(found, group, uniform[at])
    return tokens


def _nucleus_in_graph(x: mx.array, count: int, group: Group, uniform: mx.array) -> mx.array:
    """The same, drawn both ways: where a wait for the pass costs more than a sort of the logits."""
    weights, ids = _ranked(x, x.shape[-1], group)
    mass = _mass_of(weights)
    kept = _cut(weights, group, mass)
    tokens = _draw_ranked(kept[:, :count], ids, group, uniform)
    if count == x.shape[-1]:
        return tokens
    held = mass.before[:, count] >= (group.top_p * mass.total)[:, 0]
    if group.has_min_p:
        held = held | (weights[:, count - 1] < group.min_p[:, 0])
    return mx.where(held, tokens, _place(_by_id(kept, ids), group, uniform))


def _open(x: mx.array, group: Group, uniform: npt.NDArray[np.float32]) -> mx.array:
    if group.draws_on_host:
        return mx.array(cpu.draw(cpu.weights(x, group.temperatures), uniform))
    return _place(_weights(x, group), group, mx.array(uniform))


def _filtered(x: mx.array, group: Group, uniform: npt.NDArray[np.float32]) -> mx.array:
    find = _filter_by_sort if group.is_fused and (group.has_top_k or group.has_top_p) else _filter_by_bisection
    return _place(find(x, group), group, mx.array(uniform))


def _filter_by_sort(x: mx.array, group: Group) -> mx.array:
    """The weights that the filters keep, by id; else 0."""
    weights, ids = _ranked(x, x.shape[-1], group)
    return _by_id(_cut(weights, group), ids)


def _filter_by_bisection(x: mx.array, group: Group) -> mx.array:
    """The same; by nothing of the kind where min_p is the only filter."""
    weights = _weights(x, group)
    if group.has_top_k:
        weights = _keep(weights, mx.ones_like(weights), group.top_k.astype(mx.float32))
    if group.has_top_p:
        weights = _keep(weights, weights, group.top_p * weights.sum(axis=-1, keepdims=True))
    return _at_least(weights, group.min_p, is_fused=group.is_fused) if group.has_min_p else weights


def _weights(x: mx.array, group: Group) -> mx.array:
    if group.draws_on_host:
        return mx.array(cpu.weights(x, group.temperatures))
    return _exponentials(x, x.max(axis=-1, keepdims=True), group.temperature, is_fused=group.is_fused)


def _by_id(ranked: mx.array, ids: mx.array) -> mx.array:
    """Weights of a whole vocabulary, each at its id."""
    return mx.put_along_axis(mx.zeros_like(ranked), ids, ranked, axis=-1)


def _keep(weights: mx.array, measure: mx.array, enough: mx.array) -> mx.array:
    """The fewest of the largest weights whose `measure` reaches `enough`, ties by the lowest id; else 0.

    Floats of one sign ascend with their bits, so the smallest weight that is kept is found bit by bit.
    """
    threshold = mx.zeros(enough.shape, dtype=mx.uint32)
    for bit in range(29, -1, -1):
        higher = threshold | mx.array(1 << bit, mx.uint32)
        at_least = mx.where(weights >= higher.view(mx.float32), measure, 0).sum(axis=-1, keepdims=True)
        threshold = mx.where(at_least >= enough, higher, threshold)
    least = threshold.view(mx.float32)
    above = mx.where(weights > least, measure, 0).sum(axis=-1, keepdims=True)
    tied = weights == least
    before = mx.cumsum(mx.where(tied, measure, 0), axis=-1, inclusive=False)
    return mx.where((weights > least) | (tied & (above + before < enough)), weights, 0)


METHODS = {"candidates": _candidates, "nucleus": _nucleus, "filtered": _filtered, "open": _open}
"""From logits (float32 `[n, vocabulary]`), the rows' parameters and their uniform numbers `[n, 1]` to tokens `[n]`."""
