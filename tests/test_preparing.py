"""Requests that are prepared: nobody waits for another one's prompt or constraint, and what was given up is let go."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from transformers import PreTrainedTokenizerFast

from greenroom import EventStream, GenerateParameters, Reply, Runtime
from greenroom.actors import preparers
from greenroom.actors.preparers import Preparers
from greenroom.backends import understudy
from greenroom.backends.mlx.tokenizer import MlxTokenizer
from greenroom.backends.scripted import Scripted
from greenroom.constraints import All, CompiledConstraint, Compiler, Constraint, Lazy, Regex
from greenroom.errors import (
    InvalidConstraint,
    InvalidPrompt,
    PreparersBusy,
    RuntimeClosed,
    TemplateTimeout,
    TruncatedJson,
)
from greenroom.inputs import prompts

SOON = 5.0
"""Seconds: far above what the machine takes at its busiest, and below what the tests hold back."""
HELD = 30.0
"""Seconds for which a test holds a compilation at most."""
HELLO = [104, 105]


class Hold:
    """Where compilations stand until they are let go."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.count = 0
        self.error: Exception | None = None

    def stand(self) -> None:
        """Called on the thread that compiles."""
        self.count += 1
        self.begun.release()
        self.go.wait(HELD)
        if self.error is not None:
            raise self.error

    async def wait(self, count: int = 1) -> None:
        """Until so many more stand here."""
        for _ in range(count):
            begun = await anyio.to_thread.run_sync(partial(self.begun.acquire, timeout=HELD))
            assert begun


@dataclass(frozen=True)
class Slow(Constraint):
    """An `a` or two `b`, for whose compilation a test holds the key."""

    hold: Hold = field(hash=False, compare=False)
    name: str = "slow"

    def compile(self, compiler: Compiler) -> CompiledConstraint:
        """Stand at the hold first."""
        self.hold.stand()
        return compiler.compile(Regex("a|bb"))


@contextmanager
def held() -> Iterator[Hold]:
    """A hold that is let go in the end."""
    hold = Hold()
    try:
        yield hold
    finally:
        hold.go.set()


@pytest.fixture
def no_lingering() -> Iterator[None]:
    """What other tests gave up is no matter of this one's."""
    before = set(Preparers._running_anywhere)
    Preparers._running_anywhere.difference_update(before)
    yield
    _wait_for_end()


def _wait_for_end() -> None:
    """Until nothing is prepared any more."""
    deadline = time.monotonic() + HELD
    while Preparers._running_anywhere and time.monotonic() < deadline:
        time.sleep(0.005)


async def test_a_timeout_and_a_scope_end_what_compiles() -> None:
    """Neither waits for the thread; one that was ended has an `Info` that says why, and the scope goes on."""
    with held() as hold:
        async with Runtime(backend=Scripted()) as runtime:
            with anyio.fail_after(SOON):
                result = await runtime.generate("a", constrain=Slow(hold), timeout=0.05).collect()
            assert (result.info.stop_reason, result.info.stop_detail) == ("cancelled", "timeout")
            with anyio.move_on_after(0.05) as scope:
                await runtime.generate("a", constrain=Slow(hold, "other")).collect()
            assert scope.cancelled_caught
            stream = runtime.generate("a", constrain=Slow(hold, "third"))
            stream.task.cancel()
            with anyio.fail_after(SOON):
                info = await stream.task
            assert (info.stop_reason, info.stop_detail) == ("cancelled", "handle")
            assert not hold.go.is_set()


@pytest.mark.parametrize("way", ["text", "json", "tokens", "step"])
async def test_a_timeout_ends_a_generator_that_compiles(way: str) -> None:
    """Its time begins with the first step, which compiles; a fork of it has its own, and begins anew."""
    with held() as hold:
        async with Runtime(backend=Scripted("a")) as runtime:
            sampler = GenerateParameters(timeout=0.05)
            generator = _generator(runtime, sampler=sampler, constrain=Slow(hold))
            with anyio.fail_after(SOON):
                if way == "json":
                    with pytest.raises(TruncatedJson):
                        await generator.collect_json()
                elif way == "step":
                    assert [step async for step in generator] == []
                else:
                    read = generator.collect_text if way == "text" else generator.collect_tokens
                    assert len(await read()) == 0
            assert generator.is_done
            assert (generator.info.stop_reason, generator.info.stop_detail) == ("cancelled", "timeout")
            await generator.rewind(0)
            assert generator.is_done
            hold.go.set()
            await runtime.matcher(Slow(hold))
            child = await generator.fork()
            child._cursor.deadline = time.monotonic() + HELD  # in place of its own twentieth of a second
            if way != "json":
                assert await child.collect_text() == "a"


