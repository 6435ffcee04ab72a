"""A runtime that drains: nothing new is begun, what runs finishes or ends at the deadline, who asked hears of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from greenroom import (
    ChatSession,
    Context,
    Drain,
    EventStream,
    Info,
    InvalidParameter,
    Reply,
    Runtime,
    RuntimeClosed,
    RuntimeDraining,
    Scripted,
    ToolCall,
    WrongEventLoop,
    generate,
)
from greenroom.backends.scripted import ByteTokenizer

ENDLESS = Reply("on and on ", end=False, repeat=True)
CALL = Reply('<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>')


async def _map(runtime: Runtime, _: Context) -> None:
    async for _result in runtime.map(["x"]):
        pass


async def _generate(runtime: Runtime, _: Context) -> None:
    runtime.generate("x")


async def _module_level(_: Runtime, __: Context) -> None:
    generate("x")


async def _in_a_context(_: Runtime, context: Context) -> None:
    context.generate()


BEGINNINGS: dict[str, Callable[[Runtime, Context], Awaitable[object]]] = {
    "generate": _generate,
    "a module-level function": _module_level,
    "generate_task": lambda runtime, _: runtime.generate_task("x"),
    "generate_tokens_task": lambda runtime, _: runtime.generate_tokens_task([1, 2]),
    "generate_token_task": lambda runtime, _: runtime.generate_token_task([1, 2]),
    "collect": lambda runtime, _: runtime.collect(int, "x"),
    "map": _map,
    "a turn": lambda runtime, _: ChatSession(runtime).respond("x"),
    "a generator": _in_a_context,
    "a score": lambda _, context: context.score([5]),
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
async def test_what_is_new_is_refused_and_what_runs_finishes(beginning: str) -> None:
    """Every way to begin raises the typed error; the stream that ran has its whole text."""
    backend = Scripted("a whole answer")
    async with Runtime(backend=backend) as runtime, runtime.context() as context:
        context.fill("some text")
        backend.hold()
        stream = runtime.generate("x")
        await to_thread.run_sync(backend.wait_held)
        drain = runtime.drain()
        assert (runtime.is_open, runtime.is_draining, drain.is_over) == (False, True, False)
        with pytest.raises(RuntimeDraining, match="drains"):
            await BEGINNINGS[beginning](runtime, context)
        backend.release_all()
        assert await stream.text() == "a whole answer"
        assert await drain == 0
        assert await runtime.drain() == 0
        assert drain.is_over
        with pytest.raises(RuntimeClosed):  # for who knows only that one
            runtime.generate("x")


def _here(call: Callable[[], Drain]) -> Drain:
    return call()


def _in_a_thread(call: Callable[[], Drain]) -> Drain:
    found: list[Drain] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


def _in_a_signal_handler(call: Callable[[], Drain]) -> Drain:
    found: list[Drain] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: found.append(call()))
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    return found[0]


@pytest.mark.uvloop
@pytest.mark.parametrize("pipelines", [False, True])
@pytest.mark.parametrize("ask", [_here, _in_a_thread, _in_a_signal_handler])
async def test_what_still_runs_at_the_deadline_ends_as_a_shutdown(
    ask: Callable[[Callable[[], Drain]], Drain], pipelines: bool
) -> None:
    """Running, paused for their readers, and queued: each gets its one `Info`, and the count of them is told."""
    async with Runtime(backend=Scripted(ENDLESS, pipelines=pipelines), max_rows=3) as runtime:
        streams = [runtime.generate(f"x{number}", max_tokens=None) for number in range(8)]
        await streams[0].__anext__()
        with anyio.fail_after(30):
            assert await ask(lambda: runtime.drain(0.05)) == 8
        infos = [[event async for event in stream if isinstance(event, Info)] for stream in streams]
        assert [[(info.stop_reason, info.stop_detail) for info in each] for each in infos] == [
            [("cancelled", "shutdown")]
        ] * 8
        assert runtime.statistics().kv_bytes == 0


async def test_of_several_drains_the_earliest_end_counts() -> None:
    """A second signal may shorten what the first one gave; a later one does not lengthen it."""
    async with Runtime(backend=Scripted(ENDLESS)) as runtime:
        stream = runtime.generate("x", max_tokens=None)
        await stream.__anext__()
        first = runtime.drain()
        runtime.drain(600)
        runtime.drain(0)
        second = runtime.drain(600)
        with anyio.fail_after(30):
            assert (await first, await second, await first.wait()) == (1, 1, 1)
        assert (await stream.task).stop_detail == "shutdown"


async def test_an_idle_runtime_and_one_that_is_not_entered_are_drained_at_once() -> None:
    """And one that is entered again takes requests again."""
    runtime = Runtime(backend=Scripted("hello"))
    assert await runtime.drain() == 0
    async with runtime:
        with anyio.fail_after(30):
            assert await runtime.drain() == 0
    assert await runtime.drain(1) == 0
    async with runtime:
        assert runtime.is_open
        assert await runtime.generate("x").text() == "hello"


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "5", True])
async def test_a_timeout_is_a_number_of_seconds(value: Any) -> None:
    """What is none changes nothing."""
    async with Runtime(backend=Scripted("hello")) as runtime:
        with pytest.raises(InvalidParameter, match="timeout must be"):
            runtime.drain(value)
        assert await runtime.generate("x").text() == "hello"


async def test_leaving_the_runtime_ends_the_wait_for_its_drain() -> None:
    """Who awaits it elsewhere is told; a cancelled await changes nothing."""
    counts: list[int] = []
    async with anyio.create_task_group() as group:
        async with Runtime(backend=Scripted(ENDLESS)) as runtime:
            stream = runtime.generate("x", max_tokens=None)
            await stream.__anext__()
            drain = runtime.drain()
            with anyio.move_on_after(0.01):
                await drain
            assert not drain.is_over

            async def wait() -> None:
                counts.append(await drain)

            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
        await checkpoint()
    assert counts == [1]


async def test_a_drain_is_awaited_on_its_own_loop() -> None:
    """Elsewhere the wait would never end, so it says so."""
    async with Runtime(backend=Scripted(ENDLESS)) as runtime:
        stream = runtime.generate("x", max_tokens=None)
        await stream.__anext__()
        drain = runtime.drain()

        def elsewhere() -> None:
            async def wait() -> None:
                await drain

            anyio.run(wait)

        with pytest.raises(WrongEventLoop):
            await to_thread.run_sync(elsewhere)


@pytest.mark.parametrize("choice", ["finishes", "is too slow"])
async def test_a_turn_goes_on_with_its_rounds(choice: str) -> None:
    """A drain waits between two rounds, while a tool runs; at the deadline the turn ends, with its `Info`."""
    entered, may_go = anyio.Event(), anyio.Event()

    async def look() -> str:
        entered.set()
        await may_go.wait()
        return "seen"

    replies = iter([CALL, Reply("It is there.")])
    async with Runtime(backend=Scripted(lambda *_: next(replies))) as runtime:
        session = ChatSession(runtime, tools=[look])
        events: list[object] = []

        async def ask() -> None:
            async with session.stream_events("Where is it?") as turn:
                events.extend([event async for event in turn])

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await entered.wait()
            drain = runtime.drain(None if choice == "finishes" else 0.05)
            await anyio.wait_all_tasks_blocked()
            if choice == "finishes":
                assert not drain.is_over
                may_go.set()
            with anyio.fail_after(30):
                await drain
    assert [type(event) for event in events].count(ToolCall) == 1
    info = events[-1]
    assert isinstance(info, Info)
    if choice == "finishes":
        assert (info.stop_reason, info.rounds) == ("stop", 2)
        assert session.history[-1]["content"] == "It is there."
    else:
        assert (info.stop_reason, info.stop_detail) == ("cancelled", "shutdown")
        assert not session.is_busy


async def test_a_generator_that_was_made_before_goes_on() -> None:
    """By hand, token by token; what it holds is whole."""
    async with Runtime(backend=Scripted("abc")) as runtime, runtime.context() as context:
        context.user("x")
        context.cue()
        generator = context.generate()
        await (await anext(generator)).execute()
        assert await runtime.drain() == 0
        async for step in generator:
            await step.execute()
        assert generator.text == "abc"


async def test_what_is_still_being_prepared_at_the_deadline_ends_with_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A prompt that takes long to tokenize keeps no drain waiting, and does not run once it is there."""
    may_go = threading.Event()
    encode = ByteTokenizer.encode

    def slow(self: ByteTokenizer, text: str, **options: Any) -> list[int]:
        may_go.wait()
        return encode(self, text, **options)

    backend = Scripted("hello")  # which encodes what it says
    monkeypatch.setattr(ByteTokenizer, "encode", slow)
    async with Runtime(backend=backend) as runtime:
        stream: EventStream = runtime.generate("x", template=False)
        try:
            with anyio.fail_after(30):
                assert await runtime.drain(0.02) == 1
                info = await stream.task
        finally:
            may_go.set()
        assert (info.stop_reason, info.stop_detail) == ("cancelled", "shutdown")
    assert backend.passes == 0
