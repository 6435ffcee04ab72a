"""Cancelled at each await of everything that waits: all is as before or as behind it, and the repeated call agrees."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import anyio
import pytest
from branch_models import freed, opened
from interrupts import CANCELLED, interrupted, ways

from greenroom import Context, Drafting, Generator, JsonSchema, Logits, Reply, Runtime, Sampler, Scripted, Speculator
from greenroom.errors import ContextClosed

LIST = JsonSchema(
    {"type": "array", "items": {"enum": ["a", "bc", "bd"]}, "minItems": 3, "maxItems": 3}, whitespace=False
)
KINDS = ("scripted", "llama", "gemma3")
"""The double; KV that can be cut; caches that cannot."""

Act = Callable[[Generator], Awaitable[Any]]


class Waiting(Speculator):
    """Waits twice before it guesses; mostly wrong."""

    async def draft(self, context: Drafting) -> Sequence[int]:
        """See `Speculator.draft`."""
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        return context.tokens[-3:]


def look(g: Generator) -> tuple[Any, ...]:
    """What can be seen of a generator without waiting."""
    return (g.output, g.text, g.tokens_generated, g.seed, g.is_done, g.stop_detail, tuple(g.context.tokens))


async def fresh(runtime: Runtime, read: int, **options: Any) -> Generator:
    """A generator of which so many tokens were read, and that runs ahead of its reader."""
    base: dict[str, Any] = {"constrain": LIST, "seed": 9, "max_tokens": 40, **options}
    g = runtime.context().fill("List:").generate(Sampler.multinomial(1.0), **base)
    pull = g.tokens()
    for _ in range(read):
        await anext(pull)
    return g


async def rest(g: Generator) -> list[int]:
    """What it says in the end. Closes it, and its context."""
    if g.is_live:
        await g.rewind(0)  # gives a pending step up
    found = await g.collect_tokens()
    await g.context.aclose()
    return found


async def swept(make: Callable[[], Awaitable[Generator]], act: Act, *, is_whole: bool = True) -> int:
    """Cancel `act` at every await; how often it was. Unless `is_whole` it may stop half-way, at a whole token."""
    g = await make()
    before = look(g)
    value = await act(g)
    after, end = look(g), await rest(g)
    count = 0
    for how in ways():
        place = 1
        while True:
            g = await make()
            found = await interrupted(act(g), place, how)
            if found is not CANCELLED:
                assert (found, look(g)) == (value, after)
                assert await rest(g) == end
                break
            count += 1
            seen = look(g)
            if is_whole:
                assert seen in (before, after), (how, place)
            else:
                assert seen[0] == after[0][: len(seen[0])], (how, place)
                assert len(before[0]) <= len(seen[0])
            if before == after or seen != after:
                assert (await act(g), look(g)) == (value, after), (how, place)
            assert await rest(g) == end, (how, place)
            place += 1
    return count


async def stepped(g: Generator) -> Any:
    """A step, twice: each is executed however often it takes."""
    step = await anext(g)
    handle = step.probe(0, Logits())
    output = await step.execute()
    return output.tokens, output.text, output.logits(handle).tolist()


async def chosen(g: Generator) -> Any:
    """A step without a sampler, and what the mask allows."""
    step = await anext(g)
    step.clear_sampler()
    handle = step.probe(0, Logits(masked=True))
    return g.accept([int((await step.execute()).logits(handle).argmax())])


async def forked(g: Generator) -> Any:
    """What a fork says."""
    kid = await g.fork()
    try:
        return kid.output, kid.seed
    finally:
        await kid.aclose()


async def forked_many(g: Generator) -> Any:
    """The derived seeds: a cancelled call uses none of them up."""
    kids = await g.fork_many(3)
    for kid in kids:
        await kid.aclose()
    return [kid.seed for kid in kids], [kid.output for kid in kids]


async def restored(g: Generator) -> Any:
    """What a snapshot says once it is restored."""
    twin = await (await g.snapshot()).restore()
    try:
        return twin.output, twin.seed
    finally:
        await twin.aclose()


STEPS: dict[str, Act] = {"a step": stepped, "a step without a sampler": chosen}
READS: dict[str, Act] = {
    "a token": lambda g: anext(g.tokens()),
    "an event": lambda g: anext(g.events()),
    "the rest": lambda g: g.collect_tokens(),
    "the text": lambda g: g.collect_text(),
    "json": lambda g: g.collect_json(),
}
COPIES: dict[str, Act] = {
    "fork": forked,
    "fork_many": forked_many,
    "snapshot and restore": restored,
    "rewind": lambda g: g.rewind(2),
    "rewind to another seed": lambda g: g.rewind(1, seed=4),
    "fork of its context": lambda g: _closed(g.context.fork()),
    "save": lambda g: g.save("it"),
}


async def _closed(made: Awaitable[Context]) -> list[int]:
    context = await made
    await context.aclose()
    return context.tokens


@pytest.mark.parametrize("act", STEPS)
@pytest.mark.parametrize("read", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_step(kind: str, read: int, act: str) -> None:
    """Whether it is the first one, which compiles and prefills, or one behind tokens that were read ahead."""
    async with opened(kind) as runtime:
        assert await swept(lambda: fresh(runtime, read), _retried(STEPS[act])) >= 2
        await freed(runtime)


def _retried(act: Act) -> Act:
    async def again(g: Generator) -> Any:
        if g.is_live:
            await g.rewind(0)  # what a cancelled call left pending
        return await act(g)

    return again


@pytest.mark.parametrize("kind", KINDS)
async def test_the_same_step_is_executed_again(kind: str) -> None:
    """Not a new one: probes and sampler are those that it was given."""
    async with opened(kind) as runtime:
        g = await fresh(runtime, 2)
        expected = await (await g.fork()).collect_tokens()
        cancels = steps = 0
        async for step in g:
            before, steps = look(g), steps + 1
            for how in ways():
                if await interrupted(step.execute(), 1, how) is not CANCELLED:
                    break  # the answer came first
                cancels += 1
                assert look(g) == before
            else:
                await step.execute()
        assert cancels >= steps >= 3
        assert list(g.output) == expected
        await g.context.aclose()
        await freed(runtime)


@pytest.mark.parametrize("speculator", [None, Waiting], ids=["alone", "awaited guesses"])
@pytest.mark.parametrize("act", READS)
async def test_reading(act: str, speculator: Any) -> None:
    """Tokens are taken whole or not at all; a collector goes on where it was."""
    async with opened("llama") as runtime:
        read = 3 if speculator is None else 0
        count = await swept(
            lambda: fresh(runtime, read, speculator=speculator and speculator()), READS[act], is_whole=False
        )
        assert count >= 3 * (not read)
        await freed(runtime)


@pytest.mark.parametrize("kind", ["scripted", "llama"])
async def test_a_step_with_guesses_that_are_awaited(kind: str) -> None:
    """Inside of the speculator's own code too."""
    async with opened(kind) as runtime:
        count = await swept(lambda: fresh(runtime, 0, speculator=Waiting()), _retried(stepped))
        assert count >= 3 * len(ways())
        await freed(runtime)