WAITS: dict[str, Callable[[Runtime, Constraint], Any]] = {
    "generate": lambda runtime, constraint: runtime.generate("a", constrain=constraint).collect(),
    "generate_task": lambda runtime, constraint: runtime.generate_task("a", constrain=constraint),
    "generate_tokens_task": lambda runtime, constraint: runtime.generate_tokens_task("a", constrain=constraint),
    "ids": lambda runtime, constraint: runtime.generate_task(HELLO, constrain=constraint),
    "matcher": lambda runtime, constraint: runtime.matcher(constraint),
    "generator": lambda runtime, constraint: _generator(runtime, constrain=constraint).collect_text(),
    "step": lambda runtime, constraint: anext(_generator(runtime, constrain=constraint)),
    "collect_json": lambda runtime, constraint: _generator(runtime, constrain=constraint).collect_json(),
}


def _generator(runtime: Runtime, *, sampler: GenerateParameters | None = None, **options: Any) -> Any:
    context = runtime.context()
    context.fill(HELLO)
    return context.generate(sampler, **options)


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
async def test_who_waits_for_a_compilation_is_cancelled_at_once(wait: Callable[[Runtime, Constraint], Any]) -> None:
    """Whichever call it is."""
    with held() as hold:
        async with Runtime(backend=Scripted()) as runtime, anyio.create_task_group() as tasks:
            with anyio.fail_after(SOON):
                tasks.start_soon(wait, runtime, Slow(hold))
                await hold.wait()
                tasks.cancel_scope.cancel()
        assert not hold.go.is_set()


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
async def test_leaving_ends_who_waits_for_a_compilation(wait: Callable[[Runtime, Constraint], Any]) -> None:
    """A request as cancelled by the shutdown, anything else in `RuntimeClosed`."""
    ended: list[object] = []

    async def ask(runtime: Runtime, constraint: Constraint) -> None:
        try:
            found = await wait(runtime, constraint)
        except RuntimeClosed as error:
            ended.append(error)
        else:
            result = await found[0].collect() if isinstance(found, tuple) else found
            ended.append(result.info.stop_detail)

    with held() as hold:
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks, Runtime(backend=Scripted()) as runtime:
                for number in range(3):
                    tasks.start_soon(ask, runtime, Slow(hold, str(number % 2)))
                await hold.wait(2)
        assert not hold.go.is_set()
    assert len(ended) == 3
    assert all(each == "shutdown" or isinstance(each, RuntimeClosed) for each in ended)
    has_stream = any(each == "shutdown" for each in ended)
    assert has_stream == (
        wait in [WAITS[name] for name in ("generate", "generate_task", "generate_tokens_task", "ids")]
    )


@pytest.mark.parametrize("num_waiting", [1, 50])
async def test_leaving_ends_who_waits_in_generate_task_for_its_turn(num_waiting: int) -> None:
    """Those too whose preparation no thread has begun."""
    details: list[object] = []

    async def ask(runtime: Runtime, number: int) -> None:
        stream, task = await runtime.generate_task("a", constrain=Slow(hold, str(number)))
        details.append((task.status, (await task).stop_detail, (await stream.collect()).info.stop_detail))

    with held() as hold:
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks, Runtime(backend=Scripted()) as runtime:
                for number in range(num_waiting):
                    tasks.start_soon(ask, runtime, number)
                await hold.wait()
        assert details == [("cancelled", "shutdown", "shutdown")] * num_waiting


async def test_neighbours_of_what_compiles_go_on() -> None:
    """Ids wait for nothing; text waits until it shows that what stands before it has stalled."""
    with held() as hold:
        async with Runtime(backend=Scripted({"*": "Hello.", "a": "a"})) as runtime:
            slow = runtime.generate("a", constrain=Slow(hold))
            await hold.wait()
            with anyio.fail_after(SOON):
                assert await runtime.generate(HELLO).text() == "Hello."
                assert await runtime.generate("Hi").text() == "Hello."
                assert await runtime.prepare("Hi")
                assert await _generator(runtime).collect_text() == "Hello."
            assert slow.task.status == "queued"
            hold.go.set()
            with anyio.fail_after(HELD):
                assert await slow.text() == "a"


