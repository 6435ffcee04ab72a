"""Stop means stop: every way to end a request, at every stage it can be in, ends in the same settled state."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint
from passlog import PassLog

from greenroom.actors.task import GenerationTask
from greenroom.backends.scripted import Reply, Scripted
from greenroom.events import Chunk, Info
from greenroom.request.streams import EventStream
from greenroom.runtime import Runtime

NEIGHBOUR = "n" * 5
PROMPT = "p" * 100
STAGES = ("queued", "prefill", "between chunks", "decode", "finished")
ORDERS: dict[str, dict[str, Any]] = {
    "blocks": {"dispatch_blocks": True},
    "reads": {},
    "pipelines": {"pipelines": True},
}
"""What the double says of its device: whether a pass is submitted before the last one is read."""


class Stage:
    """A runtime on the double with one neighbour decoding and one request that stands at a known stage."""

    def __init__(self, runtime: Runtime, backend: Scripted, log: PassLog) -> None:
        self.runtime = runtime
        self.backend = backend
        self.log = log

    async def held(self) -> None:
        """Until the engine stands at the gate."""
        await to_thread.run_sync(self.backend.wait_held)

    async def step(self, steps: int = 1) -> None:
        """Let the engine read `steps` passes, and wait until it stands at the gate again."""
        for _ in range(steps):
            self.backend.release(1)
            await self.held()

    async def begin(self, stage: str, **options: Any) -> EventStream:
        """A request of 100 prompt tokens, 40 of which fit a pass, brought to `stage`."""
        self.backend.hold()
        if stage == "queued":
            self.blocker = self.runtime.generate(PROMPT, template=False)
            await self.held()
        stream = self.runtime.generate(PROMPT, template=False, **options)
        if stage == "finished":
            self.backend.release_all()
            await checkpoint()
            while not stream.task.info:
                await checkpoint()
            return stream
        await self.held()
        if stage == "between chunks":
            await self.step()
        if stage == "decode":
            await self.step(6)
        return stream


@asynccontextmanager
async def staged(stage: str, order: str = "reads", *, context_length: int = 4096) -> AsyncIterator[Stage]:
    """A runtime over a logged double whose replies suit `stage`."""
    endless = Reply("abcdefghij", end=False, repeat=True)
    reply = Reply("a short answer") if stage == "finished" else endless
    said = {PROMPT: reply, NEIGHBOUR: Reply("the neighbour speaks on and on")}
    backend = Scripted(said, context_length=context_length, **ORDERS[order])
    log = PassLog(backend)
    async with Runtime(backend=log, max_rows=1 if stage == "queued" else 8, max_step_tokens=40) as runtime:
        try:
            yield Stage(runtime, backend, log)
        finally:
            backend.release_all()


async def by_handle(stage: Stage, stream: EventStream) -> Info:
    """`task.cancel()`, twice."""
    stream.task.cancel()
    stream.task.cancel()
    stage.backend.release_all()
    events = [event async for event in stream]
    assert [type(event) for event in events].count(Info) == 1
    assert isinstance(events[-1], Info)
    return events[-1]


async def by_aclose(stage: Stage, stream: EventStream) -> Info:
    """`await stream.aclose()`."""
    async with anyio.create_task_group() as group:
        group.start_soon(stream.aclose)
        await anyio.wait_all_tasks_blocked()
        stage.backend.release_all()
    return await stream.task


async def by_leaving(stage: Stage, stream: EventStream) -> Info:
    """Leaving `async with stream` in the middle."""

    async def leave() -> None:
        async with stream:
            pass

    async with anyio.create_task_group() as group:
        group.start_soon(leave)
        await anyio.wait_all_tasks_blocked()
        stage.backend.release_all()
    return await stream.task


async def by_scope(stage: Stage, stream: EventStream) -> Info:
    """A cancel scope around a read: the cancellation propagates, and only once the request is settled."""
    scope = anyio.CancelScope()

    async def consume() -> None:
        with scope:
            async for _ in stream:
                pass

    async with anyio.create_task_group() as group:
        group.start_soon(consume)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        stage.backend.release_all()
    info = stream.task.info
    assert info is not None, "the cancellation propagated before the request was settled"
    return info


Way = Callable[[Stage, EventStream], Awaitable[Info]]
WAYS: dict[str, tuple[Way, str]] = {
    "handle": (by_handle, "handle"),
    "aclose": (by_aclose, "stream_closed"),
    "leaving async with": (by_leaving, "stream_closed"),
    "cancelled scope": (by_scope, "scope"),
}


async def paused(runtime: Runtime, count: int) -> None:
    """Until the scheduler has paused `count` rows."""
    while runtime.statistics().paused < count:
        await checkpoint()


def after(log: PassLog, row: int, mark: int) -> int:
    """How many passes with `row` were submitted since the log had `mark` entries."""
    return sum(row in rows for rows in log.passes[mark:])


@pytest.mark.uvloop
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("way", WAYS)
async def test_every_way_to_stop_settles_at_every_stage(way: str, stage: str, order: str) -> None:
    """One `Info`; at most one more pass with the row, none once awaited; KV bytes exactly back."""
    stop, detail = WAYS[way]
    async with staged(stage, order) as s:
        stream = await s.begin(stage)
        before = stream.task.info
        mark = len(s.log.passes)
        info = await stop(s, stream)
        row = 1 if stage == "queued" else 0
        assert after(s.log, row, mark) <= 1
        if stage == "finished":
            assert info == before
            assert info.stop_reason == "stop"
        else:
            assert (info.stop_reason, info.stop_detail) == ("cancelled", detail)
        assert await stream.task == info
        settled = len(s.log.passes)
        if stage == "queued":
            await s.blocker.aclose()
        assert s.runtime.statistics().kv_bytes == 0
        assert s.runtime.statistics().running == 0
        assert after(s.log, row, settled) == 0


@pytest.mark.uvloop
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stage", STAGES[:-1])
async def test_dropping_the_last_reference_cancels(stage: str, order: str) -> None:
    """A stream that nobody can read any more is cancelled, and its handle says so."""
    async with staged(stage, order) as s:
        stream = await s.begin(stage)
        task: GenerationTask = stream.task
        del stream
        gc.collect()
        s.backend.release_all()
        info = await task
        assert (info.stop_reason, info.stop_detail) == ("cancelled", "dropped")


@pytest.mark.uvloop
@pytest.mark.parametrize("way", ["break", "an exception"])
async def test_a_loop_that_is_left_cancels_where_nobody_else_holds_the_stream(way: str) -> None:
    """A bare `break`, and an exception in the loop's body, over a stream that only the loop knew."""
    backend = Scripted({"*": Reply("tick ", repeat=True)})
    tasks: list[GenerationTask] = []

    def started(runtime: Runtime) -> EventStream:
        stream = runtime.generate("go")
        tasks.append(stream.task)
        return stream

    async with Runtime(backend=backend) as runtime:
        with suppress(LookupError):
            async for _ in started(runtime):
                if way == "break":
                    break
                raise LookupError
        gc.collect()
        info = await tasks[0]
        assert (info.stop_reason, info.stop_detail) == ("cancelled", "dropped")
        assert runtime.statistics().kv_bytes == 0


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stage", STAGES[:-1])
async def test_closing_the_runtime_settles_what_runs(stage: str, order: str) -> None:
    """Leaving the runtime ends every request as a shutdown, with its `Info` on stream and handle."""
    async with staged(stage, order) as s:
        stream = await s.begin(stage)
        s.backend.release_all()
    info = await stream.task
    assert (info.stop_reason, info.stop_detail) == ("cancelled", "shutdown")
    assert [event async for event in stream][-1] == info


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stage", ["queued", "decode"])
async def test_a_timeout_ends_the_request_without_an_exception(stage: str, order: str) -> None:
    """`timeout=` counts from submit, ends as cancelled, and comes with an `Info`."""
    async with staged(stage, order, context_length=1 << 24) as s:
        stream = await s.begin(stage, timeout=1.0)  # longer than it takes to get to the stage, on a busy machine too
        s.backend.release_all()
        events = [event async for event in stream]
        info = events[-1]
        assert isinstance(info, Info)
        assert (info.stop_reason, info.stop_detail) == ("cancelled", "timeout")


