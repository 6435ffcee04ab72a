"""A runtime belongs to the event loop on which it was entered: elsewhere each call says so, none waits for ever."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from anyio.from_thread import start_blocking_portal
from conftest import HAS_UVLOOP

from greenroom import (
    ChatSession,
    Context,
    Generator,
    NoRuntime,
    Reply,
    Runtime,
    RuntimeClosed,
    Scripted,
    WrongEventLoop,
    generate,
    structures,
)
from greenroom.request import current
from greenroom.request.current import session_of

KINDS: dict[str, tuple[str, dict[str, Any]]] = {"asyncio": ("asyncio", {}), "trio": ("trio", {})}
if HAS_UVLOOP:
    KINDS["uvloop"] = ("asyncio", {"use_uvloop": True})


def run(kind: str, function: Callable[[], Awaitable[Any]]) -> Any:
    """`function` on a new loop."""
    backend, options = KINDS[kind]
    return anyio.run(function, backend=backend, backend_options=options)


def endless() -> Scripted:
    """Nothing comes to an end by itself."""
    return Scripted({"json": "[" + "1," * 400, "*": Reply("on and on ", repeat=True)})


class Things:
    """What a program may hold: a runtime, and all kinds of things made with it that have not ended."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.streams = [runtime.generate("x") for _ in range(3)]
        self.objects = structures(runtime.generate("json"), list[int])
        self.context: Context = runtime.context().fill("x")
        self.generator: Generator = self.context.generate()
        self.idle = runtime.context().fill("idle")
        self.session = ChatSession(runtime)
        self.turn = self.session.stream_events("x")

    async def begin(self) -> None:
        """Read the beginning of everything."""
        for stream in self.streams:
            await anext(stream)
        await anext(self.objects)
        await anext(self.generator.tokens())
        await anext(self.turn)

    async def go_on(self) -> None:
        """Read on: nobody was hurt."""
        await anext(self.streams[0])
        await anext(self.generator.tokens())
        await anext(self.turn)
        assert (await self.runtime.generate("y", max_tokens=3).collect()).info.generation_tokens == 3


async def read(source: Any) -> None:
    """One thing of it."""
    await anext(source)


USES: dict[str, Callable[[Things], Awaitable[object]]] = {
    "generate": lambda our: our.runtime.generate("x").text(),
    "generate by function": lambda our: generate("x", runtime=our.runtime).text(),
    "generate_task": lambda our: our.runtime.generate_task("x"),
    "generate_tokens": lambda our: our.runtime.generate_tokens("x").collect(),
    "generate_tokens_task": lambda our: our.runtime.generate_tokens_task("x"),
    "generate_token_task": lambda our: our.runtime.generate_token_task([1, 2]),
    "generate_token_task of a generator": lambda our: our.runtime.generate_token_task(our.generator),
    "stream": lambda our: read(our.runtime.stream(list[int], "x")),
    "collect": lambda our: our.runtime.collect(list[int], "x"),
    "map": lambda our: read(our.runtime.map(["x"])),
    "generate in a context": lambda our: our.runtime.generate("x", context=our.idle).text(),
    "flush": lambda our: our.idle.flush(),
    "score": lambda our: our.idle.score([1, 2]),
    "collect_text": lambda our: our.runtime.context().fill("x").generate(max_tokens=3).collect_text(),
    "respond": lambda our: ChatSession(our.runtime).respond("x"),
    "export": lambda our: session_of(our.runtime).client.export_kv([1]),
    "import": lambda our: session_of(our.runtime).client.import_kv(b""),
    "a stream that is read": lambda our: read(our.streams[0]),
    "a stream that is collected": lambda our: our.streams[0].collect(),
    "a stream that is closed": lambda our: our.streams[1].aclose(),
    "a handle that is awaited": lambda our: our.streams[2].task.wait(),
    "objects that are read": lambda our: read(our.objects),
    "objects that are closed": lambda our: our.objects.aclose(),
    "a generator that is read": lambda our: read(our.generator.tokens()),
    "events of a generator": lambda our: read(our.generator.events()),
    "a step": lambda our: read(our.generator),
    "a generator that is drained": lambda our: our.generator.collect_text(),
    "a fork": lambda our: our.generator.fork(),
    "a rewind": lambda our: our.generator.rewind(1),
    "a snapshot": lambda our: our.generator.snapshot(),
    "a generator that is closed": lambda our: our.generator.aclose(),
    "a context that is closed": lambda our: our.context.aclose(),
    "a turn that is read": lambda our: read(our.turn),
    "a turn that is closed": lambda our: our.turn.aclose(),
    "a session whose turn runs": lambda our: our.session.respond("y"),
    "an inherited runtime": lambda our: as_current(our.runtime),
}


async def as_current(runtime: Runtime) -> str:
    """As in a thread that has its starter's context."""
    current._context.set(weakref.ref(runtime))
    return await generate("x").text()


async def use_everything(things: Things) -> None:
    """Each use is refused at once, and says what to do."""
    for name, use in USES.items():
        try:
            with anyio.fail_after(20):
                await use(things)
        except WrongEventLoop as error:
            assert "enter a runtime on the loop that uses it" in str(error)  # noqa: PT017 - which use it was is told
        else:
            raise AssertionError(f"{name} was not refused")


