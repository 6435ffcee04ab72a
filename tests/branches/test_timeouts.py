"""`timeout` of a generator: seconds of the wall from its first step, and an end like any other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from greenroom import Chunk, Drafting, GenerateParameters, Info, Regex, Reply, Runtime, Scripted, Snapshot, Speculator
from greenroom.errors import InvalidParameter

LETTERS = "abcdefghij" * 1000


class Clock:
    """Stands where it is put; with a `tick`, it goes on by that whenever it is read."""

    perf_counter = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.now = 1000.0
        self.tick = 0.0

    def monotonic(self) -> float:
        """See `time.monotonic`."""
        self.now += self.tick
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The one that engine and generators read."""
    made = Clock()
    for module in ("actors.engine", "request.generation", "request.submit"):
        monkeypatch.setattr(f"greenroom.{module}.time", made)
    return made


def endless() -> Scripted:
    """Never ends by itself."""
    return Scripted({"*": Reply("abcdefghij", end=False, repeat=True)}, context_length=1 << 20)


def for_seconds(seconds: float, **options: Any) -> GenerateParameters:
    """Greedy, for so long."""
    return GenerateParameters(temperature=0.0, timeout=seconds, **options)


async def test_steps_are_handed_over_until_the_time_is_over(clock: Clock) -> None:
    """Counted from the first; a step that began in time runs, and a pause of the user's counts like any other time."""
    async with Runtime(backend=endless()) as runtime, runtime.context() as ctx:
        g = ctx.fill("x").generate(for_seconds(2.0))
        clock.now += 100.0
        async for step in g:
            clock.now += 0.5
            await step.execute()
        assert (g.tokens_generated, g.text, g.is_done) == (4, "abcd", True)
        assert (g.stop_reason, g.stop_detail) == ("cancelled", "timeout")
        assert [step async for step in g] == []
        assert ctx.fill("y").tokens == [*b"xabcdy"]


async def test_a_step_that_is_at_hand_is_run_whole(clock: Clock) -> None:
    """Its probes have answers and its token is accepted, however long the user thought about it."""
    async with Runtime(backend=endless()) as runtime, runtime.context() as ctx:
        g = ctx.fill("x").generate(for_seconds(1.0))
        step = await anext(g)
        step.clear_sampler()
        clock.now += 5.0
        await step.execute()
        assert g.accept([100]) == (100,)
        assert not g.is_done
        with pytest.raises(StopAsyncIteration):
            await anext(g)
        assert (g.output, g.stop_detail) == ((100,), "timeout")


async def test_a_reader_gets_what_was_generated_in_time_and_then_the_info(clock: Clock) -> None:
    """No exception; text, counts and `Info` belong together."""
    async with Runtime(backend=endless()) as runtime, runtime.context() as ctx:
        g = ctx.fill("x").generate(for_seconds(30.0))
        events = []
        async for event in g.events():
            events.append(event)
            clock.now += 1.0
        info = events[-1]
        assert isinstance(info, Info)
        text = "".join([event.text for event in events if isinstance(event, Chunk)])
        assert (info.stop_reason, info.stop_detail) == ("cancelled", "timeout")
        assert 30 <= info.generation_tokens == len(text) == len(ctx.tokens) - 1
        assert text == g.text == LETTERS[: len(text)]


@pytest.mark.parametrize("constrained", [False, True])
async def test_a_collector_returns_what_there_is(clock: Clock, *, constrained: bool) -> None:
    """Under a constraint its matcher stands behind the last token; a rewound one has no more time than before."""
    async with Runtime(backend=endless()) as runtime, runtime.context() as ctx:
        constrain = Regex("([a-j]{5})*") if constrained else None
        g = ctx.fill("x").generate(for_seconds(2.0), constrain=constrain)
        clock.tick = 0.01
        text = await g.collect_text()
        clock.tick = 0.0
        assert 10 < len(text) < 250
        assert text == LETTERS[: len(text)]
        assert g.stop_detail == "timeout"
        assert g.info.constraint_complete is ((len(text) % 5 == 0) if constrained else None)
        await g.rewind(3)
        assert not g.is_done
        assert await g.collect_text() == text[:-3]
        assert g.stop_detail == "timeout"


async def test_every_copy_has_its_own_time(clock: Clock, tmp_path: Path) -> None:
    """Forks, restored ones, and those from files: from their first step, where the original stood."""
    async with Runtime(backend=endless()) as runtime, runtime.context() as ctx:
        g = ctx.fill("x").generate(for_seconds(2.0))
        step = await anext(g)
        await step.execute()
        early = await g.snapshot()
        clock.now += 9.0
        assert await g.collect_text() == "a"
        await (await g.snapshot()).save(tmp_path / "g")
        for copy in (
            await g.fork(),
            *await g.fork_many(2),
            await early.restore(),
            await (await Snapshot.load(tmp_path / "g")).restore(),
        ):
            assert not copy.is_done
            clock.now += 9.0
            async for step in copy:
                clock.now += 1.0
                await step.execute()
            assert (copy.text, copy.stop_detail) == ("abc", "timeout")


class Letters(Speculator):
    """Right, and sometimes not."""

    def draft(self, context: Drafting) -> Sequence[int]:
        """See `Speculator.draft`."""
        at = context.position - context.start
        return [ord(letter) for letter in LETTERS[at : at + 2]] + [1]


async def test_a_speculators_generation_is_read_like_any_other() -> None:
    """At every yield text and tokens are up to the token just yielded, whatever its step gave beside it."""
    async with Runtime(backend=Scripted({"*": Reply(LETTERS[:25])})) as runtime, runtime.context() as ctx:
        g = ctx.user("x").cue().generate(GenerateParameters(temperature=0.0), speculator=Letters())
        read = ""
        async for token in g.tokens():
            read += token.text
            assert (g.text, bytes(g.output).decode(), g.tokens_generated) == (read, read, len(read))
            twin = await g.fork()
            assert await twin.collect_text() == LETTERS[:25]
        assert read == LETTERS[:25]
        assert g.info.accepted_tokens > 0


async def test_whoever_drives_it_the_time_ends_it(clock: Clock) -> None:
    """A speculator of the user's, the built-in one, a stream over it; without a pass once it is over."""
    backend = endless()
    async with Runtime(backend=backend) as runtime, runtime.context() as ctx:
        ctx.fill("x")
        g = (await ctx.fork()).generate(for_seconds(3.0), speculator=Letters())
        read = ""
        async for token in g.tokens():
            read += token.text
            assert g.text == read
            clock.now += 0.2
        assert (read, g.stop_detail) == (LETTERS[: len(read)], "timeout")
        assert 15 <= len(read) < 25
        clock.tick = 0.01
        g = (await ctx.fork()).generate(for_seconds(2.0), system_speculation=True)
        assert await g.collect_text() == LETTERS[: g.tokens_generated]
        g = (await ctx.fork()).generate(for_seconds(2.0))
        stream, task = await runtime.generate_token_task(g)
        count = len((await stream.collect()).events)
        assert (await task).stop_detail == "timeout"
        clock.tick = 0.0
        assert (await g.collect_text(), g.stop_detail) == (LETTERS[:count], "timeout")
        passes = backend.passes
        assert await g.collect_tokens() == [*LETTERS[:count].encode()]
        assert backend.passes == passes
        with pytest.raises(InvalidParameter):
            ctx.generate(for_seconds(0.0))
