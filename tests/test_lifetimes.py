"""What a cancellation may not break."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import anyio
import pytest
from anyio.lowlevel import checkpoint

from greenroom.lifetimes import wait_shielded


async def test_a_shielded_wait_ends_with_what_it_waits_for_and_is_cancelled_then() -> None:
    """A scope that is cancelled before and during the wait: the wait goes on, and the cancellation comes behind it."""
    event, is_over = anyio.Event(), False
    came_back: list[bool] = []

    async def wait() -> None:
        try:
            await wait_shielded(event, lambda: is_over)
        finally:
            came_back.append(is_over)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await checkpoint()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            for _ in range(5):
                await checkpoint()
            assert came_back == []
            is_over = True
            event.set()
    assert came_back == [True]


async def test_without_a_cancellation_it_returns() -> None:
    """At once where it is over, else when it is."""
    event = anyio.Event()
    await wait_shielded(event, lambda: True)
    event.set()
    await wait_shielded(event, event.is_set)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_native_cancels_of_asyncio_do_not_break_it() -> None:
    """A second one breaks anyio's shield; the wait is taken up again, and raises once it is over."""
    event, is_over = asyncio.Event(), False
    task = asyncio.create_task(wait_shielded(event, lambda: is_over))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    is_over = True
    event.set()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
