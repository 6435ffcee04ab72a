"""Requests of unequal lengths, all there from the start, on at most 16 rows: the time of all, and the longest wait.

48 requests with prompts of 16 to 200 tokens and outputs of 8 to 64; then the same with one prompt in six of 1,000 to
2,000. A random Llama of forty million parameters, greedy. Run it:

    python benchmarks/ragged.py --rounds 5 --plot ragged.png
"""

from __future__ import annotations

import sys
from functools import partial

from drivers import backend_of, batch_generate, batch_generator, greenroom
from harness import Bench, Case, Peer, Rounds, arguments, run
from records import Record, Request, percentile, ragged
from subjects import llama

from greenroom.runtime import Runtime

ROWS = 16


def add(bench: Bench, case: str, rounds: Rounds) -> None:
    """The figures of one mix."""
    bench.add(case, "time ÷ BatchGenerator's", rounds.ratios("greenroom", "BatchGenerator", lambda r: r.seconds))
    if "batch_generate" in rounds:
        bench.add(case, "time ÷ batch_generate's", rounds.ratios("greenroom", "batch_generate", lambda r: r.seconds))
    bench.add(case, "worst gap ÷ BatchGenerator's", rounds.ratios("greenroom", "BatchGenerator", lambda r: r.worst_gap))
    bench.add(case, "p99 gap ÷ BatchGenerator's", rounds.ratios("greenroom", "BatchGenerator", _p99))
    bench.add(case, "last first token ÷ BatchGenerator's", rounds.ratios("greenroom", "BatchGenerator", _started))
    pairs = zip(rounds["greenroom"], rounds["BatchGenerator"], strict=True)
    bench.add(case, "streams with the same tokens", [a.same_tokens(b) * 100 for a, b in pairs], "%")


def _p99(record: Record) -> float:
    return percentile(record.gaps(), 0.99)


def _started(record: Record) -> float:
    return record.started


async def measure(name: str, long_share: int, bench: Bench) -> None:
    """One mix; `batch_generate`, a loop over `BatchGenerator`, where a run of it does not take minutes."""
    requests = ragged(is_smoke=bench.is_smoke, long_share=long_share)
    subject = llama(is_tiny=bench.is_smoke)
    model, _ = subject()
    async with Runtime(backend=backend_of(subject), max_rows=ROWS) as runtime:

        def peers(mix: list[Request]) -> dict[str, Peer]:
            found: dict[str, Peer] = {
                "greenroom": partial(greenroom, runtime, mix),
                "BatchGenerator": partial(batch_generator, model, mix, rows=ROWS),
            }
            if not long_share:
                found["batch_generate"] = partial(batch_generate, model, mix, rows=ROWS)
            return found

        warm_up = peers(requests[:5])
        add(bench, name, await bench.interleave(name, peers(requests), warm_up=warm_up))


CASES: dict[str, Case] = {
    "short": partial(measure, "ragged", 0),
    "mixed": partial(measure, "ragged, one prompt in six long", 6),
}


if __name__ == "__main__":
    sys.exit(
        run(
            "greenroom ÷ the other; below 1 greenroom is faster",
            CASES,
            arguments("ragged requests", CASES).parse_args(),
        )
    )
