"""Files of generations: what is loaded goes on as what was saved would have, wherever it stood."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from anyio import create_task_group
from branch_models import opened
from safetensors import numpy as tensors

from greenroom import (
    AnyJson,
    Choice,
    Chunk,
    Drafting,
    Event,
    Gbnf,
    GenerateParameters,
    Generator,
    Info,
    JsonSchema,
    Lark,
    Lazy,
    Regex,
    Reply,
    Runtime,
    Sampler,
    Scripted,
    Snapshot,
    Speculator,
    StructTag,
    Tag,
)
from greenroom.constraints import All, CompiledConstraint, Constraint
from greenroom.constraints.constraint import Compiler, GrammarConstraint
from greenroom.constraints.kinds.reasoning_budget import ReasoningBudget
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import InvalidConstraint, InvalidSnapshot, NotSupported, SnapshotMismatch
from greenroom.parsing.forced import forced_calls
from greenroom.parsing.thinking import Thinking
from greenroom.request.codec import Source, constraint_from, source_of
from greenroom.request.current import session_of

PLACE = JsonSchema(
    {
        "type": "object",
        "properties": {"city": {"enum": ["Seattle", "Chicago"]}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["city", "n"],
        "additionalProperties": False,
    },
    whitespace=False,
)
SAMPLERS = {"greedy": Sampler.greedy(), "seeded": Sampler.multinomial(1.0)}
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


async def pulled(g: Generator, count: int) -> None:
    """Read so many tokens, and pause."""
    if count:
        async for _ in g.tokens():
            count -= 1
            if count == 0:
                break


async def saved(g: Generator, path: Path) -> Generator:
    """Through a file."""
    await (await g.snapshot()).save(path)
    return await (await Snapshot.load(path)).restore()


def timeless(info: Info) -> Info:
    """Without times, and what KV happened to be there."""
    nothing: dict[str, Any] = {"queue_time": 0.0, "prompt_time": 0.0, "generate_time": 0.0, "cached_prompt_tokens": 0}
    return msgspec.structs.replace(info, **nothing)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", ["scripted", "understudy", "llama", "gemma3", "mamba2"])
async def test_a_loaded_generation_goes_on_from_every_position(kind: str, sampler: str, tmp_path: Path) -> None:
    """Under a constraint; what it knows of itself is the same too, and so are the seeds that it derives."""
    path = tmp_path / "g.safetensors"
    async with opened(kind) as runtime, runtime.context() as ctx:
        options: dict[str, Any] = {"constrain": PLACE, "seed": 2**64 - 1}
        ctx.fill("A place:")
        expected = await (await ctx.fork()).generate(SAMPLERS[sampler], **options).collect_tokens()
        for position in range(len(expected) + 1):
            g = (await ctx.fork()).generate(SAMPLERS[sampler], **options)
            await pulled(g, position)
            await g.fork_many(2)
            loaded = await saved(g, path)
            assert (loaded.output, loaded.text, loaded.seed, loaded.is_done) == (g.output, g.text, g.seed, g.is_done)
            assert loaded.info == g.info
            assert loaded.context.tokens == g.context.tokens
            assert [each.seed for each in await loaded.fork_many(2)] == [each.seed for each in await g.fork_many(2)]
            assert await loaded.collect_tokens() == expected
            assert (loaded.stop_detail, loaded.info.constraint_complete) == ("constraint", True)
            await loaded.aclose()
            await g.aclose()


@pytest.mark.parametrize("kind", ["understudy", "llama"])
async def test_a_file_outlives_its_runtime(kind: str, tmp_path: Path) -> None:
    """Another opening of the same model goes on with the same tokens, parameters included."""
    path = tmp_path / "g.safetensors"
    parameters = GenerateParameters(
        temperature=1.3, top_p=0.9, top_k=40, min_p=0.01, repetition_penalty=1.2, logit_bias={7: -2.5}, max_tokens=24
    )
    async with opened(kind) as runtime, runtime.context() as ctx:
        g = ctx.fill("Once upon a time").generate(parameters, default_stops=False)
        await pulled(g, 7)
        await (await g.snapshot()).save(path)
        expected = await g.collect_tokens()
    async with opened(kind) as runtime:
        snapshot = await Snapshot.load(path, runtime)
        for _ in range(2):
            loaded = await snapshot.restore()
            assert loaded.sampler == g.sampler
            assert await loaded.collect_tokens() == expected
            assert timeless(loaded.info) == timeless(g.info)
        assert snapshot.open().tokens == [*b"", *snapshot.tokens]


TEXT = "Grüße, 你好 👋! One STOP is no STEP, and that is the STOP-sign."


@pytest.mark.parametrize("options", [{}, {"stop": ["STOP-", "that is it"]}, {"logprobs": 2, "stop": ["STOP-sign"]}])
async def test_nothing_is_lost_within_a_character_or_a_stop_string(options: dict[str, Any], tmp_path: Path) -> None:
    """Saved behind each event and each byte; text, events and log-probabilities are those of one that was not."""
    path = tmp_path / "g.safetensors"
    async with Runtime(backend=Scripted({"*": Reply(TEXT)})) as runtime, runtime.context() as ctx:
        ctx.user("x").cue()

        async def begun() -> Generator:
            return (await ctx.fork()).generate(GenerateParameters(temperature=0.0, seed=1, **options))

        expected = [event async for event in (await begun()).events()]
        tokens = await (await begun()).collect_tokens()
        text = await (await begun()).collect_text()
        for position in range(len(tokens) + 1):
            g = await begun()
            await pulled(g, position)
            loaded = await saved(g, path)
            assert loaded.text == g.text
            assert await loaded.collect_text() == text
        for position in range(len(expected) + 1):
            g, read = await begun(), list[Event]()
            while len(read) < position:
                read.append(await anext(g.events()))
            loaded = await saved(g, path)
            read += [event async for event in loaded.events()]
            assert [timeless(e) if isinstance(e, Info) else e for e in read] == [
                timeless(e) if isinstance(e, Info) else e for e in expected
            ]
            assert [event async for event in loaded.events()] == []
        assert "".join([event.text for event in expected if isinstance(event, Chunk)]) == text


async def test_the_info_is_told_once_whoever_is_copied_before_it(tmp_path: Path) -> None:
    """Where the end holds text back, there is an event between the last token and the `Info`."""
    async with Runtime(backend=Scripted({"*": Reply("so STO")})) as runtime, runtime.context() as ctx:
        g = ctx.user("x").cue().generate(Sampler.greedy(), stop=["STOP"])
        found: list[Event] = []
        async for event in g.events():
            found.append(event)
            if g.is_done:
                break
        for copy in (await g.fork(), await (await g.snapshot()).restore(), await saved(g, tmp_path / "g")):
            rest = [event async for event in copy.events()]
            assert "".join([e.text for e in (*found, *rest) if isinstance(e, Chunk)]) == "so STO"
            assert [isinstance(event, Info) for event in rest].count(True) == 1
        assert isinstance([event async for event in g.events()][-1], Info)
        assert [event async for event in (await g.fork()).events()] == []


CONSTRAINTS: dict[str, Callable[[], Constraint]] = {
    "schema": lambda: PLACE,
    "spaced": lambda: JsonSchema({"type": "array"}, separators=(", ", ": [x]")),
    "lenient": lambda: JsonSchema({"type": "integer", "multipleOf": 3, "x-unknown": 1}, lenient=True),
    "pattern": lambda: JsonSchema(True, whitespace="[ ]?"),
    "any": lambda: AnyJson(separators=(",", ":")),
    "regex": lambda: Regex("[a-z]+ü?"),
    "lark": lambda: Lark('start: "a" | "b"'),
    "gbnf": lambda: Gbnf('root ::= "a" | "b"'),
    "choice": lambda: Choice("yes", "no", "\n"),
    "tags": lambda: StructTag(Tag("<a>", PLACE, "</a>"), Tag("<ab>", Regex("x+"), "", "<a"), required=True),
    "lazy": lambda: Lazy(7, Lazy("</think>", PLACE)),
    "all": lambda: All(Regex("a+"), All(Choice("a"), AnyJson())),
    "budget": lambda: ReasoningBudget((1, 2), (3,), 9, is_open=True),
    "spelt calls": lambda: forced_calls("pythonic", [WEATHER]),
    "calls": lambda: forced_calls("hermes", [WEATHER], thinking=Thinking("<think>", "</think>"), is_thinking=True),
}


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_every_constraint_of_ours_is_data(name: str) -> None:
    """Through JSON and back it is equal, so it has one grammar with what was saved."""
    constraint = CONSTRAINTS[name]()
    text = msgspec.json.encode(source_of(constraint))
    assert constraint_from(msgspec.json.decode(text, type=Source)) == constraint


class Even(Constraint):
    """Code."""

    def compile(self, grammars: Compiler) -> CompiledConstraint:
        """See `Constraint.compile`."""
        return grammars.compile(Regex("([ab][ab])*"))


class Own(Regex):
    """Code, though it begins as data."""

    def grammar(self, vocabulary: Vocabulary) -> str:
        """See `GrammarConstraint.grammar`."""
        return super().grammar(vocabulary)


async def test_what_is_code_is_refused_by_name(tmp_path: Path) -> None:
    """At the save, which leaves no file; within another constraint too. A schema that is data is named as the way."""
    path = tmp_path / "g"
    async with opened("scripted") as runtime:
        matcher = session_of(runtime).client.compile(Regex("a+")).start()
        refused: Sequence[tuple[Any, str]] = [
            (Even(), "Even"),
            (Own("a+"), "Own"),
            ([Regex("a+"), Lazy("x", Even())], "Even"),
            (list[int], "list"),
            (matcher, "GrammarMatcher"),
        ]
        for constrain, named in refused:
            snapshot = await runtime.context().fill("x").generate(constrain=constrain).snapshot()
            with pytest.raises(NotSupported, match=named):
                await snapshot.save(path)
            assert os.listdir(tmp_path) == []  # noqa: PTH208 - nothing blocks for long
            assert await (await snapshot.restore()).collect_tokens() is not None
        assert issubclass(Own, GrammarConstraint)


async def test_saves_of_one_snapshot_do_not_meet(tmp_path: Path) -> None:
    """From as many threads as there are: none fails, the file is whole, its owner's alone, and the only one."""
    path = tmp_path / "g"
    async with opened("scripted") as runtime, runtime.context() as ctx:
        snapshot = await ctx.fill("A place:").snapshot()
        async with create_task_group() as group:
            for _ in range(240):
                group.start_soon(snapshot.save, path)
        assert (await Snapshot.load(path)).tokens == snapshot.tokens
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["g"]  # noqa: PTH208 - nothing blocks for long


