"""One bad request never hurts another: typed errors to the guilty, unchanged text to the rest."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from passlog import PassLog

from greenroom.actors.decoder import Decoded
from greenroom.actors.scheduler.scheduler import Scheduler
from greenroom.backends.protocol import Sampled
from greenroom.backends.scripted import Reply, Scripted
from greenroom.errors import (
    AmbiguousRuntime,
    BackendFailed,
    CallbackFailed,
    EngineFailed,
    GreenroomError,
    InvalidConstraint,
    InvalidParameter,
    InvalidPrompt,
    ModelLoadFailed,
    ModelNotFound,
    NoRuntime,
    PromptTooLong,
    RuntimeClosed,
    StreamInUse,
    TooBusy,
)
from greenroom.events import Info, Token
from greenroom.functions import generate, generate_tokens
from greenroom.inputs.parameters import GenerateParameters
from greenroom.request import current
from greenroom.request.decoders import TextDecoder
from greenroom.runtime import Runtime

BAD: list[tuple[dict[str, Any], type[GreenroomError]]] = [
    ({"max_tokens": -1}, InvalidParameter),
    ({"temperature": -0.1}, InvalidParameter),
    ({"temperature": float("nan")}, InvalidParameter),
    ({"top_p": 0.0}, InvalidParameter),
    ({"top_p": 1.5}, InvalidParameter),
    ({"top_k": 321}, InvalidParameter),
    ({"min_p": 2.0}, InvalidParameter),
    ({"seed": -1}, InvalidParameter),
    ({"seed": 2**64}, InvalidParameter),
    ({"stop": 999}, InvalidParameter),
    ({"stop": ""}, InvalidParameter),
    ({"logit_bias": {999: 1.0}}, InvalidParameter),
    ({"logprobs": 10_000}, InvalidParameter),
    ({"timeout": 0.0}, InvalidParameter),
    ({"kv_bits": 4}, InvalidParameter),
    ({"max_kv_size": 64}, InvalidParameter),
    ({"constrain": "x"}, InvalidConstraint),
    ({"tools": "x"}, InvalidParameter),
    ({"tool_choice": "nobody"}, InvalidParameter),
    ({"tool_choice": "required"}, InvalidParameter),
    ({"reasoning": "loud"}, InvalidParameter),
    ({"context": 7}, InvalidParameter),
]


@pytest.mark.parametrize(("options", "error"), BAD, ids=[str(options) for options, _ in BAD])
async def test_bad_input_raises_at_the_call_and_costs_no_pass(options: dict[str, Any], error: type[Exception]) -> None:
    """Typed, naming the parameter; the runtime serves the next request."""
    log = PassLog(Scripted({"*": "fine"}))
    async with Runtime(backend=log) as runtime:
        with pytest.raises(error, match=next(iter(options))):
            runtime.generate("hello", **options)
        assert log.passes == []
        assert await runtime.generate("hello").text() == "fine"


@pytest.mark.parametrize("prompt", ["", [], [-1], [320], [1.5], None, b"bytes", [{"content": "no role"}]])
async def test_a_prompt_that_is_none_is_refused(prompt: Any) -> None:
    """At the call where it can be seen, else at the first await; in both cases before any pass."""
    log = PassLog(Scripted({"*": "fine"}))
    async with Runtime(backend=log) as runtime:
        with pytest.raises(InvalidPrompt):
            await runtime.generate(prompt).text()
        assert log.passes == []


async def test_an_unknown_parameter_is_a_type_error() -> None:
    """Overrides are names of `GenerateParameters`."""
    async with Runtime(backend=Scripted()) as runtime:
        with pytest.raises(TypeError, match="temprature"):
            runtime.generate("hello", temprature=1.0)  # type: ignore[call-arg]


async def test_a_prompt_over_the_context_says_how_long_both_are() -> None:
    """At the first await, and at the await of `generate_task`; the handle raises the same."""
    async with Runtime(backend=Scripted(context_length=50)) as runtime:
        stream = runtime.generate("x" * 50, template=False)
        with pytest.raises(PromptTooLong, match="50"):
            await stream.text()
        for _ in range(2):
            with pytest.raises(PromptTooLong):
                await stream.task
        with pytest.raises(PromptTooLong):
            await runtime.generate_task("x" * 60, template=False)
    async with Runtime(backend=Scripted(kv_bytes_per_token=10), kv_bytes=400) as runtime:
        with pytest.raises(PromptTooLong, match="kv_bytes"):
            await runtime.generate("x" * 50, template=False).text()


async def test_one_failing_row_leaves_its_neighbours_whole() -> None:
    """What was decoded is delivered, then the error, with counts; others say the same as ever."""
    failing = Reply("this goes wrong", fail_at=6, error=OSError("the device fell over"))
    async with Runtime(backend=Scripted({"bad": failing, "*": "a neighbour's whole text"})) as runtime:
        others = [runtime.generate(f"good {i}") for i in range(3)]
        stream = runtime.generate("bad")
        heard = ""

        async def listen() -> None:
            nonlocal heard
            async for event in stream:
                heard += getattr(event, "text", "")

        with pytest.raises(BackendFailed, match="the device fell over") as caught:
            await listen()
        assert heard == "this "
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.info is not None
        assert caught.value.info.generation_tokens == 5
        assert [await other.text() for other in others] == ["a neighbour's whole text"] * 3
        assert runtime.statistics().kv_bytes == 0


@pytest.mark.parametrize("method", ["forward", "sample", "read"])
async def test_a_failed_pass_fails_its_rows_and_the_runtime_goes_on(method: Any) -> None:
    """Requests that come after it are served."""
    backend = Scripted({"*": "alive"})
    async with Runtime(backend=backend) as runtime:
        backend.fail_next(method, MemoryError("no room"))
        with pytest.raises(BackendFailed, match="no room"):
            await runtime.generate("first").text()
        assert await runtime.generate("second").text() == "alive"
        assert runtime.statistics().kv_bytes == 0


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit, KeyboardInterrupt])
async def test_a_dead_engine_fails_everything_at_once(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running requests get `EngineFailed`, later calls too, and the runtime can be left and entered again."""

    def broken(*_: object) -> None:
        raise kind("broken")

    backend = Scripted({"*": Reply("on and on", repeat=True)})
    runtime = Runtime(backend=backend)
    async with runtime:
        stream = runtime.generate("hello")
        await anext(stream)
        monkeypatch.setattr(Scheduler, "plan", broken)
        with pytest.raises(EngineFailed, match="broken"):
            await runtime.generate("a third").text()
        with pytest.raises(EngineFailed):
            async for _ in stream:
                pass
        with pytest.raises(EngineFailed):
            runtime.generate("later")
        assert [runtime.is_open, repr(runtime)[-7:]] == [False, "failed>"]
    assert [runtime.is_open, repr(runtime)[-7:]] == [False, "closed>"]
    monkeypatch.undo()
    async with runtime:
        assert [runtime.is_open, repr(runtime)[-5:]] == [True, "open>"]
        assert (await runtime.generate("again", max_tokens=5).collect()).info.stop_reason == "length"


