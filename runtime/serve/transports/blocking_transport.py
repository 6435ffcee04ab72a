"""What the transports for the blocking clients of httpx and httpx2 have in common: the loop is another thread's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from greenroom.serve.transports.exchange import AsgiApp, Exchange, Head
from greenroom.serve.transports.streaming import HttpErrors, ResponseBody, StreamingTransport

if TYPE_CHECKING:
    from greenroom.blocking import Runtime  # who has one has it loaded

__all__ = ["BlockingBody", "BlockingTransport"]


class BlockingBody:
    """A response's body, part by part: see `ResponseBody`."""

    def __init__(self, exchange: Exchange, errors: HttpErrors, seconds: float | None, runtime: Runtime) -> None:
        self._body = ResponseBody(exchange, errors, seconds)
        self._runtime = runtime

    def __iter__(self) -> Iterator[bytes]:
        while (part := self._runtime.call(self._body.next_part)) is not None:
            yield part

    def close(self) -> None:
        """Leave the app, and return once it has ended."""
        self._runtime.call(self._body.aclose)


class BlockingTransport:
    """Sends requests to `app`, which runs on the loop of `runtime`."""

    def __init__(self, app: AsgiApp, runtime: Runtime, *, client: tuple[str, int] | None = ("127.0.0.1", 0)) -> None:
        self.runtime = runtime
        self._transport = StreamingTransport(app, client=client)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._transport.app!r}>"

    def close(self) -> None:
        """Leave what still runs, and return once all of it has ended."""
        self.runtime.call(self._transport.aclose)

    def begin(self, request: Any, errors: HttpErrors) -> tuple[Head, Exchange, float | None]:
        """Send a request of either library's and wait for the head of its response."""
        return self.runtime.call(self._transport.begin, request, request.read(), errors)
