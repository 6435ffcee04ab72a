"""Requests under a foreign engine, in batches with our own constraint: the text is the same."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from cbison_engines import library, toy

from greenroom.backends.scripted import Reply, Scripted
from greenroom.backends.scripted.tokenizer import SPECIAL, STOP
from greenroom.constraints import Cbison, Constraint, JsonSchema, Regex, Vocabulary
from greenroom.constraints.cbison import CbisonFactory, CbisonTokenizerProvider, TokenList, llguidance_cbison_factory
from greenroom.errors import ConstraintFailed, InvalidConstraint, RuntimeClosed
from greenroom.request.streams import Result
from greenroom.runtime import Runtime

ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "priority": {"enum": ["standard", "express"]},
        "quantity": {"type": "integer"},
        "delivered": {"type": "boolean"},
    },
    "required": ["priority", "quantity", "delivered"],
    "additionalProperties": False,
}
COMPACT = {**ORDER, "x-guidance": {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}}
SAID = '{"priority":"express","quantity":-70,"delivered":true}'
NUMBER = r"-?[0-9]+(\.[0-9]+)?"
WORDS = [bytes([byte]) for byte in range(256)] + [mark.encode() for mark in SPECIAL]
BYTES = TokenList(WORDS, special=set(SPECIAL.values()), eos=sorted(STOP), encode=list)
"""The scripted model's own vocabulary."""


async def results(runtime: Runtime, asked: Sequence[tuple[str, Constraint]], **options: Any) -> list[Result]:
    """What requests that run together come to; each has a seed of its own."""
    streams = [
        runtime.generate(prompt, template=False, constrain=constrain, seed=at, **options)
        for at, (prompt, constrain) in enumerate(asked)
    ]
    return [await stream.collect() for stream in streams]


def toy_over_bytes(*options: str) -> CbisonFactory:
    """The C engine over the scripted model's tokens."""
    provider = CbisonTokenizerProvider(BYTES)
    return CbisonFactory.from_library(library("engine"), "toy", provider, {"options": options})


@pytest.mark.parametrize("options", [(), ("bare",)], ids=["whole", "without optional slots"])
@pytest.mark.parametrize("force", [True, False])
async def test_the_c_engine_writes_what_our_own_constraint_writes(options: tuple[str, ...], force: bool) -> None:
    """Rows of both in one batch, whether what is forced is fed in runs or drawn token by token."""
    before = toy().toy_live_allocations()
    with toy_over_bytes(*options) as factory:
        ours = [JsonSchema(ORDER, whitespace=False), Regex(NUMBER)]
        theirs = [Cbison(factory, "json_schema", json.dumps(COMPACT)), Cbison(factory, "regex", NUMBER)]
        prompts = ["order", "-12.5", "neither", "7x7"]
        asked = [(prompt, constrain) for constrain in [*ours, *theirs] for prompt in prompts]
        said = {"order": SAID, "7x7": "7x7.7", "-12.5": "-12.5", "neither": "neither"}
        backend = Scripted({prompt: Reply(text, bends=True) for prompt, text in said.items()})
        async with Runtime(backend=backend) as runtime:
            found = await results(runtime, asked, force_tokens=force, max_tokens=80)
    half = len(found) // 2
    assert [result.text for result in found[half:]] == [result.text for result in found[:half]]
    assert [result.info.constraint_complete for result in found[half:]] == [
        result.info.constraint_complete for result in found[:half]
    ]
    assert found[half].text == SAID
    forced = [result.info.forced_tokens for result in found]
    assert (sum(forced[half : half + 4]) > 0) == (force and not options)
    assert toy().toy_live_allocations() == before


