"""Guesses on and off: the same tokens, where a hundred guesses or more were wrong; alone, and beside all other rows."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from branch_models import backend_of, freed, halved

from greenroom import (
    Context,
    Drafting,
    GenerateParameters,
    Generator,
    JsonSchema,
    Regex,
    Reply,
    Runtime,
    Sampler,
    Scripted,
    Speculator,
)

KINDS = ("scripted", "understudy", "llama", "deepseek_v2")
"""The double, the understudy, and models whose KV can be cut: with keys like values, and unlike them."""
ALONE = ("scripted", "llama")
"""Those that run row by row too: what differs there is the width of a pass, not the cache."""
ROWS = 48
OWN = 12
"""Of them, for speculators that guess all the time."""
WRONG = 100
LETTERS = "abcd"
BIAS = {ord(letter): 12.0 for letter in LETTERS}
PAIRS = ["".join(random.Random(n).sample(LETTERS, 3)) for n in range(30)]  # noqa: S311 - no secret
GRAMMAR = Regex("".join([f"[{pair}]" for pair in PAIRS]))
"""Three letters at each place, others at the next: what repeats is often illegal, and often legal and wrong."""
SAMPLERS = {"greedy": Sampler.greedy(), "seeded": Sampler.multinomial(1.0)}
PLACE = JsonSchema({"type": "object", "properties": {"city": {"enum": ["Rome", "Riga"]}}, "required": ["city"]})


def text_of(seed: int, length: int) -> str:
    """Letters that repeat by chance."""
    rng = random.Random(seed)  # noqa: S311
    return "".join([rng.choice(LETTERS) for _ in range(length)])


def runtime_of(kind: str) -> Runtime:
    """With a small step, so that a long prompt is run beside many steps of the others."""
    if kind == "scripted":
        backend: Any = Scripted(lambda said, seed: Reply(text_of(hash((len(said), seed)), 90), bends=True))
        return Runtime(backend=backend, max_step_tokens=64)
    backend = backend_of(kind)
    return Runtime(backend=backend, max_step_tokens=64) if backend is not None else Runtime(max_step_tokens=64)


class Guessing(Speculator):
    """Repeats the last tokens: mostly wrong."""

    def draft(self, context: Drafting) -> Sequence[int]:
        """See `Speculator.draft`."""
        return context.tokens[-6:]


class Later(Guessing):
    """The same, awaited."""

    async def draft(self, context: Drafting) -> Sequence[int]:  # type: ignore[override]
        """See `Speculator.draft`."""
        await anyio.lowlevel.checkpoint()
        return super().draft(context)


class Rows:
    """The same rows, made with guesses or without."""

    def __init__(self, runtime: Runtime, sampler: str, *, grammar: bool) -> None:
        self._runtime = runtime
        self._options: dict[str, Any] = {"max_tokens": 16}
        parameters = SAMPLERS[sampler].parameters
        if grammar:
            self._options["constrain"] = GRAMMAR
            self._sampler = Sampler(parameters)
        else:
            self._options["default_stops"] = False
            self._sampler = Sampler(GenerateParameters(temperature=parameters.temperature, logit_bias=BIAS))
        self.held: list[Context] = []

    def row(self, number: int, **guesses: Any) -> Generator:
        """One of them, not begun."""
        text = text_of(
            number, 16 + number % 5
        )  # as text where the grammar speaks of text, as ids where the bias has ids
        ctx = self._runtime.context().fill(text if "constrain" in self._options else list(text.encode()))
        self.held.append(ctx)
        return ctx.generate(self._sampler, seed=number, **self._options, **guesses)

    async def closed(self, *others: Generator) -> None:
        """Every byte comes back."""
        for ctx in (*self.held, *[other.context for other in others]):
            await ctx.aclose()
        await freed(self._runtime)


async def together(rows: Sequence[Generator]) -> list[list[int]]:
    """What each says, all at once."""
    async with anyio.create_task_group() as group:
        for row in rows:
            group.start_soon(row.collect_tokens)
    return [list(row.output) for row in rows]


def wrong(rows: Sequence[Generator]) -> int:
    """How many guesses did not hold."""
    return sum(row.info.drafted_tokens - row.info.accepted_tokens for row in rows)


def neighbours(runtime: Runtime) -> list[Generator]:
    """Rows of other kinds: constrained, forced, penalised, free, and with a prompt that takes many passes."""
    hot = Sampler.multinomial(1.0)
    penalised = Sampler(GenerateParameters(temperature=0.9, repetition_penalty=1.3, frequency_penalty=0.4))
    makes: list[tuple[str, Sampler, dict[str, Any]]] = [
        ("A place:", hot, {"constrain": PLACE}),
        ("Forced:", hot, {"constrain": Regex("((one, two, three)|(x+y)){4}")}),
        ("abcabcabc", penalised, {"default_stops": False}),
        ("Free:", hot, {"default_stops": False}),
        ("Long: " * 34, Sampler.greedy(), {"default_stops": False}),
    ]
    return [
        runtime.context().fill(list(prompt.encode())).generate(sampler, seed=3, max_tokens=24, **options)
        for prompt, sampler, options in makes
    ]


@pytest.mark.parametrize("grammar", [False, True], ids=["free", "grammar"])
@pytest.mark.parametrize("kind", KINDS)
async def test_the_drafter_changes_no_token_among_rows_of_all_kinds(kind: str, grammar: bool) -> None:
    """All at once: those that guess say what they say without, the others what they say alone."""
    async with runtime_of(kind) as runtime:
        others = neighbours(runtime)
        said = [await row.collect_tokens() for row in others]
        for sampler in halved(kind, [*SAMPLERS]):
            rows = Rows(runtime, sampler, grammar=grammar)
            expected = await together([rows.row(n) for n in range(ROWS)])
            batch = [rows.row(n, system_speculation=True) for n in range(ROWS)]
            among = neighbours(runtime)
            assert await together([*batch, *among]) == [*expected, *said]
            assert wrong(batch) >= WRONG
            assert wrong(among) == 0
            others += among
            await rows.closed(*others)


@pytest.mark.parametrize("grammar", [False, True], ids=["free", "grammar"])
@pytest.mark.parametrize("kind", ALONE)
async def test_the_drafter_changes_no_token_of_a_row_alone(kind: str, grammar: bool) -> None:
    """One row after the other."""
    async with runtime_of(kind) as runtime:
        for sampler in halved(kind, [*SAMPLERS]):
            rows = Rows(runtime, sampler, grammar=grammar)
            expected = await together([rows.row(n) for n in range(ROWS)])
            alone = [rows.row(n, system_speculation=True) for n in range(ROWS)]
            for row, tokens in zip(alone, expected, strict=True):
                assert await row.collect_tokens() == tokens
            assert wrong(alone) >= WRONG
            await rows.closed()


@pytest.mark.parametrize("grammar", [False, True], ids=["free", "grammar"])
@pytest.mark.parametrize("kind", ["scripted", "understudy", "llama"])
async def test_a_speculator_of_ones_own_changes_no_token(kind: str, grammar: bool) -> None:
    """Awaited or not; collected, read and stepped."""
    async with runtime_of(kind) as runtime:
        for speculator in halved(kind, (Guessing, Later)):
            rows = Rows(runtime, "seeded", grammar=grammar)
            expected = await together([rows.row(n) for n in range(OWN)])
            guessed = [rows.row(n, speculator=speculator()) for n in range(OWN)]
            among = neighbours(runtime)
            async with anyio.create_task_group() as group:
                for each in (*guessed[2:], *among):
                    group.start_soon(each.collect_tokens)
                group.start_soon(_read, guessed[0])
                group.start_soon(_stepped, guessed[1])
            assert [list(row.output) for row in guessed] == expected
            assert wrong(guessed) >= WRONG
            await rows.closed(*among)


async def _read(g: Generator) -> None:
    async for _ in g.tokens():
        pass


async def _stepped(g: Generator) -> None:
    async for step in g:
        await step.execute()


async def test_a_second_model_changes_no_token() -> None:
    """One that is another, and mostly wrong; it knows no grammar, and what is illegal of its guesses costs nothing."""
    async with runtime_of("llama") as runtime, Runtime(backend=backend_of("deepseek_v2")) as other:
        for sampler in halved("llama", [*SAMPLERS]):
            for grammar in (False, True):
                rows = Rows(runtime, sampler, grammar=grammar)
                expected = await together([rows.row(n) for n in range(2 * OWN)])
                guessed = [rows.row(n, draft_model=other) for n in range(2 * OWN)]
                assert await together(guessed) == expected
                assert grammar or wrong(guessed) >= WRONG
                await rows.closed()
                del guessed
                await freed(other)


@pytest.mark.parametrize("kind", ["scripted", "llama"])
async def test_copying_text_is_mostly_guessed_right(kind: str) -> None:
    """Records with small edits, under a grammar that leaves a choice everywhere: half of the guesses hold, at least."""
    rng = random.Random(3)  # noqa: S311
    records, edited = (
        "".join([f'{{"id":{n},"name":"Ann","mood":"{rng.choice(["good", "glad"])}"}}\n' for n in range(12)])
        for _ in range(2)
    )
    grammar = Regex("".join([f"({re.escape(letter)}|~)" for letter in edited]))
    scripted = Runtime(backend=Scripted({"*": Reply(edited)}))
    async with scripted if kind == "scripted" else runtime_of(kind) as runtime, runtime.context() as ctx:
        sampler = Sampler(GenerateParameters(temperature=0.0, logit_bias={ord("~"): -100.0}))
        g = ctx.fill(list(records.encode())).generate(sampler, constrain=grammar, system_speculation=True)
        before = runtime.statistics().steps
        assert bytes(await g.collect_tokens()).decode() == edited
        assert g.info.accepted_tokens >= 0.5 * g.info.drafted_tokens
        assert g.info.drafted_tokens > 100
        assert runtime.statistics().steps - before < len(edited) / 3
