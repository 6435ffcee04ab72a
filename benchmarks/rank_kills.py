"""Ranks killed at random moments: whether every stream ends in `EngineFailed` in time, and nothing is left behind.

Each round starts the workers of a group on this machine, enters a runtime over it, and has `--streams` requests run:
greedy and drawn, some under a schema. At a random moment a worker is killed (SIGKILL), or stopped (SIGSTOP) as one that
hangs is, or the process of rank 0 is killed. Then all streams have `--seconds` to fail, the runtime is left, and
workers, child, threads, sockets and descriptors have to be those from before. Run it:

    python benchmarks/rank_kills.py --kills 50 --seed 1

On Linux, which says what a process holds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from greenroom import EngineFailed, GreenroomError, JsonSchema, Runtime
from greenroom.backends import understudy
from greenroom.backends.ranks.follower import EXIT_LOST

PERSON = JsonSchema({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}})
_OF_THE_LOOP = ("Trio", "AnyIO")
"""Threads that an event loop keeps for a while, for whoever needs one next."""
_PORTS = range(10_000, 30_000)
"""Below those that the system gives to connections of others, before a worker has its own."""
_WAIT = 60.0
"""Seconds for what should take some: what takes longer hangs."""


class Loss(NamedTuple):
    """What is done to whom: a worker's rank, or 0 for the process of rank 0; after how many seconds of streams."""

    victim: int
    signal: signal.Signals
    after: float


class Outcome(NamedTuple):
    """What came of it: seconds until the last stream had failed, how many had ended before, and what is wrong."""

    seconds: float
    num_ended: int
    faults: tuple[str, ...]


def children_now() -> set[int]:
    """Processes that this one has started, zombies among them."""
    return {int(number) for file in Path("/proc/self/task").glob("*/children") for number in file.read_text().split()}


class Held(NamedTuple):
    """What a process holds that a group must give back."""

    threads: int
    descriptors: int
    children: int

    @classmethod
    def now(cls) -> Held:
        """Of this process."""
        descriptors = len([*Path("/proc/self/fd").iterdir()]) - 1  # less the one of the listing
        threads = [each for each in threading.enumerate() if not each.name.startswith(_OF_THE_LOOP)]
        return cls(len(threads), descriptors, len(children_now()))


def write_hosts(folder: Path, size: int) -> Path:
    """A list of so many ranks on free ports of the loopback."""
    ports: list[int] = []
    while len(ports) < size:
        port = secrets.choice(_PORTS)
        with (
            suppress(OSError),
            socket.create_server(("127.0.0.1", port)),
            socket.create_server(("127.0.0.1", port + 100)),
        ):
            ports += [] if {port - 100, port, port + 100}.intersection(ports) else [port]
    path = folder / "hosts.json"
    path.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
    return path


