"""Fork, then go on: token for token what a replay from the prompt says, at every position, whatever travels along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from branch_models import KINDS, OTHERS, backend_of, freed, halved, opened

from greenroom import (
    GenerateParameters,
    Generator,
    JsonSchema,
    Lazy,
    Regex,
    Runtime,
    Sampler,
    Snapshot,
    StructTag,
    Tag,
    Token,
)

PLACE = JsonSchema(
    {
        "type": "object",
        "properties": {
            "city": {"enum": ["Rome", "Riga", "LA"]},
            "n": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["city", "n"],
        "additionalProperties": False,
    },
    whitespace=False,
)
SHORT = Regex(r'\{"city":"(Rome|Riga)"\}')
SEEDED = Sampler.multinomial(1.0)
Make = Callable[[], Generator]


def biased(text: str, by: float = 9.0, **more: Any) -> Sampler:
    """Mostly the bytes of `text`."""
    bias = dict.fromkeys(text.encode(), by)
    return Sampler(GenerateParameters(temperature=1.0, logit_bias=bias, default_stops=False, **more))


CARRIED: dict[str, dict[str, Any]] = {
    "penalties": {
        "sampler": biased(
            "abcd", 3.0, repetition_penalty=1.5, presence_penalty=0.4, frequency_penalty=0.3, repetition_context_size=9
        ),
    },
    "a bias, and log-probabilities": {"sampler": biased("abcd", 4.0, logprobs=2)},
    "stop strings, half seen": {"sampler": biased("abc"), "stop": ["abcabc", "ccc", "bbab"]},
    "code points, half said": {"sampler": biased("é🎭")},
    "a lazy constraint": {"sampler": biased("ab<"), "constrain": Lazy("<", Regex("[xyz]{4} end"))},
    "a tag": {
        "sampler": biased("ab<"),
        "constrain": StructTag(Tag("<t>", Regex("[xyz]{3}!"), "</t>")),
    },
    "two constraints": {"sampler": SEEDED, "constrain": [Regex("[a-f ]{4,30}"), Regex("[b-z ]{3,20}d")]},
    "a first minimum": {"sampler": Sampler(GenerateParameters(temperature=1.0, min_tokens=6)), "stop": list(range(97))},
}
"""What a generation has beside its tokens, and a fork must have too."""


async def forked_everywhere(make: Make, expected: list[int]) -> None:
    """Fork at each position while it is read, and take snapshots; afterwards all go on, together."""
    original = make()
    assert await original.collect_tokens() == expected
    text = await original.collect_text()
    g = make()
    snapshots: list[Snapshot] = []
    kids: list[Generator] = []
    pull = g.tokens()
    while True:
        parent = await g.fork()
        kid = await parent.fork()
        await parent.aclose()
        assert (kid.output, kid.text, kid.seed) == (g.output, g.text, g.seed)
        kids.append(kid)
        if len(kids) % 3 == 0:
            snapshots.append(await g.snapshot())
        if await anext(pull, None) is None:
            break
    assert list(g.output) == expected
    assert await g.collect_text() == text
    kids += [await snapshot.restore() for snapshot in snapshots]
    for count in {1, 2, len(expected) // 2, len(expected)}:
        kids.append(await g.fork())
        await kids[-1].rewind(count)
        assert list(kids[-1].output) == expected[:-count]
    async with anyio.create_task_group() as group:
        for kid in kids:
            group.start_soon(kid.collect_tokens)
    for kid in kids:
        assert list(kid.output) == expected
        assert await kid.collect_text() == text
        assert kid.stop_detail == original.stop_detail
        await kid.aclose()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
async def test_a_fork_at_every_position_of_a_constrained_generation(kind: str) -> None:
    """Greedy and seeded, inside of forced runs too; the parent closes first, and its parent is unaffected."""
    async with opened(kind) as runtime:
        prompt = await runtime.prepare("A place:")
        constrain = SHORT if kind in OTHERS else PLACE
        for sampler in halved(kind, (Sampler.greedy(), SEEDED)):
            request = runtime.generate_tokens(prompt, sampler.parameters, seed=4, constrain=constrain)
            expected = [event.id for event in (await request.collect()).events if isinstance(event, Token)]
            held: list[Any] = []

            def make(sampler: Sampler = sampler, held: list[Any] = held) -> Generator:
                held.append(runtime.context().fill(prompt))
                return held[-1].generate(sampler, constrain=constrain, seed=4)  # type: ignore[no-any-return]

            await forked_everywhere(make, expected)
            for ctx in held:
                await ctx.aclose()
        await freed(runtime)


@pytest.mark.parametrize("kind", ["scripted", "understudy", "llama", "mamba2"])
async def test_what_travels_with_a_fork(kind: str) -> None:
    """Each of it, at every position."""
    async with opened(kind) as runtime:
        for name, options in halved(kind, [*CARRIED.items()]):
            held: list[Any] = []

            def make(options: dict[str, Any] = options, held: list[Any] = held) -> Generator:
                held.append(runtime.context().fill("abcabdabcab"))
                more = {key: value for key, value in options.items() if key != "sampler"}
                return held[-1].generate(options["sampler"], seed=7, max_tokens=16, **more)  # type: ignore[no-any-return]

            expected = await make().collect_tokens()
            assert expected or kind == "scripted", name
            await forked_everywhere(make, expected)
            for ctx in held:
                await ctx.aclose()
        await freed(runtime)


@pytest.mark.parametrize("kind", ["understudy", "llama", "mamba2"])
async def test_without_a_store_of_prefixes(kind: str) -> None:
    """A fork's first pass runs the tokens again, where nothing of them is kept."""
    backend = backend_of(kind, prefix_bytes=0)
    async with Runtime(backend=backend) if backend is not None else Runtime(prefix_bytes=0) as runtime:
        prompt = await runtime.prepare("A place, and a long way to it, so long that it would be kept: ")

        def make() -> Generator:
            return runtime.context().fill(prompt).generate(SEEDED, seed=2, constrain=PLACE)

        await forked_everywhere(make, await make().collect_tokens())
        assert runtime.statistics().prefix_bytes == 0
        await freed(runtime)
