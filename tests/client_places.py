"""Where a client finds an app that says what it is told: in this process, or behind a port of this machine."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx2
import uvicorn

from greenroom import Reply, Runtime, Scripted
from greenroom.serve import app
from greenroom.serve.transports import Httpx2Transport

__all__ = ["MODEL", "SMALL", "Place", "behind_a_port", "in_this_process"]

MODEL = "scripted"
SMALL = "small"
"""One whose context is soon full."""


class Script:
    """What is said next, in order; at its end a greeting."""

    def __init__(self) -> None:
        self.replies: deque[str | Reply] = deque()

    def __call__(self, message: str, seed: int) -> str | Reply:
        """The next reply, whatever was asked."""
        del message, seed
        return self.replies.popleft() if self.replies else "Hello there, friend."


@dataclass(frozen=True)
class Place:
    """An app as a client has it. `transport` is None behind a port."""

    url: str
    runtime: Runtime
    script: Script
    transport: Httpx2Transport | None

    def http(self) -> httpx2.AsyncClient:
        """A client of the library that those of the APIs are built on."""
        return httpx2.AsyncClient(transport=self.transport, timeout=30)

    def say(self, *replies: str | Reply) -> None:
        """Have these said, a request each."""
        self.script.replies.clear()
        self.script.replies.extend(replies)

    async def wait_until_idle(self) -> None:
        """Return once nothing runs, waits or is held."""
        with anyio.fail_after(20):
            while True:
                found = self.runtime.statistics()
                if (found.running, found.waiting, found.paused, found.kv_bytes) == (0, 0, 0, 0):
                    return
                await anyio.sleep(0.001)  # the server is another thread's: there is nothing to wait for


@asynccontextmanager
async def _served(script: Script) -> AsyncIterator[tuple[Runtime, Any]]:
    runtime = Runtime(backend=Scripted(script, context_length=1 << 24))
    async with runtime, Runtime(backend=Scripted(script, context_length=200)) as small:
        yield runtime, app(runtime, models={MODEL: runtime, SMALL: small})


@asynccontextmanager
async def in_this_process() -> AsyncIterator[Place]:
    """On the loop of the test."""
    script = Script()
    async with _served(script) as (runtime, served), Httpx2Transport(served) as transport:
        yield Place("http://localhost", runtime, script, transport)


@contextmanager
def behind_a_port() -> Iterator[Place]:
    """Served by uvicorn, on another thread, so that a test on any loop is its client."""
    script, ready = Script(), threading.Event()
    found: dict[str, Any] = {}

    async def serve(listening: socket.socket) -> None:
        async with _served(script) as (runtime, served):
            config = uvicorn.Config(served, lifespan="off", log_level="critical", timeout_graceful_shutdown=5)
            found.update(runtime=runtime, server=uvicorn.Server(config))
            ready.set()
            await found["server"].serve([listening])

    with socket.create_server(("127.0.0.1", 0)) as listening:  # open before the server is: who connects waits for it
        thread = threading.Thread(target=lambda: asyncio.run(serve(listening)), name="server")
        thread.start()
        assert ready.wait(20)
        try:
            yield Place(f"http://127.0.0.1:{listening.getsockname()[1]}", found["runtime"], script, None)
        finally:
            found["server"].should_exit = True
            thread.join(20)