@pytest.mark.parametrize("order", ORDERS)
async def test_a_cancel_changes_no_neighbours_text(order: str) -> None:
    """The neighbour says the same as alone while a row beside it is cancelled in mid-decode."""
    async with staged("decode", order) as s:
        neighbour = s.runtime.generate(NEIGHBOUR, template=False)
        stream = await s.begin("decode")
        stream.task.cancel()
        s.backend.release_all()
        assert await neighbour.text() == "the neighbour speaks on and on"


async def test_a_deadline_of_the_consumer_propagates() -> None:
    """`anyio.fail_after` around a read raises `TimeoutError`, and the request is settled by then."""
    async with staged("decode") as s:
        stream = await s.begin("decode")
        s.backend.release_all()

        async def read_for_a_moment() -> None:
            with anyio.fail_after(0.05):
                async for _ in stream:
                    pass

        with pytest.raises(TimeoutError):
            await read_for_a_moment()
        assert stream.task.info is not None
        assert stream.task.info.stop_detail == "scope"


async def test_a_stream_that_is_never_read_but_awaited_ends_normally() -> None:
    """Awaiting the handle lifts the credit: nobody has to read."""
    backend = Scripted({"*": Reply("x" * 2000)})
    async with Runtime(backend=backend) as runtime:
        stream = runtime.generate("go")
        info = await stream.task
        assert info.stop_reason == "stop"
        assert info.generation_tokens == 2000


