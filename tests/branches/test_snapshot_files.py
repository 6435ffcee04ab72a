"""Files of generations: what is loaded goes on as what was saved would have, wherever it stood."""

from __future__ import annotations

import json
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy as np
import pytest
from anyio import create_task_group
from branch_models import opened
from hostile_json import altered, deep, text_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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
from greenroom.errors import (
    GreenroomError,
    InvalidConstraint,
    InvalidSnapshot,
    NotSupported,
    SnapshotMismatch,
    UnusablePath,
)
from greenroom.files.json_depth import MAX_JSON_DEPTH
from greenroom.generator import snapshot_files
from greenroom.generator.snapshot_files import SavedGeneration, SavedSnapshot
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
    async with Runtime(backend=Scripted({"*": Reply(TEXT, bends=True)})) as runtime, runtime.context() as ctx:
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


def signed(tokens: Any, metadata: dict[str, str]) -> bytes:
    """A file of these, with the checksum that goes with them."""
    return tensors.save({"tokens": tokens}, {**metadata, "checksum": snapshot_files.checksum(tokens, metadata)})


def contents(data: bytes) -> tuple[Any, dict[str, str]]:
    """The tokens and the metadata of a file."""
    length = int.from_bytes(data[:8], "little")
    return tensors.load(data)["tokens"], json.loads(data[8 : 8 + length])["__metadata__"]


@contextmanager
def changed(path: Path, change: Callable[[dict[str, Any]], object], **meta: str) -> Iterator[None]:
    """The file with another generation in it."""
    whole = path.read_bytes()
    tokens, metadata = contents(whole)
    generation = json.loads(metadata["generation"])
    change(generation)
    path.write_bytes(signed(tokens, {**metadata, "generation": json.dumps(generation), **meta}))
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
            lambda g: g.update(unread=[{"type": "chunk", "text": "x", "tokens": [{"type": "token", "id": 10**9}]}]),
            lambda g: g.update(held=[{"type": "token", "id": -1}]),
            lambda g: g["counts"].update(prompt_tokens=-1),
            lambda g: g["counts"].update(forced_runs=2**70),
            lambda g: g.update(seed=2**64),
            lambda g: g.update(forks=2**70),
            lambda g: g.update(budget={"kind": "thought_budget", "start": [], "end": [1], "most": 1, "is_open": False}),
            lambda g: g.update(budget={"kind": "thought_budget", "start": [1], "end": [], "most": 1, "is_open": False}),
            lambda g: g.update(
                budget={"kind": "thought_budget", "start": [1], "end": [-1], "most": 1, "is_open": True}
            ),
            lambda g: g.update(
                budget={"kind": "thought_budget", "start": [1], "end": [1], "most": -1, "is_open": True}
            ),
            lambda g: g.update(
                calls={"tools": [{"name": "x", "parameters": True}], "choice": "auto", "tool_format": None}
            ),
            lambda g: g.update(
                calls={"tools": [{"name": "x", "description": 7}], "choice": "auto", "tool_format": None}
            ),
            lambda g: g.update(calls={"tools": [{"name": deep()}], "choice": "auto", "tool_format": None}),
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


@pytest.mark.parametrize(
    "tokens",
    [
        np.array([1.0, 2.0]),
        np.array([[1, 2], [3, 4]]),
        np.array(5),
        np.array([1, 2], np.int32),
        np.array([1, 2], np.uint64),
        np.array([True, False]),
        np.array([-1]),
        np.array([2**62]),
    ],
    ids=lambda tokens: f"{tokens.dtype}{tokens.shape}",
)
async def test_tokens_of_another_type_shape_or_range_are_an_invalid_snapshot(tokens: Any, tmp_path: Path) -> None:
    """Under a right checksum; the error names the file and says what tokens should be."""
    path = tmp_path / "g"
    async with opened("scripted") as runtime, runtime.context() as ctx:
        await (await ctx.fill("A place:").snapshot()).save(path)
        _, metadata = contents(path.read_bytes())
        path.write_bytes(signed(tokens, metadata))
        with pytest.raises(InvalidSnapshot, match=f"{path}: tokens"):
            await Snapshot.load(path)
        path.write_bytes(tensors.save({"other": np.array([1])}, metadata))
        with pytest.raises(InvalidSnapshot, match="they are missing"):
            await Snapshot.load(path)


