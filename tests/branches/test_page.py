"""The page that `Context.generate` follows: its table row by row, and the points where page and code once disagreed.

What has a test of its own elsewhere (masks by row, handles, stops within guesses, cancelled steps) is not repeated.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from branch_models import opened

from greenroom import Choice, Info, Lark, Logits, Regex, Reply, Runtime, Sampler, Scripted
from greenroom.errors import (
    InvalidConstraint,
    InvalidParameter,
    StepPending,
    TruncatedJson,
    UnknownContext,
)


async def test_max_tokens_counts_what_stays_and_nothing_runs_for_none() -> None:
    """0 is done at once: no pass, an empty text, one `Info`; negatives and bools are refused."""
    backend = Scripted({"*": "abc"})
    async with Runtime(backend=backend) as runtime, runtime.context() as ctx:
        ctx.user("x").cue()
        g = (await ctx.fork()).generate(max_tokens=0)
        assert (g.is_done, g.tokens_generated) == (True, 0)
        assert await g.collect_text() == ""
        (info,) = [event async for event in g.events()]
        assert isinstance(info, Info)
        assert (info.stop_reason, info.stop_detail, info.generation_tokens) == ("length", "max_tokens", 0)
        assert [step async for step in g] == []
        assert backend.passes == 0
        for wrong in (-1, True, 1.0):
            with pytest.raises(InvalidParameter):
                ctx.generate(max_tokens=wrong)  # type: ignore[arg-type]
        g = ctx.generate(Sampler.greedy(), max_tokens=3)  # the stop token is none of the three
        assert (await g.collect_text(), g.stop_detail) == ("abc", "max_tokens")


async def test_the_models_stop_tokens_are_always_on_and_stop_adds() -> None:
    """Ids and strings; off by `default_stops=False`, but under a constraint, which ends where they do."""
    async with Runtime(backend=Scripted({"*": "abcdef"})) as runtime, runtime.context() as ctx:
        ctx.user("x").cue()
        for options, text, detail in (
            ({}, "abcdef", "eos"),
            ({"stop": [ord("d")]}, "abc", "stop_token"),
            ({"stop": ["de", ord("f")]}, "abc", "stop_string"),
            ({"stop": [ord("z")]}, "abcdef", "eos"),
            ({"constrain": Regex("[a-f]*")}, "abcdef", "eos"),
            ({"constrain": Regex("[a-c]*")}, "abc", "eos"),
            ({"constrain": Regex("[a-f]{4}")}, "abcd", "constraint"),
            ({"constrain": Regex("[a-f]{4}"), "default_stops": False}, "abcd", "constraint"),
            ({"constrain": Regex("[a-f]*"), "default_stops": False}, "abcdef", "eos"),
        ):
            chosen: dict[str, Any] = options
            g = (await ctx.fork()).generate(Sampler.greedy(), **chosen)
            assert (await g.collect_text(), g.stop_reason, g.stop_detail) == (text, "stop", detail)
        g = ctx.generate(Sampler.greedy(), default_stops=False, max_tokens=9)
        assert len(await g.collect_tokens()) == 9


async def test_constraints_and_schemas_compose() -> None:
    """Instances, schemas, types, lists; `collect_json` lays its schema over what is there; grammars are told apart."""
    async with Runtime(backend=Scripted({"*": '{"a": 7, "b": 8}'})) as runtime, runtime.context() as ctx:
        ctx.user("x").cue()
        whole = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        only_a: dict[str, Any] = {**whole, "additionalProperties": False}
        assert await (await ctx.fork()).generate(Sampler.greedy(), constrain=only_a).collect_json() == {"a": 7}
        g = (await ctx.fork()).generate(Sampler.greedy(), constrain=Regex(r"[^8]*\}"))
        assert await g.collect_json(json.dumps(only_a)) == {"a": 7}
        g = (await ctx.fork()).generate(Sampler.greedy(), constrain=[Choice("yes", "no"), Regex("n.*")])
        assert await g.collect_text() == "no"
        assert await (await ctx.fork()).generate(Sampler.greedy()).collect_json(parse=len) == 16
        with pytest.raises(TruncatedJson):
            await (await ctx.fork()).generate(Sampler.greedy(), max_tokens=4).collect_json(only_a)
        g = (await ctx.fork()).generate(constrain=Lark('root ::= "a"'))  # that is GBNF
        with pytest.raises(InvalidConstraint):
            await g.collect_text()
        with pytest.raises(InvalidConstraint, match="Regex, Lark or Gbnf"):
            ctx.generate(constrain="a|b")


async def test_an_option_that_there_is_not_is_refused_by_name() -> None:
    """No option is dropped in silence."""
    async with Runtime(backend=Scripted()) as runtime, runtime.context() as ctx:
        ctx.fill("x")
        with pytest.raises(TypeError):
            ctx.generate(Sampler.greedy(), horizons=1)  # type: ignore[call-arg]
        assert await ctx.generate(Sampler.greedy(), max_tokens=1).collect_tokens() != []


async def test_a_seed_is_the_generators_and_masked_rows_are_drawn_by_it() -> None:
    """`multinomial`'s seed is no number of draws; a mask does not make a row greedy."""
    async with opened("understudy") as runtime, runtime.context() as ctx:
        ctx.user("Make up a number.").cue()
        texts: dict[int, set[str]] = {}
        for seed in range(6):
            sampler = Sampler.multinomial(2.0, seed=seed)
            texts[seed] = {
                await (await ctx.fork()).generate(sampler, constrain=Regex("[0-9]{8}")).collect_text() for _ in range(2)
            }
        assert all(len(found) == 1 for found in texts.values())
        assert len(set.union(*texts.values())) > 3
        g = ctx.generate(Sampler.multinomial(2.0, seed=1), seed=2)
        assert (g.seed, g.info.seed) == (2, 2)


