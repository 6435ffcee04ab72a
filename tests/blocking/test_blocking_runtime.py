"""The blocking API: what the async one does, from any thread."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

import greenroom
from greenroom import AmbiguousRuntime, BlocksEventLoop, Chunk, Info, NoRuntime, Reply, Scripted, WaitTimeout, blocking
from greenroom.blocking.loop_thread import LoopKind

ENDLESS = Reply("on and on ", end=False, repeat=True)
KINDS: list[LoopKind] = ["asyncio", "trio"]


@pytest.fixture(params=KINDS)
def loop(request: pytest.FixtureRequest) -> LoopKind:
    """The library whose loop runs behind it."""
    kind: LoopKind = request.param
    return kind


def test_a_stream_is_an_iterator(loop: LoopKind) -> None:
    """Events in order, `Info` last; a context manager; its handle, and what is left of it at once."""
    with blocking.Runtime(backend=Scripted(Reply("well said")), loop=loop) as rt:
        with rt.generate("x") as stream:
            events = list(stream)
        assert "".join([event.text for event in events if isinstance(event, Chunk)]) == "well said"
        assert isinstance(events[-1], Info)
        assert stream.task.wait() == stream.task.info == events[-1]
        assert rt.generate("x").text() == "well said"
        stream = rt.generate("x")
        first = next(stream)
        assert isinstance(first, Chunk)
        assert first.text + stream.collect().text == "well said"
        assert list(stream) == []
        assert blocking.generate("x").text() == "well said"
        stream, task = rt.generate_task("x")
        assert isinstance(task, blocking.GenerationTask)
        assert stream.text() == "well said"
        assert [result.text for result in rt.map(["x", "y", "z"])] == ["well said"] * 3
        assert "greenroom" not in repr(rt.statistics())


def test_objects_sessions_contexts_and_generators(loop: LoopKind) -> None:
    """Everything that is made is blocking too, and is the same one each time it is asked for."""
    replies = {"json": Reply("[1, 2]"), "hello": Reply("hi"), "*": Reply("abcdef")}
    with blocking.Runtime(backend=Scripted(replies), loop=loop) as rt:
        assert rt.collect(list[int], "json", template=False) == [1, 2]
        with rt.stream(list[int], "json", template=False) as growing:
            assert list(growing)[-1] == [1, 2]
            assert growing.is_complete
        assert list(blocking.structures(rt.generate("json", template=False), list[int]))[-1] == [1, 2]
        session = blocking.ChatSession(rt)
        assert session.respond("hello")
        assert "".join(session.stream_response("hello"))
        assert len(session.history) == 4
        session.instructions = "be kind"
        assert session.fork().instructions == "be kind"
        with rt.context().fill("x") as context, context.generate(max_tokens=4) as generator:
            assert generator.context is context
            step = next(generator)
            assert len(step.execute().tokens) == 1
            child = generator.fork()
            assert child.parent is generator
            assert generator.children == [child]
            assert next(generator.tokens()).text == "b"
            with generator.fork_many(2) as twins:
                assert [each.collect_text() for each in twins] == ["abcd", "abcd"]
            assert generator.fork_many(1).wait()[0].collect_text() == "abcd"
            snapshot = generator.snapshot()
            assert snapshot.restore().collect_text() == generator.collect_text() == "abcd"
            assert child.collect_tokens() == list(generator.output)


def test_a_source_of_ones_own_becomes_objects() -> None:
    """Read on a worker thread, so that it may wait; without any runtime."""

    def said() -> Iterator[str]:
        assert threading.current_thread() is not threading.main_thread()
        yield "[1, "
        yield "2]"

    assert list(blocking.structures(said(), list[int], every_chunk=True))[-1] == [1, 2]


def test_many_threads_share_one_runtime_and_nothing_is_lost(loop: LoopKind) -> None:
    """Two hundred of them, each with streams of its own."""
    text = "many words for each of them"
    with blocking.Runtime(backend=Scripted(Reply(text)), loop=loop, max_waiting=256) as rt:

        def ask(index: int) -> str:
            with rt.generate(f"x{index}") as stream:
                return "".join([event.text for event in stream if isinstance(event, Chunk)])

        with ThreadPoolExecutor(200) as pool:
            assert list(pool.map(ask, range(200))) == [text] * 200
        assert rt.statistics().running == rt.statistics().kv_bytes == 0


def test_what_is_closed_or_dropped_is_cancelled(loop: LoopKind) -> None:
    """By leaving `with`, by `close`, by the last reference, by the runtime's end."""
    with blocking.Runtime(backend=Scripted(ENDLESS), loop=loop) as rt:
        with rt.generate("x") as left:
            next(left)
        assert left.task.wait().stop_detail == "stream_closed"
        stream = rt.generate("x")
        next(stream)
        task = stream.task
        del stream
        gc.collect()
        assert task.wait().stop_detail == "dropped"
        last = rt.generate("x")
        next(last)
    assert last.task.wait().stop_detail == "shutdown"
    with pytest.raises(greenroom.RuntimeClosed):
        rt.generate("x")


