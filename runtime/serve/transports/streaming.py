"""What the transports for httpx and for httpx2 have in common; the two libraries differ in whose classes these are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import anyio

from greenroom.serve.transports.exchange import AppBroke, AsgiApp, Exchange, Head

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HttpErrors", "ResponseBody", "StreamingTransport"]


class HttpErrors(NamedTuple):
    """The classes in which one HTTP library tells what went wrong."""

    timeout: type[Exception]
    broken: type[Exception]


class ResponseBody:
    """A response's body, part by part. `aclose` leaves the app; so does dropping it, without waiting."""

    def __init__(self, exchange: Exchange, errors: HttpErrors, seconds: float | None) -> None:
        self._exchange = exchange
        self._errors = errors
        self._seconds = seconds

    def __del__(self) -> None:
        exchange: Exchange | None = getattr(self, "_exchange", None)
        if exchange is not None:
            exchange.abandon()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        part = await self.next_part()
        if part is None:
            raise StopAsyncIteration
        return part

    async def next_part(self) -> bytes | None:
        """What comes next; None is the end. Raises the library's errors."""
        with translated(self._errors, self._seconds):
            return await self._exchange.receive()

    async def aclose(self) -> None:
        """Leave the app, and return once it has ended."""
        await self._exchange.aclose()


class StreamingTransport:
    """Sends requests to `app`, whose `client` in ASGI's scope is the address that it is given here."""

    def __init__(self, app: AsgiApp, *, client: tuple[str, int] | None = ("127.0.0.1", 0)) -> None:
        self.app = app
        self._client = client
        self._exchanges: set[Exchange] = set()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.app!r}>"

    async def aclose(self) -> None:
        """Leave what still runs, and return once all of it has ended."""
        exchanges = [exchange for exchange in self._exchanges if not exchange.is_over]
        self._exchanges.clear()
        for exchange in exchanges:
            exchange.disconnect()
        for exchange in exchanges:
            await exchange.end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def begin(self, request: Any, body: bytes, errors: HttpErrors) -> tuple[Head, Exchange, float | None]:
        """Send a request of either library's and wait for the head of its response; with the read timeout."""
        seconds: float | None = request.extensions.get("timeout", {}).get("read")
        exchange = Exchange(self.app, self._scope(request), body)
        self._exchanges = {kept for kept in self._exchanges if not kept.is_over} | {exchange}
        try:
            with translated(errors, seconds):
                return await exchange.head(), exchange, seconds
        except BaseException:
            await exchange.aclose()
            raise

    def _scope(self, request: Any) -> dict[str, Any]:
        url = request.url
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},  # as uvicorn: whoever streams listens for the end
            "http_version": "1.1",
            "method": request.method,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "scheme": url.scheme,
            "path": url.path,
            "raw_path": url.raw_path.split(b"?")[0],
            "query_string": url.query,
            "server": (url.host, url.port),
            "client": self._client,
            "root_path": "",
        }


@contextmanager
def translated(errors: HttpErrors, seconds: float | None) -> Iterator[None]:
    """Inside, a wait of more than `seconds` and an app that broke off are the library's own errors."""
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError as error:
        raise errors.timeout(f"the app sent nothing for {seconds} seconds") from error
    except AppBroke as error:
        raise errors.broken(str(error)) from error.__cause__
