"""The twenty behaviours that a generation API after MLXLMCommon's must have, in the order of the list they come from.

Each on asyncio and trio. 4 is read as leaving `async with` or `aclose()`, 20 as the reservation of KV.
"""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from anyio import to_thread
from callcorpus import CORPUS, TOOLS, shape
from passlog import PassLog

from greenroom import (
    ChatParser,
    ChatSession,
    Chunk,
    Info,
    RejectedToolCall,
    Reply,
    Runtime,
    Scripted,
    Token,
    ToolCall,
)
from greenroom.errors import BackendFailed

ENDLESS = Reply("abcdefghij", end=False, repeat=True)
CALL = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'


async def test_1_info_is_last_and_comes_once() -> None:
    """For a stop, a length and a cancel."""
    async with Runtime(backend=Scripted({"*": "answer", "endless": ENDLESS})) as runtime:
        for prompt, options, reason in (
            ("x", {}, "stop"),
            ("x", {"max_tokens": 2}, "length"),
            ("endless", {}, "cancelled"),
        ):
            async with runtime.generate(prompt, **options) as stream:  # type: ignore[arg-type]
                events = []
                async for event in stream:
                    events.append(event)
                    if reason == "cancelled":
                        stream.task.cancel()
            assert [isinstance(event, Info) for event in events].count(True) == 1
            assert isinstance(events[-1], Info)
            assert events[-1].stop_reason == reason


async def test_2_a_cancel_by_the_handle_delivers_what_was_buffered_then_info() -> None:
    """Nothing that was counted is missing."""
    async with Runtime(backend=Scripted(ENDLESS)) as runtime:
        stream = runtime.generate("x")
        first = await stream.__anext__()
        stream.task.cancel()
        rest = [event async for event in stream]
    text = "".join([event.text for event in (first, *rest) if isinstance(event, Chunk)])
    info = rest[-1]
    assert isinstance(info, Info)
    assert (info.stop_reason, info.stop_detail, info.generation_tokens) == ("cancelled", "handle", len(text))


async def test_3_a_cancel_before_the_first_step_gives_no_token() -> None:
    """While the engine stands."""
    backend = Scripted({"*": "answer", "first": ENDLESS})
    log = PassLog(backend)
    async with Runtime(backend=log, max_rows=1) as runtime:
        with backend.held():
            blocker = runtime.generate("first")
            await to_thread.run_sync(backend.wait_held)
            stream = runtime.generate("x")
            stream.task.cancel()
        info = await stream.task
        assert (info.stop_reason, info.generation_tokens) == ("cancelled", 0)
        await blocker.aclose()


async def test_4_leaving_the_block_returns_settled() -> None:
    """So does `aclose()`; at most one pass under way is waited for."""
    async with Runtime(backend=Scripted(ENDLESS)) as runtime:
        async with runtime.generate("x") as stream:
            await stream.__anext__()
        assert stream.task.status == "cancelled"
        other = runtime.generate("x")
        await other.__anext__()
        await other.aclose()
        assert other.task.info is not None
        assert (runtime.statistics().running, runtime.statistics().kv_bytes) == (0, 0)


@pytest.mark.parametrize("count", [0, 1, 7])
async def test_5_max_tokens_is_exact_and_a_length(count: int) -> None:
    """No pass at all for none."""
    log = PassLog(Scripted(ENDLESS))
    async with Runtime(backend=log) as runtime:
        result = await runtime.generate("x", max_tokens=count).collect()
    assert (result.info.stop_reason, result.info.generation_tokens) == ("length", count)
    assert len(result.text) == count
    assert bool(log.passes) == bool(count)


@pytest.mark.parametrize("included", [False, True])
async def test_6_the_stop_token_is_in_raw_streams_only_where_asked_for(included: bool) -> None:
    """Ids and counts say the same."""
    async with Runtime(backend=Scripted("ab")) as runtime:
        result = await runtime.generate_tokens("x", include_stop_token=included).collect()
        stop = next(iter(sorted(runtime.model.stop_tokens)))
    ids = [event.id for event in result.events if isinstance(event, Token)]
    assert ids == [*b"ab", *([stop] if included else [])]
    assert (result.info.stop_reason, result.info.generation_tokens) == ("stop", len(ids))


