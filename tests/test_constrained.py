"""Constrained requests: legal by construction, the same however they are batched, ended by a reason or an error."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from passlog import PassLog

from greenroom.backends.scripted import Reply, Scripted
from greenroom.backends.scripted.tokenizer import END
from greenroom.constraints import (
    AnyJson,
    Bits,
    Choice,
    CompiledConstraint,
    Constraint,
    ConstraintState,
    JsonSchema,
    Lark,
    Regex,
)
from greenroom.errors import ConstraintFailed, DeadEnd, InvalidConstraint
from greenroom.events import Chunk
from greenroom.inputs.parameters import GenerateParameters
from greenroom.request.streams import Result
from greenroom.runtime import Runtime

ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "customer": {"type": "string", "maxLength": 12},
        "priority": {"enum": ["standard", "express"]},
        "quantity": {"type": "integer", "minimum": 0, "maximum": 99},
        "delivered": {"type": "boolean"},
    },
    "required": ["customer", "priority", "quantity", "delivered"],
    "additionalProperties": False,
}
COMPACT = JsonSchema(ORDER, whitespace=False)
SAID = '{"customer":"Ann","priority":"express","quantity":7,"delivered":true}'
GREEDY = GenerateParameters(temperature=0.0, max_tokens=120)


async def gathered(runtime: Runtime, asked: Sequence[tuple[str, dict[str, Any]]]) -> list[Result]:
    """The results of requests that run together."""
    streams = [runtime.generate(prompt, GREEDY, template=False, **options) for prompt, options in asked]
    return [await stream.collect() for stream in streams]


# What is forced.


@pytest.mark.parametrize("neighbours", [0, 1, 6])
async def test_forced_runs_save_passes_and_change_no_text(neighbours: int) -> None:
    """Alone the last pass is read first, among many free rows the next is built before: the text is the same."""
    passes = {}
    for force in (True, False):
        log = PassLog(Scripted({"order": SAID, "free": Reply("free text " * 8)}))
        async with Runtime(backend=log) as runtime:
            asked = [("order", {"constrain": COMPACT, "force_tokens": force}), *[("free", {})] * neighbours]
            result, *others = await gathered(runtime, asked)
        assert result.text == SAID
        assert [other.text for other in others] == ["free text " * 8] * neighbours
        assert result.info.constraint_complete
        assert result.info.stop_detail == "constraint"
        assert result.info.generation_tokens == len(SAID)
        assert (result.info.forced_tokens > 40) == force
        assert (result.info.forced_runs > 3) == force
        passes[force] = log.num_passes(0)
    assert passes[False] == len(SAID) + 1  # one was under way when the end was read
    assert passes[True] <= 14


@pytest.mark.parametrize("most", range(1, 30))
async def test_a_forced_run_ends_at_max_tokens(most: int) -> None:
    """Not one token more is told or counted, wherever the end falls, and it is told as incomplete."""
    async with Runtime(backend=Scripted({"order": SAID})) as runtime:
        result = await runtime.generate("order", template=False, constrain=COMPACT, max_tokens=most).collect()
    assert result.text == SAID[:most]
    assert result.info.generation_tokens == most
    assert (result.info.stop_detail, result.info.constraint_complete) == ("max_tokens", False)


async def test_a_stop_string_inside_a_forced_run_ends_the_text_there() -> None:
    """What was forced behind it is neither told nor counted."""
    async with Runtime(backend=Scripted({"order": SAID})) as runtime:
        result = await runtime.generate("order", template=False, constrain=COMPACT, stop="iori").collect()
    assert result.text == '{"customer":"Ann","pr'
    assert result.info.generation_tokens == len('{"customer":"Ann","priori')
    assert (result.info.stop_detail, result.info.constraint_complete) == ("stop_string", False)


async def test_what_is_forced_altogether_costs_no_pass() -> None:
    """One choice only: there is nothing to draw."""
    backend = Scripted()
    async with Runtime(backend=backend) as runtime:
        result = await runtime.generate("any", constrain=Choice("yes")).collect()
        assert backend.passes == 0
    assert result.text == "yes"
    assert (result.info.forced_tokens, result.info.stop_detail, result.info.constraint_complete) == (
        3,
        "constraint",
        True,
    )


async def test_a_forced_run_longer_than_the_budget_is_fed_in_pieces() -> None:
    """A step runs no more tokens than it may."""
    text = "".join(chr(97 + i % 26) for i in range(100))
    log = PassLog(Scripted({"p": f"X{text}1"}))
    async with Runtime(backend=log, max_rows=4, max_step_tokens=16) as runtime:
        result = await runtime.generate("p", template=False, constrain=Regex(f"[XY]{text}[01]")).collect()
    assert result.text == f"X{text}1"
    assert result.info.forced_tokens == 100
    assert log.num_passes(0) >= 2 + 100 // 16


async def test_log_probabilities_are_of_drawn_tokens_so_nothing_is_forced() -> None:
    """Each token has one."""
    async with Runtime(backend=Scripted({"order": SAID})) as runtime:
        result = await runtime.generate("order", template=False, constrain=COMPACT, logprobs=0).collect()
    assert result.text == SAID
    assert result.info.forced_tokens == 0


@pytest.mark.parametrize("kv_bytes", [60, 90, 10_000])
async def test_rows_that_are_replayed_go_on_where_their_constraint_stands(kv_bytes: int) -> None:
    """Scarce memory has rows give their KV back in mid-run, forced tokens recorded or not."""
    backend = Scripted({"order": SAID, "free": "abcdefgh" * 6}, kv_bytes_per_token=1)
    async with Runtime(backend=backend, kv_bytes=kv_bytes + 30) as runtime:
        asked = [("order", {"constrain": COMPACT}), ("free", {}), ("order", {"constrain": COMPACT})]
        first, free, last = await gathered(runtime, asked)
    assert first.text == last.text == SAID
    assert free.text == "abcdefgh" * 6


# How requests end.


async def test_an_end_is_legal_only_where_the_constraint_accepts() -> None:
    """The model wants to stop at once, and in the middle; it cannot."""
    ends = Reply(ids=(END, *b"a", END, *b"aa"))
    async with Runtime(backend=Scripted({"p": ends})) as runtime:
        result = await runtime.generate("p", template=False, constrain=Regex("[ab]{3,5}"), max_tokens=20).collect()
    assert result.text == "aaa"
    assert (result.info.stop_detail, result.info.constraint_complete) == ("eos", True)


@pytest.mark.parametrize("constrain", [[Choice("yes", "yea"), Regex("n.*")], [Regex("ab[xy]."), Regex("ab[z0].")]])
async def test_contradictory_constraints_are_a_typed_dead_end(constrain: object) -> None:
    """It names what had been written, and a neighbour notices nothing."""
    async with Runtime(backend=Scripted({"p": "abx", "free": "free text"})) as runtime:
        neighbour = runtime.generate("free", template=False)
        with pytest.raises(DeadEnd) as caught:
            await runtime.generate("p", template=False, constrain=constrain).collect()
        assert (await neighbour.collect()).text == "free text"
    assert caught.value.text in {"", "ab"}
    assert caught.value.info is not None
    assert caught.value.info.constraint_complete is False


class Vowels(ConstraintState):
    """A constraint of a user's own: vowels, up to four of them; told to, it breaks."""

    def __init__(self, breaks: str = "", count: int = 0) -> None:
        self.breaks = breaks
        self.count = count
        self.wrong: str | None = None

    def fill_mask(self, out: Bits) -> None:
        """See `ConstraintState`."""
        if self.breaks == "fill" and self.count == 2:
            raise OSError("out of vowels")
        out[:] = 0
        for letter in b"aeiou":
            out[letter // 32] |= 1 << letter % 32

    def consume(self, tokens: Sequence[int]) -> None:
        """See `ConstraintState`."""
        self.count += len(tokens)
        if self.breaks == "consume" and self.count == 2:
            raise OSError("out of vowels")
        if self.breaks == "error" and self.count == 2:
            self.wrong = "out of vowels"

    def validate(self, tokens: Sequence[int]) -> int:
        """See `ConstraintState`."""
        return next((i for i, token in enumerate(tokens) if token not in b"aeiou"), len(tokens))

    def forced_tokens(self) -> tuple[int, ...]:
        """See `ConstraintState`."""
        if self.breaks == "force" and self.count == 2:
            raise OSError("out of vowels")
        return ()

    def rollback(self, count: int) -> None:
        """See `ConstraintState`."""
        self.count -= count

    def fork(self) -> Vowels:
        """See `ConstraintState`."""
        return Vowels(self.breaks, self.count)

    def reset(self) -> None:
        """See `ConstraintState`."""
        self.count = 0

    @property
    def is_accepting(self) -> bool:
        """See `ConstraintState`."""
        return self.count == 4

    @property
    def is_stopped(self) -> bool:
        """See `ConstraintState`."""
        return self.count == 4

    @property
    def error(self) -> str | None:
        """See `ConstraintState`."""
        return self.wrong


@dataclass(frozen=True)
class Vocal(Constraint):
    """The constraint of `Vowels`; told to, its output does not fit in the end."""

    breaks: str = ""

    def compile(self, grammars: object) -> CompiledConstraint:  # noqa: ARG002 - it needs no vocabulary
        """See `Constraint`."""
        if self.breaks == "compile":
            raise OSError("out of vowels")
        check = (lambda _: "out of vowels") if self.breaks == "check" else None
        return CompiledConstraint(Vowels(self.breaks), check=check)


async def test_a_constraint_of_ones_own_binds() -> None:
    """Of the scripted text it leaves the vowels."""
    async with Runtime(backend=Scripted({"p": "greenroom"})) as runtime:
        result = await runtime.generate("p", template=False, constrain=Vocal()).collect()
    assert len(result.text) == 4
    assert set(result.text) <= set("aeiou")
    assert result.info.stop_detail == "constraint"


@pytest.mark.parametrize("breaks", ["fill", "consume", "error", "force", "check"])
async def test_a_constraint_that_breaks_fails_its_request_alone(breaks: str) -> None:
    """Never a normal end: what it raised or said is in the error, with the counts; the neighbour goes on."""
    async with Runtime(backend=Scripted({"p": "aeiou", "free": "free text"})) as runtime:
        neighbour = runtime.generate("free", template=False)
        with pytest.raises(ConstraintFailed, match="out of vowels") as caught:
            await runtime.generate("p", template=False, constrain=Vocal(breaks)).collect()
        assert (await neighbour.collect()).text == "free text"
        assert (await runtime.generate("p", template=False, constrain=Vocal()).collect()).info.constraint_complete
    assert caught.value.info is not None
    assert caught.value.info.generation_tokens in {2, 4}


@pytest.mark.parametrize("constrain", [Regex("[unclosed"), Vocal("compile"), {"type": "nothing"}])
async def test_a_constraint_that_does_not_compile_costs_no_pass(constrain: object) -> None:
    """It is the caller's to change."""
    backend = Scripted()
    async with Runtime(backend=backend) as runtime:
        with pytest.raises(InvalidConstraint):
            await runtime.generate("p", constrain=constrain).collect()
    assert backend.passes == 0


async def test_cancelled_in_a_forced_run_a_request_settles() -> None:
    """As anywhere else; its counts are there."""
    backend = Scripted({"order": SAID})
    async with Runtime(backend=backend) as runtime:
        backend.hold()
        stream = runtime.generate("order", template=False, constrain=COMPACT)
        await anyio.to_thread.run_sync(backend.wait_held)
        stream.task.cancel()
        backend.release_all()
        info = await stream.task
        assert info.stop_reason == "cancelled"
        assert runtime.statistics().kv_bytes == 0


# On a model.


def schemas(rng: random.Random, depth: int = 2) -> dict[str, Any]:
    """A random schema of a few properties."""
    kinds: list[dict[str, Any]] = [
        {"type": "integer", "minimum": 0, "maximum": 999},
        {"type": "boolean"},
        {"enum": ["red", "green", "blue"]},
        {"type": "string", "maxLength": 6},
        {"const": "a fixed and rather long value"},
        {"type": "null"},
    ]
    if depth:
        kinds += [schemas(rng, depth - 1), {"type": "array", "items": rng.choice(kinds), "maxItems": 3}]
    names = rng.sample(["name", "age", "colour", "note", "delivered", "quantity"], rng.randint(1, 3))
    properties = {name: rng.choice(kinds) for name in names}
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", range(2))
async def test_the_text_is_the_same_forced_or_not_alone_or_together(seed: int) -> None:
    """Greedy, on the understudy: twelve constrained rows and six free ones, in one batch and one by one."""
    rng = random.Random(seed)  # noqa: S311 - a workload is no secret
    constraints = [JsonSchema(schemas(rng), whitespace=False) for _ in range(12)]
    prompts = [f"Record number {i}: fill it in." for i in range(12)]
    free: list[tuple[str, dict[str, Any]]]
    forced: list[tuple[str, dict[str, Any]]]
    async with Runtime() as runtime:
        free = [(f"Tell me a story about number {i}.", {"max_tokens": 40}) for i in range(6)]
        forced = [(p, {"constrain": c}) for p, c in zip(prompts, constraints, strict=True)]
        stepwise = [(p, {"constrain": c, "force_tokens": False}) for p, c in zip(prompts, constraints, strict=True)]
        together = await gathered(runtime, [*forced, *free])
        unforced = await gathered(runtime, [*stepwise, *free])
        alone = [(await gathered(runtime, [one]))[0] for one in [*forced, *free]]
    assert [result.text for result in together] == [result.text for result in alone]
    assert [result.text for result in unforced[12:]] == [result.text for result in alone[12:]]
    same = sum(a.text == b.text for a, b in zip(unforced[:12], alone[:12], strict=True))
    assert same == 12
    assert sum(result.info.forced_tokens for result in together) > 100
    for result in together[:12]:
        if result.info.constraint_complete:
            json.loads(result.text)


@pytest.mark.timeout(180)
async def test_constrained_neighbours_change_no_free_rows_tokens() -> None:
    """Random schemas, cancels and neighbours, drawn hot: constrained rows are legal, free ones as they are alone."""
    rng = random.Random(11)  # noqa: S311 - a workload is no secret
    free = [(f"Story {i}", GenerateParameters(temperature=0.9, seed=i, max_tokens=50)) for i in range(8)]
    async with Runtime(prefix_bytes=0) as runtime:
        wanted = [(await runtime.generate(prompt, options).collect()).text for prompt, options in free]
        for _ in range(3):
            streams = [runtime.generate(prompt, options) for prompt, options in free]
            bound = [
                runtime.generate(
                    "Fill it in.", temperature=1.2, seed=i, max_tokens=80, constrain=JsonSchema(schemas(rng))
                )
                for i in range(8)
            ]
            for stream in rng.sample(bound, 2):
                stream.task.cancel()
            assert [(await stream.collect()).text for stream in streams] == wanted
            for stream in bound:
                result = await stream.collect()
                if result.info.constraint_complete:
                    assert isinstance(json.loads(result.text), dict)


async def test_sampling_is_honoured_under_a_mask() -> None:
    """A mask leaves more than one token: hot draws differ by seed and repeat by it, top_k=1 is the greedy choice."""
    async with Runtime() as runtime:
        digits = Regex("[0-9]{12}")
        hot = [
            (await runtime.generate("Digits", constrain=digits, temperature=5.0, seed=seed).collect()).text
            for seed in (1, 2, 3, 1)
        ]
        cold = [
            (await runtime.generate("Digits", constrain=digits, temperature=t, top_k=k, seed=1).collect()).text
            for t, k in ((0.0, 0), (3.0, 1))
        ]
    assert hot[0] == hot[3]
    assert len(set(hot)) == 3
    assert cold[0] == cold[1]


async def test_any_json_is_json() -> None:
    """Whatever the model would rather say."""
    async with Runtime() as runtime:
        for seed in range(4):
            result = await runtime.generate(
                "Hello", constrain=AnyJson(), temperature=1.0, seed=seed, max_tokens=60
            ).collect()
            if result.info.constraint_complete:
                json.loads(result.text)


async def test_a_marker_in_a_json_string_is_text() -> None:
    """An answer in JSON has no thoughts and no calls, whatever its strings spell."""
    text = "<think> a <tool_call>"
    async with Runtime(backend=Scripted(json.dumps(text))) as runtime:
        stream = runtime.generate("x", constrain=JsonSchema({"const": text}), tools=[len_of])
        events = (await stream.collect()).events
        assert {type(event) for event in events} == {Chunk}
        assert json.loads("".join([event.text for event in events if isinstance(event, Chunk)])) == text


def len_of(text: str) -> int:
    """The length of a text."""
    return len(text)


async def test_a_grammar_whose_masks_grow_fails_its_request_alone() -> None:
    """Each token of an ambiguous text adds to what a mask takes: it is given up while that is some milliseconds."""
    grammar = Lark('start: a\na: "x" a | "x" b | "x"\nb: "x" a | "x" b | "x"')
    async with Runtime(backend=Scripted({"grows": Reply("x", repeat=True), "*": "neighbour" * 20})) as runtime:
        neighbour = runtime.generate("other", template=False)
        with pytest.raises(ConstraintFailed, match="items") as caught:
            await runtime.generate("grows", template=False, constrain=grammar, max_tokens=299).collect()
        assert (await neighbour.collect()).text == "neighbour" * 20
    assert caught.value.info is not None
    assert caught.value.info.generation_tokens > 100
