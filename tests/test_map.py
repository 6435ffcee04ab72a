"""Many prompts through `runtime.map`: every one once, in order or as it is ready, and a failure hurts its own alone."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint
from passlog import PassLog

from greenroom import (
    BackendFailed,
    GreenroomError,
    InvalidParameter,
    Reply,
    Result,
    Results,
    Runtime,
    Scripted,
    StreamInUse,
    TooBusy,
    TruncatedJson,
    UnsupportedType,
    blocking,
)

COUNT = 20
PROMPTS = [f"p{number}" for number in range(COUNT)]


class Point(msgspec.Struct):
    """What is asked for."""

    x: int
    y: int


def scripted(**replies: Reply) -> Scripted:
    """Each prompt has a reply of its own; `replies` take the place of some."""
    plain: dict[str, str | Reply] = {f"p{number}": f"reply {number}" for number in range(COUNT)}
    return Scripted({**plain, **replies})


async def settled(runtime: Runtime) -> None:
    """Return once nothing runs: a test that waits for ever is a failure of its timeout."""
    while runtime.statistics().running or runtime.statistics().waiting:
        await checkpoint()


async def read_all(results: Results[Any], seen: list[int]) -> None:
    """Every place, until the loop raises."""
    async for each in results:
        seen.append(each.index)  # noqa: PERF401 - those before an error count


async def test_every_prompt_has_its_place_and_its_text() -> None:
    """In their order, each once, from a list, a lazy and an asynchronous source alike."""

    def lazy() -> Iterator[str]:
        yield from PROMPTS

    async def asynchronous() -> AsyncIterator[str]:
        for prompt in PROMPTS:
            await checkpoint()
            yield prompt

    async with Runtime(backend=scripted()) as runtime:
        for source in (PROMPTS, lazy(), asynchronous()):
            found = [mapped async for mapped in runtime.map(source, limit=3)]
            assert [(each.index, each.prompt, each.text) for each in found] == [
                (number, f"p{number}", f"reply {number}") for number in range(COUNT)
            ]
            assert {each.info.stop_reason for each in found} == {"stop"}
            assert all(type(each.value) is Result for each in found)


async def test_one_slow_prompt_stops_no_other_one() -> None:
    """Unordered, it comes last; in order, the others run beside it, and no more than may wait for it."""
    slow = {"p0": Reply("slow " * 900)}
    async with Runtime(backend=scripted(**slow)) as runtime:
        found = [mapped.index async for mapped in runtime.map(PROMPTS, limit=3, ordered=False, max_tokens=None)]
        assert found[-1] == 0
        assert sorted(found) == [*range(COUNT)]
    taken: list[str] = []

    def noting() -> Iterator[str]:
        for prompt in PROMPTS:
            taken.append(prompt)
            yield prompt

    log = PassLog(scripted(p0=Reply("without an end ", repeat=True)))
    async with Runtime(backend=log) as runtime:
        with anyio.move_on_after(30) as scope:
            async with runtime.map(noting(), limit=3, max_tokens=None) as results, anyio.create_task_group() as group:

                async def read() -> None:
                    await results.__anext__()

                group.start_soon(read)
                while len(taken) < 13:
                    await checkpoint()
                for _ in range(200):
                    await checkpoint()
                group.cancel_scope.cancel()
        assert not scope.cancelled_caught
        assert len(taken) in {13, 14, 15}  # twelve are ready, one runs, and at most two more did
        assert max(len(rows) for rows in log.passes) <= 3
        await settled(runtime)


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_failure_is_returned_or_raised_at_its_place(ordered: bool) -> None:
    """Returned it is that prompt's alone; raised it ends the others."""
    failing = {"p5": Reply("well", fail_at=2)}
    async with Runtime(backend=scripted(**failing)) as runtime:
        found = {each.index: each async for each in runtime.map(PROMPTS, errors="return", ordered=ordered, limit=4)}
        assert sorted(found) == [*range(COUNT)]
        assert [index for index, each in found.items() if each.error is not None] == [5]
        assert isinstance(found[5].error, BackendFailed)
        with pytest.raises(BackendFailed):
            _ = found[5].value
        with pytest.raises(BackendFailed):
            _ = found[5].text
        seen: list[int] = []
        with pytest.raises(BackendFailed):
            await read_all(runtime.map(PROMPTS, ordered=ordered, limit=4), seen)
        assert 5 not in seen
        assert not ordered or seen == [*range(5)]
        await settled(runtime)