async def test_sixteen_consumers_that_never_read_delay_nobody() -> None:
    """Rows without credit are paused and give up their places; a seventeenth is served, and memory stays bounded."""
    backend = Scripted({"idle": Reply("z" * 50, repeat=True, end=False), "busy": Reply("hello")})
    async with Runtime(backend=backend, max_rows=4) as runtime:
        idle = [runtime.generate("idle") for _ in range(16)]
        assert await runtime.generate("busy").text() == "hello"
        await paused(runtime, 16)
        steps = runtime.statistics().steps
        assert await runtime.generate("busy").text() == "hello"
        assert runtime.statistics().steps - steps < 50
        for stream in idle:
            await stream.aclose()
        assert runtime.statistics().kv_bytes == 0


@pytest.mark.parametrize("order", ORDERS)
async def test_a_paused_stream_goes_on_when_it_is_read(order: str) -> None:
    """Reading returns credit; the text is whole."""
    backend = Scripted({"*": Reply("0123456789" * 100)}, **ORDERS[order])
    async with Runtime(backend=backend) as runtime:
        stream = runtime.generate("go")
        await paused(runtime, 1)
        assert await stream.text() == "0123456789" * 100


@pytest.mark.parametrize("order", ORDERS)
async def test_rows_that_outgrow_the_budget_are_replayed(order: str) -> None:
    """With KV for one and a half rows, two long ones still finish with their whole texts."""
    backend = Scripted({"a": Reply("a" * 900), "b": Reply("b" * 900)}, kv_bytes_per_token=1, **ORDERS[order])
    async with Runtime(backend=backend, kv_bytes=1400) as runtime:
        first, second = runtime.generate("a"), runtime.generate("b")
        texts: list[str] = []

        async def read(stream: EventStream) -> None:
            texts.append(await stream.text())

        async with anyio.create_task_group() as group:
            group.start_soon(read, first)
            group.start_soon(read, second)
        assert sorted(texts) == ["a" * 900, "b" * 900]


async def test_chunks_come_before_the_info() -> None:
    """Events in order, exactly one `Info`, last; awaiting the handle again gives the same."""
    async with Runtime(backend=Scripted({"*": "good day"})) as runtime:
        stream = runtime.generate("hello")
        events = [event async for event in stream]
        assert "".join(event.text for event in events if isinstance(event, Chunk)) == "good day"
        assert isinstance(events[-1], Info)
        assert await stream.task == events[-1] == await stream.task.wait()
