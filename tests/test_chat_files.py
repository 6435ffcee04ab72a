"""Sessions in files, with their KV: a turn in a new process runs what is new, and says what a cold run says."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from models import gemma3, llama, mamba2
from rich.console import Console

from greenroom import ChatSession, GenerateParameters, Info, Runtime, Scripted, Token
from greenroom.actors.dispatcher import Dispatcher
from greenroom.backends.mlx import MlxBackend
from greenroom.cli.terminal.commands import perform
from greenroom.cli.terminal.open_chat import OpenChat
from greenroom.cli.terminal.screen import Screen
from greenroom.errors import InvalidSnapshot, RuntimeClosed, SessionBusy, SnapshotMismatch, UnusablePath
from greenroom.request.current import session_of

Build = Callable[[], tuple[Any, Any]]
GREEDY = GenerateParameters(temperature=0.0, max_tokens=40)
QUESTIONS = ("Hello! Who are you?", "Tell me a short story about a fox.", "What can you do?")


def names(folder: Path) -> set[str]:
    """Of what is in it."""
    return {path.name for path in folder.iterdir()}


async def talked(runtime: Runtime, path: Path, **options: Any) -> ChatSession:
    """A session of three turns, saved."""
    session = ChatSession(runtime, parameters=GREEDY, instructions="Be kind to everyone who asks you.")
    for question in QUESTIONS:
        await session.respond(question)
    await session.save(path, **options)
    return session


async def last_turn(session: ChatSession) -> tuple[str, Info]:
    """One more, and its end."""
    async with session.stream_events("Thank you!") as turn:
        events = [event async for event in turn]
    info = events[-1]
    assert isinstance(info, Info)
    return session.history[-1]["content"], info


async def test_a_loaded_session_runs_what_is_new_and_says_what_a_cold_run_says(tmp_path: Path) -> None:
    """Reused to the token: all that the next prompt has in common with what the session held."""
    path = tmp_path / "chat.json"
    async with Runtime() as runtime:
        session = await talked(runtime, path)
        expected, warm = await last_turn(session.fork())
    async with Runtime() as runtime:
        loaded = ChatSession(runtime, parameters=GREEDY)
        await loaded.load(path)
        assert runtime.statistics().prefix_bytes > 0
        answer, info = await last_turn(loaded)
        history = loaded.history
    assert info.cached_prompt_tokens == warm.cached_prompt_tokens > 100
    assert info.prompt_tokens - info.cached_prompt_tokens < 30
    async with Runtime(prefix_bytes=0) as runtime:
        ids = await runtime.prepare([*loaded._opening(), *history[:-1]])
        assert len(ids) == info.prompt_tokens
        cold = await runtime.generate_tokens(ids, GREEDY).collect()
        drawn = runtime.tokenizer.decode([event.id for event in cold.events if isinstance(event, Token)])
    assert cold.info.cached_prompt_tokens == 0
    assert answer == expected == drawn


@pytest.mark.parametrize("build", [llama, mamba2, gemma3], ids=["plain", "recurrent", "windows"])
async def test_kv_of_every_kind_of_cache_goes_from_one_runtime_to_another(build: Build) -> None:
    """What is drawn behind it is what a cold run draws."""
    prompt = [7 * place % 250 for place in range(200)]
    options = GenerateParameters(temperature=0.0, max_tokens=20, default_stops=False)

    def runtime(**more: Any) -> Runtime:
        return Runtime(backend=MlxBackend.from_model(build, **more))

    async with runtime(prefix_bytes=1 << 26) as first:
        said = await drawn(first, prompt, options)
        longer = [*prompt, *said, 1, 2, 3]
        kv = await session_of(first).client.export_kv(longer)
    assert kv is not None
    async with runtime(prefix_bytes=1 << 26) as second:
        held = await session_of(second).client.import_kv(kv)
        assert len(prompt) <= held <= len(prompt) + len(said)
        result = await second.generate_tokens(longer, options).collect()
        assert result.info.cached_prompt_tokens == held
    async with runtime(prefix_bytes=0) as cold:
        assert await drawn(cold, longer, options) == ids_of(result.events)


async def drawn(runtime: Runtime, ids: list[int], options: GenerateParameters) -> list[int]:
    """What follows."""
    return ids_of((await runtime.generate_tokens(ids, options).collect()).events)


def ids_of(events: Sequence[object]) -> list[int]:
    """Of the tokens among them."""
    return [event.id for event in events if isinstance(event, Token)]


async def test_kv_that_is_damaged_or_foreign_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    """Cut anywhere, with a flipped bit, of other weights, no such file at all."""
    path, kv = tmp_path / "chat.json", tmp_path / "chat.json.kv"
    async with Runtime() as runtime:
        await talked(runtime, path)
        whole = kv.read_bytes()
        other = ChatSession(runtime)
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        damaged = [whole[: len(whole) * part // 7] for part in range(7)]
        for data in (*damaged, whole[:-1], bytes(flipped), b"something else", b"\xff" * 100):
            kv.write_bytes(data)
            with pytest.raises(InvalidSnapshot):
                await other.load(path)
            assert (other.history, other.instructions) == ([], None)
        await other.load(path, cache=False)
        assert len(other.history) == 6
    kv.write_bytes(whole)
    async with Runtime(backend=MlxBackend.from_model(llama, prefix_bytes=1 << 26)) as runtime:
        with pytest.raises(SnapshotMismatch, match="other weights"):
            await ChatSession(runtime).load(path)
    out = io.StringIO()
    options = argparse.Namespace(
        **dict.fromkeys(("model", "adapter", "instructions", "thinking", "max_tokens", "seed"))
    )
    options.temperature = options.model_parameters = 0
    backend = MlxBackend.from_model(llama, prefix_bytes=1 << 26)
    async with OpenChat(options, [], lambda _: Runtime(backend=backend)) as chat:
        await perform(f"/load {path}", chat, Screen(Console(file=out)))  # there it is said, and computed again
        assert len(chat.session.history) == 6
        assert "other weights" in out.getvalue()


async def test_kv_stays_beside_its_transcript_or_goes_with_it(tmp_path: Path) -> None:
    """A save without it leaves none of an older one; nothing half-written stays, whatever fails."""
    path = tmp_path / "chat.json"
    async with Runtime() as runtime:
        session = await talked(runtime, path)
        assert names(tmp_path) == {"chat.json", "chat.json.kv"}
        await session.save(path, cache=False)
        assert names(tmp_path) == {"chat.json"}
        (tmp_path / "folder").mkdir()
        with pytest.raises(OSError, match="folder"):
            await session.save(tmp_path / "folder", cache=False)
        assert names(tmp_path) == {"chat.json", "folder"}
        session.clear()
        await session.save(path)
        assert names(tmp_path) == {"chat.json", "folder"}


async def test_what_cannot_hold_kv_says_so_or_holds_none(tmp_path: Path) -> None:
    """The double keeps no prompts, a small store has no room: the transcript is there all the same."""
    path = tmp_path / "chat.json"
    async with Runtime() as runtime:
        await talked(runtime, path)
    for small in (Runtime(prefix_bytes=0), Runtime(backend=Scripted("fine")), Runtime(prefix_bytes=300_000)):
        async with small as runtime:
            session = ChatSession(runtime, parameters=GREEDY)
            await session.load(path)
            assert len(session.history) == 6
            assert runtime.statistics().prefix_bytes <= 300_000
            assert await session.respond("Thank you!")


@pytest.mark.parametrize("path", [".", "/", "/.."])
async def test_a_path_without_a_name_is_refused(path: str) -> None:
    """Where a transcript's KV would stand beside it cannot be said."""
    async with Runtime(backend=Scripted("fine")) as runtime:
        session = ChatSession(runtime)
        with pytest.raises(UnusablePath):
            await session.save(path)
        with pytest.raises(UnusablePath):
            await session.load(path)


