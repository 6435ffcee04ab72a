"""Texts that a tokenizer would write with a special token: from there on a matcher forces nothing.

What a grammar forces is fed at once. Where that text is a marker's name, within a string say, forcing it would give the
marker; so the matcher stops forcing, for good. Who forks, rewinds or guesses must neither repeat nor forget that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from branch_models import halved, opened

from greenroom import Chunk, JsonSchema, Reasoning, Regex, Runtime, Sampler, Scripted, Snapshot
from greenroom.constraints import Constraint, GrammarMatcher
from greenroom.request.current import session_of

SCHEMA = {
    "type": "object",
    "properties": {"a": {"const": "x<think>y and more"}, "b": {"type": "string", "maxLength": 12}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
CONSTRAINTS: dict[str, Constraint] = {
    "json": JsonSchema(SCHEMA, whitespace=False),
    "text": Regex("[a-z]{3} <think>once upon a time[a-z ]{8}"),
}


@pytest.mark.parametrize("constraint", CONSTRAINTS)
async def test_copies_force_what_the_original_forces(constraint: str, tmp_path: Path) -> None:
    """At every position: forks, rewinds and files; and step by step, and behind guesses, it is the same text."""
    async with opened("understudy") as runtime, runtime.context() as ctx:
        ctx.user("Tell me a story.").cue()
        options: dict[str, Any] = {"constrain": CONSTRAINTS[constraint], "seed": 3}
        for sampler in halved("understudy", (Sampler.greedy(), Sampler.multinomial(1.5))):
            original = (await ctx.fork()).generate(sampler, **options)
            expected = await original.collect_tokens()
            generation = original._cursor.generation
            matcher = generation and generation.constraint
            assert isinstance(matcher, GrammarMatcher)
            assert matcher.is_freed
            g = (await ctx.fork()).generate(sampler, **options)
            copies = [(await ctx.fork()).generate(sampler, system_speculation=True, **options)]
            for count in range(1, len(expected) + 1):
                await anext(g.tokens())
                await (await g.snapshot()).save(tmp_path / "g")
                copies.append(await (await Snapshot.load(tmp_path / "g")).restore())
                copies.append(await g.fork())
                copies.append(await original.fork())
                await copies[-1].rewind(count)
            assert list(g.output) == expected
            async with anyio.create_task_group() as group:
                for copy in copies:
                    group.start_soon(copy.collect_tokens)
            assert all(list(copy.output) == expected for copy in copies)
            stepped = (await ctx.fork()).generate(sampler, **options)
            async for step in stepped:
                await step.execute()
            assert list(stepped.output) == expected


async def test_a_rolled_back_matcher_forces_again() -> None:
    """What it stopped doing behind a place is not undone in front of it."""
    async with opened("understudy") as runtime:
        matcher = session_of(runtime).client.compile(CONSTRAINTS["text"]).start()
        assert isinstance(matcher, GrammarMatcher)
        matcher.consume(runtime.tokenizer.encode("abc", add_special_tokens=False))
        forced = matcher.forced_tokens()
        assert matcher.stop_forcing()
        assert (matcher.is_freed, matcher.forced_tokens()) == (True, ())
        twin = matcher.fork()
        for each in (matcher, twin):
            each.consume(runtime.tokenizer.encode(" ", add_special_tokens=False))
            each.rollback(1)
            assert (each.is_freed, each.forced_tokens()) == (False, forced)
            assert each.error is None


async def test_json_is_text_from_end_to_end() -> None:
    """A marker in a string of it is no thought, nor is what stands behind a thought that the prompt opened."""
    async with opened("understudy") as runtime, runtime.context() as ctx:
        g = ctx.user("Tell me a story.").cue().generate(Sampler.greedy(), constrain=CONSTRAINTS["json"])
        assert (await g.collect_json())["a"] == "x<think>y and more"
        assert json.loads(g.text)["a"] == "x<think>y and more"
    script = json.dumps({"a": [1, "two"]})
    async with Runtime(backend=Scripted({"*": script})) as runtime, runtime.context() as ctx:
        ctx.fill("x<think>\n")
        g = (await ctx.fork()).generate(Sampler.greedy(), constrain={"type": "object"})
        assert await (await g.fork()).collect_json() == json.loads(script)
        told = [event async for event in g.events()]
        assert "".join([event.text for event in told if isinstance(event, Chunk)]) == script == g.text
        g = (await ctx.fork()).generate(Sampler.greedy())
        await anext(g.tokens())
        assert g.text == ""
        assert await g.collect_json() == json.loads(script)
        assert g.text == script
        g = ctx.generate(Sampler.greedy())
        assert isinstance(await anext(g.events()), Reasoning)
