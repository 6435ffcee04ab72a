"""Whether anything that callers give, or that stands in a file, ends the process, hangs it, or is told untyped.

Cases are made by their numbers and a seed, so each can be run again by itself. They run in chunks, each in a process of
its own: requests on the scripted double and on the bundled model, beside neighbours whose tokens are compared with what
they say alone; constraints, compiled and followed; damaged files. Counted are deaths of a process, hangs, errors that
are not greenroom's, and neighbours that changed. All are to be 0: the exit status is 1 where one is not.

    python benchmarks/fuzz.py --requests 100000 --grammars 20000 --seed 7 --workers 2
    python benchmarks/fuzz.py --seed 7 --only requests:4711
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import anyio
from anyio import to_thread
from fuzz_chunks import CHUNKS, LANES, Chunk, run_chunk
from fuzz_faults import DEATH, FAULTS, HANG, LIMIT, Fault
from harness import Bench, arguments, run

WATCH = 3 * LIMIT
"""Seconds without a case that ends, until a process is given up."""


class Total(NamedTuple):
    """Of all chunks."""

    ends: Counter[str]
    faults: list[Fault]


def plan(requests: int, grammars: int, size: int) -> Iterator[tuple[str, int, int]]:
    """(Load, first case, behind the last) of each chunk. Of requests one in twenty meets a model."""
    counts = {"requests": requests * 19 // 20, "model": requests - requests * 19 // 20}
    counts |= {"grammars": grammars * 17 // 20, "files": grammars - grammars * 17 // 20}
    for load, count in counts.items():
        for first in range(0, count, size):
            yield load, first, min(first + size, count)


def work(chunks: deque[Chunk], total: Total, bar: Callable[[], None]) -> None:
    """One worker: a process a chunk. What a process that died or hung had not begun is a chunk again."""
    while chunks:
        try:
            chunk = chunks.popleft()
        except IndexError:
            return
        fault = watch(chunk, total, bar)
        if fault is not None:
            kind, in_flight = fault
            total.faults.extend([Fault(kind, chunk.load, number, "in flight then") for number in in_flight])
            if not in_flight:  # it did not come to its first case, and would not the next time
                total.faults.append(Fault(kind, chunk.load, chunk.first, "before the first case, or behind the last"))
                continue
            following = max(in_flight) + 1
            if following < chunk.stop:
                chunks.appendleft(chunk._replace(first=following))


def watch(chunk: Chunk, total: Total, bar: Callable[[], None]) -> tuple[str, list[int]] | None:
    """Run a chunk in a process; what happened to that, and the cases that ran then."""
    context = multiprocessing.get_context("spawn")
    at = context.Array("q", [-1] * (LANES + 1))  # of each lane the case that it runs, and how many are over
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=run_chunk, args=(chunk, at, theirs), daemon=True)
    process.start()
    theirs.close()
    seen, quiet, shown = -1, 0.0, 0
    found: Any = None
    while True:
        if ours.poll(1.0):
            try:
                found = ours.recv()
            except EOFError:
                break
            break
        over = at[LANES]
        seen, quiet = (over, 0.0) if over != seen else (seen, quiet + 1.0)
        while shown <= over:
            bar()
            shown += 1
        if quiet > WATCH or not process.is_alive():
            break
    in_flight = sorted({number for number in at[:LANES] if number >= 0})
    if found is None and process.is_alive():
        wait([process.sentinel], 5.0)
    died = found is None and not process.is_alive()
    if found is None:
        process.kill()
    process.join()
    if found is not None:
        ends, faults = found
        total.ends.update(ends)
        total.faults.extend(faults)
        for _ in range(shown, chunk.stop - chunk.first):
            bar()
        return None
    return (DEATH if died else HANG), in_flight


async def fuzz(options: argparse.Namespace, bench: Bench) -> None:
    """The one case."""
    requests, grammars = bench.sized(options.requests, 2000), bench.sized(options.grammars, 2000)
    chunks = deque([Chunk(load, options.seed, *span) for load, *span in plan(requests, grammars, 1000)])
    if options.only is not None:
        load, number = options.only
        chunks = deque([Chunk(load, options.seed, number, number + 1)])
    total = options.total
    bar = bench.bar(f"fuzzing, seed {options.seed}", sum(chunk.stop - chunk.first for chunk in chunks))
    async with anyio.create_task_group() as group:
        for _ in range(options.workers):
            group.start_soon(to_thread.run_sync, work, chunks, total, bar)
    for kind in FAULTS:
        bench.add("faults", kind, [sum(fault.kind == kind for fault in total.faults)], "")
    for end, count in sorted(total.ends.items()):
        bench.add("ends", end, [count], "")


def only(text: str) -> tuple[str, int]:
    """One case, by its load and number."""
    load, _, number = text.partition(":")
    if load not in CHUNKS or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no case: give {' or '.join(CHUNKS)}, a colon and a number")
    return load, int(number)


def report(faults: list[Fault], seed: int) -> None:
    """Each kind of fault once, with the case to see it by."""
    seen: Counter[str] = Counter()
    for fault in faults:
        key = f"{fault.kind}: {fault.load}: {fault.detail}"
        seen[key] += 1
        if seen[key] == 1:
            print(f"{key}\n    python benchmarks/fuzz.py --seed {seed} --only {fault.load}:{fault.number}")
    if faults:
        print(f"{len(faults)} faults, {len(seen)} of them different")


def main() -> int:
    """Fuzz."""
    parser = arguments("what hostile values, grammars and files do")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--grammars", type=int, default=20_000, help="constraints, and damaged files")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes at once")
    parser.add_argument("--only", type=only, help="one case, as requests:4711")
    options = parser.parse_args()
    options.total = Total(Counter(), [])
    print(f"seed {options.seed}")
    status = run("fuzzing", {"fuzzing": partial(fuzz, options)}, options)
    report(options.total.faults, options.seed)
    return status or int(bool(options.total.faults))


if __name__ == "__main__":
    sys.exit(main())