async def test_an_engine_that_is_gone_answers_nobody(tmp_path: Path) -> None:
    """Who asked for KV before, and who asks afterwards, is told."""
    runtime = Runtime(backend=Scripted("fine"))
    async with runtime:
        session = ChatSession(runtime)
        await session.respond("x")
        house = session_of(runtime).client
    for asked in (session.save(tmp_path / "chat.json"), house.export_kv([1]), house.import_kv(b"")):
        with pytest.raises(RuntimeClosed):
            await asked
    dispatcher = Dispatcher(SilentEngine().put, max_waiting=1)

    async def ask() -> None:
        with pytest.raises(RuntimeClosed, match="before it answered"):
            await dispatcher.export_kv((1, 2))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        dispatcher.close(None)
    with pytest.raises(RuntimeClosed):
        await dispatcher.import_kv(b"")


class SilentEngine:
    """Takes messages and answers none."""

    def put(self, message: object) -> None:
        """Nobody reads it."""


async def test_a_busy_session_is_not_loaded_over(tmp_path: Path) -> None:
    """Its turn goes on."""
    backend = Scripted("fine")
    async with Runtime(backend=backend) as runtime:
        session = ChatSession(runtime)
        await session.respond("x")
        await session.save(tmp_path / "chat.json")
        backend.hold()
        async with session.stream_response("y") as turn, anyio.create_task_group() as group:
            group.start_soon(turn.__anext__)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(SessionBusy):
                await session.load(tmp_path / "chat.json")
            backend.release_all()
