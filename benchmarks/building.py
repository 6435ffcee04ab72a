"""The host's time to build a step's graph, beside mlx-lm's batch generator. It says nothing about a device."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from harness import Bench
from sides import Rows, Side, batch_generator, greenroom, ragged
from subjects import mx

from greenroom.backends.mlx.diagnostics.launches import fused

__all__ = ["compare_building"]

STEPS = 30


@contextmanager
def _stamps(found: list[float]) -> Iterator[None]:
    """When graphs were handed over."""
    kept: Any = mx.async_eval

    def stamp(*arrays: Any) -> None:
        found.append(time.perf_counter())
        kept(*arrays)

    mx.async_eval = stamp
    try:
        yield
    finally:
        mx.async_eval = kept


def _built(side: Side) -> float:
    """Seconds from the beginning of a step until it is handed over."""
    stamps: list[float] = []
    with _stamps(stamps):
        began = time.perf_counter()
        side.step()
    return stamps[0] - began


async def compare_building(bench: Bench) -> None:
    """16 ragged rows: steps in turns, of each round the quickest of each side."""
    rows = Rows(ragged(bench.sized(16, 3)))
    advance = bench.bar("building", bench.rounds * len(bench.options.models))
    for model in bench.options.models:
        with fused(), ExitStack() as opened:
            sides = [opened.enter_context(side(model, rows)) for side in (greenroom, batch_generator)]
            ratios, seconds = [], []
            for _ in range(bench.rounds):
                gc.collect()
                steps = [[_built(side) for side in sides] for _ in range(bench.sized(STEPS, 2))]
                ours, theirs = (min(step) for step in zip(*steps, strict=True))
                ratios.append(ours / theirs)
                seconds.append(ours * 1e3)
                advance()
        bench.add(f"{model}: {len(rows.lengths)} ragged", "graph built ÷ BatchGenerator's", ratios)
        bench.add(f"{model}: {len(rows.lengths)} ragged", "graph built", seconds, "ms")
