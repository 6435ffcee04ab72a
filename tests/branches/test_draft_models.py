"""A second model that guesses: what it costs where it is right, where it is not, and for many at once."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from branch_models import opened

from greenroom import GenerateParameters, Generator, Reply, Runtime, Sampler, Scripted

TEXT = "".join(chr(97 + at * at % 26) for at in range(400))


async def said(runtime: Runtime, **options: Any) -> Generator:
    """A whole text."""
    g = runtime.context().user("x").cue().generate(Sampler.greedy(), **options)
    assert await g.collect_text() == TEXT
    return g


async def test_a_model_that_is_right_is_asked_for_more() -> None:
    """One that says the same saves most passes, and its own are one for each guess."""
    target, other = Scripted({"*": Reply(TEXT, bends=True)}), Scripted({"*": Reply(TEXT, bends=True)})
    async with Runtime(backend=target) as runtime, Runtime(backend=other) as draft:
        g = await said(runtime, draft_model=draft)
        assert g.info.accepted_tokens >= 0.98 * g.info.drafted_tokens
        assert g.info.accepted_tokens > 340
        assert runtime.statistics().steps < 60
        assert draft.statistics().steps <= g.info.drafted_tokens + 10


async def test_a_model_that_is_wrong_is_soon_asked_no_more() -> None:
    """Then it costs next to nothing; where it begins to be right it is found out."""
    wrong = Scripted({"*": Reply("?" * 400)})
    async with Runtime(backend=Scripted({"*": Reply(TEXT, bends=True)})) as runtime, Runtime(backend=wrong) as draft:
        g = await said(runtime, draft_model=draft)
        assert 0 < g.info.drafted_tokens < 30
        assert draft.statistics().steps < 40
    late = Scripted({"*": Reply("?" * 100 + TEXT[100:])})
    async with Runtime(backend=Scripted({"*": Reply(TEXT, bends=True)})) as runtime, Runtime(backend=late) as draft:
        g = await said(runtime, draft_model=draft)
        assert g.info.accepted_tokens > 150
        assert g.info.drafted_tokens - g.info.accepted_tokens < 30


@pytest.mark.parametrize("rows", [8])
async def test_guesses_for_many_share_passes(rows: int) -> None:
    """Those that step together ask together: the second model runs hardly more often than for one."""
    passes: dict[int, int] = {}
    for count in (1, rows):
        other = Scripted({"*": Reply(TEXT, bends=True)})
        async with (
            Runtime(backend=Scripted({"*": Reply(TEXT, bends=True)})) as runtime,
            Runtime(backend=other) as draft,
        ):
            async with anyio.create_task_group() as group:
                for _ in range(count):
                    group.start_soon(lambda: said(runtime, draft_model=draft))
            passes[count] = other.passes
    assert passes[rows] < 1.5 * passes[1]


async def test_forks_and_rewinds_have_guesses_of_their_own() -> None:
    """Whoever goes on elsewhere is guessed for from there; the tokens are what they are without."""
    async with opened("llama") as runtime, opened("llama") as draft, runtime.context() as ctx:
        ctx.fill("Once upon")
        options: dict[str, Any] = {"max_tokens": 40, "default_stops": False, "seed": 3}
        plain = (await ctx.fork()).generate(Sampler.multinomial(1.0), **options)
        g = (await ctx.fork()).generate(Sampler.multinomial(1.0), draft_model=draft, **options)
        expected = await plain.collect_tokens()
        assert await g.collect_tokens() == expected
        for count, seed in ((7, None), (40, 4), (3, 5)):
            await g.rewind(count, seed=seed)
            await plain.rewind(count, seed=seed)
            twin = await g.fork()
            assert await twin.collect_tokens() == await g.collect_tokens() == await plain.collect_tokens()
            assert twin.info.drafted_tokens > 0


async def test_penalised_rows_are_not_guessed_for() -> None:
    """They check no guesses, so the second model is not run at all."""
    async with opened("llama") as runtime, opened("llama") as draft, runtime.context() as ctx:
        sampler = Sampler(GenerateParameters(temperature=0.0, repetition_penalty=1.2))
        g = ctx.fill("x").generate(sampler, max_tokens=8, default_stops=False, draft_model=draft)
        assert len(await g.collect_tokens()) == 8
        assert draft.statistics().steps == g.info.drafted_tokens == 0