async def test_a_raising_progress_callback_fails_its_request_alone() -> None:
    """The callback's exception is the cause."""

    def progress(done: int, total: int) -> None:
        raise ZeroDivisionError(f"{done} of {total}")

    async with Runtime(backend=Scripted({"*": "calm"})) as runtime:
        neighbour = runtime.generate("hello")
        with pytest.raises(CallbackFailed, match="ZeroDivisionError") as caught:
            await runtime.generate("hello", progress=progress).text()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert await neighbour.text() == "calm"


async def test_a_raising_decoder_fails_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a failure of the request's own code."""
    feed: Callable[[TextDecoder, Sequence[Sampled]], Decoded] = TextDecoder.feed

    def raising(self: TextDecoder, tokens: Sequence[Sampled]) -> Decoded:
        if tokens[0].token == ord("!"):
            raise KeyError("surprise")
        return feed(self, tokens)

    monkeypatch.setattr(TextDecoder, "feed", raising)
    async with Runtime(backend=Scripted({"bad": "ab!c", "*": "calm"})) as runtime:
        neighbour = runtime.generate("hello")
        with pytest.raises(CallbackFailed, match="surprise"):
            await runtime.generate("bad").text()
        assert await neighbour.text() == "calm"


async def test_progress_is_told_in_chunks_up_to_the_whole_prompt() -> None:
    """(tokens run, tokens in all), from the engine thread."""
    seen: list[tuple[int, int]] = []
    async with Runtime(backend=Scripted(), max_rows=8, max_step_tokens=40) as runtime:
        await runtime.generate("x" * 100, template=False, progress=lambda *n: seen.append(n), max_tokens=3).text()
    assert seen == [(40, 100), (80, 100), (100, 100)]


async def test_a_full_queue_is_too_busy_at_once() -> None:
    """The bound is `max_waiting`; the error says so, and those that wait are served."""
    backend = Scripted({"*": "done"})
    backend.hold()
    async with Runtime(backend=backend, max_rows=1, max_waiting=2) as runtime:
        first = runtime.generate("a")
        await anyio.to_thread.run_sync(backend.wait_held)
        while first.task.status == "queued":
            await anyio.lowlevel.checkpoint()
        waiting = [runtime.generate("b"), runtime.generate("c")]
        with pytest.raises(TooBusy, match="max_waiting is 2"):
            runtime.generate("d")
        with pytest.raises(TooBusy):
            await runtime.generate_task("d")
        backend.release_all()
        assert [await stream.text() for stream in (first, *waiting)] == ["done"] * 3


