"""Forks, rewinds and snapshots: whatever is copied goes on as if it had been alone from the prompt on."""

from __future__ import annotations

import gc
from typing import Any

import anyio
import numpy as np
import pytest
from branch_models import KINDS, PLAIN, REPLY, idle, opened

from greenroom import Chunk, Generator, Info, JsonSchema, Logits, Regex, Reply, Runtime, Sampler, Scripted, Token
from greenroom.errors import (
    BackendFailed,
    ContextClosed,
    ContextInUse,
    DeadEnd,
    InvalidParameter,
    NotSupported,
    StreamInUse,
)

PLACE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Seattle", "Chicago", "LA"]},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["city", "n"],
    "additionalProperties": False,
}
COMPACT = JsonSchema(PLACE, whitespace=False)
SAMPLERS = {"greedy": Sampler.greedy(), "seeded": Sampler.multinomial(1.0)}


async def pulled(g: Generator, count: int) -> None:
    """Read so many tokens, and pause."""
    if count:
        async for _ in g.tokens():
            count -= 1
            if count == 0:
                break


@pytest.mark.parametrize("kind", [*KINDS, "gemma2", "jamba"])
async def test_at_every_yield_all_belongs_to_the_token_just_yielded(kind: str) -> None:
    """The row holds all tokens, but for the last, which may be pending; text, mask and logits are those behind it."""
    async with opened(kind) as runtime, runtime.context() as ctx:
        model, constraint = runtime.model, Regex("[a-z ]{9,99}")
        matcher = await runtime.matcher(constraint)
        g = ctx.fill("abc").generate(Sampler.multinomial(1.0), max_tokens=9, seed=2, constrain=constraint)
        prompt = len(ctx.tokens)
        async for token in g.tokens():
            matcher.accept(token.id)
            assert g.output[-1] == token.id
            assert ctx.tokens == list(g.all_tokens)
            assert g.text.startswith(runtime.tokenizer.decode(g.output).rstrip("�"))
            await ctx.snapshot()  # nothing is ahead
            await idle(runtime)
            held, row = runtime.statistics().kv_bytes, model.kv_bytes_per_row
            if model.can_rewind:
                assert (held - row) / model.kv_bytes_per_token in (len(g.all_tokens) - 1, len(g.all_tokens))
            elif model.kv_bytes_per_token:
                assert held <= row + len(g.all_tokens) * model.kv_bytes_per_token
            masked = await looked(await g.fork(max_tokens=99), masked=True)
            fresh = runtime.context().fill(list(g.all_tokens)).generate(Sampler.greedy())
            expected = await looked(fresh, masked=False)
            np.testing.assert_array_equal(np.isfinite(masked), np.isfinite(matcher.mask(expected)))
            if kind == "scripted":
                continue  # its logits are of its script, which a prompt of other tokens does not have
            allowed = np.isfinite(masked)
            np.testing.assert_allclose(masked[allowed], expected[allowed], rtol=1e-3, atol=1e-3)
        assert (g.stop_detail, len(ctx.tokens)) == ("max_tokens", prompt + 9)


async def looked(g: Generator, *, masked: bool) -> Any:
    """The logits of its next place. Closes it, and its context."""
    step = await anext(g)
    step.clear_sampler()
    handle = step.probe(0, Logits(masked=masked))
    row = (await step.execute()).logits(handle)
    await g.context.aclose()
    return row