async def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    """Of the tokens and of what is said of them; where it changes nothing that is read, it loads as it was saved."""
    path = tmp_path / "g"
    async with opened("scripted") as runtime:
        g = runtime.context().fill("A place:").generate(Sampler.greedy(), constrain=PLACE)
        await pulled(g, 5)
        snapshot = await g.snapshot()
        await snapshot.save(path)
        whole = path.read_bytes()
        refused = 0
        for place in range(0, len(whole), 7):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << place % 7
            path.write_bytes(damaged)
            try:
                loaded = await Snapshot.load(path)
            except (InvalidSnapshot, SnapshotMismatch):
                refused += 1
            else:
                assert loaded.tokens == snapshot.tokens
        assert refused > 0.9 * len(range(0, len(whole), 7))
        tokens, metadata = contents(whole)
        tokens = tokens.copy()
        tokens[-1] ^= 1
        path.write_bytes(tensors.save({"tokens": tokens}, metadata))
        with pytest.raises(InvalidSnapshot, match="checksum"):
            await Snapshot.load(path)


async def test_what_is_no_regular_file_is_no_snapshot_and_is_not_replaced(tmp_path: Path) -> None:
    """A pipe that nobody writes to, a folder; a link is followed."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("real")
    async with opened("scripted") as runtime, runtime.context() as ctx:
        snapshot = await ctx.fill("A place:").snapshot()
        for path in (tmp_path / "pipe", tmp_path):
            with pytest.raises(UnusablePath, match="not a regular file"):
                await snapshot.save(path)
            with pytest.raises(UnusablePath, match="not a regular file"):
                await Snapshot.load(path)
        await snapshot.save(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert (await Snapshot.load(tmp_path / "real")).tokens == snapshot.tokens


async def test_a_generation_that_nests_too_deep_for_a_file_is_refused_at_the_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than at the load, when it is too late: whatever constraints may hold, a file holds less."""
    monkeypatch.setattr("greenroom.constraints.constraint.MOST_NESTED", 2 * MAX_JSON_DEPTH)
    constraint: Constraint = Regex("a+")
    for _ in range(MAX_JSON_DEPTH):
        constraint = Lazy("x", constraint)
    async with opened("scripted") as runtime, runtime.context() as ctx:
        snapshot = await ctx.fill("A place:").generate(Sampler.greedy(), constrain=PLACE).snapshot()
        saved = SavedGeneration.of(snapshot._cursor) if snapshot._cursor is not None else None
        assert saved is not None
        config = replace(saved.generation.config, constraint=constraint)
        nested = saved._replace(generation=replace(saved.generation, config=config))
        record = SavedSnapshot(snapshot._record, nested)
        with pytest.raises(NotSupported, match="nest deeper than 128 levels"):
            snapshot_files.write(tmp_path / "g", session_of(runtime), record)
        assert os.listdir(tmp_path) == []  # noqa: PTH208 - nothing blocks for long


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["schema", "calls", "answers", "tags", "lazy"])
def test_whatever_a_file_says_is_loaded_or_a_typed_error(name: str, tmp_path: Path) -> None:
    """Any value in the place of any other, signed anew; what loads goes on, or fails as any generation may."""
    path = tmp_path / "g"

    async def begin() -> None:
        async with opened("scripted") as runtime:
            options: dict[str, Any] = {"constrain": PLACE}
            if name in ("calls", "answers"):
                options |= {"tools": [WEATHER], "tool_choice": "required" if name == "calls" else "auto"}
            parameters = GenerateParameters(temperature=0.0, max_tokens=12, logprobs=1, stop=["STOP"])
            g = runtime.context().fill("A place:").generate(parameters, **options)
            await pulled(g, 4)
            await (await g.snapshot()).save(path)

    anyio.run(begin)
    tokens, metadata = contents(path.read_bytes())
    generation = json.loads(metadata["generation"])
    if name in CONSTRAINTS:
        generation["constraint"] = json.loads(msgspec.json.encode(source_of(CONSTRAINTS[name]())))
    outcomes: dict[str, int] = defaultdict(int)

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(altered(generation), altered(json.loads(metadata["marks"])), st.booleans())
    def load(generation: Any, marks: Any, changes_marks: bool) -> None:
        said = {**metadata, "generation": text_of(generation)}
        if changes_marks:
            said["marks"] = text_of(marks)
        path.write_bytes(signed(tokens, said))

        async def run() -> str:
            async with opened("scripted") as runtime:
                try:
                    loaded = await Snapshot.load(path)
                except (InvalidSnapshot, SnapshotMismatch):
                    return "refused"
                try:
                    if loaded._cursor is not None:
                        await (await loaded.restore()).collect_text()
                except GreenroomError:
                    return "failed"
                assert runtime.is_open
                assert (await runtime.generate("x", max_tokens=1).collect()).info is not None
                return "loaded"

        outcomes[anyio.run(run)] += 1

    load()
    assert outcomes["refused"] > 0
