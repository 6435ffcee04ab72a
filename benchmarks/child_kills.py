"""The process that computes, killed (SIGKILL) at random moments under sixteen mixed streams: whether anybody notices.

An undisturbed run of all sixteen (`mixed_streams.py`), in this process, says what is wanted. Then they run over and
over with the model in a child process, which is killed at random moments. Every stream has to give the same, with one
closing event; at the end KV and file descriptors are where they were before, and no child is left. How long a loss
lasted is told in parts: until it was noticed and another child was started, its load, and from there to the first
token, with the replays of all rows in it. Run it:

    python benchmarks/child_kills.py --kills 50 --seed 1
    python benchmarks/child_kills.py --minutes 5
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

import anyio
from mixed_streams import COUNT, run_all

from greenroom import Runtime
from greenroom.backends import understudy
from greenroom.backends.remote.backend import RemoteBackend
from greenroom.backends.remote.budget import RestartBudget
from greenroom.backends.remote.messages import BackendFactory

BUDGET = RestartBudget(1 << 20)
_LOOK_SECONDS = 0.002
_PAUSE = 0.6
"""Seconds between the first token behind a kill and the next one, at the most: so kills fall into replays too."""


class Loss(NamedTuple):
    """Seconds of one kill: until another child was there, with those of its load, and then until a token was drawn."""

    gone: float
    load: float
    replay: float


class Outcome(NamedTuple):
    """Of all runs."""

    kills: int
    runs: int
    different: int
    losses: Sequence[Loss]
    leaks: Sequence[str]

    @property
    def is_good(self) -> bool:
        """Whether nobody noticed."""
        return not self.different and not self.leaks


def backend() -> RemoteBackend:
    """The bundled model, in a process that may be started any number of times."""
    factory = BackendFactory(
        "greenroom.backends.mlx.backend:MlxBackend",
        "greenroom.backends.mlx.crossing:MlxCrossing",
        {"model": str(understudy.path())},
    )
    return RemoteBackend(factory, restarts=BUDGET)


def num_descriptors() -> int:
    """Of this process; 0 where the system does not say."""
    folder = Path("/proc/self/fd")
    return len([*folder.iterdir()]) if folder.exists() else 0


def exists(pid: int) -> bool:
    """Whether there is such a process, a zombie among them."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


class Killer:
    """Kills the child of `remote` again and again while something runs."""

    def __init__(self, runtime: Runtime, remote: RemoteBackend, rng: random.Random, kills: float) -> None:
        self._runtime = runtime
        self._remote = remote
        self._rng = rng
        self.left = kills
        self.pids: list[int] = []
        self.losses: list[Loss] = []

    async def run(self) -> None:
        """Until it is cancelled, or has killed as often as it may."""
        while self.left > 0:
            await anyio.sleep(self._rng.uniform(0.0, _PAUSE))
            statistics = self._runtime.statistics()
            if not statistics.running:  # nobody would notice
                continue
            pid, restarts, began = self._remote.pid, statistics.restarts, time.monotonic()
            if pid is None:
                continue
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self.left -= 1
            self.pids.append(pid)
            await until(lambda before=restarts: self._runtime.statistics().restarts > before)
            there, tokens = time.monotonic(), self._runtime.statistics().generated_tokens
            await until(lambda before=tokens: self._has_gone_on(before))
            self.losses.append(Loss(there - began, self._remote.load_seconds, time.monotonic() - there))

    def _has_gone_on(self, tokens: int) -> bool:
        statistics = self._runtime.statistics()
        return statistics.generated_tokens > tokens or not (statistics.running or statistics.waiting)


async def until(is_so: Callable[[], bool]) -> None:
    """Look now and then: what is measured has no event of its own."""
    while not is_so():  # noqa: ASYNC110 - see above
        await anyio.sleep(_LOOK_SECONDS)


def is_settled(runtime: Runtime) -> bool:
    """Whether nothing runs, and every row is given back."""
    statistics = runtime.statistics()
    return not (statistics.running or statistics.waiting or statistics.kv_bytes)


async def measure(*, kills: float, seconds: float, length: int, seed: int) -> Outcome:
    """Run all streams until so many kills were made, or so many seconds are over."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    async with Runtime() as runtime, await runtime.create_adapter(rank=4, sigma=0.3) as adapter:
        wanted = await run_all(runtime, length, adapter=adapter)
    before = num_descriptors()
    remote = backend()
    runs = different = 0
    leaks: list[str] = []
    end = time.monotonic() + seconds
    async with Runtime(backend=remote) as runtime, await runtime.create_adapter(rank=4, sigma=0.3) as adapter:
        killer = Killer(runtime, remote, rng, kills)
        while killer.left > 0 and time.monotonic() < end:
            async with anyio.create_task_group() as group:
                group.start_soon(killer.run)
                found = await run_all(runtime, length, adapter=adapter)
                group.cancel_scope.cancel()
            runs += 1
            for number, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
                if ours != theirs:
                    different += 1
                    print(f"run {runs}, stream {number}: {ours!r} is not {theirs!r}")
        with anyio.move_on_after(30.0) as waiting:
            await until(lambda: is_settled(runtime))
        if waiting.cancelled_caught:
            leaks.append(f"rows hold {runtime.statistics().kv_bytes} bytes of KV")
        pids = [*killer.pids, remote.pid or 0]
    leaks += [f"process {pid} is there still" for pid in pids if exists(pid)]
    if num_descriptors() != before:
        leaks.append(f"{num_descriptors()} descriptors are open, and {before} were before")
    return Outcome(len(killer.pids), runs, different, killer.losses, leaks)


def describe(outcome: Outcome) -> str:
    """What came out."""
    lines = [
        f"{outcome.kills} kills in {outcome.runs} runs of {COUNT} streams: {outcome.different} differ from others",
        *outcome.leaks,
    ]
    if outcome.losses:
        for name, found in (
            ("the other child's load", [each.load for each in outcome.losses]),
            ("from the kill until it was there, beside that", [each.gone - each.load for each in outcome.losses]),
            ("from there to the first token, replays of all rows in it", [each.replay for each in outcome.losses]),
        ):
            lines.append(f"{name}: {median(found):.2f} s, most {max(found):.2f} s")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, help="by default 50, and any number with --minutes")
    parser.add_argument("--minutes", type=float, help="how long kills go on")
    parser.add_argument("--length", type=int, default=80, help="of a stream, in tokens")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loop", choices=("asyncio", "trio"), default="asyncio")
    given = parser.parse_args(arguments)
    logging.getLogger("greenroom").setLevel(logging.ERROR)  # each loss is told as a warning

    async def run() -> Outcome:
        return await measure(
            kills=given.kills or (math.inf if given.minutes else 50),
            seconds=60 * given.minutes if given.minutes else math.inf,
            length=given.length,
            seed=given.seed,
        )

    outcome = anyio.run(run, backend=given.loop)
    print(describe(outcome))
    return 0 if outcome.is_good and outcome.kills else 1


if __name__ == "__main__":
    sys.exit(main())
