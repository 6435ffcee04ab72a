"""What a runtime counts since it was entered: ends, refusals, tokens and times; and what it says in the log."""

from __future__ import annotations

import logging
from bisect import bisect_left

import anyio
import msgspec
import pytest
from anyio import to_thread
from hypothesis import given
from hypothesis import strategies as st

from greenroom import (
    BackendFailed,
    InvalidConstraint,
    PromptTooLong,
    Regex,
    Reply,
    Runtime,
    RuntimeDraining,
    Scripted,
    Statistics,
    TooBusy,
)
from greenroom.actors.scheduler.statistics import TOKEN_SECONDS, WAIT_SECONDS
from greenroom.actors.scheduler.totals import OTHERS, Tallies, Tally

ENDLESS = Reply("on and on ", end=False, repeat=True)


async def test_requests_are_counted_by_how_they_end() -> None:
    """By the model, by length, by each way to cancel; a request that failed is counted by its error."""
    backend = Scripted({"short": "abc", "endless": ENDLESS, "failing": Reply("abc", fail_at=2)})
    async with Runtime(backend=backend) as runtime:
        await runtime.generate("short").text()
        await runtime.generate("short").text()
        await runtime.generate("endless", max_tokens=5).text()
        async with runtime.generate("endless") as left:
            await left.__anext__()
        handled = runtime.generate("endless")
        await handled.__anext__()
        handled.task.cancel()
        await handled.task
        overdue = runtime.generate("endless", timeout=1e-9)
        await overdue.task
        with pytest.raises(BackendFailed):
            await runtime.generate("failing").text()
        counts = runtime.statistics()
    assert counts.ends == {"eos": 2, "max_tokens": 1, "stream_closed": 1, "handle": 1, "timeout": 1}
    assert counts.failures == {"BackendFailed": 1}
    assert counts.cancellations == 3
    assert counts.refusals == {}


async def test_what_never_came_to_a_pass_is_a_refusal() -> None:
    """Those that the caller is told at once, and those that preparing finds."""
    backend = Scripted(ENDLESS, context_length=100)
    async with Runtime(backend=backend, max_rows=1, max_waiting=1) as runtime:
        with pytest.raises(PromptTooLong):
            await runtime.generate("x" * 200).text()
        with pytest.raises(InvalidConstraint):
            await runtime.generate("x", constrain=Regex("(")).text()
        backend.hold()
        running = runtime.generate("x")
        await to_thread.run_sync(backend.wait_held)
        waiting = runtime.generate("x")
        for _ in range(2):
            with pytest.raises(TooBusy):
                runtime.generate("x")
        backend.release_all()
        await running.text()
        await waiting.text()
        runtime.drain()
        with pytest.raises(RuntimeDraining):
            runtime.generate("x")
        refusals = runtime.statistics().refusals
    assert refusals == {"PromptTooLong": 1, "InvalidConstraint": 1, "TooBusy": 2, "RuntimeDraining": 1}


async def test_tokens_and_times_are_those_of_the_closing_events() -> None:
    """Sums over many requests agree with their `Info`s, and each histogram has each request once."""
    replies = {f"x{number}": "a" * (number + 1) for number in range(12)}
    async with Runtime(backend=Scripted(replies), max_rows=4) as runtime:
        streams = [runtime.generate(prompt) for prompt in replies]
        infos = [(await stream.collect()).info for stream in streams]
        counts = runtime.statistics()
    assert counts.prompt_tokens == sum(info.prompt_tokens for info in infos)
    assert counts.generated_tokens == sum(info.generation_tokens for info in infos) == 78
    assert counts.queue_time.count == counts.time_to_first_token.count == 12
    assert counts.queue_time.sum == pytest.approx(sum(info.queue_time for info in infos))
    assert counts.time_to_first_token.sum == pytest.approx(sum(info.queue_time + info.prompt_time for info in infos))
    long = [info for info in infos if info.generation_tokens > 1]
    each = [info.generate_time / (info.generation_tokens - 1) for info in long]
    assert counts.time_per_token.count == 11
    assert counts.time_per_token.sum == pytest.approx(sum(each))


async def test_rows_that_are_run_again_are_counted_and_their_prompts_once() -> None:
    """Two rows that outgrow what was expected of them, and the memory for one and a half."""
    backend = Scripted({"a": Reply("a" * 1800), "b": Reply("b" * 1800)}, kv_bytes_per_token=1)
    async with Runtime(backend=backend, kv_bytes=2600) as runtime:
        streams = [runtime.generate(prompt) for prompt in "ab"]
        lengths: list[int] = []

        async def read(number: int) -> None:
            lengths.append((await streams[number].collect()).info.prompt_tokens)

        async with anyio.create_task_group() as group:
            group.start_soon(read, 0)
            group.start_soon(read, 1)
        counts = runtime.statistics()
    assert counts.replays >= 1
    assert counts.prompt_tokens == sum(lengths)
    assert counts.generated_tokens == 3600
    assert (counts.ends, counts.time_to_first_token.count) == ({"eos": 2}, 2)


