"""A backend that dies under streams: they go on as if it had not, and whoever is to blame for it fails alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
import remote_doubles
from anyio.lowlevel import checkpoint
from models import llama

from greenroom import (
    BackendLost,
    Chunk,
    EngineFailed,
    Info,
    InvalidParameter,
    PoisonRequest,
    Regex,
    Runtime,
    Scripted,
)
from greenroom.actors.scheduler.request import Request
from greenroom.actors.scheduler.suspects import Suspects
from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.kv.stores import Stores
from greenroom.backends.mlx.lost_device import require_device
from greenroom.backends.mlx.rows import SubmittedPass
from greenroom.backends.protocol import Feed, ForwardPlan, Open, Sampling
from greenroom.backends.remote.backend import RemoteBackend
from greenroom.backends.remote.budget import RestartBudget

ROOT = Path(__file__).resolve().parents[2]
IGNORED = (
    "[METAL] Command buffer execution failed: Ignored (for causing prior/excessive GPU errors) "
    "(00000004:kIOGPUCommandBufferCallbackErrorSubmissionsIgnored)"
)
COUNT = 16
LENGTH = 40


def kill(remote: RemoteBackend) -> None:
    """End its process, if it has one just now, as a system short of memory does."""
    pid = remote.pid
    assert pid
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def restarted(runtime: Runtime, count: int) -> None:
    """Return once so many backends took the place of one: a test that waits for ever is a failure of its timeout."""
    while runtime.statistics().restarts < count:
        await checkpoint()


@asynccontextmanager
async def opened(
    make: str = "scripted", *, most: int = 3, deadline: float = 60.0, **arguments: Any
) -> AsyncIterator[tuple[Runtime, Any]]:
    """A runtime over a double in a process that may be started so often again."""
    restarts = RestartBudget(most, 600.0)
    remote = RemoteBackend(remote_doubles.factory(make, **arguments), restarts=restarts, deadline=deadline)
    async with Runtime(backend=remote) as runtime:
        yield runtime, remote


def options(number: int) -> dict[str, Any]:
    """Of one stream of many kinds."""
    kinds: Sequence[dict[str, Any]] = (
        {},
        {"constrain": Regex("[0-9a-z ?]{30,35}")},
        {"logprobs": 2},
        {"constrain": Regex(f"({number} p{number} said (who|what)\\? ){{3,4}}")},  # much of it is forced
    )
    return {"seed": number, "max_tokens": LENGTH, **kinds[number % len(kinds)]}


async def gather(runtime: Runtime, heard: Callable[[], object] = lambda: None) -> list[tuple[str, int]]:
    """What sixteen streams give, and how many closing events each; `heard` is called for each piece of one."""
    found: dict[int, tuple[str, int]] = {}

    async def read(number: int) -> None:
        text, ends = "", 0
        async for event in runtime.generate(f"p{number}", **options(number)):
            text += event.text if isinstance(event, Chunk) else ""
            ends += isinstance(event, Info)
            heard()
        found[number] = text, ends

    async with anyio.create_task_group() as group:
        for number in range(COUNT):
            group.start_soon(read, number)
    return [found[number] for number in range(COUNT)]


@pytest.mark.parametrize("pipelines", [False, True], ids=["blocking", "pipeline"])
async def test_kills_at_random_moments_change_nothing(pipelines: bool) -> None:
    """Each stream is equal to the undisturbed one, in text and in having one end; nothing is held afterwards."""
    rng = random.Random(7)  # noqa: S311 - no secret
    async with opened(most=100, pipelines=pipelines, kv_bytes_per_row=3) as (runtime, remote):
        wanted = await gather(runtime)
        assert [ends for _, ends in wanted] == [1] * COUNT
        count = 0
        moments = sorted(rng.sample(range(COUNT * LENGTH // 2), 3))

        def heard() -> None:
            nonlocal count
            count += 1
            if moments and count >= moments[0]:
                moments.pop(0)
                kill(remote)

        assert await gather(runtime, heard) == wanted
        assert not moments
        statistics = runtime.statistics()
        assert statistics.restarts >= 1
        assert statistics.failures == {}
        while runtime.statistics().kv_bytes:
            await checkpoint()


async def test_a_process_that_hangs_is_replaced() -> None:
    """It says nothing within the deadline, is killed, and the stream goes on."""
    async with opened(most=100, deadline=1.0) as (runtime, remote):
        wanted = await runtime.generate("p", seed=1, max_tokens=LENGTH).text()
        stream = runtime.generate("p", seed=1, max_tokens=LENGTH)
        texts: list[str] = []
        async for event in stream:
            if not texts:
                os.kill(remote.pid, signal.SIGSTOP)
            texts.append(event.text if isinstance(event, Chunk) else "")
        assert "".join(texts) == wanted
        stopped = await runtime.generate("p", seed=1, max_tokens=LENGTH).text()
        assert stopped == wanted
        assert runtime.statistics().restarts >= 1


async def test_a_death_that_nobody_meets_is_noticed() -> None:
    """Whoever asks next finds another one, and waits for no load."""
    async with opened() as (runtime, remote):
        before = await runtime.generate("hello", seed=1, max_tokens=9).text()
        kill(remote)
        await restarted(runtime, 1)
        assert await runtime.generate("hello", seed=1, max_tokens=9).text() == before


async def test_a_request_that_kills_fails_alone() -> None:
    """The others are suspects with it, are run alone, and go on; it is told by its type what it is."""
    async with opened("poisoned") as (runtime, _):
        wanted = [await runtime.generate(f"p{number}", seed=number, max_tokens=LENGTH).text() for number in range(4)]
        texts: dict[int, str] = {}

        async def read(number: int) -> None:
            texts[number] = await runtime.generate(f"p{number}", seed=number, max_tokens=LENGTH).text()

        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(read, number)
            with pytest.raises(PoisonRequest, match="do not send it again") as caught:
                await runtime.generate([remote_doubles.BELL, 65], max_tokens=5).text()
        assert isinstance(caught.value.__cause__, BackendLost)
        assert caught.value.info is not None
        assert [texts[number] for number in range(4)] == wanted
        statistics = runtime.statistics()
        assert statistics.failures == {"PoisonRequest": 1}
        assert 2 <= statistics.restarts <= 3  # where no other was beside it twice, it need not be run alone


async def test_when_the_budget_is_spent_every_stream_fails() -> None:
    """With what ended the process in its text; and so does whoever asks afterwards."""
    failures: list[str] = []
    async with opened(most=1, step_seconds=0.002) as (runtime, remote):

        async def read(number: int) -> None:
            with pytest.raises(EngineFailed) as caught:
                await runtime.generate(f"p{number}", seed=number).text()
            failures.append(str(caught.value))

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(read, number)
            for count in (1, 2):
                tokens = runtime.statistics().generated_tokens
                while runtime.statistics().generated_tokens < tokens + 9:
                    await checkpoint()
                kill(remote)
                if count == 1:
                    await restarted(runtime, 1)
        assert len(failures) == 3
        assert all("SIGKILL" in each and "1 times within 10 minutes" in each for each in failures)
        with pytest.raises(EngineFailed):
            runtime.generate("p")


async def test_what_ends_while_another_one_loads_ends_at_once(tmp_path: Path) -> None:
    """A stream that is left, a timeout, a drain; and what is left goes on behind the load."""
    async with opened("gated", folder=str(tmp_path)) as (runtime, remote):
        wanted = await runtime.generate("p", seed=1, max_tokens=LENGTH).text()
        streams = [runtime.generate("p", seed=1, max_tokens=LENGTH) for _ in range(2)]
        first = [await anext(aiter(stream)) for stream in streams]
        kill(remote)
        killed = remote.pid
        while remote.pid == killed:
            await checkpoint()
        with anyio.fail_after(20.0):  # the load comes to no end by itself
            await streams[0].aclose()
            late = await runtime.generate("p", timeout=0.01).collect()
        assert late.info.stop_detail == "timeout"
        assert runtime.statistics().restarts == 0
        (tmp_path / "open").touch()
        rest = [event async for event in streams[1]]
        texts = [event.text for event in (first[1], *rest) if isinstance(event, Chunk)]
        assert "".join(texts) == wanted
        assert runtime.statistics().restarts == 1


async def test_a_runtime_is_left_while_another_one_loads(tmp_path: Path) -> None:
    """Nobody waits for the load, whose process is ended."""
    async with opened("gated", folder=str(tmp_path)) as (runtime, remote):
        stream = runtime.generate("p", seed=1)
        await anext(aiter(stream))
        killed = remote.pid
        kill(remote)
        while remote.pid in {killed, None}:
            await checkpoint()
        loading = remote.pid
    with pytest.raises(ProcessLookupError):
        os.kill(loading, 0)


# In one process.


async def test_a_device_that_is_gone_for_good_fails_the_engine() -> None:
    """Not row after row: the failure says that another process is needed, and what has one by itself."""
    backend = Scripted("who said that? ")
    try:
        require_device(RuntimeError(IGNORED))
    except BackendLost as lost:
        loss = lost
    require_device(RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory"))
    async with Runtime(backend=backend) as runtime:
        assert await runtime.generate("a", max_tokens=5).text()
        backend.fail_next("read", loss)
        with pytest.raises(EngineFailed, match="process=True"):
            await runtime.generate("a", max_tokens=5).text()
        assert not runtime.is_open


def test_a_pass_that_a_device_ignores_is_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the pass was to write is looked at again: what waits for it would wait for ever."""
    backend = MlxBackend.from_model(llama)
    backend.load()
    backend.edit([Open(1, Sampling())])
    backend.forward(ForwardPlan((Feed(1, (1, 2, 3)),)))
    backend.sample()

    def ignored(_: object) -> list[int]:
        raise RuntimeError(IGNORED)

    monkeypatch.setattr(SubmittedPass, "numbers", ignored)
    monkeypatch.setattr(Stores, "recover", pytest.fail)
    with pytest.raises(BackendLost, match="start this one anew"):
        backend.read()
    monkeypatch.undo()
    backend.close()