@pytest.mark.parametrize("kind", PLAIN)
async def test_siblings_are_identical_unless_they_are_given_seeds(kind: str) -> None:
    """Derived seeds differ, are the same every time, and leave the parent as it was."""
    async with opened(kind) as runtime, runtime.context() as ctx:
        prompt = await runtime.prepare("Tell me a story.")
        g = ctx.fill(prompt).generate(Sampler.multinomial(1.0), max_tokens=14, seed=11)
        await pulled(g, 3)
        one, two = await g.fork(), await g.fork()
        three = await g.fork(seed=12)
        many = [*await g.fork_many(2), *await g.fork_many(2)]
        assert len({g.seed, three.seed, *(each.seed for each in many)}) == 6
        found: dict[int, list[int]] = {}

        async def run(number: int, each: Generator) -> None:
            found[number] = await each.collect_tokens()

        async with anyio.create_task_group() as group:
            for number, each in enumerate([g, one, two, three, *many]):
                group.start_soon(run, number, each)
        assert found[0] == found[1] == found[2]
        assert all(tokens[:3] == found[0][:3] for tokens in found.values())
        assert kind == "scripted" or len({tuple(tokens) for tokens in found.values()}) == 6
        again = (
            (await runtime.open_context(await ctx.snapshot()).fork()) if g.is_live else runtime.context().fill("Once")
        )
        twin = again.generate(Sampler.multinomial(1.0), max_tokens=14, seed=11)
        await pulled(twin, 3)
        assert [each.seed for each in await twin.fork_many(4)] == [each.seed for each in many]
        with pytest.raises(InvalidParameter):
            g.fork_many(2, seeds=[1])
        with pytest.raises(InvalidParameter):
            await g.fork(seed=-1)


async def test_a_fork_may_draw_otherwise_and_go_further() -> None:
    """`max_tokens` counts from where the generation began, whoever asks."""
    async with opened("llama") as runtime, runtime.context() as ctx:
        g = ctx.fill("Once").generate(Sampler.multinomial(1.5), max_tokens=6, seed=11)
        await pulled(g, 4)
        greedy = await g.fork(sampler=Sampler.greedy(), max_tokens=9)
        more = await g.fork(max_tokens=8)
        assert await g.collect_tokens() == (await more.collect_tokens())[:6]
        assert len(await greedy.collect_tokens()) == 9
        assert more.tokens_generated == 8
        longer = await g.fork(max_tokens=8)
        assert not longer.is_done
        assert await longer.collect_tokens() == await more.collect_tokens()
        assert (await g.fork()).is_done


@pytest.mark.parametrize("kind", PLAIN)
async def test_closing_gives_every_byte_back_and_children_outlive_their_parent(kind: str) -> None:
    """Again is nothing; `async with fork_many` closes all; a dropped generator leaves no row behind."""
    async with opened(
        kind, **({} if kind == "scripted" else {"prefix_bytes": 0} if kind == "understudy" else {})
    ) as runtime:
        base = runtime.statistics().kv_bytes
        async with runtime.context() as ctx:
            g = ctx.fill("Once upon").generate(Sampler.multinomial(1.0), max_tokens=20, seed=1)
            await pulled(g, 4)
            child = await g.fork()
            expected = await (await g.fork()).collect_tokens()
            await g.aclose()
            await g.aclose()
            assert await child.collect_tokens() == expected
            async with child.fork_many(3) as kids:
                assert [kid.output for kid in kids] == [tuple(expected)] * 3
                assert all(kid.kv_bytes > 0 for kid in kids)
            for kid in kids:
                with pytest.raises(ContextClosed):
                    await kid.fork()
            await child.aclose()
            running = ctx.generate(Sampler.greedy(), max_tokens=200, default_stops=False)
            await anext(running.tokens())
            del running, g, child, kid, kids
            gc.collect()
            assert len(ctx.tokens) > 0
            after = await ctx.generate(Sampler.greedy(), max_tokens=2).collect_tokens()
            assert len(after) <= 2
        with anyio.fail_after(10):
            while runtime.statistics().kv_bytes != base:  # what was dropped ends by itself, soon
                await runtime.generate("x", max_tokens=1, template=False).collect()


async def test_a_tree_is_pruned_to_one_child() -> None:
    """`retain_only` closes the others, their children too; `cascade` closes all below."""
    async with opened("scripted") as runtime, runtime.context() as ctx:
        root = ctx.fill("x").generate(Sampler.greedy(), max_tokens=9)
        one, two = await root.fork(), await root.fork()
        below = [await one.fork(), await two.fork()]
        with pytest.raises(InvalidParameter):
            await one.retain_only(two)
        await root.retain_only(one)
        assert await one.collect_text() == REPLY[:9]
        assert await below[0].collect_text() == REPLY[:9]
        for closed in (root, two, below[1]):
            with pytest.raises(ContextClosed):
                await closed.fork()
        await one.aclose(cascade=True)
        with pytest.raises(ContextClosed):
            await below[0].fork()
        assert ctx.generate(max_tokens=1).is_live