async def test_steps_by_hand_are_tokens_and_no_requests() -> None:
    """Each is a request to the engine; to who reads the counts it is one generation, of nobody's wait."""
    async with Runtime(backend=Scripted("abcdef")) as runtime, runtime.context() as context:
        context.user("x")
        context.cue()
        length = len(context.tokens)
        async for step in context.generate():
            await step.execute()
        counts = runtime.statistics()
    assert (counts.ends, counts.failures, counts.queue_time.count, counts.time_per_token.count) == ({}, {}, 0, 0)
    assert counts.generated_tokens == 6
    assert counts.prompt_tokens == length


async def test_statistics_are_values() -> None:
    """Frozen, of plain data: what was taken once does not change, and JSON has all of it."""
    async with Runtime(backend=Scripted("abc")) as runtime:
        await runtime.generate("x").text()
        before = runtime.statistics()
        kept = msgspec.json.encode(before)
        await runtime.generate("x").text()
        assert msgspec.json.encode(before) == kept
        assert msgspec.json.decode(kept, type=Statistics) == before
        assert runtime.statistics().ends == {"eos": 2}
    assert "ends={'eos': 1}" in repr(before)
    assert "queue_time=<Histogram count=1 mean=" in repr(before)
    assert "replays" not in repr(before)  # nothing to tell


@given(st.lists(st.floats(0.0, 1000.0), max_size=50), st.sampled_from([WAIT_SECONDS, TOKEN_SECONDS]))
def test_a_histogram_counts_as_one_would_by_hand(values: list[float], bounds: tuple[float, ...]) -> None:
    """Each value in one bucket, the cumulative counts as Prometheus has them, and frozen ones stay as they are."""
    tally = Tally(bounds)
    empty = tally.freeze()
    for value in values:
        tally.add(value)
    found = tally.freeze()
    assert found is tally.freeze()
    assert (empty.count, sum(empty.counts)) == (0, 0)
    assert found.count == sum(found.counts) == len(values)
    assert found.sum == pytest.approx(sum(values))
    assert [count for _, count in found.cumulative()] == [
        sum(value <= bound for value in values) for bound in (*bounds, float("inf"))
    ]
    for value in values:
        assert found.counts[bisect_left(bounds, value)]


async def test_a_load_is_a_line_in_the_log_and_a_request_one_for_who_debugs(caplog: pytest.LogCaptureFixture) -> None:
    """What is run and within which bounds; counts and times of each request, and nothing of its text."""
    caplog.set_level(logging.DEBUG, "greenroom")
    backend = Scripted({"secret": "hidden", "failing": Reply("abc", fail_at=2)}, name="a model")
    async with Runtime(backend=backend, max_rows=7, max_waiting=9) as runtime:
        (load,) = [record for record in caplog.records if record.levelno == logging.INFO]
        caplog.clear()
        await runtime.generate("secret").text()
        with pytest.raises(BackendFailed):
            await runtime.generate("failing").text()
        with pytest.raises(PromptTooLong):
            await runtime.generate("x" * 5000).text()
    line = load.getMessage()
    for part in ("a model is open on scripted", "with a chat template", "4096 tokens", "at most 7 rows", "9 waiting"):
        assert part in line
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert len(told) == 3
    assert "stop (eos)" in told[0]
    assert "6 generated" in told[0]
    assert "failed: BackendFailed" in told[1]
    assert "failed: PromptTooLong" in told[2]
    assert not any("secret" in each or "hidden" in each for each in told)


async def test_no_line_is_made_for_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """At the level of a server, a request says nothing."""
    caplog.set_level(logging.INFO, "greenroom")
    async with Runtime(backend=Scripted("abc")) as runtime:
        caplog.clear()
        await runtime.generate("x").text()
        assert not caplog.records


async def test_waits_are_told_apart_by_client_and_by_priority() -> None:
    """Each request counts once in each; who names no client is one of the others."""
    async with Runtime(backend=Scripted("abc")) as runtime:
        await runtime.generate("x").text()
        await runtime.generate("x", client="ada", priority=1).text()
        await runtime.generate("x", client="ada", priority=-1).text()
        counts = runtime.statistics()
    assert {client: waits.count for client, waits in counts.queue_time_by_client.items()} == {"": 1, "ada": 2}
    assert {level: waits.count for level, waits in counts.queue_time_by_priority.items()} == {0: 1, 1: 1, -1: 1}
    sums = [waits.sum for waits in counts.queue_time_by_client.values()]
    assert sum(sums) == pytest.approx(counts.queue_time.sum)
    assert msgspec.json.decode(msgspec.json.encode(counts), type=Statistics) == counts


@given(st.lists(st.tuples(st.text("abcdefg", max_size=1), st.floats(0.0, 100.0)), max_size=60), st.integers(1, 3))
def test_of_many_clients_the_newest_are_told_apart(waits: list[tuple[str, float]], most: int) -> None:
    """However many names there are: the others are together, and nothing is lost of what was counted."""
    tallies = Tallies(WAIT_SECONDS, rest=OTHERS, most=most)
    for client, seconds in waits:
        tallies.add(client, seconds)
    found = tallies.freeze()
    assert found is tallies.freeze()
    assert len(found.keys() - {OTHERS}) <= most
    newest = list(dict.fromkeys([client for client, _ in reversed(waits) if client != OTHERS]))[:most]
    assert found.keys() - {OTHERS} == set(newest)
    assert sum(histogram.count for histogram in found.values()) == len(waits)
    assert sum(histogram.sum for histogram in found.values()) == pytest.approx(sum(seconds for _, seconds in waits))
