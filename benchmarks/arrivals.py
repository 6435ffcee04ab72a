"""What the streams that are there notice of those that come and go.

`churn`: eight rows of 2,048 tokens, of which one leaves and one joins every 20 steps. `long`: four prompts of 4,096
tokens land on four streams. `first`: a prompt comes while one stream decodes. `mixed`: one row of 2,048 tokens decodes
with seven of 64. `shared`: eight prompts that begin with the same 1,024 tokens come at once. A random Llama of forty
million parameters, greedy. Run it, all or by name:

    python benchmarks/arrivals.py --rounds 5 --plot arrivals.png
    python benchmarks/arrivals.py churn first
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial

from drivers import backend_of, batch_generator, greenroom, held, keeps_prefixes
from harness import Bench, Case, Peer, arguments, run
from records import GREEDY, Record, Request, Stream, percentile, prompt
from subjects import llama

from greenroom.backends.mlx import MlxBackend
from greenroom.runtime import Runtime

ROWS = 16
PREFIX_BYTES = 2 << 30


def rng_of(seed: int) -> random.Random:
    """The same workload each time."""
    return random.Random(seed)  # noqa: S311 - a workload is no secret


def turnover(rows: Sequence[tuple[int, ...]], joiners: Sequence[tuple[int, ...]], every: int) -> list[Request]:
    """The first row stays; every so many of its tokens the row that is there longest leaves, and one joins."""
    present = list(range(1, len(rows)))
    requests = [Request(ids, None) for ids in rows]
    for turn, ids in enumerate(joiners, 1):
        place = present.pop(0)
        requests[place] = requests[place]._replace(until=every * turn)
        present.append(len(requests))
        requests.append(Request(ids, None, beat=every * turn))
    requests[-1] = requests[-1]._replace(tokens=every)
    return requests


async def churn(bench: Bench) -> None:
    """Once with joining prompts that have to be run, once with prompts whose KV is held: the joining alone."""
    length, rows, every = bench.sized(2048, 32), bench.sized(8, 3), bench.sized(20, 4)
    rng = rng_of(6)
    known = [prompt(rng, length) for _ in range(rows)]
    fresh = [prompt(rng, length) for _ in range(bench.sized(4, 1))]
    await turned(bench, "a row leaves and joins", known, fresh, every)
    if keeps_prefixes():
        await turned(bench, "the same, its KV held", known, known[1:] * bench.sized(2, 1), every)
    else:
        bench.skip("churn of prompts whose KV is held", "this greenroom keeps no prefixes")


async def turned(
    bench: Bench, case: str, rows: list[tuple[int, ...]], joiners: list[tuple[int, ...]], every: int
) -> None:
    """Rows that leave and join: gaps of all, and the bytes that were copied for it."""
    requests = turnover(rows, joiners, every)
    subject = llama(is_tiny=bench.is_smoke)
    model, _ = subject()
    caches = held(model, rows)
    backend = backend_of(subject, prefix_bytes=PREFIX_BYTES if set(joiners) <= set(rows) else 0)
    copied: list[float] = []

    async def ours(runtime: Runtime) -> Record:
        before = bytes_copied(backend)
        record = await greenroom(runtime, requests)
        after = bytes_copied(backend)
        if before is not None and after is not None:
            joined = sum(len(request.ids) for request in requests) * runtime.model.kv_bytes_per_token
            copied.append((after - before) / joined)
        return record

    async with Runtime(backend=backend, max_rows=ROWS) as runtime:
        peers: dict[str, Peer] = {
            "greenroom": partial(ours, runtime),
            "BatchGenerator": partial(batch_generator, model, requests, held=caches),
        }
        rounds = await bench.interleave(case, peers)
    since = [record.started_of(len(rows)) for record in rounds["greenroom"]]
    gaps = [record.gaps(since=start) or record.gaps() for record, start in zip(rounds["greenroom"], since, strict=True)]
    bench.add(case, "p99 gap ÷ median gap", [percentile(g, 0.99) / statistics.median(g) for g in gaps])
    theirs = [record.gaps(since=record.started_of(len(rows))) for record in rounds["BatchGenerator"]]
    bench.add(case, "BatchGenerator: p99 ÷ median", [percentile(g, 0.99) / statistics.median(g) for g in theirs])
    worst = [max(a) / max(b) for a, b in zip(gaps, theirs, strict=True)]
    bench.add(case, "worst gap ÷ BatchGenerator's", worst)
    if copied:
        bench.add(case, "bytes copied ÷ the joining rows'", copied[-bench.rounds :])
    else:
        bench.skip(f"bytes copied, {case}", "the backend's store does not count them")


def bytes_copied(backend: MlxBackend) -> int | None:
    """What the store has copied so far, if it counts."""
    count: int | None = getattr(getattr(backend, "store", None), "bytes_copied", None)
    return count


async def long(bench: Bench) -> None:
    """The worst wait, in chunks of such a prompt at its deepest, alone, and in BatchGenerator's worst wait."""
    length, streams, beat = bench.sized(4096, 96), 4, bench.sized(24, 4)
    rng = rng_of(7)
    live = [Request(prompt(rng, 16), None) for _ in range(streams)]
    landing = [Request(prompt(rng, length), 2, beat=beat) for _ in range(bench.sized(4, 2))]
    case = "four long prompts on four streams"
    subject = llama(is_tiny=bench.is_smoke)
    model, _ = subject()
    async with Runtime(backend=backend_of(subject), max_rows=ROWS) as runtime:
        peers: dict[str, Peer] = {
            "alone": partial(chunks, runtime, landing[0].ids),
            "greenroom": partial(greenroom, runtime, [*live, *landing]),
            "BatchGenerator": partial(batch_generator, model, [*live, *landing]),
        }
        brief = [*live, *[request._replace(ids=request.ids[:64]) for request in landing]]
        warm_up: dict[str, Peer] = {
            "alone": partial(chunks, runtime, landing[0].ids[: length // 2]),
            "greenroom": partial(greenroom, runtime, brief),
            "BatchGenerator": partial(batch_generator, model, brief),
        }
        rounds = await bench.interleave(case, peers, warm_up=warm_up)
    waits = rounds.each("greenroom", lambda r: max(r.gaps(slice(streams))))
    steps = rounds.each("greenroom", lambda r: median_gap(r, streams))
    alone = rounds.each("alone", lambda r: r.worst_gap)
    bounds = [chunk + step for chunk, step in zip(alone, steps, strict=True)]
    bench.add(case, "worst gap ÷ (deepest chunk + step)", [w / b for w, b in zip(waits, bounds, strict=True)])
    theirs = rounds.each("BatchGenerator", lambda r: max(r.gaps(slice(streams))))
    bench.add(case, "worst gap ÷ BatchGenerator's", [a / b for a, b in zip(waits, theirs, strict=True)])
    bench.add(case, "time ÷ BatchGenerator's", rounds.ratios("greenroom", "BatchGenerator", lambda r: r.seconds))


def median_gap(record: Record, streams: int) -> float:
    """Of the first streams, until the next one comes."""
    return statistics.median(record.gaps(slice(streams), until=record.streams[streams].asked) or record.gaps())


async def chunks(runtime: Runtime, ids: tuple[int, ...]) -> Record:
    """A prompt alone; what the record has as tokens are the moments at which chunks were handed to the engine."""
    began = time.perf_counter()
    times: list[float] = []

    def progress(_run: int, _all: int) -> None:
        times.append(time.perf_counter() - began)

    stream = runtime.generate_tokens(list(ids), max_tokens=1, default_stops=False, progress=progress, **GREEDY)
    await stream.collect()
    times.append(time.perf_counter() - began)
    return Record(times[-1], len(times), (Stream(0.0, tuple(times)),))


async def first(bench: Bench) -> None:
    """Time to first token beside a stream, in the time alone and one step."""
    beat = bench.sized(24, 4)
    rng = rng_of(8)
    stream, probe = Request(prompt(rng, 64), None), Request(prompt(rng, bench.sized(128, 16)), 1)
    both = [stream, probe._replace(beat=beat)]
    case = "a first token beside a stream"
    subject = llama(is_tiny=bench.is_smoke)
    model, _ = subject()
    async with Runtime(backend=backend_of(subject), max_rows=ROWS) as runtime:
        peers: dict[str, Peer] = {
            "idle": partial(greenroom, runtime, [probe]),
            "beside": partial(greenroom, runtime, both),
            "BatchGenerator": partial(batch_generator, model, both),
        }
        rounds = await bench.interleave(case, peers)
    waits = rounds.each("beside", lambda r: r.waits[-1])
    idle = rounds.each("idle", lambda r: r.waits[-1])
    steps = rounds.each("beside", lambda r: median_gap(r, 1))
    bench.add(case, "time ÷ idle", [a / b for a, b in zip(waits, idle, strict=True)])
    bench.add(case, "time ÷ (idle + step)", [w / (i + s) for w, i, s in zip(waits, idle, steps, strict=True)])
    bench.add(case, "time ÷ BatchGenerator's", rounds.ratios("beside", "BatchGenerator", lambda r: r.waits[-1]))


async def mixed(bench: Bench) -> None:
    """A step of one long row and seven short ones, in steps of both apart."""
    rng = rng_of(5)
    steps = bench.sized(48, 4)
    prefix_bytes = PREFIX_BYTES if keeps_prefixes() else 0
    long_row = Request(prompt(rng, bench.sized(2048, 48)), steps)
    short_rows = [Request(prompt(rng, bench.sized(64, 8)), steps) for _ in range(bench.sized(7, 3))]
    case = "one long row among seven short"
    subject = llama(is_tiny=bench.is_smoke)
    model, _ = subject()
    caches = held(model, [long_row.ids, *[request.ids for request in short_rows]])
    async with Runtime(backend=backend_of(subject, prefix_bytes=prefix_bytes), max_rows=ROWS) as runtime:
        everyone = [long_row, *[request._replace(tokens=None) for request in short_rows]]
        peers: dict[str, Peer] = {
            "together": partial(greenroom, runtime, everyone),
            "long": partial(greenroom, runtime, [long_row]),
            "short": partial(greenroom, runtime, short_rows),
            "BatchGenerator": partial(batch_generator, model, everyone, held=caches),
        }
        rounds = await bench.interleave(case, peers)
    medians = {peer: rounds.each(peer, settled_step) for peer in peers}
    parts = zip(medians["together"], medians["long"], medians["short"], strict=True)
    bench.add(case, "step ÷ the steps of two forwards", [whole / (a + b) for whole, a, b in parts])
    theirs = zip(medians["together"], medians["BatchGenerator"], strict=True)
    bench.add(case, "step ÷ BatchGenerator's", [a / b for a, b in theirs])


def settled_step(record: Record) -> float:
    """The first stream's median gap, once all have begun."""
    return statistics.median(record.gaps(slice(1), since=record.started) or record.gaps())


async def shared(bench: Bench) -> None:
    """Time until all have their first token: with the store of prefixes, without it, and BatchGenerator's."""
    case = "eight prompts with one beginning"
    if not keeps_prefixes():
        bench.skip(case, "Runtime has no parameter prefix_bytes")
        return
    rng = rng_of(4)
    subject = llama(is_tiny=bench.is_smoke)
    model, _ = subject()

    def fresh() -> list[Request]:
        stem = prompt(rng, bench.sized(1024, 128))
        return [Request(stem + prompt(rng, 16), 1) for _ in range(bench.sized(8, 3))]

    mixes = [fresh() for _ in range(bench.rounds + 1)]
    async with (
        Runtime(backend=backend_of(subject, prefix_bytes=PREFIX_BYTES), max_rows=ROWS) as keeping,
        Runtime(backend=backend_of(subject), max_rows=ROWS) as forgetting,
    ):
        turns = {peer: iter(mixes) for peer in ("on", "off", "BatchGenerator")}
        peers: dict[str, Peer] = {
            "on": lambda: greenroom(keeping, next(turns["on"])),
            "off": lambda: greenroom(forgetting, next(turns["off"])),
            "BatchGenerator": lambda: batch_generator(model, next(turns["BatchGenerator"])),
        }
        rounds = await bench.interleave(case, peers)
    bench.add(case, "first tokens: with the store ÷ without", rounds.ratios("on", "off", lambda r: r.started))
    bench.add(case, "first tokens ÷ BatchGenerator's", rounds.ratios("on", "BatchGenerator", lambda r: r.started))


CASES: dict[str, Case] = {"churn": churn, "long": long, "first": first, "mixed": mixed, "shared": shared}


if __name__ == "__main__":
    sys.exit(run("arrivals: ratios, below 1 is better", CASES, arguments("rows that come and go", CASES).parse_args()))