@pytest.mark.parametrize("kind", ["scripted", "understudy", "llama", "mamba2"])
async def test_a_break_pauses_and_every_way_of_reading_goes_on_from_there(kind: str) -> None:
    """Tokens, events, steps and collectors in turn give what one of them gives alone."""
    async with opened(kind) as runtime, runtime.context() as ctx:
        ctx.fill("Tell me")
        options: dict[str, Any] = {"max_tokens": 24, "seed": 2}
        sampler = Sampler.multinomial(0.8)
        whole = (await ctx.fork()).generate(sampler, **options)
        expected = await whole.collect_tokens()
        text = await whole.collect_text()
        g = ctx.generate(sampler, **options)
        pull = g.tokens()
        await anext(pull)
        await anext(pull)
        parts = [g.text]
        events = g.events()
        first = await anext(events)
        if isinstance(first, Chunk):
            parts.append(first.text)
        standing = g.text
        assert standing.endswith(parts[-1])
        if not g.is_done:
            step = await anext(g)
            await step.execute()
        if not g.is_done:
            await anext(pull)
        assert list(g.output) == expected[: g.tokens_generated]
        assert await g.collect_tokens() == expected
        assert await g.collect_text() == text
        with pytest.raises(StopAsyncIteration):
            await anext(pull)
        assert g.stop_detail == whole.stop_detail


async def test_events_are_chunks_and_one_info() -> None:
    """Joined they are the text; a pause in the middle and a fork there lose nothing."""
    async with opened("understudy") as runtime, runtime.context() as ctx:
        g = ctx.user("Tell me a story.").cue().generate(Sampler.greedy(), max_tokens=30)
        whole = await (await g.fork()).collect_text()
        seen: list[str] = []
        async for event in g.events():
            assert isinstance(event, Chunk)
            seen.append(event.text)
            if len(seen) == 5:
                break
        child = await g.fork()
        for each in (g, child):
            rest = [event async for event in each.events()]
            assert isinstance(rest[-1], Info)
            assert not any(isinstance(event, Info) for event in rest[:-1])
            assert "".join(seen) + "".join([event.text for event in rest if isinstance(event, Chunk)]) == whole
            assert rest[-1].generation_tokens == each.tokens_generated
            assert [event async for event in each.events()] == []


async def test_a_cancelled_pull_goes_on_where_it_stood() -> None:
    """The cancellation propagates; the next token is the one that was waited for."""
    backend = Scripted({"*": Reply(REPLY, bends=True)})
    async with Runtime(backend=backend) as runtime, runtime.context() as ctx:
        g = ctx.fill("x").generate(Sampler.greedy(), max_tokens=30)
        pull = g.tokens()
        text = ""
        while len(text) < 29:
            with anyio.CancelScope() as scope:
                scope.cancel()
                text += (await anext(pull)).text  # it may be there already when the cancellation arrives
            assert g.text == text
            text += (await anext(pull)).text
            assert (g.text, g.tokens_generated) == (text, len(text))
        assert text == REPLY[: len(text)]


async def test_two_tasks_do_not_share_a_generator() -> None:
    """A fork, or a second reader, in the middle of a step is refused, and the step goes on."""
    backend = Scripted({"*": Reply(REPLY, bends=True)})
    async with Runtime(backend=backend) as runtime, runtime.context() as ctx:
        g = ctx.fill("x").generate(Sampler.greedy(), max_tokens=3)
        step = await anext(g)
        backend.hold()
        async with anyio.create_task_group() as group:
            group.start_soon(step.execute)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(StreamInUse):
                await g.fork()
            with pytest.raises(StreamInUse):
                await step.execute()
            backend.release()
        assert g.text == REPLY[0]
        assert step.output is not None