async def test_ids_are_queued_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is wrong with them is raised at the first await, as of any prompt."""

    def refuse(*_: Any) -> None:
        raise AssertionError("no thread is needed")

    async with Runtime(backend=Scripted("Hello.")) as runtime:
        monkeypatch.setattr(Preparers, "submit", refuse)
        stream, _ = await runtime.generate_task(HELLO)
        assert await stream.text() == "Hello."
        async with runtime.context() as context:
            context.fill(HELLO)
            assert await runtime.generate(HELLO, context=context).text() == "Hello."
        wrong = runtime.generate([1, 5000])
        with pytest.raises(InvalidPrompt, match="5000"):
            await wrong.text()


@pytest.mark.parametrize(
    "whole", [lambda slow: slow, lambda slow: All(slow, Regex("[ab]")), lambda slow: Lazy("=", slow)]
)
async def test_many_requests_of_one_slow_schema_hold_one_thread(whole: Callable[[Constraint], Constraint]) -> None:
    """It is compiled once, whatever it is a part of, and all of them have it then."""
    with held() as hold:
        async with Runtime(backend=Scripted(Reply("=a", bends=True))) as runtime:
            streams = [runtime.generate("a", constrain=whole(Slow(hold))) for _ in range(10)]
            await hold.wait()
            with anyio.fail_after(SOON):
                assert await runtime.generate("Hi", max_tokens=1).text()
            hold.go.set()
            with anyio.fail_after(HELD):
                texts = [await stream.text() for stream in streams]
    assert hold.count == 1
    assert len(set(texts)) == 1
    assert "a" in texts[0]


async def test_all_who_wait_for_a_constraint_are_told_that_it_does_not_compile() -> None:
    """It is not compiled again for each of them."""
    with held() as hold:
        async with Runtime(backend=Scripted()) as runtime:
            streams = [runtime.generate("a", constrain=All(Slow(hold), Regex(f"a{n}?"))) for n in range(6)]
            await hold.wait()
            await runtime.generate("Hi", max_tokens=1).collect()
            hold.error = ValueError("no such thing")
            hold.go.set()
            for stream in streams:
                with pytest.raises(InvalidConstraint, match="no such thing"), anyio.fail_after(HELD):
                    await stream.text()
    assert hold.count == 1


async def test_what_was_given_up_is_there_for_the_next_request() -> None:
    """Its compilation runs out."""
    with held() as hold:
        async with Runtime(backend=Scripted()) as runtime:
            await runtime.generate("a", constrain=Slow(hold), timeout=0.05).collect()
            hold.go.set()
            assert await runtime.generate("a", constrain=Slow(hold)).text() == "a"
    assert hold.count == 1


async def test_the_ready_start_in_the_order_of_the_calls() -> None:
    """Also those that were ready at different moments, and wait for a row."""
    started: list[str] = []

    def start(runtime: Runtime, name: str, **options: Any) -> EventStream:
        return runtime.generate("a", progress=lambda *_: started.append(name), max_tokens=2, **options)

    with held() as hold:
        backend = Scripted()
        async with Runtime(backend=backend, max_rows=1) as runtime:
            with backend.held():
                first, _ = await runtime.generate_task(HELLO, max_tokens=2)
                streams = [start(runtime, "slow", constrain=Slow(hold))]
                await hold.wait()
                streams.append(start(runtime, "text"))
                await runtime.prepare("Hi")  # the text before it is prepared by then
                hold.go.set()
                streams.append(start(runtime, "slow too", constrain=Slow(hold)))
                await runtime.matcher(Slow(hold))
                streams.append(start(runtime, "more text"))
                await runtime.prepare("Hi")
            for stream in [*streams, first]:
                await stream.task
    assert started == ["slow", "text", "slow too", "more text"]


async def test_too_much_work_that_was_given_up_is_a_typed_error(
    monkeypatch: pytest.MonkeyPatch, no_lingering: None
) -> None:
    """Until some of it has ended; ids go on meanwhile."""
    del no_lingering
    monkeypatch.setattr(preparers, "_LINGERS", 0.0)
    with held() as hold:
        async with Runtime(backend=Scripted("Hello.")) as runtime:
            for number in range(preparers.MOST_ABANDONED):
                stream = runtime.generate("a", constrain=Slow(hold, str(number)))
                await hold.wait()
                await stream.aclose()
            with pytest.raises(PreparersBusy, match=f"{preparers.MOST_ABANDONED} preparations") as caught:
                runtime.generate("Hi")
            assert caught.value.abandoned == preparers.MOST_ABANDONED
            with pytest.raises(PreparersBusy):
                await runtime.matcher(Regex("a"))
            assert await runtime.generate(HELLO).text() == "Hello."
            hold.go.set()
            with anyio.fail_after(HELD):
                await anyio.to_thread.run_sync(_wait_for_end)
            assert await runtime.generate("Hi").text() == "Hello."


class Endless:
    """A chat template that never ends, over some words, in Python as templates are."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.begun = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def render(self, messages: Any, **options: Any) -> Any:
        """For ever where it is asked to."""
        if "forever" in str(messages):
            self.begun.release()
            try:
                while True:
                    with suppress(Exception):
                        sum(range(100))
            finally:
                self.ended.release()
        return self._inner.render(messages, **options)


def endless() -> tuple[Scripted, Endless]:
    """A backend whose template may never end."""
    backend = Scripted("Hello.")
    tokenizer = Endless(backend._info.tokenizer)
    backend._info = msgspec.structs.replace(backend._info, tokenizer=tokenizer)
    return backend, tokenizer