async def test_probes_of_every_step_are_known_by_what_they_are() -> None:
    """One handle for all steps, with or without a sampler; a half-made step stops collectors, which change nothing."""
    async with Runtime(backend=Scripted({"*": "abc"})) as runtime, runtime.context() as ctx:
        g = ctx.user("x").cue().generate(Sampler.greedy())
        every = g.probe_each_step(0, Logits())
        seen: list[int] = []
        async for step in g:
            own = step.probe(0, Logits())
            if len(seen) % 2:
                step.clear_sampler()
            out = await step.execute()
            assert out.logits(every).argmax() == out.logits(own).argmax()
            seen.append(int(out.logits(every).argmax()))
            if not step.draws:
                g.accept([seen[-1]])
        assert bytes(seen[:3]) == b"abc"
        assert (g.text, g.stop_detail) == ("abc", "eos")
        await g.rewind(1)
        await anext(g)
        for collect in (g.collect_text, g.collect_tokens, g.collect_json):
            with pytest.raises(StepPending):
                await collect()
        await g.rewind(0)
        assert await g.collect_text() == "abc"


async def test_a_saved_context_is_a_frozen_copy_until_the_runtime_is_left() -> None:
    """Opened any number of times, whatever became of what was saved; a name that is saved again is replaced."""
    runtime = Runtime(backend=Scripted({"*": Reply("abcdef")}))
    async with runtime:
        async with runtime.context() as ctx:
            g = ctx.user("x").cue().generate(Sampler.greedy())
            step = await anext(g)
            await g.save("begun")
            await step.execute()
            await ctx.save("one")
            expected = ctx.tokens
            await g.collect_text()
        one, other = runtime.open_context("one"), runtime.open_context("one")
        assert one.tokens == other.tokens == expected
        assert runtime.open_context("begun").tokens == expected[:-1]
        assert await one.generate(Sampler.greedy(), max_tokens=2).collect_tokens() != []
        assert other.tokens == expected
        await one.save("one")
        assert runtime.open_context("one").tokens == one.tokens
        assert len(one.tokens) == len(expected) + 2
        await other.delete("one")
        with pytest.raises(UnknownContext):
            runtime.open_context("one")
    async with runtime:
        with pytest.raises(UnknownContext):
            runtime.open_context("begun")
