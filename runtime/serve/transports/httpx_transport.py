"""The transports for httpx: what LiteLLM, LangChain and many apps use."""

from __future__ import annotations

import httpx

from greenroom.serve.transports.blocking_transport import BlockingBody, BlockingTransport
from greenroom.serve.transports.streaming import HttpErrors, ResponseBody, StreamingTransport

__all__ = ["HttpxTransport", "SyncHttpxTransport"]

_ERRORS = HttpErrors(timeout=httpx.ReadTimeout, broken=httpx.RemoteProtocolError)


class _Body(ResponseBody, httpx.AsyncByteStream):
    """Whose class httpx asks for."""


class _SyncBody(BlockingBody, httpx.SyncByteStream):
    """Whose class httpx asks for."""


class HttpxTransport(StreamingTransport, httpx.AsyncBaseTransport):
    """Sends requests to an ASGI app of this process: `httpx.AsyncClient(transport=HttpxTransport(app))`.

    The response comes as the app sends it, and an app whose response nobody reads is paused. Closing a response, or
    cancelling who reads it, sends the app `http.disconnect` and waits until it has ended; after a second it is
    cancelled. The client's read timeout counts. An app that fails before its response is a 500, in the midst of it
    a `RemoteProtocolError`; what it raised is logged. A request's body is read whole before the app begins. The app's
    lifespan is its owner's: a transport does not run it. Works on asyncio and trio.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the response's body is read by its stream. Called by the client."""
        head, exchange, seconds = await self.begin(request, await request.aread(), _ERRORS)
        return httpx.Response(
            head.status, headers=head.headers, stream=_Body(exchange, _ERRORS, seconds), request=request
        )


class SyncHttpxTransport(BlockingTransport, httpx.BaseTransport):
    """The same where there is no event loop: `httpx.Client(transport=SyncHttpxTransport(served, rt))`.

    The app runs on the loop of `runtime`, a `greenroom.blocking.Runtime` that is open; any thread may ask. What is made
    by an async function `make(runtime)`, such as one that returns `app(runtime)`, is had by `rt.call(make, rt)`. What
    ends a wait early, an interrupt or `blocking.fail_after`, leaves the app as closing does.
    """

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the response's body is read by its stream. Called by the client."""
        head, exchange, seconds = self.begin(request, _ERRORS)
        stream = _SyncBody(exchange, _ERRORS, seconds, self.runtime)
        return httpx.Response(head.status, headers=head.headers, stream=stream, request=request)