async def wait_for(semaphore: threading.Semaphore) -> None:
    """Until it was released."""
    assert await anyio.to_thread.run_sync(partial(semaphore.acquire, timeout=HELD))


async def test_an_endless_template_is_interrupted_once_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request is told so; what comes after it does not wait for that."""
    monkeypatch.setattr(prompts, "RENDER_LIMIT", 0.3)
    backend, tokenizer = endless()
    async with Runtime(backend=backend) as runtime:
        stream = runtime.generate("forever")
        with anyio.fail_after(HELD):
            await wait_for(tokenizer.begun)
            assert await runtime.generate("Hi").text() == "Hello."
            with pytest.raises(TemplateTimeout, match="template did not end within") as caught:
                await stream.text()
            assert caught.value.limit == 0.3
            await wait_for(tokenizer.ended)
            with pytest.raises(TemplateTimeout):
                await runtime.prepare([{"role": "user", "content": "forever"}])
            async with runtime.context() as context:
                context.user("forever")
                with pytest.raises(TemplateTimeout):
                    await context.generate().collect_text()


@pytest.mark.parametrize("way", ["given up", "left"])
async def test_an_endless_template_that_nobody_waits_for_is_interrupted(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while, or at once where the runtime is left."""
    monkeypatch.setattr(preparers, "PATIENCE", 0.1 if way == "given up" else HELD * 10)
    backend, tokenizer = endless()
    with anyio.fail_after(HELD):
        async with Runtime(backend=backend) as runtime:
            stream = runtime.generate("forever")
            await wait_for(tokenizer.begun)
            if way == "given up":
                await stream.aclose()
                await wait_for(tokenizer.ended)
        await wait_for(tokenizer.ended) if way == "left" else None
        assert (await stream.task).stop_detail == ("stream_closed" if way == "given up" else "shutdown")


@pytest.mark.parametrize("loop", ["{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"])
async def test_a_template_of_jinja_is_interrupted_too(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sandbox bounds one loop, and not loops in each other."""
    monkeypatch.setattr(prompts, "RENDER_LIMIT", 0.3)
    files = understudy.path()
    inner = PreTrainedTokenizerFast(tokenizer_file=str(files / "tokenizer.json"), chat_template=loop)
    backend = Scripted()
    backend._info = msgspec.structs.replace(backend._info, tokenizer=MlxTokenizer(inner), vocab_size=4096)
    async with Runtime(backend=backend) as runtime:
        with pytest.raises(TemplateTimeout), anyio.fail_after(HELD):
            await runtime.prepare("Hi")
        assert await runtime.prepare("Hi", template=False)


class Careless:
    """A tokenizer in Python that two threads must not enter together."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.most = self.num_inside = 0

    def __len__(self) -> int:
        return 300

    def encode(self, text: str, **_: Any) -> list[int]:
        """Stay inside until it is let go."""
        self.num_inside += 1
        self.most = max(self.most, self.num_inside)
        self.entered.release()
        self.go.wait(HELD)
        self.num_inside -= 1
        return [len(text)]


def test_a_tokenizer_that_does_not_bear_two_threads_is_entered_by_one() -> None:
    """The other one waits."""
    careless = Careless()
    tokenizer = MlxTokenizer(careless)
    threads = [threading.Thread(target=tokenizer.encode, args=("text",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert careless.entered.acquire(timeout=HELD)
    assert not careless.entered.acquire(timeout=0.2)
    careless.go.set()
    for thread in threads:
        thread.join(HELD)
    assert careless.most == 1


EXITS = {
    "a template": """
        import anyio, greenroom
        from test_preparing import endless, wait_for

        async def main():
            backend, tokenizer = endless()
            async with greenroom.Runtime(backend=backend) as runtime:
                stream = runtime.generate("forever")
                await wait_for(tokenizer.begun)
                {leaving}
        anyio.run(main)
        """,
    "a constraint": """
        import anyio, greenroom, time
        from test_preparing import Hold, Slow
        from greenroom.backends.scripted import Scripted

        async def main():
            hold = Hold()
            async with greenroom.Runtime(backend=Scripted()) as runtime:
                stream = runtime.generate("a", constrain=Slow(hold))
                await hold.wait()
                {leaving}
        anyio.run(main)
        """,
}


@pytest.mark.parametrize("leaving", ["print('left')", "print('left', flush=True); raise SystemExit(0)"])
@pytest.mark.parametrize("what", EXITS)
def test_a_process_exits_while_something_is_prepared(what: str, leaving: str) -> None:
    """An endless template, a compilation that waits for half a minute: neither is joined."""
    program = textwrap.dedent(EXITS[what]).replace("{leaving}", leaving)
    folder = Path(__file__).parent
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "left"
    assert time.monotonic() - began < HELD
