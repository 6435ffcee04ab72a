"""A child made by fork is told so, where it would wait for the threads or the device of its parent for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

PROGRAM = """
import faulthandler, os, sys, threading, warnings
import anyio, greenroom
from greenroom.backends.scripted import Scripted
from greenroom.errors import ForkedProcess

warnings.simplefilter("ignore")  # of Python's, over a fork beside threads

def run(work):
    try:
        anyio.run(work, backend={backend!r})
    except ForkedProcess as error:
        print(error)

def in_child(work):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(20, exit=True)
        try:
            thread = threading.Thread(target=work)  # the fork's own is within its parent's loop
            thread.start()
            thread.join()
            sys.stdout.flush()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
"""

MLX = """
from greenroom.backends.mlx import MlxBackend

async def main():
    async with greenroom.Runtime() as runtime:
        print("generated", (await runtime.generate("Hi", max_tokens=2).collect()).info.generation_tokens)

in_child(lambda: run(main))
anyio.run(main)
in_child(lambda: run(main))
"""

PARENTS_OBJECTS = """
async def main():
    async with greenroom.Runtime(backend=Scripted("Hello.")) as runtime:
        stream = runtime.generate("Hi")
        context = runtime.context()
        context.fill([1, 2])
        generator = context.generate()

        def child():
            async def read(): await stream.collect()
            async def wait(): await stream.task
            async def ask(): await runtime.generate([1]).collect()
            async def enter():
                async with runtime: pass
            async def prepare(): await runtime.prepare("Hi")
            async def go_on(): await generator.collect_text()
            async def leave(): await runtime.__aexit__(None, None, None)
            for each in (read, wait, ask, enter, prepare, go_on):
                print(each.__name__, end=": ")
                run(each)
            run(leave)
            async def own():
                async with greenroom.Runtime(backend=Scripted("Hello.")) as other:
                    return print(await other.generate("Hi").text(), await greenroom.generate("Hi").text())
            run(own)

        in_child(child)
        print(await stream.text())

anyio.run(main, backend={backend!r})
"""


def run(program: str, backend: str = "asyncio") -> list[str]:
    """What it prints, line by line."""
    source = (PROGRAM + textwrap.dedent(program)).replace("{backend!r}", repr(backend))
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode not in (-signal.SIGKILL, -signal.SIGABRT), done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    assert "Timeout" not in done.stderr, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_a_child_of_a_process_that_used_mlx_enters_no_runtime() -> None:
    """The error says what to do. Where MLX was only imported by then, it may be used in the child."""
    child, parent, refused = run(MLX)
    assert (child, parent) == ("generated 2", "generated 2")
    assert "MLX was used in the process that this one was forked from" in refused
    assert "spawn" in refused


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_child_cannot_use_its_parents_runtime(backend: str) -> None:
    """Nor what was made with it; leaving it there is nothing, and a runtime of its own works beside it."""
    *refused, own, parents = run(PARENTS_OBJECTS, backend)
    names = [line.split(":")[0] for line in refused]
    assert names == ["read", "wait", "ask", "enter", "prepare", "go_on"]
    assert all("belongs to the process that this one was forked from" in line and "spawn" in line for line in refused)
    assert (own, parents) == ("Hello. Hello.", "Hello.")


def test_what_was_given_up_in_the_parent_does_not_count_in_the_child() -> None:
    """The child has no such threads."""
    assert run("""
        from greenroom.actors import preparers
        from greenroom.constraints import watch
        preparers._LINGERS = watch.LIMIT = 0.0
        hold, begun = threading.Event(), threading.Semaphore(0)
        def stand():
            begun.release()
            hold.wait(30)
        pool = preparers.Preparers()
        for number in range(8):
            each = pool.submit(stand, lambda *_: None)
            begun.acquire()
            pool.give_up(each)
            watch.Watched("it", stand)
            begun.acquire()
        def child():
            watch.LIMIT = 30.0
            other = preparers.Preparers()
            done = threading.Event()
            other.submit(lambda: 1, lambda value, error: done.set())
            print(done.wait(10), watch.watched("it", lambda: 2))
        in_child(child)
        hold.set()
        """) == ["True 2"]
