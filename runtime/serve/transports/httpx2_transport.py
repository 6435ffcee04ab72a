"""The transports for httpx2: what today's clients of OpenAI, Anthropic and MCP use."""

from __future__ import annotations

import httpx2

from greenroom.serve.transports.blocking_transport import BlockingBody, BlockingTransport
from greenroom.serve.transports.streaming import HttpErrors, ResponseBody, StreamingTransport

__all__ = ["Httpx2Transport", "SyncHttpx2Transport"]

_ERRORS = HttpErrors(timeout=httpx2.ReadTimeout, broken=httpx2.RemoteProtocolError)


class _Body(ResponseBody, httpx2.AsyncByteStream):
    """Whose class httpx2 asks for."""


class _SyncBody(BlockingBody, httpx2.SyncByteStream):
    """Whose class httpx2 asks for."""


class Httpx2Transport(StreamingTransport, httpx2.AsyncBaseTransport):
    """Sends requests to an ASGI app of this process: `httpx2.AsyncClient(transport=Httpx2Transport(app))`.

    The response comes as the app sends it, and an app whose response nobody reads is paused. Closing a response, or
    cancelling who reads it, sends the app `http.disconnect` and waits until it has ended; after a second it is
    cancelled. The client's read timeout counts. An app that fails before its response is a 500, in the midst of it
    a `RemoteProtocolError`; what it raised is logged. A request's body is read whole before the app begins. The app's
    lifespan is its owner's: a transport does not run it. Works on asyncio and trio.
    """

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; the response's body is read by its stream. Called by the client."""
        head, exchange, seconds = await self.begin(request, await request.aread(), _ERRORS)
        return httpx2.Response(
            head.status, headers=head.headers, stream=_Body(exchange, _ERRORS, seconds), request=request
        )


class SyncHttpx2Transport(BlockingTransport, httpx2.BaseTransport):
    """The same where there is no event loop: `httpx2.Client(transport=SyncHttpx2Transport(served, rt))`.

    The app runs on the loop of `runtime`, a `greenroom.blocking.Runtime` that is open; any thread may ask. What is made
    by an async function `make(runtime)`, such as one that returns `app(runtime)`, is had by `rt.call(make, rt)`. What
    ends a wait early, an interrupt or `blocking.fail_after`, leaves the app as closing does.
    """

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; the response's body is read by its stream. Called by the client."""
        head, exchange, seconds = self.begin(request, _ERRORS)
        stream = _SyncBody(exchange, _ERRORS, seconds, self.runtime)
        return httpx2.Response(head.status, headers=head.headers, stream=stream, request=request)