@pytest.mark.timeout(120)
@pytest.mark.parametrize("native", [True, False])
async def test_our_exported_engine_writes_what_our_own_constraint_writes(native: bool) -> None:
    """On the understudy, drawn hot and in one batch: masks that differ in one bit would tell."""
    schema = json.dumps(COMPACT)
    async with Runtime() as runtime:
        vocabulary = Vocabulary.of(runtime.tokenizer, runtime.model.vocab_size, sorted(runtime.model.stop_tokens))
        with llguidance_cbison_factory(vocabulary, native=native) as export:
            factory = CbisonFactory.from_address(export.address, owned=False)
            prompts = [f"Record number {at}: fill it in." for at in range(4)]
            pairs = [
                (JsonSchema(ORDER, whitespace=False), Cbison(factory, "json_schema", schema)),
                (Regex("[A-Z][a-z ]{3,20}"), Cbison(factory, "regex", "[A-Z][a-z ]{3,20}")),
            ]
            for ours, theirs in pairs:
                first = [(prompt, constrain) for prompt, constrain in zip(prompts, [ours, theirs] * 2, strict=True)]
                second = [(prompt, constrain) for prompt, constrain in zip(prompts, [theirs, ours] * 2, strict=True)]
                one = await results(runtime, first, temperature=1.0, max_tokens=40)
                other = await results(runtime, second, temperature=1.0, max_tokens=40)
                assert [result.text for result in one] == [result.text for result in other]
                assert all(result.text for result in one)
            factory.close()
        assert export.reference_count == 0


@pytest.mark.parametrize("fault", ["mask_breaks", "mask_breaks_unsaid", "mask_says_7", "consume_breaks", "null_clone"])
async def test_an_engine_that_breaks_fails_its_request_alone(fault: str) -> None:
    """A typed error with the counts; the neighbour under our own constraint ends as it should."""
    with toy_over_bytes(fault) as factory:
        async with Runtime(backend=Scripted({"p": "abbb", "order": SAID})) as runtime:
            neighbour = runtime.generate("order", template=False, constrain=JsonSchema(ORDER, whitespace=False))
            with pytest.raises(ConstraintFailed) as caught:
                await runtime.generate("p", template=False, constrain=Cbison(factory, "regex", "ab*")).collect()
            assert caught.value.info is not None
            assert (await neighbour.collect()).text == SAID


async def test_a_grammar_that_the_engine_refuses_costs_no_pass() -> None:
    """Its words are in the error."""
    backend = Scripted()
    with toy_over_bytes() as factory:
        async with Runtime(backend=backend) as runtime:
            with pytest.raises(InvalidConstraint, match="unclosed group"):
                await runtime.generate("p", constrain=Cbison(factory, "regex", "(a")).collect()
    assert backend.passes == 0


async def test_a_settled_request_has_given_its_matcher_back() -> None:
    """Ended or cancelled, with its stream still held; the factory closes while the runtime is open."""
    before = toy().toy_live_matchers()
    factory = toy_over_bytes()
    constrain = Cbison(factory, "regex", "a*b")
    async with Runtime(backend=Scripted({"ends": "aab", "goes on": "a" * 50})) as runtime:
        ended = runtime.generate("ends", template=False, constrain=constrain)
        assert await ended.text() == "aab"
        assert factory.num_matchers == 1  # the compiled one, which waits for requests
        running = runtime.generate("goes on", template=False, constrain=constrain)
        async for _ in running:
            break
        await running.aclose()
        assert factory.num_matchers == 1
        factory.close()
        assert factory.is_released
    assert toy().toy_live_matchers() == before


async def test_a_runtime_stands_for_its_model_s_vocabulary() -> None:
    """For an engine of somebody else's, and for ours: ids and EOS as the runtime's own constraints know them."""
    async with Runtime(backend=Scripted({"x": Reply("-12.5", bends=True)})) as runtime:
        with CbisonTokenizerProvider(runtime) as provider:
            assert list(provider.eos_ids) == list(runtime.vocabulary.eos)
            assert provider.source.n_vocab == runtime.model.vocab_size
        with llguidance_cbison_factory(runtime) as export:
            factory = CbisonFactory.from_address(export.address, owned=False)
            found = await runtime.generate("x", constrain=Cbison(factory, "regex", NUMBER), max_tokens=20).text()
            factory.close(defer=True)
    assert re.fullmatch(NUMBER, found)
    with pytest.raises(RuntimeClosed):
        llguidance_cbison_factory(runtime)
    with pytest.raises(InvalidConstraint, match="int is no runtime"):
        llguidance_cbison_factory(3)
