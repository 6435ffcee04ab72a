"""Whose turn it is, as callers say: horizon, priority, client, weight, and the limit of one client."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread
from loose import Loose
from test_kv_budget import Course

from greenroom import (
    ChatSession,
    GenerateParameters,
    Generator,
    InvalidParameter,
    Reply,
    Runtime,
    Sampler,
    Scripted,
    Snapshot,
    TooBusy,
)
from greenroom.actors.client import EngineClient
from greenroom.actors.messages import Expect, Submit

HUGE = 10**400
WRONG: list[tuple[str, Any]] = [
    *[("horizon", value) for value in (0, -1, True, 1.0, math.nan, "8", HUGE, 10**9, [1])],
    *[("priority", value) for value in (101, -101, False, 0.5, math.nan, None, "high", HUGE)],
    *[("client", value) for value in ("", 5, b"a", "a" * 257, ["a"], True, math.nan)],
    *[("user", value) for value in ("", 5, b"a", "a" * 257, ["a"], True, math.nan)],
    *[("weight", value) for value in (0, -1.0, True, math.nan, math.inf, None, "1", 1e-9, 1e9, HUGE)],
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name}-{str(value)[:6]}" for name, value in WRONG])
async def test_a_value_that_is_none_is_refused_at_the_call_by_name(name: str, value: Any) -> None:
    """Wherever it is given; the error shows it, as far as it can be shown."""
    async with Runtime(backend=Scripted("Hello.")) as runtime, runtime.context() as ctx:
        ctx.fill("x")
        calls: list[Callable[[], object]] = [
            lambda: runtime.generate("x", **{name: value}),
            lambda: runtime.generate_tokens("x", **{name: value}),
            lambda: runtime.generate("x", GenerateParameters(**{name: value})),
            lambda: runtime.stream(int, "x", **{name: value}),
            lambda: ctx.generate(Sampler(GenerateParameters(**{name: value}))),
        ]
        if value is not None:
            calls.append(lambda: ctx.generate(**{name: value}))
        for call in calls:
            with pytest.raises(InvalidParameter, match=f"^{name} must be .*, got ") as caught:
                call()
            assert caught.value.name == name
        with pytest.raises(InvalidParameter, match=f"^{name} must be "):
            await ChatSession(runtime).respond("x", **{name: value})
        with pytest.raises(InvalidParameter, match=f"^{name} must be "):
            await runtime.collect(int, "x", **{name: value})
        with pytest.raises(InvalidParameter, match=f"^{name} must be "):
            await anext(runtime.map(["x"], **{name: value}))
        if name == "horizon":
            generator = ctx.generate(max_tokens=1)
            with pytest.raises(InvalidParameter, match=r"^horizon must be "):
                generator.horizon = value
            await generator.aclose()
        assert await runtime.generate("x").text() == "Hello."


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "1", HUGE, math.nan])
def test_a_limit_that_is_none_is_refused(limit: Any) -> None:
    """When the runtime is made."""
    with pytest.raises(InvalidParameter, match=r"^client_limit must be "):
        Runtime(backend=Scripted(), client_limit=limit)


async def test_priorities_and_horizons_order_what_waits() -> None:
    """The highest first; of one, the shortest of those that are known. All are there before a row is free."""
    backend = Scripted(Reply("ab" * 8))
    asked: dict[str, dict[str, Any]] = {
        "first": {},
        "low": {"priority": -1},
        "long": {"horizon": 500},
        "short": {"horizon": 5},
        "high": {"priority": 3},
    }
    async with Runtime(backend=backend, max_rows=1) as runtime:
        with backend.held():
            streams = []
            for number, options in enumerate(asked.values()):
                streams.append(runtime.generate([number], **options))
                await anyio.wait_all_tasks_blocked()
                await to_thread.run_sync(backend.wait_held)  # the first has its row
        for stream in streams:
            await stream.text()
    names = list(asked)
    assert [names[request.ids[0]] for request in backend.requests] == ["first", "high", "short", "long", "low"]


async def test_a_client_has_as_many_requests_as_it_may() -> None:
    """Running and waiting together; what is more is refused by name, others are not, and an end makes room."""
    backend = Scripted(Reply("on and on ", end=False, repeat=True))
    async with Runtime(backend=backend, max_rows=1, client_limit=2) as runtime, runtime.context() as ctx:
        streams = [runtime.generate("x", client="app") for _ in range(2)]
        with pytest.raises(TooBusy, match=r"client 'app' has 2 requests already, and client_limit is 2") as caught:
            runtime.generate("x", client="app")
        assert (caught.value.client, caught.value.waiting, caught.value.limit) == ("app", 2, 2)
        with pytest.raises(TooBusy):
            await ctx.fill("x").generate(client="app", max_tokens=1).collect_tokens()
        with pytest.raises(TooBusy):
            await ChatSession(runtime, parameters=GenerateParameters(client="app")).respond("x")
        others = [runtime.generate("x", client=client, max_tokens=2) for client in ("other", None, None, None)]
        await streams[0].aclose()
        third = runtime.generate("x", client="app", max_tokens=1)
        await streams[1].aclose()
        for stream in (*others, third):
            await stream.collect()
        assert runtime.statistics().refusals == {"TooBusy": 3}
        assert [(await runtime.generate("x", client="app", max_tokens=1).collect()).info.generation_tokens] == [1]


async def test_what_goes_on_from_a_generation_is_its_clients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Steps, forks, another sampler, a snapshot and its file: one client, priority and weight."""
    told: list[Submit] = []
    plain = EngineClient.submit

    def spy(self: EngineClient, make: Callable[[int], Submit], **more: Any) -> Any:
        def made(request: int) -> Submit:
            told.append(make(request))
            return told[-1]

        return plain(self, made, **more)

    monkeypatch.setattr(EngineClient, "submit", spy)
    async with Runtime(backend=Scripted(Reply("abcdefghij"))) as runtime, runtime.context() as ctx:
        own: dict[str, Any] = {"client": "app", "priority": 2, "weight": 3, "horizon": 8}
        g = ctx.fill("x").generate(max_tokens=9, **own)
        await (await anext(g)).execute()
        fork = await g.fork(sampler=Sampler.top_p(), max_tokens=5)
        await fork.collect_tokens()
        snapshot = await g.snapshot()
        await (await snapshot.restore()).collect_tokens()
        await snapshot.save(tmp_path / "snapshot")
        await (await (await Snapshot.load(tmp_path / "snapshot", runtime)).restore()).collect_tokens()
        await g.collect_tokens()
    assert len(told) == 5
    assert {(each.client, each.priority, each.weight) for each in told} == {("app", 2, 3.0)}
    assert [each.horizon for each in told] == [8, 7, 7, 7, 7]


