"""Growing objects from async streams: what the consumer gets, when, and how it ends."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from greenroom import Runtime, Scripted, generate, structures
from greenroom.constraints.structures import MISSING
from greenroom.errors import (
    GenerationFailed,
    InvalidParameter,
    InvalidStructure,
    MalformedJson,
    StreamInUse,
    TruncatedJson,
    UnsupportedType,
)
from greenroom.testing import simulate


@dataclasses.dataclass
class Item:
    """Of a list."""

    name: str
    count: int = 0


@dataclasses.dataclass
class Items:
    """What is streamed."""

    items: list[Item]


WHOLE = Items([Item("a few words", 1), Item("more", 2)])


async def text(*chunks: str) -> AsyncIterator[str]:
    """A source that never waits."""
    for chunk in chunks:
        yield chunk


async def read_all(stream: AsyncIterator[Items], seen: list[Items]) -> None:
    """Every object, until the loop raises."""
    async for obj in stream:
        seen.append(obj)  # noqa: PERF401 - those before an error count


async def test_one_flat_loop_gives_growing_objects() -> None:
    """Each once, the whole last."""
    seen = [obj async for obj in structures(simulate(WHOLE, chunk=3), Items)]
    assert seen[0] == Items([])
    assert seen[-1] == WHOLE
    assert all(one != other for one, other in pairwise(seen[:-1]))
    names = [obj.items[0].name for obj in seen if obj.items]
    assert names == sorted(names, key=len)
    assert len(set(names)) > 3


@pytest.mark.parametrize("kind", [Items, dict[str, Any]], ids=["dataclass", "dict"])
async def test_struct_strms_nested_loops_run_as_they_are(kind: Any) -> None:
    """Each object is a stream of one: the loops of its examples see what the flat loop sees, and its errors."""
    seen = []
    async for structure in structures(simulate(WHOLE, chunk=3), kind).nested():
        async for obj in structure:
            seen.append(obj)  # noqa: PERF401 - the loops are the test
    assert seen == [obj async for obj in structures(simulate(WHOLE, chunk=3), kind)]
    with pytest.raises(TruncatedJson):
        [structure async for structure in structures(text('{"items": ['), kind).nested()]


async def test_bytes_and_random_sizes_do_as_well() -> None:
    """And an int's or a list's sizes are the same text."""

    async def data() -> AsyncIterator[bytes]:
        for byte in b'{"items":[{"name":"\xc3\xa9"}]}':
            yield bytes([byte])

    assert [obj async for obj in structures(data(), Items)][-1] == Items([Item("é")])
    assert "".join([piece async for piece in simulate(WHOLE, chunk=[1, 5])]) == "".join(
        [piece async for piece in simulate(WHOLE)]
    )
    with pytest.raises(InvalidParameter):
        await anext(simulate(WHOLE, chunk=0))


async def test_a_consumer_that_keeps_up_gets_every_object() -> None:
    """From a source that never waits too."""
    stream = structures(text('{"items":[', '{"name":"', "a", "b", "c", '"}', "]}"), Items)
    names = [obj.items[0].name if obj.items else None async for obj in stream]
    assert names == [None, "", "a", "ab", "abc", "abc"]


async def test_a_slow_consumer_gets_the_newest_object_and_the_last() -> None:
    """The source is read meanwhile; what was passed over is gone."""
    sent = anyio.Event()

    async def source() -> AsyncIterator[str]:
        yield '{"items":[{"name":"'
        for character in "abcdefgh":
            yield character
        sent.set()
        await anyio.sleep_forever()

    async with structures(source(), Items) as stream:
        first = await anext(stream)
        assert first.items[0].name == ""
        await sent.wait()
        assert (await anext(stream)).items[0].name == "abcdefgh"
    ended = structures(text("[", *["1,"] * 50, "2]"), list[int])
    await anext(ended)
    for _ in range(200):
        await checkpoint()
    assert [obj async for obj in ended] == [[1] * 50 + [2]]


async def test_each_object_tells_what_is_done_and_the_last_one_that_it_is_the_whole() -> None:
    """In its marks, and on the stream for the object yielded last."""
    stream = structures(text('{"items":[{"name":"x"', ',"count":1}', "]}", " \n"), Items)
    moments = [moment async for moment in stream.marked()]
    assert [moment.is_complete for moment in moments] == [False, False, True]
    assert moments[0].done.paths == {("items", 0, "name")}
    assert moments[1].done[("items", 0)]
    assert () in moments[2].done.paths
    assert stream.is_complete
    assert stream.latest is moments[-1]
    assert stream.done == moments[-1].done.paths


async def test_objects_are_values() -> None:
    """Later chunks change none of them."""
    stream = structures(simulate(WHOLE, chunk=2), Items)
    kept, copies = [], []
    async for obj in stream:
        kept.append(obj)
        copies.append(repr(obj))
    assert [repr(obj) for obj in kept] == copies


@pytest.mark.parametrize("cut", range(len('{"items":[{"name":"a"}]}')))
async def test_a_text_that_ends_early_is_an_error_behind_the_last_object(cut: int) -> None:
    """Wherever it is cut; the error has the object too."""
    seen: list[Items] = []
    stream = structures(text(*'{"items":[{"name":"a"}]}'[:cut]), Items)
    with pytest.raises(TruncatedJson) as caught:
        await read_all(stream, seen)
    assert caught.value.position == cut
    assert caught.value.partial == (seen[-1] if seen else MISSING)
    assert not stream.is_complete
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_or_a_mark_where_that_is_wanted() -> None:
    """The last moment has it; without marks the loop just ends."""
    chunks = '{"items":[', '{"name":"a"', " "
    stream = structures(text(*chunks), Items, truncated="mark")
    moments = [moment async for moment in stream.marked()]
    assert [moment.error is None for moment in moments] == [True, True, False]
    assert moments[-1].value == moments[-2].value == Items([Item("a")])
    assert not moments[-1].is_complete
    stream = structures(text(*chunks), Items, truncated="mark")
    assert [obj async for obj in stream] == [Items([]), Items([Item("a")])]
    assert isinstance(stream.error, TruncatedJson)
    assert not stream.is_complete
    nothing = [moment async for moment in structures(text(), Items, truncated="mark").marked()]
    assert [moment.value for moment in nothing] == [MISSING]


async def test_a_fault_is_raised_behind_the_last_good_object() -> None:
    """Broken JSON, a wrong object, something behind the end."""
    for chunks, error, good in (
        (('{"items":[', '{"name":"a" oops'), MalformedJson, Items([Item("a")])),
        (('{"items":[{"name":"a"},', '{"name":1}'), InvalidStructure, Items([Item("a"), Item("")])),
        (('{"items":[]}', " {}"), MalformedJson, Items([])),
    ):
        seen: list[Items] = []
        with pytest.raises(error):
            await read_all(structures(text(*chunks), Items), seen)
        assert seen[-1] == good


async def test_the_source_s_own_error_is_raised_as_it_is() -> None:
    """Behind what came before it."""

    async def source() -> AsyncIterator[str]:
        yield '{"items":[{"name":"a'
        raise ConnectionResetError("gone")

    seen: list[Items] = []
    with pytest.raises(ConnectionResetError, match="gone"):
        await read_all(structures(source(), Items), seen)
    assert seen == [Items([Item("a")])]


async def test_every_chunk_gives_an_object_where_that_is_wanted() -> None:
    """Changed or not."""
    chunks = '{"items":[', " ", '{"name"', ':"a"', "}]}"
    assert len([obj async for obj in structures(text(*chunks), Items, every_chunk=True)]) == 5
    assert len([obj async for obj in structures(text(*chunks), Items)]) == 4


async def test_a_source_of_something_else_is_refused() -> None:
    """By the first thing it yields; wrong options and types at the call."""

    async def source() -> AsyncIterator[Any]:
        yield {"items": []}

    with pytest.raises(UnsupportedType, match="str, bytes or Chunks"):
        await anext(structures(source(), Items))
    with pytest.raises(InvalidParameter, match="truncated"):
        structures(text(), Items, truncated="ignore")  # type: ignore[call-overload]


async def endless(closed: list[bool]) -> AsyncIterator[str]:
    """Grows until it is closed."""
    try:
        yield '{"items":[{"name":"'
        while True:
            await checkpoint()
            yield "a"
    finally:
        closed.append(True)


async def test_leaving_ends_the_source() -> None:
    """Before the block is left; afterwards nothing comes."""
    closed: list[bool] = []
    async with structures(endless(closed), Items) as stream:
        async for obj in stream:
            if obj.items and len(obj.items[0].name) > 3:
                break
        assert closed == []
    assert closed == [True]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_dropping_ends_the_source() -> None:
    """A `break` that leaves no reference."""
    closed: list[bool] = []
    async for _ in structures(endless(closed), Items):
        break
    gc.collect()
    with anyio.fail_after(5):
        while not closed:
            await checkpoint()


async def test_a_cancellation_in_the_wait_ends_the_source_and_goes_on() -> None:
    """As it does for an async generator."""
    closed: list[bool] = []

    async def silent() -> AsyncIterator[str]:
        try:
            yield "["
            await anyio.sleep_forever()
        finally:
            closed.append(True)

    stream = structures(silent(), list[int])
    with anyio.move_on_after(0.01) as scope:
        async for _ in stream:
            pass
    assert scope.cancelled_caught
    assert closed == [True]


async def test_a_stream_has_one_reader() -> None:
    """A second one is told so."""
    closed: list[bool] = []
    async with structures(endless(closed), Items) as stream, anyio.create_task_group() as tasks:

        async def read() -> None:
            await stream.receive()

        stream._has_reader = True
        with pytest.raises(StreamInUse):
            await read()
        stream._has_reader = False
        tasks.cancel_scope.cancel()


async def test_our_own_stream_grows_objects() -> None:
    """One flat loop over a generation; its closing event is at hand."""
    backend = Scripted({"list": '{"items": [{"name": "one"}, {"name": "two", "count": 2}]}'})
    async with Runtime(backend=backend):
        async with generate("list", template=False) as stream:
            growing = stream.structures(Items)
            seen = [obj async for obj in growing]
        assert seen[-1] == Items([Item("one"), Item("two", 2)])
        assert len(seen) > 4
        assert growing.info is not None
        assert growing.info.stop_reason == "stop"


async def test_a_generation_that_ends_early_is_truncated() -> None:
    """By `max_tokens`, or by leaving, which settles it."""
    backend = Scripted({"list": '{"items": [{"name": "one"}, {"name": "two", "count": 2}]}'})
    async with Runtime(backend=backend) as runtime:
        with pytest.raises(TruncatedJson):
            async for _ in generate("list", template=False, max_tokens=12).structures(Items):
                pass
        stream = generate("list", template=False)
        async with stream.structures(Items) as growing:
            await anext(growing)
        assert stream.task.info is not None
        assert runtime.statistics().running == 0


async def test_a_generation_that_fails_fails_the_loop() -> None:
    """With the generation's own error."""
    backend = Scripted({"list": '{"items": [{"name": "one"}, {"name": "two"}]}'})
    async with Runtime(backend=backend):
        backend.fail_next("read", RuntimeError("out of order"))
        with pytest.raises(GenerationFailed):
            async for _ in generate("list", template=False).structures(Items):
                pass