class Wrong(Speculator):
    """Guesses that are never right."""

    def draft(self, context: Drafting) -> Sequence[int]:
        """See `Speculator.draft`."""
        return [1, 2, 3][: context.most]


@pytest.mark.parametrize("kind", ["scripted", "llama"])
async def test_guesses_change_nothing_in_a_file(kind: str, tmp_path: Path) -> None:
    """The built-in drafter guesses on; one of the user's is left out, and counts stay what they were."""
    async with opened(kind) as runtime, runtime.context() as ctx:
        ctx.fill("abcabcabcabc" * 4)
        options: dict[str, Any] = {"max_tokens": 40, "default_stops": False}
        g = (await ctx.fork()).generate(Sampler.greedy(), system_speculation=True, **options)
        await pulled(g, 3)
        loaded = await saved(g, tmp_path / "g")
        assert await loaded.collect_tokens() == await g.collect_tokens()
        assert loaded.info.drafted_tokens > 0
        g = (await ctx.fork()).generate(Sampler.greedy(), speculator=Wrong(), **options)
        await pulled(g, 3)
        loaded = await saved(g, tmp_path / "g")
        drafted = loaded.info.drafted_tokens
        assert drafted == g.info.drafted_tokens > 0
        assert await loaded.collect_tokens() == await g.collect_tokens()
        assert loaded.info.drafted_tokens == drafted < g.info.drafted_tokens


