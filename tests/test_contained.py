"""What code of a user's raises that is no `Exception` ends its request; so does a fault of our own over it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest

from greenroom.actors import watchdog
from greenroom.actors.scheduler import batch, scheduler
from greenroom.actors.scheduler.admission import Admission
from greenroom.actors.watchdog import Watchdog
from greenroom.backends.protocol import Edit, EditResult, Open
from greenroom.backends.scripted import Reply, Scripted
from greenroom.chat.session import ChatSession
from greenroom.constraints.constraint import CompiledConstraint, Compiler, Constraint
from greenroom.constraints.state import Bits, ConstraintState
from greenroom.errors import BackendFailed, CallbackFailed, GenerationFailed
from greenroom.events import ToolCall
from greenroom.generator.speculator import Drafting, Speculator
from greenroom.inputs.tools import Tool
from greenroom.lifetimes import call_user
from greenroom.request.decoders import TextDecoder
from greenroom.runtime import Runtime

RAISED = [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit]
SECONDS = 20.0
PLACES = ("compile", "fork", "fill_mask", "consume", "is_stopped", "is_accepting", "forced_tokens", "check")


class Anything(ConstraintState):
    """Allows everything, until `place` is reached, where it raises."""

    error = None

    def __init__(self, place: str, kind: type[BaseException]) -> None:
        self.place = place
        self.kind = kind

    def _at(self, place: str) -> None:
        if place == self.place:
            raise self.kind(place)

    def fill_mask(self, out: Bits) -> None:
        """See `ConstraintState`."""
        self._at("fill_mask")
        out[:] = 0xFFFFFFFF

    def consume(self, tokens: Sequence[int]) -> None:
        """See `ConstraintState`."""
        del tokens
        self._at("consume")

    def validate(self, tokens: Sequence[int]) -> int:
        """See `ConstraintState`."""
        return len(tokens)

    def forced_tokens(self) -> tuple[int, ...]:
        """See `ConstraintState`."""
        self._at("forced_tokens")
        return ()

    def rollback(self, count: int) -> None:
        """See `ConstraintState`."""

    def fork(self) -> ConstraintState:
        """See `ConstraintState`."""
        self._at("fork")
        return Anything(self.place, self.kind)

    def reset(self) -> None:
        """See `ConstraintState`."""

    @property
    def is_accepting(self) -> bool:
        """See `ConstraintState`."""
        self._at("is_accepting")
        return True

    @property
    def is_stopped(self) -> bool:
        """See `ConstraintState`."""
        self._at("is_stopped")
        return False


class Own(Constraint):
    """A constraint of a user's."""

    def __init__(self, place: str, kind: type[BaseException]) -> None:
        self.place = place
        self.kind = kind

    def compile(self, compiler: Compiler) -> CompiledConstraint:
        """See `Constraint`."""
        del compiler
        if self.place == "compile":
            raise self.kind("compile")

        def check(tokens: Sequence[int]) -> str | None:
            del tokens
            if self.place == "check":
                raise self.kind("check")
            return None

        return CompiledConstraint(Anything(self.place, self.kind), check=check)


@pytest.mark.parametrize("kind", RAISED)
@pytest.mark.parametrize("place", PLACES)
async def test_a_constraint_that_ends_more_than_itself_ends_its_request(place: str, kind: type[BaseException]) -> None:
    """In a request and in a generator; a neighbour goes on, and so does the runtime."""
    async with Runtime(backend=Scripted({"*": "calm"})) as runtime:
        neighbour = runtime.generate("hello")
        with anyio.fail_after(SECONDS):
            try:
                result = await runtime.generate("hello", constrain=Own(place, kind)).collect()
            except CallbackFailed as error:
                assert isinstance(error.__cause__, kind)  # noqa: PT017 - whether it is raised depends on the place
            else:
                assert place == "is_accepting"
                assert result.info.constraint_complete is False
            async with runtime.context() as context:
                context.fill("hello")
                if place in ("compile", "fork", "fill_mask"):
                    with pytest.raises(CallbackFailed):
                        await context.generate(max_tokens=3, constrain=Own(place, kind)).collect_text()
            assert await neighbour.text() == "calm"
        assert runtime.is_open


