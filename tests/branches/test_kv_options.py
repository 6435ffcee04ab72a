"""Rows whose KV is bounded or quantized: what cannot be cut is run again, as it was run the first time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from branch_models import Spoken
from models import llama, qwen3

from greenroom import GenerateParameters, Regex, Runtime, Sampler, Token
from greenroom.backends.mlx import MlxBackend
from greenroom.errors import NotSupported

OPTIONS: dict[str, dict[str, Any]] = {
    "quantized": {"kv_bits": 8, "kv_group_size": 32},
    "quantized in the output": {"kv_bits": 4, "kv_group_size": 32, "quantized_kv_start": 21},
    "bounded": {"max_kv_size": 12},
}
PROMPT = "abcabcabcabcab"


@asynccontextmanager
async def opened(name: str) -> AsyncIterator[Runtime]:
    """A runtime over a model whose rows take those options."""
    builder = qwen3 if name == "bounded" else lambda: llama(hidden=128)
    backend = MlxBackend.from_model(lambda: (builder()[0], Spoken()), name=name, prefix_bytes=0)
    async with Runtime(backend=backend) as runtime:
        yield runtime


@pytest.mark.parametrize("constrain", [None, Regex("(abcdef|zd|ac){20}")], ids=["free", "forced"])
@pytest.mark.parametrize("name", OPTIONS)
async def test_forks_and_rewinds_go_on_like_a_replay(name: str, constrain: Any) -> None:
    """Read, stepped, forked, rewound, or as a plain request: the same tokens."""
    async with opened(name) as runtime:
        sampler = Sampler(GenerateParameters(temperature=1.0, **OPTIONS[name]))
        options: dict[str, Any] = {"seed": 3, "max_tokens": 30, "constrain": constrain}
        options["default_stops"] = constrain is not None
        plain = await runtime.generate_tokens(list(PROMPT.encode()), sampler.parameters, **options).collect()
        expected = [event.id for event in plain.events if isinstance(event, Token)]
        g = runtime.context().fill(PROMPT).generate(sampler, **options)
        async for _ in g.tokens():
            if g.tokens_generated % 5 == 0:
                kid = await g.fork()
                assert await kid.collect_tokens() == expected
                await kid.aclose()
        assert list(g.output) == expected
        for count in (1, 7, 20):
            await g.rewind(count)
            assert await g.collect_tokens() == expected
        stepped = runtime.context().fill(PROMPT).generate(sampler, **options)
        async for step in stepped:
            await step.execute()
        assert list(stepped.output) == expected


@pytest.mark.parametrize("name", OPTIONS)
async def test_the_next_turn_is_as_after_a_fresh_prefill(name: str) -> None:
    """The row that is held for the context has the wrong KV for it: a prompt looks back on itself unchanged."""
    async with opened(name) as runtime:
        sampler = Sampler(GenerateParameters(temperature=1.0, default_stops=False, **OPTIONS[name]))
        ctx = runtime.context().fill(PROMPT)
        await ctx.generate(sampler, seed=3, max_tokens=12).collect_tokens()
        ctx.fill("abc")
        fresh = runtime.context().fill(ctx.tokens)
        expected = await fresh.generate(sampler, seed=4, max_tokens=20).collect_tokens()
        assert await ctx.generate(sampler, seed=4, max_tokens=20).collect_tokens() == expected


@pytest.mark.parametrize("name", OPTIONS)
async def test_guesses_are_refused(name: str) -> None:
    """A wrong one could not be taken back."""
    async with opened(name) as runtime:
        with pytest.raises(NotSupported, match="bounded or quantized"):
            runtime.context().fill("x").generate(GenerateParameters(**OPTIONS[name]), system_speculation=True)
