"""Launches from logits to tokens, for each kind of sampling, beside mlx-lm's samplers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from harness import Bench
from subjects import make_logits_processors, make_sampler, mx

from greenroom.backends.mlx.device_profile import METAL
from greenroom.backends.mlx.diagnostics.launches import Graph, graph_of
from greenroom.backends.mlx.diagnostics.waits import recorded
from greenroom.backends.mlx.rows import Row
from greenroom.backends.mlx.sampling import masks as bitmasks
from greenroom.backends.mlx.sampling.sampler import BatchSampler
from greenroom.backends.protocol import Masks, Sampling

__all__ = ["SAMPLINGS", "compare_draws"]

ROWS = 4
VOCAB = 32_000
HELD = 40
"""Tokens of each row, for penalties."""


class Way(NamedTuple):
    """How rows draw; what mlx-lm's sampler and its logits processors are given for the same."""

    ours: dict[str, Any]
    sampler: dict[str, Any]
    processors: dict[str, Any]
    is_masked: bool = False


def _way(**ours: Any) -> Way:
    names = {"temperature": "temp", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
    processors = {key: value for key, value in ours.items() if "penalty" in key}
    return Way(ours, {names[key]: value for key, value in ours.items() if key in names}, processors)


SAMPLINGS = {
    "greedy": _way(),
    "temperature": _way(temperature=0.8),
    "min_p": _way(temperature=0.8, min_p=0.05),
    "top_p": _way(temperature=0.8, top_p=0.9),
    "top_k": _way(temperature=0.8, top_k=20),
    "top_k, top_p": _way(temperature=0.8, top_k=20, top_p=0.95),
    "top_k, top_p, min_p": _way(temperature=0.8, top_k=20, top_p=0.95, min_p=0.05),
    "large top_k": _way(temperature=0.8, top_k=1000),
    "large top_k, top_p": _way(temperature=0.8, top_k=1000, top_p=0.95),
    "repetition penalty": _way(repetition_penalty=1.1),
    "three penalties": _way(repetition_penalty=1.1, presence_penalty=0.2, frequency_penalty=0.1),
    "5 log-probabilities": _way(logprobs=5),
    "greedy under a mask": _way()._replace(is_masked=True),
    "top_p under a mask": _way(temperature=0.8, top_p=0.9)._replace(is_masked=True),
}


def _logits() -> Any:
    made = mx.random.normal((ROWS, VOCAB), key=mx.random.key(1)).astype(mx.bfloat16)
    mx.eval(made)
    return made


def ours(way: Way) -> tuple[Graph, list[str]]:
    """The second draw of the same rows, as in a step of many; and what it waits for."""
    rows = [Row(number, Sampling(**way.ours, seed=number)) for number in range(ROWS)]
    bits = np.full((ROWS, VOCAB // 32), 0x0F0F0F0F, np.uint32)
    masks = Masks(tuple(range(ROWS)), bits) if way.is_masked else None
    bitmasks.by_kernel = lambda x, _: mx.negative(x)  # one launch, as the kernel is
    sampler = BatchSampler(rows, VOCAB, METAL)
    fed = mx.zeros(ROWS, mx.uint32)
    mx.eval(fed)
    graph, events = None, []
    for step in range(2):
        for row in rows:
            row.tokens = [3] * (HELD + step)
            row.length = HELD + step
        logits = _logits()
        events.clear()
        with recorded(events):
            drawn = sampler.draw(logits, fed, masks, np.full(ROWS, HELD + step, np.uint64))
        found = [drawn.tokens, *(drawn.logprobs.arrays() if drawn.logprobs is not None else ())]
        graph = graph_of(found)
        if not way.is_masked:  # the kernel's stand-in computes nothing that is right
            mx.eval(found)
    return graph, list(events)


def theirs(way: Way) -> Graph:
    """The same, as `BatchGenerator` does it for rows that share a sampler."""
    logits = _logits()
    processors = make_logits_processors(**way.processors)
    if processors:
        contexts = [mx.array([3] * HELD) for _ in range(ROWS)]
        mx.eval(contexts)
        rows = []
        for row, context in enumerate(contexts):
            part = logits[row : row + 1]
            for process in processors:
                part = process(context, part)
            rows.append(part)
        logits = mx.concatenate(rows)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return graph_of([make_sampler(**way.sampler)(logprobs), *logprobs])


async def compare_draws(bench: Bench) -> None:
    """Every kind of sampling."""
    advance = bench.bar("sampling", len(SAMPLINGS))
    for name, way in SAMPLINGS.items():
        graph, events = ours(way)
        bench.add(name, "greenroom", [graph.launches], "launches of a draw")
        bench.add(name, "waits", [len(events)], "launches of a draw")
        if not way.is_masked:
            other = theirs(way).launches
            bench.add(name, "mlx-lm", [other], "launches of a draw")
            bench.add(name, "launches of a draw ÷ mlx-lm's", [graph.launches / other])
        advance()