def test_a_wait_takes_a_time(loop: LoopKind) -> None:
    """What it waits for is cancelled and settled; what is closed meanwhile is closed."""
    backend = Scripted(ENDLESS)
    with blocking.Runtime(backend=backend, loop=loop) as rt:
        stream = rt.generate("x")
        with pytest.raises(WaitTimeout), blocking.fail_after(0.05), stream:
            for _ in stream:
                pass
        info = stream.task.info
        assert info is not None
        assert info.stop_detail == "scope"
        with blocking.fail_after(60), pytest.raises(TimeoutError), blocking.fail_after(0), blocking.fail_after(None):
            rt.generate("x").text()
        with blocking.fail_after(None):
            assert rt.generate("x", max_tokens=2).text() == "on"
        with pytest.raises(greenroom.InvalidParameter), blocking.fail_after(-1):
            pass
        assert rt.statistics().running == 0


def test_which_runtime_is_meant() -> None:
    """The one given, the one of this thread's block, the only one; else an error says so."""
    with pytest.raises(NoRuntime):
        blocking.generate("x")
    one, two = (blocking.Runtime(backend=Scripted(Reply(name))) for name in ("one", "two"))
    with one, ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: blocking.generate("x").text()).result() == "one"
        with two:
            assert blocking.generate("x").text() == "two"
            assert blocking.generate("x", runtime=one).text() == "one"
            with pytest.raises(AmbiguousRuntime):
                pool.submit(lambda: blocking.generate("x").text()).result()
        assert blocking.generate("x").text() == "one"
    with pytest.raises(greenroom.InvalidParameter):
        blocking.generate("x", runtime=greenroom.Runtime())  # type: ignore[arg-type]


async def test_a_thread_with_an_event_loop_is_told() -> None:
    """It would stand still; a worker thread beside it is free to wait."""
    rt = blocking.Runtime(backend=Scripted(Reply("well")))
    with pytest.raises(BlocksEventLoop, match="async with"):
        rt.open()

    def work() -> str:
        with rt:
            text: str = rt.generate("x").text()
            return text

    assert await anyio.to_thread.run_sync(work) == "well"


def test_the_thread_ends_with_what_was_made_on_it(loop: LoopKind, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing holds the loop but its objects; a runtime that is lost open ends, and says so."""

    def threads() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name in ("greenroom-asyncio", "greenroom-trio")]

    rt = blocking.Runtime(backend=Scripted(ENDLESS), loop=loop).open()
    rt.generate("x")
    found = threads()
    assert len(found) == 1
    del rt
    gc.collect()
    found[0].join(10)
    assert threads() == []
    assert ["garbage collected open" in message for message in caplog.messages] == [True]
    with blocking.Runtime(backend=Scripted(ENDLESS), loop=loop) as rt:
        task = rt.generate("x").task
    assert task.wait().stop_reason == "cancelled"  # what is left of a closed one still answers
    found = threads()
    del rt, task
    found[0].join(10)
    assert threads() == []


def test_a_function_is_called_on_the_loop(loop: LoopKind) -> None:
    """With mirrors as what they stand for; what it gives is blocking again."""

    async def ask(runtime: greenroom.Runtime, prompt: str) -> Any:
        return runtime.generate(prompt)

    with blocking.Runtime(backend=Scripted(Reply("well")), loop=loop) as rt:
        assert rt.call(ask, rt, "x").text() == "well"
        assert rt.portal.call(anyio.sleep, 0) is None