async def test_objects_of_a_type_come_validated() -> None:
    """With the text beside them; one that ended early has its text, and its error."""
    replies = {"a": '{"x": 1, "y": 2}', "b": '{"x": 3, "y": 4}', "c": '{"x": 5, "y": 6}'}
    async with Runtime(backend=Scripted(replies)) as runtime:
        found = [mapped async for mapped in runtime.map(["a", "b", "c"], into=Point)]
        assert [mapped.value for mapped in found] == [Point(1, 2), Point(3, 4), Point(5, 6)]
        assert [msgspec.json.decode(mapped.text, type=Point) for mapped in found] == [each.value for each in found]
        (cut,) = [mapped async for mapped in runtime.map(["a"], into=Point, max_tokens=3, errors="return")]
        assert isinstance(cut.error, TruncatedJson)
        assert cut.text == '{"x'
        assert cut.info.stop_reason == "length"
        with pytest.raises(UnsupportedType):
            runtime.map(["a"], into=type[int])


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_five_hundred_documents_become_objects_without_a_loop(loop: Any) -> None:
    """From a generator, on a thread without a loop; the ones that cannot be are told at their places."""
    backend = Scripted(lambda text, _: f'{{"x": {text}, "y": 1}}' if int(text) % 100 else Reply("{", fail_at=1))
    with blocking.Runtime(backend=backend, loop=loop) as rt:
        documents = (str(number) for number in range(500))
        found = [*rt.map(documents, into=Point, errors="return")]
    assert [mapped.index for mapped in found] == [*range(500)]
    assert [mapped.index for mapped in found if mapped.error] == [0, 100, 200, 300, 400]
    assert all(mapped.value == Point(mapped.index, 1) for mapped in found if mapped.error is None)


async def test_what_a_source_raises_comes_behind_what_it_gave() -> None:
    """Nothing that it gave is lost."""

    def source() -> Iterator[str]:
        yield from PROMPTS[:4]
        raise LookupError("no more")

    seen: list[int] = []
    async with Runtime(backend=scripted()) as runtime:
        with pytest.raises(LookupError, match="no more"):
            await read_all(runtime.map(source(), errors="return"), seen)
        await settled(runtime)
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("way", ["close", "cancel", "drop", "runtime"])
async def test_however_it_is_left_nothing_runs_on(way: str) -> None:
    """Rows without an end are over once the loop is left."""
    backend = Scripted(Reply("without an end ", repeat=True))
    runtime = Runtime(backend=backend)
    async with runtime:
        results: Any = runtime.map(PROMPTS, limit=4, max_tokens=None)
        async with anyio.create_task_group() as group:
            group.start_soon(_ignoring_cancellation, results)
            while runtime.statistics().running < 4:
                await checkpoint()
            if way == "close":
                await results.aclose()
            elif way != "runtime":
                group.cancel_scope.cancel()
            else:
                await runtime.close()
                return
        if way == "drop":
            fresh: Any = runtime.map(PROMPTS, limit=4, max_tokens=None)
            with anyio.move_on_after(0):
                await fresh.__anext__()
            del fresh, results
            gc.collect()
        await settled(runtime)


async def _ignoring_cancellation(results: Any) -> None:
    with suppress(GreenroomError):  # of the runtime that was left
        await read_all(results, [])


async def test_a_full_queue_is_waited_for() -> None:
    """While some of its own run; with none, it is the error of that prompt."""
    async with Runtime(backend=scripted(), max_rows=1, max_waiting=1) as runtime:
        found = [mapped.text async for mapped in runtime.map(PROMPTS, limit=8)]
        assert found == [f"reply {number}" for number in range(COUNT)]
    backend = Scripted({"*": Reply("words ", repeat=True)})
    async with Runtime(backend=backend, max_rows=1, max_waiting=1) as runtime:
        others = [runtime.generate("other", max_tokens=None)]
        while not runtime.statistics().generated_tokens:
            await checkpoint()
        others.append(runtime.generate("other", max_tokens=None))
        (refused,) = [mapped async for mapped in runtime.map(["p"], errors="return")]
        assert isinstance(refused.error, TooBusy)
        for stream in others:
            await stream.aclose()


async def test_what_cannot_be_is_refused_at_the_call() -> None:
    """By name."""
    async with Runtime(backend=scripted()) as runtime:
        for wrong in ("a prompt", b"bytes", 3, None):
            with pytest.raises(InvalidParameter, match="prompts"):
                runtime.map(wrong)  # type: ignore[arg-type]
        for name, value in (("limit", 0), ("errors", "ignore"), ("ordered", 1), ("progress_bar", "yes")):
            with pytest.raises(InvalidParameter, match=name):
                runtime.map(["x"], **{name: value})  # type: ignore[call-overload]
        async with runtime.map(["p1", "p2"]) as results:
            assert (await results.__anext__()).text == "reply 1"
            assert "taken=1" in repr(results)


async def test_one_reader_at_a_time() -> None:
    """A second one is told."""
    backend = Scripted(Reply("without an end ", repeat=True))
    async with Runtime(backend=backend) as runtime, anyio.create_task_group() as group:
        results: Any = runtime.map(["x"], max_tokens=None)
        group.start_soon(_ignoring_cancellation, results)
        while not runtime.statistics().generated_tokens:
            await checkpoint()
        with pytest.raises(StreamInUse):
            await results.__anext__()
        await results.aclose()


async def test_a_bar_counts_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error, and nothing of it on standard output."""
    async with Runtime(backend=scripted()) as runtime:
        assert len([each async for each in runtime.map(PROMPTS, progress_bar=True)]) == COUNT
    captured = capsys.readouterr()
    assert f"{COUNT}/{COUNT}" in captured.err
    assert not captured.out
