"""Rows that each sample in their own way: the time of a step, against one way shared by all, and against mlx-lm.

On the stub, where a step is little but sampling, with vocabularies of 2,000, 32,000 and 152,000. Each of 32 rows has
its own temperature, top_p, top_k (at most 64) and seed; then its own temperature and seed only. `BatchGenerator` gets a
sampler for each row; it has no seeds for rows. Run it:

    python benchmarks/samplers.py --rounds 5 --plot samplers.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from drivers import backend_of, batch_generator, greenroom
from harness import Bench, Case, Peer, arguments, run
from records import Record, Request
from subjects import stub

from greenroom.runtime import Runtime

PROMPT = 8


def of_all(row: int, rows: int) -> dict[str, Any]:
    """Everything its own: temperatures from 0.5 to 1.3, top_p from 0.8 to 0.95, top_k from 20 to 64."""
    part = row / max(1, rows - 1)
    own = {"temperature": 0.5 + 0.8 * part, "top_p": 0.8 + 0.15 * part, "top_k": 20 + int(44 * part)}
    return {**own, "seed": row}


def of_temperature(row: int, rows: int) -> dict[str, Any]:
    """Its own temperature."""
    return {"temperature": 0.5 + 0.8 * row / max(1, rows - 1), "seed": row}


Way = Callable[[int, int], dict[str, Any]]
WAYS: dict[str, Way] = {"temperature, top_p, top_k": of_all, "temperature": of_temperature}


def requests(rows: int, tokens: int, way: Way, *, is_shared: bool) -> list[Request]:
    """Rows that sample as `way` says for each, or all as it says for the middle one (the seeds stay their own)."""
    ways = [{**way(rows // 2 if is_shared else row, rows), "seed": row} for row in range(rows)]
    prompts = [tuple((7 * row + 3 * i) % 200 for i in range(PROMPT)) for row in range(rows)]
    return [Request(ids, tokens, sampling=sampling) for ids, sampling in zip(prompts, ways, strict=True)]


async def measure(vocab: int, way: str, bench: Bench) -> None:
    """One vocabulary, one way to sample."""
    case = f"{vocab // 1000}k, own {way}"
    rows: int = 3 if bench.is_smoke else bench.options.rows
    tokens: int = 4 if bench.is_smoke else bench.options.tokens
    subject = stub(vocab)
    model, _ = subject()
    own = requests(rows, tokens, WAYS[way], is_shared=False)
    alike = requests(rows, tokens, WAYS[way], is_shared=True)
    few = [request._replace(tokens=max(4, tokens // 4)) for request in own]
    async with Runtime(backend=backend_of(subject), max_rows=rows) as runtime:
        peers: dict[str, Peer] = {
            "own": partial(greenroom, runtime, own),
            "shared": partial(greenroom, runtime, alike),
            "BatchGenerator": partial(batch_generator, model, few, rows=rows),
        }
        rounds = await bench.interleave(case, peers)
    bench.add(case, "step ÷ one way for all", rounds.ratios("own", "shared", _step))
    bench.add(case, "step ÷ BatchGenerator's", rounds.ratios("own", "BatchGenerator", _step))
    bench.add(case, "step", [seconds * 1e3 for seconds in rounds.each("own", _step)], "ms")


def _step(record: Record) -> float:
    return record.step


def cases(options: argparse.Namespace) -> dict[str, Case]:
    """Every vocabulary, each way."""
    vocabularies = [2000] if options.smoke else options.vocab
    return {f"{vocab}, {way}": partial(measure, vocab, way) for vocab in vocabularies for way in WAYS}


if __name__ == "__main__":
    parser = arguments("rows that sample in their own ways")
    parser.add_argument("--vocab", type=int, nargs="*", default=[2_000, 32_000, 152_000])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    chosen = parser.parse_args()
    sys.exit(run("each row its own sampling: ratios of a step's time, below 1 is faster", cases(chosen), chosen))