@pytest.mark.parametrize("kind", RAISED)
async def test_a_progress_callback_and_a_decoder_likewise(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the engine thread nobody is interrupted."""

    def progress(done: int, total: int) -> None:
        raise kind(f"{done} of {total}")

    feed, finish = TextDecoder.feed, TextDecoder.finish

    def feeding(self: TextDecoder, tokens: Any) -> Any:
        if tokens[0].token == ord("!"):
            raise kind("feed")
        return feed(self, tokens)

    def finishing(self: TextDecoder, reason: Any) -> Any:
        if reason == "length":
            raise kind("finish")
        return finish(self, reason)

    monkeypatch.setattr(TextDecoder, "feed", feeding)
    monkeypatch.setattr(TextDecoder, "finish", finishing)
    async with Runtime(backend=Scripted({"bad": "a!b", "*": "calm"})) as runtime:
        neighbour = runtime.generate("hello")
        for prompt, options in (("x", {"progress": progress}), ("bad", {}), ("x", {"max_tokens": 2})):
            with anyio.fail_after(SECONDS), pytest.raises(CallbackFailed) as caught:
                await runtime.generate(prompt, **options).text()
            assert isinstance(caught.value.__cause__, kind)
        assert await neighbour.text() == "calm"


class Guess(Speculator):
    """One that raises in one of its methods, sync or not."""

    def __init__(self, place: str, kind: type[BaseException]) -> None:
        self.place = place
        self.kind = kind

    def draft(self, context: Drafting) -> Any:
        """See `Speculator`."""
        del context
        return self._later() if self.place == "awaited" else self._now()

    def _now(self) -> tuple[int, ...]:
        if self.place == "draft":
            raise self.kind("draft")
        return (1,)

    async def _later(self) -> tuple[int, ...]:
        await anyio.lowlevel.checkpoint()
        raise self.kind("awaited")

    def accept(self, tokens: Sequence[int]) -> None:
        """See `Speculator`."""
        del tokens
        if self.place == "accept":
            raise self.kind("accept")

    def reset(self) -> None:
        """See `Speculator`."""
        if self.place == "reset":
            raise self.kind("reset")

    def fork(self) -> Guess:
        """See `Speculator`."""
        if self.place == "fork":
            raise self.kind("fork")
        return self


@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("place", ["draft", "awaited", "accept", "fork", "reset"])
async def test_a_speculator_fails_its_step(place: str, kind: type[BaseException]) -> None:
    """On the event loop, where a cancellation that nobody asked for is a failure like others."""
    async with Runtime(backend=Scripted({"*": "calm and long"})) as runtime, runtime.context() as context:
        context.fill("hello")
        generator = context.generate(max_tokens=6, speculator=Guess(place, kind))

        async def use() -> None:
            await (await anext(generator)).execute()
            await generator.fork()
            await generator.rewind(1)

        with anyio.fail_after(SECONDS), pytest.raises(CallbackFailed) as caught:
            await use()
        assert isinstance(caught.value.__cause__, kind)
        assert await runtime.generate("x").text() == "calm and long"


async def test_an_interrupt_of_the_loop_and_a_cancellation_asked_for_pass() -> None:
    """They are the user's own."""
    with pytest.raises(KeyboardInterrupt):
        await call_user("it", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with anyio.move_on_after(0) as scope:
        await call_user("it", anyio.sleep_forever)
    assert scope.cancelled_caught
    with pytest.raises(CallbackFailed, match="it raised CancelledError"):
        await call_user("it", lambda: (_ for _ in ()).throw(asyncio.CancelledError))


def _said(name: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{}}}}\n</tool_call>'


@pytest.mark.parametrize("on_error", ["tell", "raise"])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("how", ["sync", "async", "dispatch"])
async def test_a_tool_ends_its_turn(how: str, kind: type[BaseException], on_error: Any) -> None:
    """A sync one on its own thread, an async one on the loop: there an interrupt would be the user's."""
    if how == "async" and kind is KeyboardInterrupt:
        kind = SystemExit

    def leave() -> None:
        raise kind("leave")

    async def go() -> None:
        raise kind("go")

    def dispatch(call: ToolCall) -> None:
        raise kind(call.function.name)

    tool = Tool("leave", function=go if how == "async" else leave)
    options: dict[str, Any] = {"tool_dispatch": dispatch} if how == "dispatch" else {}
    async with Runtime(backend=Scripted({"use it": _said("leave"), "*": "calm"})) as runtime:
        session = ChatSession(runtime, tools=[tool], on_tool_error=on_error, **options)
        with anyio.fail_after(SECONDS), pytest.raises(CallbackFailed) as caught:
            await session.respond("use it")
        assert isinstance(caught.value.__cause__, kind)
        assert await session.respond("hello") == "calm"


# A fault of our own over one request.

TAKES: list[tuple[object, str, Callable[..., Any]]] = [
    (scheduler, "process_prompt", lambda request: request),
    (scheduler, "process_samples", lambda request, *_: request),
    (batch, "_feed_decode", lambda request, *_: request),
    (batch, "_feed_prompt", lambda request, *_: request),
    (batch, "_add_draws", lambda request, *_: request),
    (Admission, "_open", lambda _, request, *__: request),
]
BAD_SEED = 1234


