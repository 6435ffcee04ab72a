"""A generator taken step by step: what a step shows, how it is changed, and that nothing is done by halves."""

from __future__ import annotations

import anyio
import numpy as np
import pytest
from branch_models import KINDS, PLAIN, REPLY, halved, opened

from greenroom import (
    Distribution,
    Entropy,
    GenerateParameters,
    JsonSchema,
    Logits,
    Logprob,
    Logprobs,
    Regex,
    Reply,
    Runtime,
    Sampler,
    Scripted,
    Token,
)
from greenroom.errors import (
    ContextClosed,
    ContextInUse,
    InvalidParameter,
    InvalidPrompt,
    StepPending,
    StepUsed,
    TokenRefused,
)

PROMPT = "Tell me a story."
SAMPLERS = {
    "greedy": Sampler.greedy(),
    "top_p": Sampler.top_p(1.0, 0.9),
    "top_k": Sampler.top_k(0.8, 20),
    "min_p": Sampler.min_p(1.0, 0.05),
    "top_k_top_p": Sampler.top_k_top_p(0.9, 30, 0.9),
    "multinomial": Sampler.multinomial(1.0, 5),
    "penalties": Sampler(GenerateParameters(temperature=0.9, repetition_penalty=1.3, logit_bias={65: 2.0})),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_steps_give_the_tokens_of_a_plain_generation(kind: str) -> None:
    """One pass at a time, on every kind of cache, draws what the whole request draws."""
    async with opened(kind) as runtime:
        prompt = await runtime.prepare(PROMPT)
        for sampler in halved(kind, [*SAMPLERS.values()]):
            whole = runtime.generate_tokens(prompt, sampler.parameters, seed=5, max_tokens=12)
            expected = [event.id for event in (await whole.collect()).events if isinstance(event, Token)]
            async with runtime.context() as ctx:
                g = ctx.fill(prompt).generate(sampler, seed=5, max_tokens=12)
                found: list[int] = []
                async for step in g:
                    found += (await step.execute()).tokens
                assert found == expected
                assert ctx.tokens == [*prompt, *found]
                assert g.tokens_generated == len(found)
                assert g.is_done


@pytest.mark.parametrize("kind", KINDS)
async def test_a_choice_of_ones_own_is_the_same_as_the_samplers(kind: str) -> None:
    """A cleared step, its logits, and `accept` of the likeliest: greedy decoding by hand."""
    async with opened(kind) as runtime, runtime.context() as ctx:
        prompt = await runtime.prepare(PROMPT)
        greedy = await ctx.fill(prompt).generate(Sampler.greedy(), max_tokens=10).collect_tokens()
        await ctx.truncate(len(greedy))
        g = ctx.generate(Sampler.top_p(), max_tokens=10)
        found: list[int] = []
        async for step in g:
            step.clear_sampler()
            handle = step.probe(0, Logits())
            output = await step.execute()
            assert output.tokens == ()
            found += g.accept([int(output.logits(handle).argmax())])
        assert found == greedy


async def test_probes_are_of_the_raw_logits_under_every_order_of_calls() -> None:
    """Handles mean what they were made for, whatever was asked before or behind them, cleared or not."""
    async with opened("llama") as runtime, runtime.context() as ctx:
        g = ctx.fill("abc").generate(Sampler.top_k(0.7, 5), max_tokens=8, seed=1)
        each = g.probe_each_step(0, Entropy())
        number = 0
        async for step in g:
            orders = [step.clear_sampler] if number % 2 else []
            first = step.probe(0, Logits())
            for order in orders:
                order()
            rest = [step.probe(0, p) for p in (Distribution(temperature=0.7, k=5), Logprobs((1, 2)), Logprob(3))]
            output = await step.execute()
            row = output.logits(first).astype(np.float64)
            logs = row - np.log(np.exp(row - row.max()).sum()) - row.max()
            ids, weights = output.distribution(rest[0])
            assert ids.tolist() == np.argsort(-row, kind="stable")[:5].tolist()
            tempered = np.exp((row - row.max()) / 0.7)
            np.testing.assert_allclose(weights, (tempered / tempered.sum())[ids], rtol=1e-5)
            np.testing.assert_allclose(output.logprobs(rest[1]), logs[[1, 2]], rtol=1e-5)
            np.testing.assert_allclose(output.logprobs(rest[2]), logs[[3]], rtol=1e-5)
            np.testing.assert_allclose(output.entropy(each), -(np.exp(logs) * logs).sum(), rtol=1e-5)
            assert (output.tokens[0] in ids.tolist()) if output.tokens else number % 2 == 1
            if number % 2:
                g.accept([int(ids[0])])
            with pytest.raises(InvalidParameter):
                output.logits(each)
            number += 1
        assert number == 8


async def test_the_first_probe_is_the_distribution_that_the_sampler_used() -> None:
    """At temperature 1, unconstrained: the share of each token over many seeds is its probability."""
    async with opened("llama") as runtime, runtime.context() as ctx:
        ctx.fill("abcde")
        g = ctx.generate(Sampler.multinomial(1.0), seed=0)
        step = await anext(g)
        handle = step.probe(0, Distribution())
        ids, weights = (await step.execute()).distribution(handle)
        await g.rewind(1)
        kids = await g.fork_many(400)
        drawn: list[int] = []
        for kid in kids:
            drawn += (await (await anext(kid)).execute()).tokens
            await kid.aclose()
        share = drawn.count(int(ids[0])) / len(drawn)
        assert abs(share - float(weights[0])) < 4 * (weights[0] * (1 - weights[0]) / len(drawn)) ** 0.5
        await g.aclose()


async def test_a_masked_probe_has_no_probability_for_what_is_forbidden() -> None:
    """And the raw one does not know the constraint."""
    async with opened("llama") as runtime, runtime.context() as ctx:
        g = ctx.fill("abc").generate(Sampler.greedy(), constrain=Regex("[xy]{4}"), max_tokens=4)
        async for step in g:
            raw, masked = step.probe(0, Logits()), step.probe(0, Distribution(masked=True, k=3))
            output = await step.execute()
            assert np.isfinite(output.logits(raw)).all()
            ids, weights = output.distribution(masked)
            assert set(ids[:2].tolist()) == {ord("x"), ord("y")}
            assert weights[2] == 0
            assert output.tokens[0] == ids[0]
        assert g.stop_detail == "constraint"


async def test_one_step_may_draw_otherwise() -> None:
    """`step.sampler = …` holds for that step; the others draw as before."""
    async with opened("llama") as runtime, runtime.context() as ctx:
        g = ctx.fill("abc").generate(Sampler.multinomial(2.0), max_tokens=6, seed=3)
        plain = await (await g.fork()).collect_tokens()
        step = await anext(g)
        step.sampler = Sampler.greedy()
        handle = step.probe(0, Logits())
        output = await step.execute()
        assert output.tokens[0] == int(output.logits(handle).argmax())
        await g.rewind(1)
        assert await g.collect_tokens() == plain


async def test_a_step_is_used_once_and_a_pending_one_stops_everything() -> None:
    """What raises has changed nothing: the pending step still runs."""
    async with opened("scripted") as runtime, runtime.context() as ctx:
        g = ctx.fill("x").generate(Sampler.greedy(), max_tokens=5)
        with pytest.raises(StepPending):
            g.accept([1])
        step = await anext(g)
        with pytest.raises(StepPending):
            await anext(g)
        with pytest.raises(StepPending):
            await anext(g.tokens())
        with pytest.raises(StepPending):
            await g.collect_text()
        with pytest.raises(StepPending):
            g.accept([1])
        output = await step.execute()
        assert output.tokens == (ord(REPLY[0]),)
        with pytest.raises(StepUsed):
            await step.execute()
        with pytest.raises(StepUsed):
            step.clear_sampler()
        with pytest.raises(StepPending):
            g.accept([1])
        cleared = await anext(g)
        cleared.clear_sampler()
        await cleared.execute()
        with pytest.raises(StepPending):
            await anext(g)
        assert g.tokens_generated == 1
        assert g.accept([ord("?")]) == (ord("?"),)
        given_up = await anext(g)
        await g.rewind(0)
        with pytest.raises(StepUsed):
            await given_up.execute()
        assert g.text == "T?"
        assert await g.collect_text() == "T?he "


async def test_accept_checks_and_cuts() -> None:
    """Up to the stop token, up to `max_tokens`; a token that is illegal or unknown is refused, and nothing changes."""
    async with opened("scripted") as runtime, runtime.context() as ctx:

        async def cleared(**options: object) -> object:
            g = ctx.generate(Sampler.greedy(), **options)  # type: ignore[arg-type]
            step = await anext(g)
            step.clear_sampler()
            await step.execute()
            return g

        ctx.fill("x")
        stop = min(runtime.model.stop_tokens)
        g = await cleared(max_tokens=3)
        assert g.accept([65, 66, stop, 67]) == (65, 66)  # type: ignore[attr-defined]
        assert g.stop_detail == "eos"  # type: ignore[attr-defined]
        g = await cleared(max_tokens=3)
        assert g.accept([65, 66, 67, 68]) == (65, 66, 67)  # type: ignore[attr-defined]
        assert g.stop_detail == "max_tokens"  # type: ignore[attr-defined]
        g = await cleared(stop=[67])
        assert g.accept([65, 67, 66]) == (65,)  # type: ignore[attr-defined]
        assert g.stop_detail == "stop_token"  # type: ignore[attr-defined]
        g = await cleared(stop="BC")
        assert g.accept(list(b"ABCD")) == tuple(b"ABC")  # type: ignore[attr-defined]
        assert (g.text, g.stop_detail) == ("A", "stop_string")  # type: ignore[attr-defined]
        g = await cleared(constrain=Regex("a(b|c)d"))
        for wrong in ([400], [-1], ["a"], [True], list(b"ad"), [stop]):
            with pytest.raises(TokenRefused):
                g.accept(wrong)  # type: ignore[attr-defined]
        with pytest.raises(InvalidParameter):
            g.accept([])  # type: ignore[attr-defined]
        assert g.accept(list(b"acd")) == tuple(b"acd")  # type: ignore[attr-defined]
        assert g.stop_detail == "constraint"  # type: ignore[attr-defined]
        assert bytes(ctx.tokens[1:]) == b"ABABCAABCacd"


async def test_the_stop_conditions_of_the_page() -> None:
    """Default stops always, `stop` adds to them, an opt-out; the stop token is in no text, count or context."""
    async with Runtime(backend=Scripted({"*": Reply("abc.def")})) as runtime:
        stop = min(runtime.model.stop_tokens)
        for options, text, detail in (
            ({}, "abc.def", "eos"),
            ({"stop": [ord(".")]}, "abc", "stop_token"),
            ({"stop": [ord("?")]}, "abc.def", "eos"),
            ({"stop": [".d"]}, "abc", "stop_string"),
            ({"max_tokens": 2}, "ab", "max_tokens"),
            ({"max_tokens": 0}, "", "max_tokens"),
            ({"constrain": Regex("abc")}, "abc", "constraint"),
        ):
            async with runtime.context() as ctx:
                g = ctx.fill("x").generate(Sampler.greedy(), **options)
                assert await g.collect_text() == text
                assert (g.is_done, g.stop_detail) == (True, detail)
                assert stop not in ctx.tokens
                with pytest.raises(StopAsyncIteration):
                    await anext(g)
        async with runtime.context() as ctx:
            g = ctx.fill("x").generate(Sampler.greedy(), default_stops=False, max_tokens=9)
            assert (await g.collect_tokens())[7:] == [stop, stop]


async def test_what_can_never_work_is_refused_at_once() -> None:
    """No option is ignored in silence."""
    async with opened("scripted") as runtime, runtime.context() as ctx:
        ctx.fill("x")
        with pytest.raises(InvalidParameter, match="adapter must be"):
            ctx.generate(adapter="lora")  # type: ignore[arg-type]
        with pytest.raises(InvalidParameter):
            ctx.generate(max_tokens=-1)
        with pytest.raises(InvalidParameter):
            ctx.generate(stop=[10**6])
        with pytest.raises(InvalidParameter):
            Distribution(temperature=0.0)
        g = ctx.generate()
        with pytest.raises(ContextInUse):
            ctx.generate()
        with pytest.raises(ContextInUse):
            ctx.fill("y")
        step = await anext(g)
        for index in (-1, True, 1.5):
            with pytest.raises(InvalidParameter):
                step.probe(index, Logits())  # type: ignore[arg-type]
        with pytest.raises(InvalidParameter):
            step.sampler = GenerateParameters()  # type: ignore[assignment]
        await g.aclose()
        await g.aclose()
        with pytest.raises(ContextClosed):
            await step.execute()
        with pytest.raises(ContextClosed):
            await anext(g)
        assert ctx.tokens == [ord("x")]
        empty = runtime.context()
        with pytest.raises(InvalidPrompt):
            await anext(empty.generate())


@pytest.mark.parametrize("kind", PLAIN)
async def test_a_cancelled_step_is_undone_and_may_be_repeated(kind: str) -> None:
    """Whatever the moment of the cancellation: afterwards the same step draws the same token."""
    async with opened(kind) as runtime, runtime.context() as ctx:
        schema = JsonSchema({"type": "array", "items": {"enum": ["a", "bc"]}, "minItems": 4, "maxItems": 9})
        g = ctx.fill("List:").generate(Sampler.multinomial(1.0), constrain=schema, seed=9, max_tokens=12)
        expected = await (await g.fork()).collect_tokens()
        found: list[int] = []
        cancelled = 0
        async for step in g:
            for waits in range(4):
                before = g.output
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as group:

                        async def cancel(waits: int = waits, scope: anyio.CancelScope = scope) -> None:
                            for _ in range(waits):
                                await anyio.lowlevel.checkpoint()
                            scope.cancel()

                        group.start_soon(cancel)
                        found += (await step.execute()).tokens
                        group.cancel_scope.cancel()
                if step.output is not None:
                    break
                cancelled += 1
                assert g.output == before
            else:
                found += (await step.execute()).tokens
        assert found == expected == list(g.output)
        assert cancelled >= 3