async def test_7_a_stream_that_is_never_read_settles_by_its_handle() -> None:
    """However long: while somebody waits for it, it is not paused."""
    async with Runtime(backend=Scripted("x" * 600)) as runtime:
        stream = runtime.generate("x")
        info = await stream.task
    assert (info.stop_reason, info.generation_tokens) == ("stop", 600)


@pytest.mark.parametrize("stage", ["queued", "prefill", "decode", "waiting for memory"])
async def test_8_a_cancel_lands_wherever_the_request_is(stage: str) -> None:
    """Settled, with nothing held."""
    backend = Scripted({"*": ENDLESS}, kv_bytes_per_token=1)
    bounds: dict[str, Any] = {"max_rows": 1} if stage == "queued" else {}
    if stage == "waiting for memory":
        bounds = {"kv_bytes": 700}
    async with Runtime(backend=backend, max_step_tokens=40, **bounds) as runtime:
        with backend.held():
            blocker = runtime.generate("b" * 400, max_tokens=200)
            await to_thread.run_sync(backend.wait_held)
            stream = runtime.generate("p" * 200, max_tokens=100)
            for _ in range({"prefill": 2, "decode": 20}.get(stage, 0)):
                backend.release()
                await to_thread.run_sync(backend.wait_held)
            stream.task.cancel()
        info = await stream.task
        assert info.stop_reason == "cancelled"
        await blocker.aclose()
        assert runtime.statistics().kv_bytes == 0


async def test_9_at_most_one_pass_holds_a_row_after_its_cancel() -> None:
    """Counted at the backend."""
    backend = Scripted(ENDLESS)
    log = PassLog(backend)
    async with Runtime(backend=log) as runtime:
        with backend.held():
            stream = runtime.generate("x")
            await to_thread.run_sync(backend.wait_held)
            for _ in range(5):
                backend.release()
                await to_thread.run_sync(backend.wait_held)
            before = len(log.passes)
            stream.task.cancel()
        await stream.task
        assert len(log.passes) - before <= 1


async def test_11_a_stop_string_that_is_split_over_tokens_is_not_emitted() -> None:
    """A byte a token here. Number 10, the KV that the next turn reuses, needs a model and stands in test_chat_mlx."""
    async with Runtime(backend=Scripted("one END two")) as runtime:
        result = await runtime.generate("x", stop="END").collect()
    assert result.text == "one "
    assert (result.info.stop_detail, result.info.stop_sequence) == ("stop_string", "END")


async def test_12_calls_are_found_at_every_cut_in_their_order() -> None:
    """Text, call, text; two calls in one frame; a call that the end of the turn closes."""
    minimax = next(each for each in CORPUS if each.format == "minimax_m2")
    mixed = next(each for each in CORPUS if each.text.startswith("One "))
    open_end = next(each for each in CORPUS if each.format == "hermes" and each.text.endswith("}}\n"))
    for sample in (minimax, mixed, open_end):
        for place in range(len(sample.text)):
            parser = ChatParser(Scripted().load(), tools=TOOLS, tool_format=sample.format)
            reader = parser._reader
            events = [*reader.feed(sample.text[:place]), *reader.feed(sample.text[place:]), *reader.finish("stop")]
            assert shape(events) == sample.found


async def test_13_a_truncated_call_is_rejected_and_not_run() -> None:
    """Though all of it but the end marker is there."""
    ran = []

    def add(a: int, b: int) -> None:
        ran.append(a + b)

    async with Runtime(backend=Scripted(CALL)) as runtime:
        session = ChatSession(runtime, tools=[add])
        async with session.stream_events("x", max_tokens=len(CALL) - len("<tool_call></tool_call>")) as turn:
            events = [event async for event in turn]
    assert [type(event) for event in events] == [RejectedToolCall, Info]
    assert ran == []


