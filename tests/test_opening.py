"""A runtime that is opened and closed by call: for notebooks, and for frameworks with hooks at start and stop."""

from __future__ import annotations

import gc
import logging
import threading

import anyio
import pytest
from anyio import to_thread

import greenroom
from greenroom import Reply, Runtime, RuntimeClosed, Scripted

ENDLESS = Reply("on and on ", end=False, repeat=True)
WARNED = "garbage collected open: use `async with`, or `await runtime.close()`"


async def no_engine_is_left() -> bool:
    """Whether every engine thread of this process ends; each has given everything back before it says so."""
    left = [thread for thread in threading.enumerate() if thread.name == "greenroom-engine"]
    for thread in left:
        await to_thread.run_sync(thread.join, 10.0)
    return not any(thread.is_alive() for thread in left)


async def test_it_is_opened_and_closed_by_call() -> None:
    """It generates in between, is the current one, and may be opened again."""
    runtime = Runtime(backend=Scripted(Reply("well")))
    for _ in range(2):
        assert await runtime.open() is runtime
        assert repr(runtime).endswith(" open>")
        assert await greenroom.generate("x").text() == "well"
        await runtime.close()
        assert repr(runtime).endswith(" closed>")
        with pytest.raises(greenroom.NoRuntime):
            greenroom.generate("x")
    assert await no_engine_is_left()


async def test_a_second_opening_is_refused_and_a_second_close_is_nothing() -> None:
    """The first opening is not touched."""
    runtime = Runtime(backend=Scripted(Reply("well")))
    await runtime.close()
    await runtime.open()
    with pytest.raises(RuntimeClosed, match="entered already"):
        await runtime.open()
    with pytest.raises(RuntimeClosed, match="entered already"):
        async with runtime:
            pass
    assert await runtime.generate("x").text() == "well"
    await runtime.close()
    await runtime.close()


async def test_every_close_returns_once_it_is_closed() -> None:
    """Two tasks close, neither of which opened it; what ran is settled for both."""
    backend = Scripted(ENDLESS)
    runtime = await Runtime(backend=backend).open()
    stream = runtime.generate("x")
    backend.hold()
    await to_thread.run_sync(backend.wait_held)
    ended: list[bool] = []

    async def close() -> None:
        await runtime.close()
        ended.append(stream.task.info is not None)

    async with anyio.create_task_group() as group:
        group.start_soon(close)
        group.start_soon(close)
        await anyio.wait_all_tasks_blocked()
        assert ended == []
        backend.release_all()
    assert ended == [True, True]
    assert (await stream.task).stop_detail == "shutdown"


async def test_a_cancelled_close_has_closed() -> None:
    """It goes on through the cancellation."""
    backend = Scripted(ENDLESS)
    runtime = await Runtime(backend=backend).open()
    stream = runtime.generate("x")
    backend.hold()
    await to_thread.run_sync(backend.wait_held)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(runtime.close)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            backend.release_all()
    assert not runtime.is_open
    assert stream.task.info is not None
    assert await no_engine_is_left()


async def test_a_cancelled_opening_leaves_it_closed() -> None:
    """It waits for the load, and gives back what that brought; then it can be opened."""
    runtime = Runtime(backend=Scripted(Reply("well")))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await runtime.open()
    assert not runtime.is_open
    assert await no_engine_is_left()
    async with runtime:
        assert await runtime.generate("x").text() == "well"


async def test_a_runtime_that_is_collected_open_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """One that was closed, or left, says nothing; what ran ends in any case."""
    caplog.set_level(logging.WARNING, "greenroom")
    closed = await Runtime(backend=Scripted(ENDLESS)).open()
    await closed.close()
    del closed
    async with Runtime(backend=Scripted(ENDLESS)):
        pass
    gc.collect()
    assert caplog.messages == []
    runtime = await Runtime(backend=Scripted(ENDLESS)).open()
    task = runtime.generate("x").task
    del runtime
    gc.collect()
    assert (await task).stop_reason == "cancelled"
    assert [message.partition(" was ")[2] for message in caplog.messages] == [WARNED]
