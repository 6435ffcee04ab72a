"""An app run by uvicorn, on the loop of its runtime: a signal drains the runtime, then ends the server."""

from __future__ import annotations

import ipaddress
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from greenroom import Runtime
from greenroom.errors import InvalidParameter, UnusablePath
from greenroom.serve.settings import LOOPBACK, ServeSettings

__all__ = ["open_port", "serve"]

_BACKLOG = 2048
_SECONDS_LEFT = 5
"""Between the end of what was drained and of connections that do not take their last bytes."""


def open_port(host: str, port: int, settings: ServeSettings) -> socket.socket:
    """A socket that listens there. Raises `InvalidParameter` beyond this machine without keys, and where it cannot."""
    if not _is_loopback(host) and not settings.keys:
        expected = f"an address of this machine ({', '.join(LOOPBACK)}) without keys: give a key, or everybody may ask"
        raise InvalidParameter("host", host, expected)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise UnusablePath(f"{host}:{port}", f"cannot be listened on: {error}") from error


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may lead anywhere
        return False


async def serve(app: ASGIApp, runtime: Runtime, listening: socket.socket, *, drain_seconds: float = 20.0) -> None:
    """Answer on a socket until a SIGTERM or a SIGINT. Then nothing new is taken on, and what runs has `drain_seconds`.

    A second signal ends it at once. asyncio alone, since that is what uvicorn runs on.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who a proxy asks for is not known by what it says
        timeout_graceful_shutdown=round(drain_seconds) + _SECONDS_LEFT,
    )
    with _signals_left_alone():
        await _DrainingServer(config, runtime, drain_seconds).serve([listening])


class _DrainingServer(uvicorn.Server):
    """Ends the way uvicorn does, after it has told its runtime."""

    def __init__(self, config: uvicorn.Config, runtime: Runtime, drain_seconds: float) -> None:
        super().__init__(config)
        self._runtime = runtime
        self._drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._runtime.drain(0.0 if self.should_exit else self._drain_seconds)
        super().handle_exit(sig, frame)


@contextmanager
def _signals_left_alone() -> Iterator[None]:
    """For uvicorn raises a signal again once it has ended, and the process has a runtime to leave."""
    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda _number, _frame: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
