"""A page on a port of this machine, served on another thread, for its browsers; and models that write slowly."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import uvicorn
from device_double import DeviceDouble, Spelling, Text, Timeline
from models import VOCAB, llama

from greenroom import Reply, Runtime, Scripted
from greenroom.backends.protocol import Backend
from greenroom.backends.scripted import ByteTokenizer
from greenroom.backends.scripted.tokenizer import END, STOP
from greenroom.serve import ServeSettings, app, page_routes

__all__ = ["WEATHER_CALL", "PageServer", "Speech", "device_double", "get_weather", "served_page", "slow"]

WEATHER_CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'

_SECONDS = 20


def get_weather(city: str) -> str:
    """Get the current weather for a city."""
    return f"It is clear in {city}."


class Speech:
    """What the model says next, by a part of the question; else `other`."""

    def __init__(self, other: str | Reply = "Hello there.") -> None:
        self.other = other
        self.by_part: dict[str, str | Reply] = {}
        self.once: list[str] = []
        """What is said before all that, a reply a request."""
        self.asked: list[int] = []
        """The seeds of what was asked, oldest first."""

    def __call__(self, message: str, seed: int) -> str | Reply:
        """The reply to a question."""
        self.asked.append(seed)
        if self.once:
            return self.once.pop(0)
        return next((reply for part, reply in self.by_part.items() if part in message), self.other)


@dataclass
class PageServer:
    """Where it is, and what runs there."""

    url: str
    runtime: Runtime
    backend: Backend | None
    _server: uvicorn.Server
    _loop: asyncio.AbstractEventLoop

    def hang_up(self) -> None:
        """Close every connection."""

        def close() -> None:
            for each in list(self._server.server_state.connections):
                each.transport.close()

        self._loop.call_soon_threadsafe(close)

    @contextmanager
    def after(self, tokens: int) -> Iterator[None]:
        """In the block, the model stands still once it has written about so many tokens."""
        assert isinstance(self.backend, Scripted)
        with self.backend.held():
            self.backend.release(tokens)
            yield

    def wait_until_idle(self) -> None:
        """Return once no row is left. Raises `AssertionError` where that does not come."""
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            found = self.runtime.statistics()
            if (found.running, found.waiting, found.paused, found.kv_bytes) == (0, 0, 0, 0):
                return
            time.sleep(0.002)  # the server is another thread's: there is nothing to wait for
        raise AssertionError(self.runtime.statistics())

    @property
    def num_rows(self) -> int:
        """How many answers have a row."""
        found = self.runtime.statistics()
        return found.running + found.paused


@contextmanager
def served_page(
    backend: Backend | None, *, tools: Sequence[Callable[..., Any]] = (), keys: Sequence[str] = ()
) -> Iterator[PageServer]:
    """An app with its page, until the block is left; without a backend, of the bundled model."""
    settings, ready = ServeSettings(keys=tuple(keys)), threading.Event()
    found: dict[str, Any] = {}

    async def serve(listening: socket.socket) -> None:
        async with Runtime(backend=backend) as runtime:
            served = app(runtime, settings=settings, routes=page_routes(tools=list(tools) or None))
            config = uvicorn.Config(served, lifespan="off", log_level="critical", timeout_graceful_shutdown=1)
            found.update(runtime=runtime, server=uvicorn.Server(config), loop=asyncio.get_running_loop())
            ready.set()
            await found["server"].serve([listening])

    with socket.create_server(("127.0.0.1", 0)) as listening:  # open before the server is: who connects waits for it
        thread = threading.Thread(target=lambda: asyncio.run(serve(listening)), name="server")
        thread.start()
        assert ready.wait(_SECONDS)
        try:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
            yield PageServer(url, found["runtime"], backend, found["server"], found["loop"])
        finally:
            with suppress(Exception):
                found["runtime"].drain(0.0)
            found["server"].should_exit = True
            thread.join(_SECONDS)


def slow(speech: Speech, step_seconds: float = 0.01) -> Scripted:
    """A model that takes its time for a token."""
    return Scripted(speech, step_seconds=step_seconds, context_length=1 << 20)


class _Ending(ByteTokenizer):
    """With the ids that end a turn."""

    stop_tokens = tuple(sorted(STOP))


def device_double(text: str, pass_seconds: float) -> DeviceDouble:
    """A device whose passes take so long, over a real model; each row writes `text`, a byte a token."""
    spelling = Spelling([bytes([byte]) if byte < 256 else b"" for byte in range(VOCAB)], END)
    texts = [Text(text.encode(), spelling)]
    return DeviceDouble(lambda: (llama(2)[0], _Ending()), Timeline(lambda _: pass_seconds), texts)