async def test_a_failed_pass_leaves_every_row_as_it_was() -> None:
    """All rows of the pass raise, none ends as if it were well; each step may be repeated."""
    backend = Scripted({"*": Reply(REPLY, bends=True)})
    async with Runtime(backend=backend) as runtime, runtime.context() as ctx:
        g = ctx.fill("x").generate(Sampler.greedy(), max_tokens=9, constrain=Regex("[A-Za-z ]+"))
        await pulled(g, 3)
        kids = await g.fork_many(3)
        steps = [await anext(kid) for kid in kids]
        failed = 0
        for step in steps:
            backend.fail_next("read", RuntimeError("the device is gone"))
            with pytest.raises(BackendFailed):
                await step.execute()
            failed += 1
        backend.fail_next("forward", RuntimeError("again"))
        with pytest.raises(BackendFailed):
            await steps[0].execute()
        for kid, step in zip(kids, steps, strict=True):
            assert kid.output == g.output
            assert (await step.execute()).text == REPLY[3]
        backend.fail_next("read", RuntimeError("while it runs by itself"))
        with pytest.raises(BackendFailed):
            await g.collect_text()
        assert await g.collect_text() == REPLY[:9]
        assert failed == 3


async def test_constraints_that_contradict_each_other_raise_and_those_that_agree_end_together() -> None:
    """A list of constraints is ANDed."""
    async with opened("llama") as runtime, runtime.context() as ctx:
        ctx.fill("x")
        g = ctx.generate(Sampler.greedy(), constrain=[Regex("[ab]{3}"), Regex("[bc]{3}")])
        assert await g.collect_text() == "bbb"
        assert g.stop_detail == "constraint"
        g = ctx.generate(Sampler.greedy(), constrain=[Regex("ab"), Regex("ac")])
        with pytest.raises(DeadEnd):
            await g.collect_text()
        await g.aclose()
        step = await anext(ctx.generate(Sampler.greedy(), constrain=[Regex("b"), Regex("c")]))
        with pytest.raises(DeadEnd):
            await step.execute()


@pytest.mark.parametrize("kind", ["understudy", "llama", "gemma3"])
async def test_a_batch_of_all_kinds_of_rows_gives_what_each_gives_alone(kind: str) -> None:
    """Steps, readers, collectors, constraints and plain requests in the same passes."""
    async with opened(kind) as runtime:

        async def stepped(ctx: Any) -> list[int]:
            g = ctx.fill("one").generate(Sampler.multinomial(1.0), seed=1, max_tokens=12)
            async for step in g:
                await step.execute()
            return list(g.output)

        async def read(ctx: Any) -> list[int]:
            g = ctx.fill("two").generate(Sampler.top_p(0.9, 0.9), seed=2, max_tokens=12)
            return [token.id async for token in g.tokens()]

        async def constrained(ctx: Any) -> list[int]:
            found: list[int] = (
                await ctx.fill("three").generate(Sampler.top_p(), seed=3, constrain=COMPACT).collect_tokens()
            )
            return found

        async def forked(ctx: Any) -> list[int]:
            g = ctx.fill("four").generate(Sampler.multinomial(1.0), seed=4, max_tokens=10)
            await pulled(g, 3)
            async with g.fork_many(2) as kids:
                return [token for kid in kids for token in await kid.collect_tokens()]

        async def plain(ctx: Any) -> list[int]:
            del ctx
            found = await runtime.generate_tokens("five", temperature=1.0, seed=5, max_tokens=12).collect()
            return [event.id for event in found.events if isinstance(event, Token)]

        ways = (stepped, read, constrained, forked, plain)
        alone = []
        for way in ways:
            async with runtime.context() as ctx:
                alone.append(await way(ctx))
        together: dict[int, list[int]] = {}

        async def run(number: int) -> None:
            async with runtime.context() as ctx:
                together[number] = await ways[number](ctx)

        async with anyio.create_task_group() as group:
            for number in range(len(ways)):
                group.start_soon(run, number)
        assert [together[number] for number in range(len(ways))] == alone


