"""Real mixes beside mlx-lm: ragged requests, long prompts on live streams, shared beginnings, one long row among short.

Greenroom runs through its whole async layer, with a reading task for each stream; mlx-lm is its `BatchGenerator`, read
in a loop. Both run the same random Llama of forty million parameters in one process, in turns, warmed up. Every figure
is a ratio of two times of one run, or a count. Run it, all or by name:

    python benchmarks/workloads.py --rounds 5 --json workloads.json
    python benchmarks/workloads.py ragged samplers
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anyio
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from subjects import BatchGenerator, llama_40m, mx, stub

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.protocol import Close, Feed, ForwardPlan, Open, Sampling
from greenroom.runtime import Runtime

VOCAB = 32_000
ROWS = 16
Request = tuple[list[int], int]
"""A prompt and how many tokens are wanted behind it."""


class Figure(NamedTuple):
    """One line of the table."""

    workload: str
    what: str
    values: list[float]


class Run(NamedTuple):
    """What a mix took: seconds in all, until the last first token, and the longest wait between two tokens of a row."""

    seconds: float
    first: float
    gap: float


class Size(NamedTuple):
    """How large the workloads are."""

    requests: int
    prompt: int
    long: int
    rows: int
    vocab: int
    rounds: int


FULL = Size(requests=48, prompt=200, long=2048, rows=32, vocab=VOCAB, rounds=5)
SMOKE = Size(requests=4, prompt=20, long=96, rows=4, vocab=2000, rounds=1)


def rng_of(seed: int) -> random.Random:
    """The same workload each time."""
    return random.Random(seed)  # noqa: S311 - a workload is no secret


def prompt(rng: random.Random, tokens: int) -> list[int]:
    """Random ids."""
    return [rng.randrange(VOCAB) for _ in range(tokens)]


async def ours(runtime: Runtime, requests: list[Request]) -> Run:
    """All requests at once; the runtime decides who runs."""
    began = time.perf_counter()
    firsts: list[float] = []
    gaps = [0.0]

    async def read(ids: list[int], wanted: int) -> None:
        last = 0.0
        async for _ in runtime.generate_tokens(ids, max_tokens=wanted, temperature=0.0, default_stops=False):
            now = time.perf_counter()
            if last:
                gaps.append(now - last)
            else:
                firsts.append(now - began)
            last = now

    async with anyio.create_task_group() as group:
        for ids, wanted in requests:
            group.start_soon(read, ids, wanted)
    return Run(time.perf_counter() - began, max(firsts), max(gaps))


def theirs(model: object, requests: list[Request], rows: int = ROWS) -> Run:
    """The same by `BatchGenerator`."""
    generator = BatchGenerator(model, completion_batch_size=rows, prefill_batch_size=min(8, rows))
    began = time.perf_counter()
    generator.insert([ids for ids, _ in requests], max_tokens=[wanted for _, wanted in requests])
    left = sum(wanted for _, wanted in requests)
    last: dict[int, float] = {}
    gap, first = 0.0, 0.0
    while left:
        responses = generator.next_generated()
        now = time.perf_counter()
        left -= len(responses)
        for response in responses:
            if response.uid in last:
                gap = max(gap, now - last[response.uid])
            else:
                first = now - began
            last[response.uid] = now
    seconds = time.perf_counter() - began
    generator.close()
    return Run(seconds, first, gap)


async def ragged(size: Size, *, every: int = 0) -> list[Figure]:
    """48 requests of unequal lengths on at most 16 rows; with `every`, one prompt in so many is long."""
    model, _ = llama_40m()
    name = f"ragged, one prompt in {every} long" if every else "ragged"
    rng = rng_of(3)
    requests = []
    for i in range(size.requests):
        shortest, longest = (size.long // 2, size.long) if every and i % every == 0 else (16, size.prompt)
        requests.append((prompt(rng, rng.randint(shortest, longest)), rng.randint(8, 64)))
    async with Runtime(backend=MlxBackend.from_model(llama_40m, prefix_bytes=0), max_rows=ROWS) as runtime:
        await ours(runtime, requests[:2])
        theirs(model, requests[:2])
        pairs = [(await ours(runtime, requests), theirs(model, requests)) for _ in range(size.rounds)]
    return [
        Figure(name, "throughput ÷ BatchGenerator's", [b.seconds / a.seconds for a, b in pairs]),
        Figure(name, "worst gap ÷ BatchGenerator's", [a.gap / b.gap for a, b in pairs]),
    ]


async def shared(size: Size) -> list[Figure]:
    """Eight requests at once that share half of `long` tokens: until all have their first token."""
    rng = rng_of(4)
    times: dict[int | None, list[float]] = {0: [], None: []}
    prefilled: list[float] = []
    for _ in range(size.rounds):
        for kept, found in times.items():
            backend = MlxBackend.from_model(llama_40m, prefix_bytes=kept)
            async with Runtime(backend=backend, max_rows=ROWS) as runtime:
                await ours(runtime, [(prompt(rng, 8), 4)])
                stem = prompt(rng, size.long // 2)
                requests = [([*stem, *prompt(rng, 16)], 4) for _ in range(8)]
                began = time.perf_counter()
                streams = [runtime.generate_tokens(ids, max_tokens=1, temperature=0.0) for ids, _ in requests]
                infos = [(await stream.collect()).info for stream in streams]
                found.append(time.perf_counter() - began)
                if kept is None:
                    run = sum(info.prompt_tokens - info.cached_prompt_tokens for info in infos)
                    prefilled.append(run / (len(stem) + 8 * 16))
    ratios = [off / on for off, on in zip(times[0], times[None], strict=True)]
    return [
        Figure("shared beginning", "time to all first tokens: without ÷ with the store", ratios),
        Figure("shared beginning", "prompt tokens run ÷ distinct ones", prefilled),
    ]


def _step(backend: MlxBackend, rows: list[int], steps: int) -> float:
    """Median seconds of a step in which `rows` decode."""
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        backend.forward(ForwardPlan(tuple(Feed(row) for row in rows)))
        backend.sample()
        backend.read()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _filled(backend: MlxBackend, lengths: dict[int, int], rng: random.Random) -> None:
    """Open rows of these lengths, which decode next."""
    for row, length in lengths.items():
        backend.edit([Open(row, Sampling(), length + 200)])
        ids = prompt(rng, length)
        for start in range(0, length, 256):
            part = tuple(ids[start : start + 256])
            backend.forward(ForwardPlan((Feed(row, part, sample=start + 256 >= length),)))
            backend.sample()
            backend.read()


async def one_long_row(size: Size) -> list[Figure]:
    """A step of one long row and seven short ones, against a step of the long one and a step of the seven."""
    await anyio.lowlevel.checkpoint()
    backend = MlxBackend.from_model(llama_40m, prefix_bytes=0)
    backend.load()
    _filled(backend, {0: size.long, **dict.fromkeys(range(1, 8), 64)}, rng_of(5))
    ratios = []
    for _ in range(size.rounds):
        together = _step(backend, list(range(8)), 5)
        ratios.append(together / (_step(backend, [0], 5) + _step(backend, list(range(1, 8)), 5)))
    backend.close()
    return [Figure("one long row among seven short", "step ÷ two separate steps", ratios)]


async def churn(size: Size) -> list[Figure]:
    """Eight long rows; one leaves and one joins every 20 steps."""
    await anyio.lowlevel.checkpoint()
    backend = MlxBackend.from_model(llama_40m, prefix_bytes=0)
    backend.load()
    rng = rng_of(6)
    _filled(backend, dict.fromkeys(range(8), size.long), rng)
    rows = list(range(8))
    copied: list[float] = []
    for turn in range(size.rounds):
        before = backend.store.bytes_copied if backend.store is not None else 0
        backend.edit([Close(rows.pop(0))])
        rows.append(8 + turn)
        _filled(backend, {8 + turn: size.long}, rng)
        _step(backend, rows, 20)
        after = backend.store.bytes_copied if backend.store is not None else 0
        copied.append((after - before) / (size.long * backend.store.bytes_per_token if backend.store else 1))
    backend.close()
    return [Figure("leave and join every 20 steps", "bytes copied ÷ the joining row's", copied)]


async def live(size: Size) -> list[Figure]:
    """Four long prompts land on four live streams: the worst wait for a token, and a first token beside a stream."""
    rng = rng_of(7)
    found: dict[str, list[float]] = {"gap": [], "first": []}
    backend = MlxBackend.from_model(llama_40m, prefix_bytes=0)
    async with Runtime(backend=backend, max_rows=ROWS) as runtime:
        for _ in range(max(1, size.rounds // 2)):
            alone = await ours(runtime, [(prompt(rng, size.long), 2)])
            idle = await ours(runtime, [(prompt(rng, size.prompt), 1)])
            chunk = alone.first / max(1, size.long / 512)
            streams = [runtime.generate_tokens(prompt(rng, 16), max_tokens=400, temperature=0.0) for _ in range(4)]
            gaps: list[float] = []
            landed = anyio.Event()

            async def read(stream: object, gaps: list[float] = gaps, landed: anyio.Event = landed) -> None:
                last = 0.0
                async for _ in stream:  # type: ignore[attr-defined]
                    now = time.perf_counter()
                    gaps.append(now - last if last else 0.0)
                    last = now
                    if len(gaps) > 40:
                        landed.set()

            async with anyio.create_task_group() as group:
                for stream in streams:
                    group.start_soon(read, stream)
                await landed.wait()
                step = statistics.median(gaps[8:])
                beside = await ours(runtime, [(prompt(rng, size.prompt), 1)])
                found["first"].append(beside.first / (idle.first + 2 * step))
                gaps.clear()
                await ours(runtime, [(prompt(rng, size.long), 2) for _ in range(4)])
                found["gap"].append(max(gaps) / (chunk + step))
                for stream in streams:
                    stream.task.cancel()
    return [
        Figure("four long prompts on four streams", "worst gap ÷ (mean chunk + step)", found["gap"]),
        Figure("first token beside a stream", "÷ (idle + two steps)", found["first"]),
    ]


async def samplers(size: Size) -> list[Figure]:
    """32 rows on the stub, each with its own sampling, against one shared sampling, and mlx-lm's own samplers."""
    from mlx_lm.sample_utils import make_sampler

    await anyio.lowlevel.checkpoint()
    found = []
    rows = size.rows
    for name, own in (
        ("top_k, top_p, temperature, seed", lambda i: {"temp": 0.5 + i / 40, "top_k": 20 + i, "top_p": 0.8 + i / 200}),
        ("temperature only", lambda i: {"temp": 0.5 + i / 40}),
    ):
        backend = MlxBackend.from_model(stub(size.vocab), prefix_bytes=0)
        backend.load()
        model, _ = stub(size.vocab)()
        for i in range(rows):
            backend.edit([Open(i, _sampling(i, own(i))), Open(100 + i, _sampling(i, own(7)))])
        for first in (0, 100):
            backend.forward(ForwardPlan(tuple(Feed(first + i, (1, 2, 3)) for i in range(rows))))
            backend.sample()
            backend.read()
        generator = BatchGenerator(model, completion_batch_size=rows, prefill_batch_size=rows)
        chosen = [make_sampler(**own(i)) for i in range(rows)]
        generator.insert([[1, 2, 3]] * rows, max_tokens=[10_000] * rows, samplers=chosen)
        for _ in range(3):
            generator.next_generated()
        ratios: dict[str, list[float]] = {"shared": [], "mlx-lm": []}
        for _ in range(size.rounds):
            apart = _step(backend, list(range(rows)), 5)
            ratios["shared"].append(apart / _step(backend, list(range(100, 100 + rows)), 5))
            began = time.perf_counter()
            for _ in range(3):
                generator.next_generated()
            ratios["mlx-lm"].append((time.perf_counter() - began) / 3 / apart)
        generator.close()
        backend.close()
        found.append(Figure(f"own {name}, B = {rows}", "step ÷ one shared sampling", ratios["shared"]))
        found.append(Figure(f"own {name}, B = {rows}", "mlx-lm's step ÷ ours", ratios["mlx-lm"]))
    return found