@contextmanager
def changed(path: Path, change: Callable[[dict[str, Any]], object], **meta: str) -> Iterator[None]:
    """The file with another generation in it."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    metadata = json.loads(whole[8 : 8 + length])["__metadata__"]
    generation = json.loads(metadata["generation"])
    change(generation)
    metadata |= {"generation": json.dumps(generation)} | meta
    path.write_bytes(tensors.save(tensors.load(whole), metadata))
    yield
    path.write_bytes(whole)


async def test_a_file_of_something_else_is_a_typed_error(tmp_path: Path) -> None:
    """Wherever it is cut, whatever is changed in it; a lie about tokens is found by the constraint."""
    path = tmp_path / "g"
    async with opened("scripted") as runtime:
        g = runtime.context().fill("A place:").generate(Sampler.greedy(), constrain=PLACE)
        await pulled(g, 5)
        await (await g.snapshot()).save(path)
        whole = path.read_bytes()
        for length in range(0, len(whole), 61):
            path.write_bytes(whole[:length])
            with pytest.raises(InvalidSnapshot):
                await Snapshot.load(path)
        path.write_bytes(whole)
        changes: list[Callable[[dict[str, Any]], object]] = [
            lambda g: g.pop("seed"),
            lambda g: g.update(seed=-1),
            lambda g: g.update(start=0),
            lambda g: g.update(start=10**6),
            lambda g: g.update(later=1),
            lambda g: g["parameters"].update(temperature=-1.0),
            lambda g: g["parameters"].update(warmth=1.0),
            lambda g: g["constraint"].update(kind="python"),
            lambda g: g["constraint"].update(text="{"),
            lambda g: g["constraint"].update(options="7"),
            lambda g: g["constraint"].update(text='{"const": 1}'),
            lambda g: g.update(ending=["stop", "boredom", None]),
            lambda g: g.update(unread=[{"type": "rumour"}]),
        ]
        for change in changes:
            with changed(path, change), pytest.raises(InvalidSnapshot):
                await Snapshot.load(path)
        for meta in ({"format": "greenroom snapshot 1"}, {"marks": "[]"}, {"marks": "[[10000, [null, false]]]"}):
            with changed(path, lambda _: None, **meta), pytest.raises(InvalidSnapshot):
                await Snapshot.load(path)
        with changed(path, lambda _: None, model="another"), pytest.raises(SnapshotMismatch, match="another"):
            await Snapshot.load(path)
        assert await (await (await Snapshot.load(path)).restore()).collect_tokens() == await g.collect_tokens()
        with pytest.raises(InvalidConstraint):
            constraint_from(msgspec.json.decode(b'{"kind": "choice", "options": []}', type=Source))


@pytest.mark.parametrize("kind", ["scripted", "understudy"])
async def test_a_copied_context_is_cut_like_the_original(kind: str, tmp_path: Path) -> None:
    """What was told at which length travels along: a message behind a cut one is written as it would have been."""
    async with opened(kind) as runtime, runtime.context() as ctx:
        ctx.system("Be kind.").user("Hello!")
        size = len(ctx.tokens)
        ctx.assistant("Good day.")
        await ctx.save("told")
        await (await ctx.snapshot()).save(tmp_path / "c")
        g = (await ctx.fork()).user("And?").cue().generate(Sampler.greedy(), max_tokens=3)
        await g.collect_tokens()
        kept = await Snapshot.load(tmp_path / "c")
        copies = [runtime.open_context("told"), kept.open(), await ctx.fork(), (await g.fork()).context]
        for each in copies:
            await each.truncate(len(each.tokens) - size)
        await ctx.truncate(len(ctx.tokens) - size)
        ctx.assistant("Go on.").user("Well?").cue()
        for each in copies:
            assert each.assistant("Go on.").user("Well?").cue().tokens == ctx.tokens
        await runtime.delete_context("told")