async def test_a_rewound_generator_occupies_its_context_again_unless_that_went_on() -> None:
    """A done one is rewound too; another seed gives another continuation."""
    async with opened("llama") as runtime, runtime.context() as ctx:
        g = ctx.fill("Once").generate(Sampler.multinomial(1.0), max_tokens=12, seed=3, default_stops=False)
        first = await g.collect_tokens()
        await g.rewind(8, seed=77)
        with pytest.raises(ContextInUse):
            ctx.fill("x")
        second = await g.collect_tokens()
        assert first[:4] == second[:4]
        assert first != second
        await g.rewind(8, seed=3)
        assert await g.collect_tokens() == first
        for count in (13, -1, 1.0):
            with pytest.raises(InvalidParameter):
                await g.rewind(count)  # type: ignore[arg-type]
        ctx.fill("on")
        with pytest.raises(ContextInUse):
            await g.rewind(1)


@pytest.mark.parametrize("stop", ["ity", ord("t"), "Chi", "l"])
@pytest.mark.parametrize("way", ["collected", "read", "stepped"])
async def test_a_stop_inside_of_what_is_forced_leaves_the_constraint_where_the_text_ends(way: str, stop: Any) -> None:
    """Then a rewind takes back as many tokens of the one as of the other, and the next turn begins there."""
    async with opened("llama") as runtime, runtime.context() as ctx:
        ctx.fill("A place:")
        whole = await (await ctx.fork()).generate(Sampler.greedy(), constrain=COMPACT, seed=1).collect_text()
        g = ctx.generate(Sampler.greedy(), constrain=COMPACT, seed=1, stop=stop)
        if way == "collected":
            await g.collect_tokens()
        elif way == "read":
            await pulled(g, -1)
        else:
            async for step in g:
                await step.execute()
        found = whole.find(stop if isinstance(stop, str) else chr(stop))
        said = whole if found < 0 else whole[: found + len(stop)] if isinstance(stop, str) else whole[:found]
        assert bytes(g.output).decode() == said
        assert bytes(ctx.tokens).decode() == f"A place:{said}"
        assert g.info.forced_tokens <= len(said)
        await g.rewind(2)
        free = await g.fork()
        assert bytes(free.output).decode() == said[:-2]
        assert await free.collect_tokens() == list(g.output) + list(said[-2:].encode())
        for count in range(len(said) - 2):
            await g.rewind(1)
            twin = await g.fork()
            assert await twin.collect_tokens() == list(said.encode()), count
            await twin.aclose()


async def test_json_is_collected_as_what_was_asked_for() -> None:
    """A schema, its text, a type, a function, or the constraint that is there; behind what was written already."""
    said = '{"city":"LA","n":7}'
    async with Runtime(backend=Scripted({"*": Reply(said)})) as runtime:
        ctx = runtime.context().fill("x")
        import json

        import msgspec

        class Place(msgspec.Struct):
            city: str
            n: int

        for schema in (PLACE, json.dumps(PLACE), None):
            g = (await ctx.fork()).generate(Sampler.greedy())
            assert await g.collect_json(schema) == {"city": "LA", "n": 7}
        g = (await ctx.fork()).generate(Sampler.greedy())
        assert await g.collect_json(Place) == Place("LA", 7)
        g = (await ctx.fork()).generate(Sampler.greedy(), constrain=COMPACT)
        assert await g.collect_json(parse=len) == len(said)
        g = (await ctx.fork()).generate(Sampler.greedy())
        await pulled(g, 5)
        assert await g.collect_json(PLACE) == {"city": "LA", "n": 7}
        from greenroom.errors import InvalidConstraint, TruncatedJson

        g = (await ctx.fork()).generate(Sampler.greedy(), max_tokens=6)
        with pytest.raises(TruncatedJson):
            await g.collect_json(PLACE)
        g = (await ctx.fork()).generate(Sampler.greedy())
        await pulled(g, 5)
        with pytest.raises(InvalidConstraint):
            await g.collect_json({"type": "array"})
        with pytest.raises(NotSupported):
            await (await ctx.snapshot()).restore()
