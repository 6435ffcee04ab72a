"""What is given to the blocking API from outside: sources, tools, adapters, prompts, files."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

import greenroom
from greenroom import BlocksEventLoop, GenerateParameters, Scripted, blocking
from greenroom.blocking.loop_thread import LoopKind

KINDS: list[LoopKind] = ["asyncio", "trio"]
LOOPS = pytest.mark.parametrize("loop", KINDS)
CALL = f"<tool_call>\n{json.dumps({'name': 'ask', 'arguments': {'what': 'inner'}})}\n</tool_call>"


class SyncStream:
    """As the streams of clients that have no loop: entered, iterated, closed."""

    def __init__(self, *pieces: str) -> None:
        self.threads: set[threading.Thread] = set()
        self.is_entered = self.is_left = False
        self._pieces = iter(pieces)

    def __enter__(self) -> Self:
        self.is_entered = True
        return self

    def __exit__(self, *failure: object) -> None:
        self.is_left = True

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Any]:
        self.threads.add(threading.current_thread())
        return {"choices": [{"index": 0, "delta": {"content": next(self._pieces)}, "finish_reason": None}]}


def test_another_clients_sync_stream_becomes_objects() -> None:
    """It is entered, read on worker threads, and left."""
    stream = SyncStream("[1, ", "2]")
    assert list(blocking.parse_openai_stream(stream, list[int]))[-1] == [1, 2]
    assert stream.is_entered
    assert stream.is_left
    assert threading.current_thread() not in stream.threads


def test_a_sync_stream_that_is_given_up_is_left() -> None:
    """By leaving the block, before its end."""
    stream = SyncStream("[1, ", "2, ", "3]")
    with blocking.parse_openai_stream(stream, list[int]) as growing:
        next(growing)
    assert stream.is_left
    assert list(blocking.parse_hf_stream(iter(["[1", "]"]), list[int]))[-1] == [1]
    with pytest.raises(greenroom.UnsupportedType):
        list(blocking.parse_hf_stream(7, list[int]))


@LOOPS
def test_a_source_that_fails_says_so(loop: LoopKind) -> None:
    """Prompts of a generator, which may wait and may use the runtime; its error is raised at its place."""
    with blocking.Runtime(backend=Scripted(), loop=loop) as rt:

        def prompts() -> Iterator[str]:
            yield rt.generate("one").text()
            yield "two"
            raise ZeroDivisionError

        results = rt.map(prompts(), limit=1)
        assert [next(results).text, next(results).text] == ["one", "two"]
        with pytest.raises(ZeroDivisionError):
            next(results)


@LOOPS
def test_a_tool_may_use_the_runtime(loop: LoopKind) -> None:
    """A function runs on a worker thread; an async one is on the loop, which it would stop."""
    backend = Scripted([CALL, "an answer", "done"])
    told: list[str] = []
    with blocking.Runtime(backend=backend, loop=loop) as rt:

        def ask(what: str) -> str:
            told.append(rt.generate(what).text())
            return told[-1]

        assert blocking.ChatSession(rt, tools=[ask]).respond("x") == "done"
        assert told == ["an answer"]

        async def ask_there() -> str:
            with pytest.raises(BlocksEventLoop):
                rt.generate("inner").text()
            return "refused"

        assert rt.call(ask_there) == "refused"


def test_a_callback_on_the_engines_thread_is_refused() -> None:
    """It would wait for itself."""
    refused: list[Exception] = []

    with blocking.Runtime(backend=Scripted("well")) as rt:

        def progress(*counts: int) -> None:
            assert len(counts) == 2
            try:
                rt.generate("y").text()
            except BlocksEventLoop as error:
                refused.append(error)

        assert rt.generate("x", progress=progress).text() == "well"
    assert refused


@LOOPS
def test_what_was_saved_is_read(loop: LoopKind, tmp_path: Path) -> None:
    """Snapshots, sessions, contexts by name."""
    with blocking.Runtime(backend=Scripted("well"), loop=loop) as rt:
        with rt.context().fill("x") as context, context.generate(max_tokens=4) as generator:
            generator.snapshot().save(tmp_path / "snapshot")
            context.save("name")
            assert rt.open_context("name").tokens == context.tokens
        assert blocking.Snapshot.load(tmp_path / "snapshot").restore().collect_text() == "well"
        assert blocking.Snapshot.load(tmp_path / "snapshot", rt).tokens
        session = blocking.ChatSession(parameters=GenerateParameters(max_tokens=2))
        assert session.respond("x") == "we"
        session.save(tmp_path / "session")
        other = blocking.ChatSession(rt)
        other.load(tmp_path / "session")
        assert other.history == session.history


def test_adapters_are_given_by_name_and_in_parameters() -> None:
    """On the bundled model."""
    with blocking.Runtime() as rt, rt.create_adapter(rank=2) as adapter:
        assert rt.generate("Hello!", adapter=adapter, max_tokens=2).collect().info.generation_tokens
        given: Any = adapter
        assert rt.generate("Hello!", GenerateParameters(adapter=given, max_tokens=2)).text()
        assert adapter.update([1, 2], [0.5, 1.0], lr=0.1)
        assert adapter.num_updates == 1
    assert adapter.is_closed


@LOOPS
def test_a_mirror_has_the_names_of_what_it_stands_for(loop: LoopKind) -> None:
    """No others can be read or set; an object that was opened again has the new opening's."""
    rt = blocking.Runtime(backend=Scripted("well"), loop=loop)
    unknown: Any = rt
    with pytest.raises(greenroom.RuntimeClosed, match="open"):
        rt.generate("x")
    with pytest.raises(greenroom.RuntimeClosed):
        rt.prepare("x")
    assert not rt.is_open
    assert rt.drain().wait() == 0
    rt.close()
    for _ in range(2):
        with rt:
            assert rt.generate("x").text() == "well"
            with pytest.raises(greenroom.RuntimeClosed):
                rt.open()
            for use in (lambda: unknown.unknown, lambda: setattr(unknown, "unknown", 1), lambda: unknown._unknown):
                with pytest.raises(AttributeError):
                    use()
    assert "blocking" in repr(rt)
    assert "closed" in repr(rt)
    with pytest.raises(greenroom.InvalidParameter):
        blocking.Runtime(backend=Scripted(), loop=unknown).open()
