"""The blocking API beside the async one on the same runtime: tokens/s, the processor's time, hops, Ctrl-C.

Both read the same requests to their end, with one reader and with sixteen: as tasks of the runtime's own loop, and as
threads beside it. What else runs on the machine disturbs both: look at the medians of many rounds. Run it:

    python benchmarks/blocking.py --rounds 15
    python benchmarks/blocking.py throughput --scripted --rounds 15
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import anyio
from harness import Bench, Case, arguments, run
from records import Record, Stream

import greenroom
from greenroom import Info, Reply, Scripted, blocking

READERS = (1, 16)
PROMPT = "Tell me a long story."


def made(options: argparse.Namespace) -> blocking.Runtime:
    """The model that was asked for, or the double, whose steps sleep for four milliseconds and cost next to nothing."""
    if options.scripted:
        double = Scripted(Reply("abc ", end=False, repeat=True), step_seconds=0.004)
        return blocking.Runtime(backend=double)
    return blocking.Runtime(options.model)


def read_here(rt: blocking.Runtime, tokens: int, seed: int) -> int:
    """One thread reads one stream to its end."""
    with rt.generate(PROMPT, max_tokens=tokens, seed=seed, min_tokens=tokens) as stream:
        for event in stream:
            if isinstance(event, Info):
                return event.generation_tokens
    raise RuntimeError("the stream has no end")


def read_beside(pool: ThreadPoolExecutor, rt: blocking.Runtime, readers: int, tokens: int) -> int:
    """As many threads do that at once."""
    return sum(pool.map(partial(read_here, rt, tokens), range(readers)))


async def read_there(runtime: greenroom.Runtime, readers: int, tokens: int) -> int:
    """As many tasks do the same."""
    counts: list[int] = []

    async def read(seed: int) -> None:
        async with runtime.generate(PROMPT, max_tokens=tokens, seed=seed, min_tokens=tokens) as stream:
            counts.extend([event.generation_tokens async for event in stream if isinstance(event, Info)])

    async with anyio.create_task_group() as group:
        for seed in range(readers):
            group.start_soon(read, seed)
    return sum(counts)


async def timed(work: Callable[[], int]) -> Record:
    """A run on a worker thread. In place of a stream it has the processor's seconds."""

    def measured() -> Record:
        began, used = time.perf_counter(), time.process_time()
        tokens = work()
        return Record(time.perf_counter() - began, tokens, (Stream(time.process_time() - used, ()),))

    return await anyio.to_thread.run_sync(measured)


async def throughput(bench: Bench) -> None:
    """Tokens/s and the processor's time, blocking ÷ async."""
    rt = made(bench.options)
    await anyio.to_thread.run_sync(rt.open)
    tokens = bench.sized(200, 5)
    for readers in READERS:
        with ThreadPoolExecutor(readers) as pool:
            peers = {
                "async": partial(timed, partial(rt.call, read_there, rt, readers, tokens)),
                "blocking": partial(timed, partial(read_beside, pool, rt, readers, tokens)),
            }
            rounds = await bench.interleave(f"readers: {readers}", peers)
        speeds = rounds.ratios("blocking", "async", lambda each: each.tokens / each.seconds)
        bench.add(f"readers: {readers}", "tokens/s ÷ async", speeds)
        used = rounds.ratios("blocking", "async", lambda each: each.streams[0].asked)
        bench.add(f"readers: {readers}", "processor's time ÷ async", used)
    await anyio.to_thread.run_sync(rt.close)


async def hops(bench: Bench) -> None:
    """What one call through the loop costs: of a runtime that has nothing else to do."""

    def measured(count: int) -> list[float]:
        with blocking.Runtime(backend=Scripted()) as rt:
            found = []
            for _ in range(bench.rounds):
                began = time.perf_counter()
                for _ in range(count):
                    rt.statistics()
                found.append((time.perf_counter() - began) / count * 1e6)
            return found

    bench.add("a call", "there and back", await anyio.to_thread.run_sync(measured, bench.sized(2000, 20)), "us")


def interrupts(options: argparse.Namespace) -> list[float]:
    """Milliseconds from a SIGINT to the `KeyboardInterrupt`, behind which the row has settled. On the main thread."""
    found = []
    with made(options) as rt:
        for _ in range(1 if options.smoke else 20):
            sent: list[float] = []

            def send(sent: list[float] = sent) -> None:
                sent.append(time.perf_counter())
                os.kill(os.getpid(), signal.SIGINT)

            stream = rt.generate(PROMPT, max_tokens=1000, min_tokens=1000)
            next(stream)
            timer = threading.Timer(0.1, send)
            try:
                timer.start()
                for _ in stream:
                    pass
            except KeyboardInterrupt:
                found.append((time.perf_counter() - sent[0]) * 1000)
            stream.close()
    return found


CASES: dict[str, Case] = {"throughput": throughput, "hops": hops}


def main() -> int:
    """Measure what is asked for; interrupts by the main thread, which has no loop then."""
    parser = arguments("The blocking API beside the async one.", CASES)
    parser.add_argument("--model", help="a folder or a hub name (default: the bundled model)")
    parser.add_argument("--scripted", action="store_true", help="on the double")
    options = parser.parse_args()
    delays = interrupts(options)

    async def told(bench: Bench) -> None:
        bench.add("Ctrl-C", "until it is told, settled", delays, "ms")

    cases = {**CASES, "interrupts": told}
    options.cases = [*(options.cases or CASES), "interrupts"]
    return run("Blocking beside async", cases, options)


if __name__ == "__main__":
    sys.exit(main())
