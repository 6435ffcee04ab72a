"""The methods that lead from logits to drawn tokens, for rows that are not greedy.

candidates  `top_k` up to 256: the k largest are found without sorting, and the rest is arithmetic on `[n, k]`.
nucleus     `top_p` without such a `top_k`: one exp over the vocabulary for the total, then the 512 likeliest. Where
            they do not hold the nucleus the row is drawn as an open one: on a CPU that is waited for, since drawing
            costs more; on a GPU both are drawn in the graph, and nothing waits for the pass.
filtered    other filters: thresholds by bisection over the float's bits, which are exact, then an inverse CDF.
open        temperature alone: the inverse CDF; in numpy where MLX computes on the CPU.

Which method a row takes depends on its own parameters, and on its own logits at most: never on the rows beside it.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from greenroom.backends.mlx.device_profile import DeviceProfile, choose_profile
from greenroom.backends.mlx.rows import ints
from greenroom.backends.mlx.sampling import cpu
from greenroom.backends.mlx.sampling.topk import largest
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
        self.draws_on_host = choose_profile(device).draws_on_host
        self.places = places
        self.at = mx.array(places)
        self.seeds = mixed_seeds([sampling.seed for sampling in samplings])
        self.index = np.array(places)
        top_k = [sampling.top_k or vocab_size for sampling in samplings]
        self.widest = max(top_k)
        self.temperatures = np.array([[sampling.temperature] for sampling in samplings], dtype=np.float32)
        self.temperature = mx.array(self.temperatures)
        self.top_k = mx.array(top_k)[:, None]
        self.top_p = _column([sampling.top_p for sampling in samplings])
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


def _candidates(x: mx.array, group: Group, uniform: npt.NDArray[np.float32]) -> mx.array:
    values, ids = largest(x, group.widest)
    weights = mx.exp((values - values[:, :1]) / group.temperature)
    if group.has_top_k:
        weights = mx.where(mx.arange(group.widest) < group.top_k, weights, 0)
    # cumsum adds in order, so that columns beyond a row's own top_k change nothing, not even the last bit.
    total = mx.cumsum(weights, axis=-1)[:, -1:]
    return _draw_first(weights, ids, total, group, mx.array(uniform))


def _draw_first(weights: mx.array, ids: mx.array, total: mx.array, group: Group, uniform: mx.array) -> mx.array:
    """Draw from candidates that descend, after top_p of `total` and min_p of the first one's weight, which is 1."""
    if group.has_top_p:
        before = mx.cumsum(weights, axis=-1, inclusive=False)
        weights = mx.where(before < group.top_p * total, weights, 0)
    if group.has_min_p:
        weights = mx.where(weights >= group.min_p, weights, 0)
    sums = mx.cumsum(weights, axis=-1)
    place = (sums <= uniform * sums[:, -1:]).sum(axis=-1, keepdims=True)
    kept = (weights > 0).sum(axis=-1, keepdims=True)
    return mx.take_along_axis(ids, mx.minimum(place, kept - 1), axis=-1)[:, 0]


def _nucleus(x: mx.array, group: Group, drawn: npt.NDArray[np.float32]) -> mx.array:
    uniform = mx.array(drawn)
    count = min(_NUCLEUS_CANDIDATES, x.shape[-1])
    _, ids = largest(x, count)
    weights = _weights(x, group)
    total = weights.sum(axis=-1, keepdims=True)
    likeliest = mx.take_along_axis(weights, ids, axis=-1)
    tokens = _draw_first(likeliest, ids, total, group, uniform)
    if count == x.shape[-1]:
        return tokens
    held = likeliest.sum(axis=-1, keepdims=True) >= group.top_p * total
    if group.has_min_p:
        held = held | (likeliest[:, -1:] < group.min_p)
    choose = _redraw_missing if group.draws_on_host else _choose_without_wait
    return choose(tokens, held[:, 0], weights, group, uniform)


def _redraw_missing(tokens: mx.array, held: mx.array, weights: mx.array, group: Group, uniform: mx.array) -> mx.array:
    """Wait for which rows' candidates do not hold their nucleus, and draw for those alone: where computing is dear."""
    missing = [i for i, enough in enumerate(ints(held)) if not enough]
    if not missing:
        return tokens
    at = mx.array(missing)
    tokens[at] = _draw_by_threshold(
        weights[at], None, group.top_p[at], group.min_p[at] if group.has_min_p else None, uniform[at]
    )
    return tokens


def _choose_without_wait(
    tokens: mx.array, held: mx.array, weights: mx.array, group: Group, uniform: mx.array
) -> mx.array:
    """The same, drawn both ways in the graph: where a wait for the pass costs more than some sweeps of the logits."""
    min_p = group.min_p if group.has_min_p else None
    return mx.where(held, tokens, _draw_by_threshold(weights, None, group.top_p, min_p, uniform))


def _open(x: mx.array, group: Group, uniform: npt.NDArray[np.float32]) -> mx.array:
    if group.draws_on_host:
        return mx.array(cpu.draw(cpu.weights(x, group.temperatures), uniform))
    return _draw_by_threshold(_weights(x, group), None, None, None, mx.array(uniform))


def _filtered(x: mx.array, group: Group, uniform: npt.NDArray[np.float32]) -> mx.array:
    return _draw_by_threshold(
        _weights(x, group),
        group.top_k if group.has_top_k else None,
        group.top_p if group.has_top_p else None,
        group.min_p if group.has_min_p else None,
        mx.array(uniform),
    )


def _weights(x: mx.array, group: Group) -> mx.array:
    if group.draws_on_host:
        return mx.array(cpu.weights(x, group.temperatures))
    return mx.exp((x - x.max(axis=-1, keepdims=True)) / group.temperature)


def _draw_by_threshold(
    weights: mx.array,
    top_k: mx.array | None,
    top_p: mx.array | None,
    min_p: mx.array | None,
    uniform: mx.array,
) -> mx.array:
    """Draw from `weights` `[n, vocabulary]`, the largest of each row being 1. None: nobody asked for that filter."""
    if top_k is not None:
        weights = _keep(weights, mx.ones_like(weights), top_k.astype(mx.float32))
    if top_p is not None:
        weights = _keep(weights, weights, top_p * weights.sum(axis=-1, keepdims=True))
    if min_p is not None:
        weights = mx.where(weights >= min_p, weights, 0)
    sums = mx.cumsum(weights, axis=-1)
    return mx.argmax((sums > uniform * sums[:, -1:]) & (weights > 0), axis=-1)


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