@pytest.mark.parametrize(("rows", "waiting", "num_running"), [(8, 4, 0), (8, 4, 3), (3, 1, 3), (1, 5, 0), (2, 2, 1)])
async def test_who_finds_a_free_row_does_not_wait(rows: int, waiting: int, num_running: int) -> None:
    """Of calls in one turn of the loop, as many are taken as rows are free and may wait; the next one is refused."""
    backend = Scripted({"a": Reply("on and on", repeat=True), "*": "done"})
    async with Runtime(backend=backend, max_rows=rows, max_waiting=waiting) as runtime:
        running = [runtime.generate("a") for _ in range(num_running)]
        for stream in running:
            await anext(stream)
        taken = [runtime.generate("b") for _ in range(rows - num_running + waiting)]
        with pytest.raises(TooBusy, match=f"{waiting} requests wait already, and max_waiting is {waiting}"):
            runtime.generate("c")
        for stream in running:
            await stream.aclose()
        assert [await stream.text() for stream in taken] == ["done"] * len(taken)
        again = [runtime.generate("d") for _ in range(rows + waiting)]
        assert [await stream.text() for stream in again] == ["done"] * (rows + waiting)


async def test_two_readers_of_one_stream_are_told() -> None:
    """The second gets an error, the first its event."""
    backend = Scripted({"*": "hello"})
    backend.hold()
    async with Runtime(backend=backend) as runtime:
        stream = runtime.generate("x")
        async with anyio.create_task_group() as group:
            group.start_soon(stream.collect)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(StreamInUse):
                await anext(stream)
            backend.release_all()


async def test_a_missing_model_and_a_closed_runtime_are_typed_errors(tmp_path: Path) -> None:
    """And a broken one; nothing stays open after them."""
    with pytest.raises(ModelNotFound):
        await Runtime(tmp_path / "nowhere").__aenter__()
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelLoadFailed):
        await Runtime(tmp_path).__aenter__()
    runtime = Runtime(backend=Scripted())
    with pytest.raises(RuntimeClosed):
        runtime.generate("hello")
    with pytest.raises(NoRuntime):
        generate("hello")
    assert current._entered == []


async def test_which_runtime_a_function_means() -> None:
    """The given one; the context's; the only one here; several and none current is an error."""
    async with Runtime(backend=Scripted("one")) as one:
        assert await generate("x").text() == "one"
        async with Runtime(backend=Scripted("two")):
            assert await generate("x").text() == "two"
            assert await generate("x", runtime=one).text() == "one"
            current._context.set(None)
            with pytest.raises(AmbiguousRuntime):
                generate("x")
        assert await generate("x").text() == "one"


async def test_a_runtime_that_has_failed_is_not_meant_beside_one_that_serves() -> None:
    """Not as the context's, nor as one of several; alone it says why it serves nobody."""
    backend = Scripted({"*": Reply("on and on", repeat=True)})
    async with Runtime(backend=Scripted("fine")) as fine, Runtime(backend=backend, max_rows=2) as broken:
        stream, another = broken.generate("hello"), broken.generate("another")
        await anext(stream)
        await anext(another)
        backend.fail_next("edit", RuntimeError("broken"))
        another.task.cancel()
        with pytest.raises(EngineFailed, match="broken"):
            async for _ in stream:
                pass
        assert [fine.is_open, broken.is_open] == [True, False]
        assert await generate("x").text() == "fine"
        await fine.__aexit__(None, None, None)
        with pytest.raises(EngineFailed, match="broken"):
            generate("x")


async def test_an_exception_from_the_body_leaves_as_itself() -> None:
    """Not as a group, and the runtime is closed."""
    runtime = Runtime(backend=Scripted({"*": Reply("x", repeat=True)}))

    async def body() -> None:
        async with runtime:
            runtime.generate("hello")
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await body()
    assert not runtime.is_open


async def test_max_tokens_zero_runs_no_pass() -> None:
    """An immediate `Info`."""
    log = PassLog(Scripted())
    async with Runtime(backend=log) as runtime:
        events = [event async for event in runtime.generate("hello", max_tokens=0)]
    assert [(e.stop_reason, e.stop_detail) for e in events if isinstance(e, Info)] == [("length", "max_tokens")]
    assert len(events) == 1
    assert log.passes == []