@pytest.mark.parametrize(("owner", "name", "of"), TAKES, ids=[name for _, name, _ in TAKES])
async def test_a_fault_over_one_request_ends_that_one(
    owner: object, name: str, of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is: its neighbours say what they say otherwise, and nothing of it stays behind."""
    whole = getattr(owner, name)

    def faulty(*arguments: Any) -> Any:
        if of(*arguments).submit.reported_seed == BAD_SEED:
            raise ZeroDivisionError(name)
        return whole(*arguments)

    monkeypatch.setattr(owner, name, faulty)
    async with Runtime(backend=Scripted({"*": "a text of some tokens"}), max_rows=4) as runtime:
        others = [runtime.generate(f"x{i}", seed=i) for i in range(3)]
        bad = runtime.generate("y", seed=BAD_SEED, constrain=Own("nowhere", KeyError))
        with anyio.fail_after(SECONDS):
            with pytest.raises(GenerationFailed, match="by a defect of greenroom, ZeroDivisionError") as caught:
                await bad.text()
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            assert [await other.text() for other in others] == ["a text of some tokens"] * 3
            assert await runtime.generate("again", seed=5).text() == "a text of some tokens"
        assert runtime.statistics().kv_bytes == 0


class Refusing(Scripted):
    """A double that opens no row with `BAD_SEED`."""

    def edit(self, edits: Sequence[Edit]) -> EditResult:
        """See `Backend.edit`."""
        if any(isinstance(edit, Open) and edit.sampling.seed == BAD_SEED for edit in edits):
            raise MemoryError("no such row")
        return super().edit(edits)


async def test_a_row_that_cannot_be_opened_fails_its_request() -> None:
    """And no other: neither those that are opened with it, nor those that run."""
    backend = Refusing({"*": Reply("a text of some tokens")})
    async with Runtime(backend=backend, max_rows=4) as runtime:
        first = runtime.generate("x")
        bad, other = runtime.generate("y", seed=BAD_SEED), runtime.generate("z")
        with anyio.fail_after(SECONDS), pytest.raises(BackendFailed, match="no such row"):
            await bad.text()
        assert [await first.text(), await other.text()] == ["a text of some tokens"] * 2
        assert runtime.statistics().kv_bytes == 0


# Who keeps the engine is named.


def test_a_callback_that_blocks_is_named(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a step, by where it stands; a long pass and a step that is short are not."""
    entered, leave = threading.Event(), threading.Event()
    monkeypatch.setattr(watchdog, "_OURS", __name__)
    began = [time.perf_counter()]

    def engine(callback: Callable[[], object]) -> None:
        callback()

    namespace: dict[str, Any] = {"__name__": "an_app", "entered": entered, "leave": leave}
    exec("def slow():\n    entered.set()\n    leave.wait(20)\n", namespace)  # noqa: S102 - a module of somebody else's
    thread = threading.Thread(target=engine, args=(namespace["slow"],))
    thread.start()
    entered.wait(SECONDS)
    seen = Watchdog(thread.ident or 0, lambda: began[0], seconds=1000.0)
    seen._seconds = 0.0
    with caplog.at_level(logging.WARNING, logger="greenroom"):
        seen.look()
        seen.look()
        assert [record.getMessage().split(" (")[0] for record in caplog.records] == ["the engine has been in slow"]
        began[0] = time.perf_counter() + 1000
        seen.look()
        began[0] = time.perf_counter()
        monkeypatch.setattr(watchdog, "_COMPUTING", __name__)
        seen.look()
        assert len(caplog.records) == 1
    leave.set()
    seen.stop()
    thread.join(SECONDS)


async def test_the_engine_names_a_callback_that_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is kept: the callback goes on once it was named, and the request with it."""
    named = threading.Event()
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            named.set()

    def progress(done: int, total: int) -> None:
        del done, total
        assert named.wait(SECONDS)

    monkeypatch.setattr(Watchdog.__init__, "__defaults__", (0.02,))
    listener = Listener(logging.WARNING)
    logging.getLogger("greenroom").addHandler(listener)
    try:
        async with Runtime(backend=Scripted({"*": "calm"})) as runtime:
            with anyio.fail_after(SECONDS):
                assert await runtime.generate("x", progress=progress).text() == "calm"
    finally:
        logging.getLogger("greenroom").removeHandler(listener)
    assert "progress (test_contained.py:" in said[0]
    assert "called by Scheduler._report_progress" in said[0]
