"""Guesses change how many passes a generation takes, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from branch_models import freed, idle, opened

from greenroom import (
    Drafting,
    GenerateParameters,
    Generator,
    JsonSchema,
    Logits,
    Regex,
    Runtime,
    Sampler,
    Speculator,
)
from greenroom.actors.scheduler.ngram_drafter import NgramDrafter
from greenroom.errors import CallbackFailed, InvalidParameter, NotSupported

RECORDS = JsonSchema(
    {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "name": {"enum": ["Ann", "Bob", "Cy"]},
                "age": {"type": "integer", "minimum": 0, "maximum": 99},
            },
            "required": ["name", "age"],
            "additionalProperties": False,
        },
        "minItems": 8,
        "maxItems": 8,
    },
    whitespace=False,
)


class Guessing(Speculator):
    """Repeats the last tokens, so that it is mostly wrong; keeps what it is told."""

    def __init__(self, length: int = 5) -> None:
        self.length = length
        self.accepted: list[int] = []
        self.wrong = 0
        self.resets = 0

    def draft(self, context: Drafting) -> Sequence[int]:
        """See `Speculator.draft`."""
        assert context.position == len(context.tokens)
        return [context.tokens[-1], *context.tokens[-self.length :]]

    def accept(self, tokens: Sequence[int]) -> None:
        """See `Speculator.accept`."""
        self.accepted += tokens

    def rollback(self, count: int) -> None:
        """See `Speculator.rollback`."""
        self.wrong += count

    def reset(self) -> None:
        """See `Speculator.reset`."""
        self.resets += 1


class Knowing(Speculator):
    """Guesses what it was told, from the start of the output on."""

    def __init__(self, tokens: Sequence[int], length: int) -> None:
        self.tokens = tokens
        self.length = length

    def draft(self, context: Drafting) -> Sequence[int]:
        """See `Speculator.draft`."""
        place = context.position - context.start
        return self.tokens[place : place + self.length]


async def test_a_speculator_is_told_what_became_of_its_guesses() -> None:
    """What was accepted, and how many at the end were wrong; a fork of its row has a copy."""
    async with opened("scripted") as runtime, runtime.context() as ctx:
        own = Guessing()
        g = ctx.fill("x").generate(Sampler.greedy(), max_tokens=30, speculator=own)
        async for step in g:
            await step.execute()
            if g.tokens_generated >= 10:
                break
        heard, kid = list(own.accepted), await g.fork()
        assert heard == list(g.output)
        assert own.wrong == g.info.drafted_tokens - g.info.accepted_tokens > 0
        assert await kid.collect_tokens() == await g.collect_tokens()
        assert own.accepted == list(g.output)
        await g.rewind(5)
        assert own.resets == 1


@pytest.mark.parametrize("kind", ["scripted", "understudy", "llama", "deepseek_v2"])
async def test_stops_inside_of_right_guesses_leave_no_more_than_what_is_kept(kind: str) -> None:
    """`max_tokens`, a stop token or a stop string in the middle of a run: the row is cut to what the context holds.

    And the next turn is as after a fresh prefill.
    """
    async with opened(kind) as runtime, runtime.context() as ctx:
        model = runtime.model
        prompt = await runtime.prepare("Tell me a story.")
        ctx.fill(prompt)
        free = (await ctx.fork()).generate(Sampler.greedy(), max_tokens=20, default_stops=False)
        known = await free.collect_tokens()
        await free.context.aclose()
        text = runtime.tokenizer.decode(known[:9])
        ways: list[dict[str, Any]] = [{"max_tokens": 7}, {"stop": [known[9]]}, {"max_tokens": 20}]
        ways += [{"stop": [text[-3:]]}] if text.isascii() else []
        for options in ways:
            one, other = await ctx.fork(), await ctx.fork()
            guessed = one.generate(Sampler.greedy(), speculator=Knowing(known, 6), default_stops=False, **options)
            plain = other.generate(Sampler.greedy(), default_stops=False, **options)
            expected = await plain.collect_tokens()
            await other.aclose()
            await freed(runtime)
            assert await guessed.collect_tokens() == expected
            await idle(runtime)
            held = (runtime.statistics().kv_bytes - model.kv_bytes_per_row) / model.kv_bytes_per_token
            assert held in (len(one.tokens) - 1, len(one.tokens))
            assert guessed.stop_detail == plain.stop_detail
            assert one.tokens == [*prompt, *expected]
            assert guessed.info.accepted_tokens >= min(5, len(expected) - 2)
            one.fill([65, 66, 67])
            fresh = runtime.context().fill(one.tokens)
            again = [each.generate(Sampler.greedy(), max_tokens=8, default_stops=False) for each in (one, fresh)]
            assert await again[0].collect_tokens() == await again[1].collect_tokens()
            await one.aclose()
            await fresh.aclose()
        await freed(runtime)


async def test_a_reader_of_guessed_tokens_sees_all_of_them_at_every_yield() -> None:
    """Counters, text and context hold what was yielded so far, however many passes it took."""
    async with opened("scripted") as runtime, runtime.context() as ctx:
        g = ctx.fill("x").generate(Sampler.greedy(), max_tokens=40, speculator=Guessing())
        seen: list[int] = []
        async for token in g.tokens():
            seen.append(token.id)
            assert list(g.output) == seen == ctx.tokens[1:]
            assert g.text == bytes(seen).decode()
        assert len(seen) == 40


async def test_the_drafter_gives_up_where_it_does_not_pay() -> None:
    """Over tokens that repeat by chance alone, it guesses less and less; what repeats again it finds again."""
    numbers = np.random.default_rng(1).integers(0, 12, 4000).tolist()
    drafter = NgramDrafter()
    drafted = 0
    for length in range(100, 3000):
        guesses = list(drafter.draft(numbers[:length], 16))
        right = next((i for i, g in enumerate(guesses) if g != numbers[length + i]), len(guesses))
        if guesses:
            drafter.update(len(guesses), right)
        drafted += len(guesses)
    assert drafted < 300
    repeated = numbers[:3000] + numbers[100:1100]
    hits = 0
    place = 3000
    while place < 4000:
        guesses = list(drafter.draft(repeated[:place], 16))
        right = next((i for i, g in enumerate(guesses) if repeated[place + i : place + i + 1] != [g]), len(guesses))
        if guesses:
            drafter.update(len(guesses), right)
        hits += right
        place += right + 1
    assert hits > 500
    assert list(drafter.fork().draft(repeated, 16)) == list(drafter.draft(repeated, 16))


def test_a_draft_does_not_cost_what_the_context_is_long() -> None:
    """Of ten thousand tokens, few are looked at again for the next ones; others in their place are noticed."""
    looked_at = [0]

    class Counted(list[int]):
        def __getitem__(self, place: Any) -> Any:
            found = super().__getitem__(place)
            looked_at[0] += len(found) if isinstance(place, slice) else 1
            return found

    tokens = Counted(list(range(100)) * 100)
    drafter = NgramDrafter()
    drafter.draft(tokens, 8)
    looked_at[0] = 0
    for token in range(50):
        tokens.append(token)
        assert list(drafter.draft(tokens, 4)) == [token + 1, token + 2, token + 3, token + 4]
    assert looked_at[0] <= 50 * 300
    others = Counted([*range(500, 600), *range(500, 510)])
    assert list(drafter.draft(others, 2)) == [510, 511]


async def test_only_one_may_guess_and_only_where_guesses_can_be_taken_back() -> None:
    """Two speculators raise; so does a model whose caches cannot rewind; what a speculator raises is told."""
    async with opened("llama") as runtime, runtime.context() as ctx:
        ctx.fill("x")
        for two in (
            {"speculator": Guessing(), "system_speculation": True},
            {"speculator": Guessing(), "draft_model": runtime},
            {"system_speculation": True, "draft_model": runtime},
        ):
            with pytest.raises(InvalidParameter):
                ctx.generate(**two)  # type: ignore[arg-type]
        with pytest.raises(InvalidParameter):
            ctx.generate(speculator="me")

        class Broken(Guessing):
            def draft(self, context: Drafting) -> Sequence[int]:
                del context
                raise KeyError("mine")

        g = ctx.generate(speculator=Broken(), max_tokens=4)
        step = await anext(g)
        with pytest.raises(CallbackFailed, match="mine"):
            await step.execute()
        await g.aclose()

        class Odd(Guessing):
            def draft(self, context: Drafting) -> Sequence[int]:
                del context
                return [10**6, -1]

        found = await ctx.generate(
            Sampler.greedy(), speculator=Odd(), max_tokens=4, default_stops=False
        ).collect_tokens()
        await ctx.truncate(4)
        assert await ctx.generate(Sampler.greedy(), max_tokens=4, default_stops=False).collect_tokens() == found
    for kind in ("mamba2", "gemma3"):
        async with opened(kind) as runtime, runtime.context() as ctx:
            with pytest.raises(NotSupported):
                ctx.fill("x").generate(system_speculation=True)


async def test_penalised_rows_do_not_guess_and_say_the_same() -> None:
    """What a penalty looks at depends on what stands before each draw."""
    async with opened("llama") as runtime, runtime.context() as ctx:
        ctx.fill("abcabcabc")
        sampler = Sampler(GenerateParameters(temperature=0.8, repetition_penalty=1.4))
        plain = (await ctx.fork()).generate(sampler, seed=1, max_tokens=20)
        guessed = ctx.generate(sampler, seed=1, max_tokens=20, system_speculation=True)
        assert await guessed.collect_tokens() == await plain.collect_tokens()
        assert guessed.info.drafted_tokens == 0


async def test_the_mask_after_guesses_are_taken_back_is_the_mask_before() -> None:
    """A walk of k and a rollback of k leave a constraint where it was."""
    async with opened("scripted") as runtime:
        matcher = await runtime.matcher(RECORDS)
        row = np.zeros(runtime.model.vocab_size, np.float32)
        for token in b'[{"name":"Ann","age":7},{"name":"B':
            before, twin = matcher.mask(row), matcher.clone()
            walk = list(b'[{"name":"Bob","age":12}]')[:5]
            legal = 0
            for guess in walk:
                if np.isinf(twin.mask(row)[guess]):
                    break
                twin.accept(guess)
                legal += 1
            twin.rollback(legal)
            np.testing.assert_array_equal(twin.mask(row), before)
            matcher.accept(token)


async def test_rows_behind_guesses_can_be_looked_at() -> None:
    """Index k is the row behind k guesses: on a cleared step all of them, and `accept` takes a run of tokens."""
    async with opened("llama") as runtime, runtime.context() as ctx:
        ctx.fill("abc")
        plain = (await ctx.fork()).generate(Sampler.greedy(), max_tokens=6, default_stops=False)
        known: list[int] = []
        rows: list[Any] = []
        async for step in plain:
            handle = step.probe(0, Logits())
            output = await step.execute()
            known += output.tokens
            rows.append(output.logits(handle))
        g: Generator = ctx.generate(
            Sampler.greedy(), max_tokens=6, default_stops=False, speculator=Knowing([*known[:2], 0, 0], 4)
        )
        step = await anext(g)
        step.clear_sampler()
        handles = [step.probe(k, Logits()) for k in (2, 0, 1, 4)]
        output = await step.execute()
        assert output.drafts == (*known[:2], 0, 0)
        for handle, row in zip(handles[:3], (rows[2], rows[0], rows[1]), strict=True):
            np.testing.assert_allclose(output.logits(handle), row, rtol=1e-4, atol=1e-4)
        assert g.accept(known[:3]) == tuple(known[:3])
        step = await anext(g)
        seen = [step.probe(k, Logits()) for k in (0, 3)]
        output = await step.execute()
        np.testing.assert_allclose(output.logits(seen[0]), rows[3], rtol=1e-4, atol=1e-4)
        assert not output.has(seen[1])
        with pytest.raises(InvalidParameter):
            output.logits(seen[1])
        assert await g.collect_tokens() == known


async def test_a_second_model_guesses_for_the_first() -> None:
    """The same weights guess nearly all; another model's guesses change nothing either."""
    async with opened("llama") as runtime, opened("llama") as same, opened("qwen3") as other, runtime.context() as ctx:
        ctx.fill("Once upon")
        options: dict[str, Any] = {"max_tokens": 24, "default_stops": False}
        plain = await (await ctx.fork()).generate(Sampler.greedy(), **options).collect_tokens()
        for model, least in ((same, 12), (other, 0)):
            g = (await ctx.fork()).generate(Sampler.greedy(), draft_model=model, **options)
            assert await g.collect_tokens() == plain
            assert g.info.accepted_tokens >= least
            assert g.info.drafted_tokens > 0
        with pytest.raises(InvalidParameter):
            async with Runtime() as understudy:
                ctx.generate(draft_model=understudy)


async def test_a_grammar_with_guesses_is_kept() -> None:
    """Illegal guesses are cut before they cost anything."""
    async with opened("llama") as runtime, runtime.context() as ctx:
        g = ctx.fill("x").generate(
            Sampler.greedy(), constrain=Regex("(ab){12}"), speculator=Knowing(list(b"a?") * 12, 4)
        )
        assert await g.collect_text() == "ab" * 12