@pytest.mark.parametrize("act", COPIES)
@pytest.mark.parametrize("kind", KINDS)
async def test_copies_and_rewinds(kind: str, act: str) -> None:
    """Of a generator that runs ahead of its reader: what runs is settled first, through any cancellation."""
    async with opened(kind) as runtime:
        await swept(lambda: fresh(runtime, 3), COPIES[act])
        await freed(runtime)


async def test_a_long_rewind_is_decoded_on_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not given up half-way."""
    monkeypatch.setattr("greenroom.generator.forks._LONG", 0)
    async with opened("scripted") as runtime:
        await swept(lambda: fresh(runtime, 3), COPIES["rewind"])


@pytest.mark.parametrize("kind", KINDS)
async def test_a_context(kind: str) -> None:
    """`flush`, `truncate`, `score` and `snapshot`: nothing is added twice, nothing is lost."""
    acts: dict[str, Callable[[Context], Awaitable[Any]]] = {
        "flush": _flushed,
        "score": lambda ctx: ctx.score(list(b"es!")),
        "snapshot": _opened,
    }
    async with opened(kind) as runtime:
        for name, act in acts.items():
            expected: Any = None
            for how in ways():
                for place in range(1, 50):
                    async with runtime.context() as ctx:
                        ctx.fill("A fox" * 500 if name == "snapshot" else "A fox")
                        assert len(ctx.tokens) >= 5
                        ctx.fill("!")
                        found = await interrupted(act(ctx), place, how)
                        held = ctx.tokens
                        assert bytes(held[-3:]) == b"ox!"
                        again = await act(ctx)
                        expected = again if expected is None else expected
                        assert again == pytest.approx(expected, abs=1e-4), (name, how, place)
                        assert ctx.tokens == held
                    if found is not CANCELLED:
                        break
                else:
                    pytest.fail(f"{name} never ends")
        await freed(runtime)


async def _flushed(ctx: Context) -> None:
    """How much was there depends on how far the one came that was interrupted."""
    assert 0 <= await ctx.flush() < len(ctx.tokens)


async def _opened(ctx: Context) -> list[int]:
    return list((await ctx.snapshot()).tokens)


@pytest.mark.parametrize("target", ["generator", "context", "forks"])
async def test_closing(target: str) -> None:
    """Whatever cancels it, the row is given back, and a second call is nothing."""
    async with Runtime(backend=Scripted({"*": Reply("abc", repeat=True)})) as runtime:
        for how in ways():
            ctx = runtime.context().fill("x")
            g = ctx.generate(Sampler.greedy(), max_tokens=3000)
            forks = g.fork_many(2)
            kids = await forks.__aenter__()
            for each in (g, *kids):
                await anext(each.tokens())
            targets: dict[str, tuple[Callable[[], Awaitable[None]], list[Context]]] = {
                "generator": (kids[0].aclose, [kids[0].context]),
                "context": (ctx.aclose, [ctx]),
                "forks": (partial(forks.__aexit__, None, None, None), [kid.context for kid in kids]),
            }
            closing, closed = targets[target]
            await interrupted(closing(), 1, how)
            for context in closed:
                with pytest.raises(ContextClosed):
                    context.fill("y")
            for each in (*kids, g):
                await each.aclose()
            await ctx.aclose()
            await freed(runtime)


async def test_a_generator_that_another_task_closes_leaves_its_context_alone() -> None:
    """The step under way ends in `ContextClosed`, and then closing does; what is filled in behind that stays."""
    backend = Scripted({"*": Reply("abcdef")})
    async with Runtime(backend=backend) as runtime, runtime.context() as ctx:
        g = ctx.fill("x").generate(Sampler.greedy(), max_tokens=1)
        step = await anext(g)
        backend.hold()

        ended = False

        async def execute() -> None:
            nonlocal ended
            with pytest.raises(ContextClosed):
                await step.execute()
            ended = True

        async with anyio.create_task_group() as group:
            group.start_soon(execute)
            await anyio.wait_all_tasks_blocked()
            try:
                backend.release_all()
                await g.aclose()
                assert ended
                assert bytes(ctx.fill("yy").tokens) == b"xyy"
            finally:
                backend.release_all()
        assert bytes(ctx.tokens) == b"xyy"
        assert await ctx.generate(Sampler.greedy(), max_tokens=2).collect_text() == "ab"