def _sampling(seed: int, options: dict[str, float]) -> Sampling:
    return Sampling(
        seed=seed,
        temperature=options["temp"],
        top_k=int(options.get("top_k", 0)),
        top_p=options.get("top_p", 1.0),
    )


WORKLOADS: dict[str, Callable[[Size], Awaitable[list[Figure]]]] = {
    "ragged": ragged,
    "ragged-long": partial(ragged, every=6),
    "shared": shared,
    "long-row": one_long_row,
    "churn": churn,
    "live": live,
    "samplers": samplers,
}


def table(figures: list[Figure]) -> Table:
    """Medians, smallest and largest."""
    view = Table("workload", "figure", "median", "min - max", "rounds")
    for figure in figures:
        low, high = min(figure.values), max(figure.values)
        middle = statistics.median(figure.values)
        view.add_row(figure.workload, figure.what, f"{middle:.2f}", f"{low:.2f} - {high:.2f}", str(len(figure.values)))
    return view


async def main(options: argparse.Namespace) -> list[Figure]:
    """The chosen workloads, one after the other."""
    size = SMOKE if options.smoke else FULL._replace(rounds=options.rounds)
    found: list[Figure] = []
    with Progress(console=Console(stderr=True)) as progress:
        for name in progress.track(options.workloads or list(WORKLOADS), description="workloads"):
            found += await WORKLOADS[name](size)
            mx.clear_cache()
    return found


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="real mixes beside mlx-lm")
    parser.add_argument("workloads", nargs="*", choices=[[], *WORKLOADS], help="default: all")
    parser.add_argument("--rounds", type=int, default=FULL.rounds)
    parser.add_argument("--smoke", action="store_true", help="seconds, not minutes: shows that it runs")
    parser.add_argument("--json", type=Path)
    return parser


if __name__ == "__main__":
    chosen = arguments().parse_args()
    figures = anyio.run(main, chosen)
    Console(width=120).print(table(figures))
    if chosen.json:
        chosen.json.write_text(json.dumps([figure._asdict() for figure in figures], indent=1))
    sys.exit(0)