def test_an_object_cannot_be_made_again_in_another_process() -> None:
    """It is refused by name."""
    with pytest.raises(InvalidParameter, match="backend must be None with process=True"):
        Runtime(backend=Scripted("a"), process=True)
    with pytest.raises(InvalidParameter, match="process"):
        Runtime(process="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_the_bundled_model_gives_the_same_in_a_process_that_is_killed(loop: str) -> None:
    """Constraints, tools, guesses, forks, snapshots and adapters; one kill, and no trace of it."""
    command = [sys.executable, str(ROOT / "benchmarks" / "child_kills.py"), "--kills", "1", "--length", "24"]
    ended = subprocess.run([*command, "--loop", loop], capture_output=True, text=True, check=False, timeout=50)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 kills in 1 runs of 16 streams: 0 differ" in ended.stdout


# Who is to blame.


class Marked:
    """As much of a request as suspects look at."""

    def __init__(self, number: int) -> None:
        self.id = number
        self.tokens = [0] * 10


def marked(count: int) -> list[Any]:
    """So many of them."""
    return [Marked(number) for number in range(count)]


def found(suspects: Suspects, requests: Sequence[Request]) -> list[int]:
    """Whom it would run alone."""
    return [request.id for request in suspects.find(requests)]


def test_who_got_past_the_place_is_no_suspect() -> None:
    """Twice at the same place is needed, whoever else was there."""
    suspects, requests = Suspects(), marked(3)
    assert suspects.accuse(requests) is None
    assert found(suspects, requests) == []
    requests[0].tokens += [0] * 3
    assert suspects.accuse(requests) is None
    assert found(suspects, requests) == [1, 2]
    requests[1].tokens += [0] * 3
    assert found(suspects, requests) == [2]
    last = requests[2]
    assert suspects.accuse([last]) == last
    suspects.forget(last)
    assert found(suspects, requests) == []


def test_chance_blames_nobody() -> None:
    """Who is ended from outside over and over is not the request's doing, unless that is always in the same place."""
    suspects, (request, other) = Suspects(), marked(2)
    for _ in range(2):
        assert suspects.accuse([request, other], is_from_outside=True) is None
    assert found(suspects, [request, other]) == [0, 1]
    for _ in range(2):
        assert suspects.accuse([request], is_from_outside=True) is None
    request.tokens += [0] * 3
    assert found(suspects, [request, other]) == [1]
    for _ in range(2):
        assert suspects.accuse([other], is_from_outside=True) is None
    assert suspects.accuse([other], is_from_outside=True) == other


def test_who_is_alone_twice_at_one_place_is_to_blame() -> None:
    """There is nobody else to ask."""
    suspects, (request,) = Suspects(), marked(1)
    assert suspects.accuse([request]) is None
    assert suspects.accuse([]) is None
    assert suspects.accuse([request]) == request