@contextmanager
def at_home(kind: str) -> Iterator[Callable[[Callable[[], Awaitable[Any]]], Any]]:
    """A loop that runs in another thread: what is called there."""
    backend, options = KINDS[kind]
    with start_blocking_portal(backend, options) as portal:
        yield portal.call


async def opened() -> Things:
    """A runtime that is entered here, and things that have begun."""
    things = Things(await Runtime(backend=endless()).__aenter__())
    await things.begin()
    return things


@pytest.mark.parametrize("here", KINDS)
@pytest.mark.parametrize("home", KINDS)
def test_another_loop_is_told_so_while_its_own_runs(home: str, here: str) -> None:
    """Whatever it calls; and what runs at home goes on."""
    with at_home(home) as call:
        things: Things = call(opened)
        run(here, lambda: use_everything(things))
        call(things.go_on)
        call(things.turn.aclose)
        call(lambda: things.runtime.__aexit__(None, None, None))


@pytest.mark.parametrize("here", KINDS)
@pytest.mark.parametrize("home", KINDS)
def test_another_loop_is_told_so_once_its_own_is_over(home: str, here: str) -> None:
    """The same; and the engine is ended from there."""
    things: Things = run(home, opened)

    async def use_and_leave() -> None:
        await use_everything(things)
        with anyio.fail_after(20):
            await things.runtime.__aexit__(None, None, None)
        assert not things.runtime.is_open
        with pytest.raises(RuntimeClosed):
            await things.idle.flush()

    run(here, use_and_leave)
    assert engines() == []
    assert run(here, lambda: answer(things.runtime)) == "on "


async def answer(runtime: Runtime) -> str:
    """Of a runtime that is entered for it."""
    async with runtime:
        return await runtime.generate("x", max_tokens=3).text()


def engines() -> list[str]:
    """Engine threads that live on. One that has told its loop of its end is still there for a moment."""
    found = [thread for thread in threading.enumerate() if thread.name == "greenroom-engine"]
    for thread in found:
        thread.join(5.0)
    return [thread.name for thread in found if thread.is_alive()]


@pytest.mark.parametrize("here", KINDS)
@pytest.mark.parametrize("home", KINDS)
def test_who_waits_at_home_is_told_when_another_loop_leaves(home: str, here: str) -> None:
    """The engine settles all, and its own loop hears of it."""
    with at_home(home) as call:
        things: Things = call(opened)
        run(here, lambda: things.runtime.__aexit__(None, None, None))
        assert engines() == []
        info = call(things.streams[0].task.wait)
        assert (info.stop_reason, info.stop_detail) == ("cancelled", "shutdown")


async def test_a_thread_without_a_loop_is_told_so() -> None:
    """A call that does not wait is refused there as well; without a runtime there is none."""
    async with Runtime(backend=endless()) as runtime:
        for call in (lambda: runtime.generate("x"), lambda: generate("x"), lambda: generate("x", runtime=runtime)):
            with pytest.raises(WrongEventLoop, match="no event loop runs here"):
                await anyio.to_thread.run_sync(call)
        found: list[object] = []

        def bare() -> None:  # a thread that inherits nothing
            try:
                generate("x")
            except NoRuntime as error:
                found.append(error)

        thread = threading.Thread(target=bare)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        assert len(found) == 1


def test_a_loop_around_another_is_not_that() -> None:
    """Trio's, run inside a task of asyncio's, which asyncio takes for its own; and the other way about."""

    async def outer() -> None:
        things = await opened()
        trio.run(use_everything, things)
        await things.go_on()
        await things.turn.aclose()
        await things.runtime.__aexit__(None, None, None)

    asyncio.run(outer())


def test_a_callback_of_the_loop_may_ask() -> None:
    """It runs on the loop, in no task."""

    async def main() -> str:
        async with Runtime(backend=Scripted("fine")) as runtime:
            asked: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(lambda: asked.set_result(runtime.generate("x")))
            text: str = await (await asked).text()
            return text

    assert asyncio.run(main()) == "fine"


async def test_the_runtime_of_this_loop_is_meant_before_an_inherited_one() -> None:
    """A thread with a loop and a runtime of its own, which has its starter's context."""

    def elsewhere() -> str:
        async def serve() -> str:
            async with Runtime(backend=Scripted("theirs")):
                current._context.set(weakref.ref(ours))
                return await generate("x").text()

        return asyncio.run(serve())

    async with Runtime(backend=Scripted("ours")) as ours:
        assert await anyio.to_thread.run_sync(elsewhere) == "theirs"
        assert await generate("x").text() == "ours"


WAITS = {
    "a handle": "await runtime.generate('x').task",
    "a generator": "await runtime.context().fill('x').generate().collect_text()",
    "nothing": "await anyio.sleep_forever()",
}


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_ends_a_wait(kind: str, wait: str, tmp_path: Path) -> None:
    """Ctrl-C once: the runtime is left, and the program ends by it."""
    backend, options = KINDS[kind]
    script = f"""
        import anyio
        from greenroom import Reply, Runtime, Scripted

        async def main():
            async with Runtime(backend=Scripted({{"*": Reply("on ", repeat=True)}}, context_length=1 << 40)) as runtime:
                print("waits", flush=True)
                {WAITS[wait]}

        try:
            anyio.run(main, backend={backend!r}, backend_options={options!r})
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    with program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "waits\n"
            program.send_signal(signal.SIGINT)
            rest, _ = program.communicate(timeout=50)
        finally:
            program.kill()
    assert (program.returncode, rest) == (0, "interrupted\n")