@contextmanager
def workers(model: Path, hosts: Path, size: int) -> Iterator[list[subprocess.Popen[str]]]:
    """The workers of a group, which are killed at the end where they have not ended."""
    started = [
        subprocess.Popen(  # noqa: S603 - this interpreter
            [sys.executable, "-m", "greenroom.worker", str(model), "--hostfile", str(hosts), "--rank", str(rank)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(1, size)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


class _Streams:
    """Requests that run until they fail."""

    def __init__(self, runtime: Runtime, count: int) -> None:
        self._runtime = runtime
        self.errors: list[BaseException] = []
        self.num_ended = 0
        self._count = count
        self.begun = anyio.Event()
        """All of them have said something."""
        self._num_begun = 0

    async def run(self, number: int) -> None:
        """One request after the other, until one fails."""
        with suppress(StopAsyncIteration):
            await self._run(number)

    async def _run(self, number: int) -> None:
        is_first = True
        while True:
            try:
                stream = self._runtime.generate(
                    f"Tell me a story about number {number}.",
                    max_tokens=400,
                    temperature=0.8 * (number % 2),
                    seed=number,
                    constrain=PERSON if number % 4 == 3 else None,
                )
                async for _ in stream:
                    if is_first:
                        is_first = False
                        self._num_begun += 1
                        if self._num_begun == self._count:
                            self.begun.set()
                self.num_ended += 1
            except GreenroomError as error:
                self.errors.append(error)
                return


async def lose(model: Path, loss: Loss, *, size: int = 2, streams: int = 8, pipeline: bool = False) -> Outcome:
    """A group of so many ranks that loses one."""
    faults: list[str] = []
    before = Held.now()
    with tempfile.TemporaryDirectory() as folder:
        hosts = write_hosts(Path(folder), size)
        with workers(model, hosts, size) as processes:
            async with Runtime(model, distributed=hosts, pipeline=pipeline) as runtime:
                running = _Streams(runtime, streams)
                (child,) = children_now() - {process.pid for process in processes}
                with anyio.move_on_after(_WAIT) as scope:
                    async with anyio.create_task_group() as tasks:
                        for number in range(streams):
                            tasks.start_soon(running.run, number)
                        await running.begun.wait()
                        await anyio.sleep(loss.after)
                        began = time.monotonic()
                        os.kill(child if loss.victim == 0 else processes[loss.victim - 1].pid, loss.signal)
                seconds = time.monotonic() - began
                if scope.cancelled_caught:
                    faults.append(f"streams have not ended within {_WAIT:.0f} s")
                faults += [f"a stream failed otherwise: {error!r}" for error in running.errors if not _is_right(error)]
            faults += await _look_at_workers(processes, loss)
    faults += await _look_at_held(before)
    return Outcome(seconds, running.num_ended, tuple(faults))


def _is_right(error: BaseException) -> bool:
    return isinstance(error, EngineFailed)


async def _look_at_workers(processes: list[subprocess.Popen[str]], loss: Loss) -> list[str]:
    """All have ended, and say why; one that was stopped cannot."""
    faults = []
    for rank, process in enumerate(processes, 1):
        if rank == loss.victim:
            continue
        with anyio.move_on_after(10):
            while process.poll() is None:  # noqa: ASYNC110 - a thread that waits would be one more that is held
                await anyio.sleep(0.02)
        if process.poll() != EXIT_LOST:
            faults.append(f"the worker of rank {rank} has the status {process.poll()}")
    return faults


async def _look_at_held(before: Held) -> list[str]:
    """What was there before is there again; a thread may take a moment to be over."""
    with anyio.move_on_after(10):
        while any(now > then for now, then in zip(Held.now(), before, strict=True)):  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.05)
        return []
    return [f"{Held.now()} is held, and {before} was"]


def draw(generator: random.Random, size: int) -> Loss:
    """A loss at a random moment of two seconds."""
    victim = generator.choice([0, *range(1, size), *range(1, size)])
    signals = (signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP) if victim else (signal.SIGKILL,)
    return Loss(victim, generator.choice(signals), generator.uniform(0, 2))


async def run(kills: int, seed: int, streams: int, most: float) -> list[dict[str, Any]]:
    """So many rounds; a line for each."""
    generator = random.Random(seed)  # noqa: S311 - to be drawn again
    lines = []
    await lose(understudy.path(), Loss(1, signal.SIGKILL, 0.0), streams=streams)  # what is made once is made by then
    for number in range(kills):
        loss = draw(generator, 2)
        outcome = await lose(understudy.path(), loss, streams=streams)
        faults = [*outcome.faults] + ([f"it took more than {most} s"] if outcome.seconds > most else [])
        line = {
            "kill": number,
            "rank": loss.victim,
            "signal": loss.signal.name,
            "seconds": round(outcome.seconds, 3),
            "ended before": outcome.num_ended,
            "faults": faults,
        }
        print(json.dumps(line), flush=True)
        lines.append(line)
    return lines


def main() -> None:
    """Print a line a kill, and a summary; status 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0, help="that streams have to fail")
    options = parser.parse_args()
    lines = anyio.run(run, options.kills, options.seed, options.streams, options.seconds)
    wrong = [line for line in lines if line["faults"]]
    seconds = sorted(line["seconds"] for line in lines)
    summary = {"kills": len(lines), "wrong": len(wrong), "median s": seconds[len(seconds) // 2], "worst s": seconds[-1]}
    print(json.dumps(summary | {"load": os.getloadavg()[0]}))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