async def test_14_an_answer_in_json_streams_as_text_without_tools() -> None:
    """Piece by piece, not held back until its object closes."""
    answer = json.dumps({"name": "add", "arguments": {"a": 1}})
    async with Runtime(backend=Scripted(answer)) as runtime:
        result = await runtime.generate("x").collect()
    assert result.text == answer
    assert len(result.events) > len(answer) // 2


async def test_15_any_turn_leaves_a_valid_transcript() -> None:
    """Cancelled, empty, rejected: question and answer in turn."""
    replies: dict[str, str | Reply] = {"*": "fine", "endless": ENDLESS, "hush": "", "wrong": "<tool_call>?</tool_call>"}
    async with Runtime(backend=Scripted(replies)) as runtime:
        session = ChatSession(runtime, tools=TOOLS)
        for prompt in ("endless", "hush", "wrong"):
            async with session.stream_events(prompt) as turn:
                async for event in turn:
                    if prompt == "endless" and isinstance(event, Chunk):
                        break
            assert await session.respond("and?") == "fine"
    assert [message["role"] for message in session.history] == ["user", "assistant"] * 4


async def test_16_stop_and_ask_again_does_not_wait_for_the_old_answer() -> None:
    """An endless one."""
    async with Runtime(backend=Scripted({"*": "fine", "endless": ENDLESS})) as runtime:
        session = ChatSession(runtime, when_busy="stop")
        old = session.stream_response("endless")
        await old.__anext__()
        with anyio.fail_after(10):
            assert await session.respond("and?") == "fine"
        await old.aclose()


async def test_17_a_slow_reader_does_not_slow_others() -> None:
    """One that does not read at all."""
    async with Runtime(backend=Scripted({"*": "x" * 2000, "endless": ENDLESS})) as runtime:
        slow = runtime.generate("endless")
        await slow.__anext__()
        assert len(await runtime.generate("x").text()) == 2000
        await slow.aclose()


async def test_18_a_failing_row_does_not_end_the_others() -> None:
    """Its own stream raises."""
    async with Runtime(backend=Scripted({"*": "fine", "fail": Reply("abc", fail_at=2)})) as runtime:
        good, bad = runtime.generate("x"), runtime.generate("fail")
        with pytest.raises(BackendFailed):
            await bad.collect()
        assert await good.text() == "fine"


async def test_19_a_seed_gives_the_same_in_any_batch() -> None:
    """The double's reply depends on the seed alone; so do the ids of calls."""
    backend = Scripted(lambda _, seed: f"{seed} {CALL}")
    async with Runtime(backend=backend) as runtime:
        alone = await runtime.generate("x", tools=TOOLS, seed=5).collect()
        together = [runtime.generate("x", tools=TOOLS, seed=seed) for seed in (4, 5, 6)]
        results = [await stream.collect() for stream in together]
    assert results[1].text == alone.text == "5 "
    calls = [next(event for event in each.events if isinstance(event, ToolCall)) for each in (alone, *results)]
    assert calls[0].id == calls[2].id
    assert len({call.id for call in calls}) == 3
    assert alone.info.seed == 5


async def test_20_the_reservation_covers_prefill_and_ends_with_settlement() -> None:
    """KV that is promised to a request counts from before its first pass."""
    backend = Scripted(ENDLESS, kv_bytes_per_token=1)
    async with Runtime(backend=backend, max_step_tokens=40) as runtime:
        with backend.held():
            stream = runtime.generate("p" * 200, max_tokens=100)
            await to_thread.run_sync(backend.wait_held)
            held = runtime.statistics()
            assert held.kv_bytes + held.reserved_bytes >= 200
            stream.task.cancel()
        await stream.task
        settled = runtime.statistics()
        assert (settled.kv_bytes, settled.reserved_bytes) == (0, 0)
