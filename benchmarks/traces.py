"""A recorded hour of a chat service, scaled down, as requests that come in time: waits for a token, and gaps.

The trace is a CSV as `loads.py` reads it, such as Azure's public LLM inference traces. Its first requests are taken;
their times are stretched and their lengths divided, so that a small model on a small machine meets a load like the
recorded one. A wait counts from when a request was due, whatever ran then. A random Llama of forty million parameters,
greedy, at most 16 rows. Run it:

    python benchmarks/traces.py --trace AzureLLMInferenceTrace_conv.csv.gz --rounds 5 --plot traces.png
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

from drivers import backend_of, batch_generator, greenroom
from harness import Bench, Case, Peer, Rounds, arguments, run
from loads import Arrival, arrivals
from records import Record, Request, percentile, prompt
from subjects import llama

from greenroom.runtime import Runtime

ROWS = 16
SHARES = (0.5, 0.9, 0.99)


def replay(trace: list[Arrival], *, stretch: float, divide: float) -> list[Request]:
    """Requests like these, later and shorter."""
    rng = random.Random(9)  # noqa: S311 - a workload is no secret
    return [
        Request(
            prompt(rng, max(1, round(arrival.context / divide))),
            max(2, round(arrival.generated / divide)),
            at=arrival.seconds * stretch,
        )
        for arrival in trace
    ]


FIGURES: dict[str, Callable[[Record], list[float]]] = {
    "first token": lambda record: record.waits,
    "gap": lambda record: record.gaps(),
}


def add(bench: Bench, case: str, rounds: Rounds) -> None:
    """Percentiles of both as times, and their ratios."""
    for name, figure in FIGURES.items():
        for share in SHARES:
            at = partial(_percentile, figure, share)
            what = f"{name}, p{share * 100:.0f}"
            bench.add(case, f"{what} ÷ BatchGenerator's", rounds.ratios("greenroom", "BatchGenerator", at))
            for peer in rounds:
                bench.add(case, f"{what}: {peer}", [1e3 * seconds for seconds in rounds.each(peer, at)], "ms")
    bench.add(case, "worst gap ÷ BatchGenerator's", rounds.ratios("greenroom", "BatchGenerator", lambda r: r.worst_gap))


def _percentile(figure: Callable[[Record], list[float]], share: float, record: Record) -> float:
    return percentile(figure(record), share)


async def measure(trace: list[Arrival], bench: Bench) -> None:
    """The trace, two ways."""
    options = bench.options
    stretch, divide = (0.02, 64.0) if bench.is_smoke else (options.stretch, options.divide)
    requests = replay(trace, stretch=stretch, divide=divide)
    early = requests[: max(4, len(requests) // 8)]
    subject = llama(is_tiny=bench.is_smoke)
    model, _ = subject()
    async with Runtime(backend=backend_of(subject), max_rows=ROWS) as runtime:
        peers: dict[str, Peer] = {
            "greenroom": partial(greenroom, runtime, requests),
            "BatchGenerator": partial(batch_generator, model, requests, rows=ROWS),
        }
        warm_up: dict[str, Peer] = {
            "greenroom": partial(greenroom, runtime, early),
            "BatchGenerator": partial(batch_generator, model, early, rows=ROWS),
        }
        rounds = await bench.interleave("replay", peers, warm_up=warm_up)
    add(bench, f"{len(requests)} requests, {requests[-1].at:.0f} s", rounds)


def command_line() -> tuple[argparse.Namespace, list[Arrival]]:
    """The options, and the trace they name."""
    parser = arguments("replay of a recorded load")
    parser.add_argument("--trace", type=Path, required=True, help="a CSV of arrivals, or the same packed by gzip")
    parser.add_argument("--requests", type=int, default=64, help="how many of them (default: 64)")
    parser.add_argument("--stretch", type=float, default=2.0, help="factor of the times between them (default: 2)")
    parser.add_argument("--divide", type=float, default=8.0, help="divisor of all lengths (default: 8)")
    options = parser.parse_args()
    if not options.trace.is_file():
        parser.error(f"there is no trace at {options.trace}")
    try:
        trace = list(islice(arrivals(options.trace), 8 if options.smoke else options.requests))
    except ValueError as error:
        parser.error(str(error))
    if not trace:
        parser.error(f"{options.trace} is empty")
    return options, trace


if __name__ == "__main__":
    chosen, lines = command_line()
    case: dict[str, Case] = {"replay": partial(measure, lines)}
    sys.exit(run("a recorded load, scaled down; ratios below 1: greenroom is faster", case, chosen))
