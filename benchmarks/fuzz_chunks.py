"""One chunk of cases, in a process of its own: several lanes over one runtime, beside neighbours that go on."""

from __future__ import annotations

import logging
import os
import random
import sys
import tempfile
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from fuzz_faults import CHANGED, UNTYPED, Judge, told

__all__ = ["CHUNKS", "LANES", "Chunk", "run_chunk"]

LANES = 4
PAUSE = 0.02
"""Seconds between two runs of a neighbour: it is there to be hurt, not to take all time."""

Case = Callable[[random.Random, int], Awaitable[str]]
At = Any
"""Shared with the parent: the case of each lane, and how many are over."""


class Chunk(NamedTuple):
    """The cases from `first` up to `stop` of a load, by a seed."""

    load: str
    seed: int
    first: int
    stop: int


def run_chunk(chunk: Chunk, at: At, pipe: Connection) -> None:
    """What a process does."""
    warnings.simplefilter("ignore")
    logging.disable()
    judge = Judge(chunk.load)
    listen(judge, at)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where hostile paths lead
        anyio.run(_run, chunk, judge, at, Path(folder))
        os.chdir("/")
    pipe.send((judge.ends, judge.faults))


def listen(judge: Judge, at: At) -> None:
    """What nobody could be told is a fault too; but an interruption that a finaliser swallows is sent again."""

    def note(error: BaseException | None) -> None:
        if error is not None and not isinstance(error, SystemExit) and type(error).__name__ != "_Interrupted":
            judge.add(UNTYPED, max(at[:LANES]), f"raised where nobody hears: {told(error)}")

    sys.unraisablehook = lambda args: note(args.exc_value)
    threading.excepthook = lambda args: note(args.exc_value)


async def _run(chunk: Chunk, judge: Judge, at: At, folder: Path) -> None:
    numbers = iter(range(chunk.first, chunk.stop))
    at[LANES] = 0
    async with CHUNKS[chunk.load](judge, at, folder) as case, anyio.create_task_group() as lanes:
        for lane in range(LANES):
            lanes.start_soon(_lane, chunk, judge, case, at, lane, numbers)


async def _lane(chunk: Chunk, judge: Judge, case: Case, at: At, lane: int, numbers: Iterator[int]) -> None:  # noqa: PLR0917
    for number in numbers:
        at[lane] = number
        rng = random.Random(f"{chunk.seed} {chunk.load} {number}")  # noqa: S311 - the same for each seed
        await judge.case(number, lambda rng=rng, number=number: case(rng, number))  # type: ignore[misc]
        at[lane] = -1
        at[LANES] += 1


# Neighbours.


async def _neighbour(runtime: Any, number: int) -> list[int]:
    from greenroom import Regex, Token

    constrain = Regex("[a-z ]{30}") if number == 2 and runtime.model.name != "scripted" else None
    stream = runtime.generate_tokens(
        f"neighbour {number}", max_tokens=24, seed=number, temperature=1.0, constrain=constrain
    )
    return [event.id async for event in stream if isinstance(event, Token)]


async def _keep_asking(runtime: Any, number: int, alone: Sequence[int], judge: Judge, at: At) -> None:
    while True:
        try:
            now = await _neighbour(runtime, number)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are at fault
            judge.add(CHANGED, max(at[:LANES]), f"neighbour {number} failed: {told(error)}")
        else:
            if now != alone:
                judge.add(CHANGED, max(at[:LANES]), f"neighbour {number} says {now}, alone {alone}")
        judge.ends["neighbour"] += 1
        await anyio.sleep(PAUSE)


@asynccontextmanager
async def _beside_neighbours(runtime: Any, judge: Judge, at: At) -> AsyncIterator[None]:
    """A runtime with neighbours, which have said alone what they are to say."""
    alone = [await _neighbour(runtime, number) for number in range(3)]
    async with anyio.create_task_group() as neighbours:
        for number, said in enumerate(alone):
            neighbours.start_soon(_keep_asking, runtime, number, said, judge, at)
        yield
        neighbours.cancel_scope.cancel()
    left = runtime.statistics()
    if left.waiting:
        judge.add(CHANGED, -1, f"requests are left over: {left}")


# The loads.


@asynccontextmanager
async def _requests(judge: Judge, at: At, folder: Path) -> AsyncIterator[Case]:
    from fuzz_requests import reply, request

    from greenroom import Runtime, Scripted

    del folder
    async with Runtime(backend=Scripted(reply)) as runtime, _beside_neighbours(runtime, judge, at):
        yield lambda rng, _: request(runtime, rng)


@asynccontextmanager
async def _model(judge: Judge, at: At, folder: Path) -> AsyncIterator[Case]:
    from fuzz_requests import request

    from greenroom import Runtime

    del folder
    async with Runtime() as runtime, _beside_neighbours(runtime, judge, at):
        yield lambda rng, _: request(runtime, rng)


@asynccontextmanager
async def _grammars(judge: Judge, at: At, folder: Path) -> AsyncIterator[Case]:
    import numpy as np
    from anyio import to_thread
    from fuzz_grammars import BYTES, follow

    from greenroom.constraints import ConstraintCompiler

    del judge, at, folder
    np.seterr(all="raise")
    compiler = ConstraintCompiler(BYTES)

    async def case(rng: random.Random, _: int) -> str:
        return await to_thread.run_sync(follow, compiler, rng, abandon_on_cancel=True)

    yield case


@asynccontextmanager
async def _files(judge: Judge, at: At, folder: Path) -> AsyncIterator[Case]:
    from fuzz_files import Files

    from greenroom import Runtime

    files = Files(folder)
    async with Runtime() as runtime:
        await files.write(runtime)
        async with _beside_neighbours(runtime, judge, at):
            yield lambda rng, number: files.damage(runtime, rng, number)


CHUNKS = {"requests": _requests, "model": _model, "grammars": _grammars, "files": _files}