async def test_the_context_ends_what_nothing_else_does() -> None:
    """Prompt and output together fill it exactly."""
    async with Runtime(backend=Scripted({"*": Reply("abc", repeat=True)}, context_length=60)) as runtime:
        result = await runtime.generate("x" * 10, template=False).collect()
    assert (result.info.stop_reason, result.info.stop_detail) == ("length", "context")
    assert result.info.generation_tokens == 50


async def test_raw_tokens_with_and_without_the_stop_token() -> None:
    """`Token* Info`; the stop token only where it was asked for, and then counted."""
    async with Runtime(backend=Scripted("hi")):
        plain = [event async for event in generate_tokens("x")]
        assert [event.id for event in plain if isinstance(event, Token)] == [104, 105]
        whole = [event async for event in generate_tokens("x", include_stop_token=True)]
        assert [event.id for event in whole if isinstance(event, Token)][:2] == [104, 105]
        infos = [events[-1] for events in (plain, whole)]
        assert [info.generation_tokens for info in infos if isinstance(info, Info)] == [2, 3]


async def test_map_is_bounded_and_ordered() -> None:
    """Results come in the order of the prompts, from at most `limit` at once."""
    backend = Scripted({f"p{i}": f"reply {i}" for i in range(20)})
    log = PassLog(backend)
    async with Runtime(backend=log) as runtime:
        texts = [result.text async for result in runtime.map([f"p{i}" for i in range(20)], limit=3)]
    assert texts == [f"reply {i}" for i in range(20)]
    assert max(len(rows) for rows in log.passes) <= 3


@pytest.mark.timeout(120)
async def test_ten_thousand_cancels_leave_nothing_behind() -> None:
    """Rows, requests, decoders and KV bytes back to the start."""
    backend = Scripted({"*": Reply("words and words ", repeat=True)})
    decoders: list[weakref.ref[object]] = []
    async with Runtime(backend=backend) as runtime:
        for _ in range(400):
            streams = [runtime.generate("x") for _ in range(25)]
            decoders.append(weakref.ref(streams[0]._mailbox))
            for stream in streams:
                stream.task.cancel()
            for stream in streams:
                assert (await stream.task).stop_detail == "handle"
        del streams, stream
        gc.collect()
        with anyio.fail_after(20):
            while any(reference() for reference in decoders):
                await anyio.lowlevel.checkpoint()  # whoever told the last of them has yet to let go of it
                gc.collect()
        statistics = runtime.statistics()
        assert (statistics.kv_bytes, statistics.running, statistics.waiting, statistics.paused) == (0, 0, 0, 0)
        assert statistics.reserved_bytes == 0


async def test_a_blocked_loop_does_not_slow_the_engine() -> None:
    """Forwards while the loop sleeps for 100 ms: at least 0.9 of those in an unblocked 100 ms."""
    backend = Scripted({"*": Reply("tick ", repeat=True)}, step_seconds=0.0005)
    async with Runtime(backend=backend) as runtime:
        stream = runtime.generate("go")
        async with anyio.create_task_group() as group:
            group.start_soon(stream.task.wait)
            ratios = []
            for _ in range(15):  # in turns, so that what else runs on the machine slows both alike
                before = backend.passes
                await anyio.sleep(0.1)
                free = backend.passes - before
                before = backend.passes
                time.sleep(0.1)  # noqa: ASYNC251 - the very thing under test
                ratios.append((backend.passes - before) / max(1, free))
            stream.task.cancel()
    assert max(ratios) >= 0.9  # what else runs on the machine disturbs most of them; what blocks would all


async def test_an_abandoned_runtime_ends_its_thread() -> None:
    """Without `__aexit__`, collecting the runtime is enough."""
    before = {thread.ident for thread in threading.enumerate()}
    runtime = Runtime(backend=Scripted())
    await runtime.open()
    threads = [t for t in threading.enumerate() if t.ident not in before and t.name == "greenroom-engine"]
    assert len(threads) == 1
    del runtime
    gc.collect()
    await anyio.to_thread.run_sync(threads[0].join, 10.0)
    assert not threads[0].is_alive()


async def test_two_runtimes_are_independent_and_one_can_be_entered_twice() -> None:
    """In one process, one after the other and side by side."""
    one, two = Runtime(backend=Scripted("1")), Runtime(backend=Scripted("2"))
    for _ in range(2):
        async with one, two:
            assert await one.generate("x").text() + await two.generate("x").text() == "12"


async def test_overrides_beat_parameters() -> None:
    """A parameter set serves many calls."""
    parameters = GenerateParameters(max_tokens=10, temperature=0.0)
    async with Runtime(backend=Scripted("a long enough reply")) as runtime:
        assert len(await runtime.generate("x", parameters).text()) == 10
        assert len(await runtime.generate("x", parameters, max_tokens=3).text()) == 3
