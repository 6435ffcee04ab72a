"""Adapters through the runtime: what has one is as a run of its own, and nothing that others have made is reused."""

from __future__ import annotations

import gc
import random
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from adapter_folders import Builder, adapted, steady, write_mlx_lm, write_peft
from branch_models import Spoken
from models import llama, sequential

from greenroom import (
    Adapter,
    AdapterClosed,
    ChatSession,
    GenerateParameters,
    Info,
    InvalidAdapter,
    InvalidParameter,
    ModelNotFound,
    NotSupported,
    Regex,
    Runtime,
    Scripted,
    Snapshot,
    SnapshotMismatch,
    Token,
    ToolCall,
)
from greenroom.backends.mlx import MlxBackend
from greenroom.inputs.adapters import AdapterVersion

BUILDER: Builder = steady(partial(llama, 2))


def spoken() -> tuple[Any, Spoken]:
    """The same model with a tokenizer that streams text and takes constraints."""
    return BUILDER()[0], Spoken()


PROMPT = [random.Random(1).randrange(256) for _ in range(150)]  # noqa: S311 - no secret
LENGTH = 12
ASKED = [{"role": "user", "content": "How much?"}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters for `BUILDER`."""
    root = tmp_path_factory.mktemp("adapters")
    return [write_mlx_lm(root / "one", BUILDER, 1, rank=4), write_mlx_lm(root / "two", BUILDER, 2, rank=2)]


@pytest.fixture(scope="module")
def wanted(folders: list[Path]) -> list[list[int]]:
    """What mlx-lm writes behind `PROMPT`: by itself, and with each adapter."""
    return [sequential(adapted(BUILDER, folder), PROMPT, LENGTH)[0] for folder in (None, *folders)]


def opened(**options: Any) -> Runtime:
    """A runtime of the model, without an end token that it meets."""
    return Runtime(backend=MlxBackend.from_model(spoken, memory_bytes=1 << 26, **options), max_rows=8)


async def written(runtime: Runtime, adapter: Adapter | None, prompt: Sequence[int] = PROMPT) -> list[int]:
    """The tokens of one request."""
    parameters = GenerateParameters(max_tokens=LENGTH, temperature=0.0, adapter=adapter, default_stops=False)
    return [event.id async for event in runtime.generate_tokens(list(prompt), parameters) if isinstance(event, Token)]


async def test_nothing_of_a_prompt_is_reused_under_another_adapter(
    folders: list[Path], wanted: list[list[int]]
) -> None:
    """One prompt under the base and two adapters: behind each other, while the others run, and again."""
    async with opened() as runtime:
        adapters = [None, *[await runtime.load_adapter(folder) for folder in folders]]
        for _ in range(2):
            assert [await written(runtime, adapter) for adapter in adapters] == wanted
        assert runtime.statistics().prefix_hits == 3  # its own, each of them the second time
        found: dict[int, list[int]] = {}

        async def write(number: int) -> None:
            found[number] = await written(runtime, adapters[number % 3], [*PROMPT, number])

        async with anyio.create_task_group() as group:
            for number in range(9):
                group.start_soon(write, number)
    models = [adapted(BUILDER, folder) for folder in (None, *folders)]
    assert found == {n: sequential(models[n % 3], [*PROMPT, n], LENGTH)[0] for n in range(9)}


async def test_contexts_forks_and_rewinds_go_on_with_the_adapter(folders: list[Path], wanted: list[list[int]]) -> None:
    """A context's KV is of one adapter at a time: what the base has run there is run again, and the other way round."""
    async with opened() as runtime, runtime.context() as context:
        one, two = [await runtime.load_adapter(folder) for folder in folders]
        await context.fill(PROMPT).flush()
        greedy = GenerateParameters(max_tokens=LENGTH, temperature=0.0, default_stops=False)
        for adapter, expected in ((one, wanted[1]), (None, wanted[0]), (two, wanted[2])):
            async with context.generate(greedy, adapter=adapter) as generator:
                async for step in generator:
                    await step.execute()
                    if generator.tokens_generated == 4:
                        break
                fork = await generator.fork()
                assert await fork.collect_tokens() == expected
                await fork.aclose()
                await generator.rewind(3)
                assert await generator.collect_tokens() == expected
            await context.truncate(LENGTH)


async def test_snapshots_know_their_adapter_by_its_weights(
    folders: list[Path], wanted: list[list[int]], tmp_path: Path
) -> None:
    """In memory and in a file, for another runtime too; without the adapter a file says what is missing."""
    path = tmp_path / "saved.safetensors"
    greedy = GenerateParameters(max_tokens=LENGTH, temperature=0.0, default_stops=False)
    async with opened() as runtime, runtime.context() as context:
        adapter = await runtime.load_adapter(folders[0])
        async with context.fill(PROMPT).generate(greedy, adapter=adapter) as generator:
            await (await anext(generator)).execute()
            snapshot = await generator.snapshot()
            await snapshot.save(path)
            await adapter.aclose()  # what was begun goes on
            assert await (await snapshot.restore()).collect_tokens() == wanted[1]
        with pytest.raises(SnapshotMismatch, match="not loaded"):
            await Snapshot.load(path, runtime)
    async with opened() as runtime:
        other = await runtime.load_adapter(folders[1])
        with pytest.raises(SnapshotMismatch, match="load_adapter"):
            await Snapshot.load(path, runtime)
        adapter = await runtime.load_adapter(str(folders[0]))
        assert adapter.fingerprint != other.fingerprint
        assert await (await (await Snapshot.load(path, runtime)).restore()).collect_tokens() == wanted[1]


async def test_rows_that_lose_their_kv_are_replayed_with_their_adapter(
    folders: list[Path], wanted: list[list[int]]
) -> None:
    """There is room for a few rows, and for the adapters: the rest waits, or is run again."""
    backend = MlxBackend.from_model(spoken, prefix_bytes=0)
    async with Runtime(backend=backend, max_rows=6, kv_bytes=200_000) as runtime:
        adapters = [None, *[await runtime.load_adapter(folder) for folder in folders]]
        found: dict[int, list[int]] = {}

        async def write(number: int) -> None:
            found[number] = await written(runtime, adapters[number % 3])

        async with anyio.create_task_group() as group:
            for number in range(9):
                group.start_soon(write, number)
        assert runtime.statistics().adapter_bytes > 0
    assert found == {number: wanted[number % 3] for number in range(9)}


async def test_rows_wait_for_a_place_among_adapters(folders: list[Path], wanted: list[list[int]]) -> None:
    """With one place, adapters take turns, and who was loaded and is not in memory comes back."""
    async with opened(max_adapters=1) as runtime, runtime.context() as context:
        adapters = [None, *[await runtime.load_adapter(folder) for folder in folders]]
        held = context.fill(PROMPT).generate(
            GenerateParameters(temperature=0.0, default_stops=False), max_tokens=LENGTH, adapter=adapters[1]
        )
        assert await held.collect_tokens() == wanted[1]  # its row stays, and gives way
        found: dict[int, list[int]] = {}

        async def write(number: int) -> None:
            found[number] = await written(runtime, adapters[number % 3])

        async with anyio.create_task_group() as group:
            for number in range(6):
                group.start_soon(write, number)
    assert found == {number: wanted[number % 3] for number in range(6)}


async def test_loads_and_closes_beside_running_rows_change_nothing_and_give_all_back(
    folders: list[Path], wanted: list[list[int]]
) -> None:
    """A hundred of them at random; closed while rows have it, an adapter leaves with the last of them."""
    rng = random.Random(4)  # noqa: S311 - no secret
    async with opened(max_adapters=3) as runtime:
        mismatches: list[int] = []

        async def one(number: int) -> None:
            folder = rng.randrange(3)
            if folder == 2:
                adapter = None
            else:
                adapter = await runtime.load_adapter(folders[folder])
            stream = runtime.generate_tokens(
                PROMPT, max_tokens=LENGTH, temperature=0.0, default_stops=False, adapter=adapter
            )
            if adapter is not None and rng.random() < 0.5:
                await adapter.aclose()
            if rng.random() < 0.2:
                await stream.aclose()
            elif [e.id async for e in stream if isinstance(e, Token)] != wanted[(folder + 1) % 3]:
                mismatches.append(number)

        for _ in range(10):
            async with anyio.create_task_group() as group:
                for number in range(10):
                    group.start_soon(one, number)
        assert mismatches == []
        gc.collect()
        assert await written(runtime, None) == wanted[0]
        assert runtime.statistics().adapter_bytes == 0


async def test_a_session_goes_on_in_another_runtime_under_its_adapter(folders: list[Path], tmp_path: Path) -> None:
    """Its KV is saved beside it, and is of no use to the model by itself."""
    path = tmp_path / "chat.json"
    async with opened() as runtime:
        adapter = await runtime.load_adapter(folders[0])
        parameters = GenerateParameters(adapter=adapter, max_tokens=8, temperature=0.0)
        session = ChatSession(runtime, instructions="Be brief. " * 12, parameters=parameters)
        first = await session.respond("Who?")
        await session.save(path)
    async with opened() as runtime:
        adapter = await runtime.load_adapter(folders[0])
        for given, least in ((adapter, 64), (None, 0)):
            session = ChatSession(runtime, parameters=GenerateParameters(adapter=given, max_tokens=8, temperature=0.0))
            await session.load(path)
            assert session.history[-1]["content"] == first
            info = [event async for event in session.stream_events("And?") if isinstance(event, Info)][-1]
            assert (info.cached_prompt_tokens >= least) if least else (info.cached_prompt_tokens == 0)


async def test_constraints_and_guesses_hold_beside_other_adapters(folders: list[Path]) -> None:
    """Rows under masks, and behind guesses of n-grams and of a draft model that has no adapter, as alone."""
    choice = Regex("(yes|no|maybe|certainly)( (yes|no|maybe|certainly)){3}")
    async with opened() as runtime, opened() as small:
        adapters = [None, *[await runtime.load_adapter(folder) for folder in folders]]
        alone: dict[int, str] = {}
        together: dict[int, str] = {}

        async def write(number: int, found: dict[int, str]) -> None:
            guessing: Any = [{}, {"system_speculation": True}, {"draft_model": small}][number % 3]
            greedy = GenerateParameters(temperature=0.0, seed=1)
            async with runtime.context() as context:
                prompt = context.fill("maybe yes no maybe yes no ")
                adapter = adapters[number // 3]
                found[number] = await prompt.generate(
                    greedy, max_tokens=60, adapter=adapter, constrain=choice, **guessing
                ).collect_text()

        for number in range(9):
            await write(number, alone)
        async with anyio.create_task_group() as group:
            for number in range(9):
                group.start_soon(write, number, together)
    assert together == alone
    assert all(re.fullmatch(choice.pattern, text) for text in alone.values())
    for base in (0, 3, 6):
        assert alone[base] == alone[base + 1] == alone[base + 2]


async def test_tools_are_called_and_answered_beside_other_adapters(folders: list[Path]) -> None:
    """A forced call under an adapter, and an answer behind what it gave: as alone."""

    def weigh(thing: Literal["a bear", "an ant", "a bee"], unit: Literal["g", "kg"]) -> str:
        """Weigh a thing."""
        return f"{len(thing)} {unit}"

    async with opened() as runtime:
        adapters = [None, *[await runtime.load_adapter(folder) for folder in folders]]

        async def talk(number: int, found: dict[int, list[Any]]) -> None:
            parameters = GenerateParameters(
                adapter=adapters[number], temperature=0.0, max_tokens=120, thinking_tokens=0
            )
            stream = runtime.generate(ASKED, parameters, tools=[weigh], tool_choice="weigh")
            said = [event async for event in stream]
            call = next(event for event in said if isinstance(event, ToolCall))
            told = [*ASKED, {"role": "tool", "content": weigh(**call.function.arguments)}]
            answer = await runtime.generate(told, parameters, max_tokens=8).text()
            found[number] = [call.function.arguments, answer]

        alone: dict[int, list[Any]] = {}
        together: dict[int, list[Any]] = {}
        for number in range(3):
            await talk(number, alone)
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(talk, number, together)
    assert together == alone
    assert len({answer for _, answer in alone.values()}) == 3


async def test_a_load_that_is_cancelled_leaves_nothing(folders: list[Path], wanted: list[list[int]]) -> None:
    """While files are read, and while the engine is asked."""
    async with opened() as runtime:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await runtime.load_adapter(folders[0])
        adapter = await runtime.load_adapter(folders[0])
        weights = adapter.version().weights
        await adapter.aclose()
        version = AdapterVersion(runtime._require_session().client, weights.fingerprint, lambda: weights)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await version.open()
        assert scope.cancelled_caught
        del adapter, version
        for _ in range(2):  # the second hears of what the first has settled
            assert await written(runtime, None) == wanted[0]
        assert runtime.statistics().adapter_bytes == 0


async def test_what_no_runtime_can_run_is_refused_at_once(folders: list[Path]) -> None:
    """A closed handle, another runtime's, what is none, and a backend that takes none."""
    async with opened() as runtime, Runtime(backend=Scripted({"*": "ok"})) as other:
        async with await runtime.load_adapter(folders[0]) as adapter:
            with pytest.raises(InvalidParameter, match="an adapter of this runtime"):
                other.generate("hi", adapter=adapter)
        assert adapter.is_closed
        assert "closed" in repr(adapter)
        for use in (
            lambda: runtime.generate("hi", adapter=adapter),
            lambda: runtime.context().fill("hi").generate(adapter=adapter),
        ):
            with pytest.raises(AdapterClosed, match="load it again"):
                use()
        with pytest.raises(InvalidParameter, match="an adapter of this runtime"):
            runtime.generate("hi", adapter="folder")  # type: ignore[arg-type]
        with pytest.raises(NotSupported, match="takes none"):
            await other.load_adapter(folders[0])
        async with Runtime(backend=MlxBackend.from_model(spoken), kv_bytes=30_000) as small:
            with pytest.raises(InvalidAdapter, match="over half of the runtime's kv_bytes"):
                await small.load_adapter(folders[0])
        with pytest.raises(ModelNotFound):
            await runtime.load_adapter("/nowhere/at/all")
        with pytest.raises(InvalidAdapter, match="adapter_config"):
            await runtime.load_adapter(folders[0].parent)
        assert runtime.statistics().steps == 0


async def test_a_plain_model_has_plain_passes(folders: list[Path]) -> None:
    """No module is another one before an adapter names it, and none that no adapter names."""
    backend = MlxBackend.from_model(spoken)
    async with Runtime(backend=backend) as runtime:
        before = {path: type(part) for path, part in backend.model.named_modules()}
        async with await runtime.load_adapter(folders[0]):
            changed = {p for p, part in backend.model.named_modules() if type(part) is not before[p]}
    assert changed
    assert all(".layers." in path for path in changed)


def test_peft_patterns_and_halves_are_read_as_they_are_written(folders: list[Path], tmp_path: Path) -> None:
    """A folder of PEFT's is the adapter that it was made of."""
    backend = MlxBackend.from_model(spoken)
    info = backend.load()
    backend.close()
    assert info.adapters is not None
    for stable in (False, True):
        folder = write_peft(tmp_path / str(stable), folders[0], stable=stable)
        assert info.adapters.read(folder).fingerprint == info.adapters.read(folders[0]).fingerprint