def left(generator: Generator) -> int | None:
    """What is expected now: it changes without being set."""
    return generator.horizon


async def test_a_horizon_is_set_on_what_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between steps, while it is read, and back to what is learned; it counts from where the reader stands."""
    told: list[int | None] = []
    plain = EngineClient.expect

    def spy(self: EngineClient, request: int, tokens: int | None) -> None:
        told.append(tokens)
        plain(self, request, tokens)

    monkeypatch.setattr(EngineClient, "expect", spy)
    async with Runtime(backend=Scripted(Reply("ab", repeat=True))) as runtime, runtime.context() as ctx:
        g = ctx.fill("x").generate(max_tokens=30)
        assert left(g) is None
        g.horizon = 12
        assert left(g) == 12
        for _ in range(3):
            await (await anext(g)).execute()
        assert left(g) == 9
        g.horizon = 2
        for _ in range(2):
            await (await anext(g)).execute()
        assert left(g) is None  # it has more than that
        g.horizon = 4
        tokens = g.tokens()
        await anext(tokens)
        assert left(g) == 3
        g.horizon = 10
        assert left(g) == 10
        fork = await g.fork()
        assert left(fork) == 10
        await anext(tokens)
        g.horizon = None
        assert left(g) is None
        assert len(await g.collect_tokens()) == 30
        await fork.aclose()
    assert told == [11, None]


def test_a_running_row_that_will_be_short_makes_room() -> None:
    """The next one waits for what is expected of it, until somebody says that it needs less."""
    course = Course(Loose(slack=0.0), 600)
    first = course.submit(10, 500)
    second = course.submit(10, 500)
    for _ in range(4):
        course.turn()
    assert course.started == [first]
    course.scheduler.expect(Expect(first, 20))
    course.scheduler.expect(Expect(second, 20))
    course.scheduler.expect(Expect(77, 20))
    course.turn()
    assert course.started == [first, second]
    course.finish()
    assert course.ended == {first: 500, second: 500}


def test_a_horizon_that_is_far_too_long_keeps_no_more_from_others_than_none() -> None:
    """It has the memory for 1,024 tokens more than it has written, whatever it says."""
    started: list[list[int]] = []
    for horizon in (None, 1 << 24):
        course = Course(Loose(slack=0.0), 5000)
        for _ in range(6):
            course.submit(10, 4000, horizon=horizon)
        course.turn()
        started.append(course.started)
    assert started == [[0, 1, 2, 3]] * 2


def test_a_horizon_that_was_a_lie_costs_its_own_row_and_no_token() -> None:
    """Of four, one says 1 and writes 300: the others' rows stay, and all of it is written."""
    course = Course(Loose(slack=0.0), 500)
    honest = [course.submit(10, 100, horizon=100) for _ in range(3)]
    liar = course.submit(10, 300, horizon=1)
    statistics = course.finish()
    assert course.ended == {**dict.fromkeys(honest, 100), liar: 300}
    assert statistics.replays <= 2
    assert course.started.count(liar) == 1
