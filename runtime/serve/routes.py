"""The table of what an app answers, and what stands around every handler: who may ask, and what is said of errors."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import NamedTuple

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from greenroom.errors import GreenroomError
from greenroom.serve.access import Access
from greenroom.serve.bodies import BodyReader, ClientGone
from greenroom.serve.envelopes import Envelope, OpenAIEnvelope
from greenroom.serve.exchange import HttpExchange
from greenroom.serve.faults import Fault, RequestRefused, fault_of
from greenroom.serve.known_tools import KnownTools
from greenroom.serve.models import Models
from greenroom.serve.observing.metrics import Metrics
from greenroom.serve.observing.record import RequestRecord
from greenroom.serve.observing.telemetry import Telemetry
from greenroom.serve.settings import ServeSettings

__all__ = ["OPENAI", "ApiRoute", "Gateway"]

_log = logging.getLogger("greenroom")

Handler = Callable[[HttpExchange], Awaitable[None]]
OPENAI = OpenAIEnvelope()


class ApiRoute(NamedTuple):
    """What answers `method` on `path` (Starlette's, with names in braces), and how it says that it did not work."""

    method: str
    path: str
    handle: Handler
    envelope: Envelope = OPENAI
    needs_key: bool = True
    reads: type[msgspec.Struct] | None = None
    """What its body is read as, for the app's description."""
    ignores: Collection[str] = ()
    """Fields of a body that are taken and not looked at, likewise."""
    is_described: bool = True
    """Whether it stands in the app's description: what is no API does not."""


class Gateway:
    """What all handlers of one app share."""

    def __init__(self, settings: ServeSettings, models: Models) -> None:
        self._settings = settings
        self._models = models
        self._access = Access(settings)
        self._bodies = BodyReader(settings)
        self._tools = KnownTools(settings.most_tools)
        self._telemetry = Telemetry()
        self.metrics = Metrics(models)

    def __repr__(self) -> str:
        return f"<Gateway {self._models!r} {self._access!r}>"

    def app(self, routes: Iterable[ApiRoute]) -> Starlette:
        """The ASGI app that answers `routes`."""
        found = [Route(each.path, _Endpoint(self, each), methods=[each.method]) for each in routes]
        return Starlette(routes=found, exception_handlers={HTTPException: _not_answered})

    def exchange(self, route: ApiRoute, scope: Scope, receive: Receive, send: Send) -> HttpExchange:
        """Of one request."""
        return HttpExchange(
            scope,
            receive,
            send,
            settings=self._settings,
            models=self._models,
            bodies=self._bodies,
            tools=self._tools,
            record=RequestRecord(id=uuid.uuid4().hex, method=route.method, path=route.path),
            telemetry=self._telemetry,
        )

    def check(self, exchange: HttpExchange, *, needs_key: bool) -> None:
        """Raise `RequestRefused` for who may not ask."""
        self._access.check_host(exchange.scope)
        if needs_key:
            exchange.caller = self._access.check_key(exchange.scope)


async def _not_answered(_: Request, error: Exception) -> Response:
    """A path that is none of ours, or a method that it does not have."""
    status, headers = (error.status_code, error.headers) if isinstance(error, HTTPException) else (500, None)
    message = "there is nothing here: see /v1/models" if status == 404 else "this path does not have that method"
    body = OPENAI.body(Fault(status, "invalid", message, "not_found" if status == 404 else "method_not_allowed"))
    return Response(body, status, headers, "application/json")


class _Endpoint:
    """A route's handler as an ASGI app: every failure becomes an answer in the API's envelope."""

    def __init__(self, gateway: Gateway, route: ApiRoute) -> None:
        self._gateway = gateway
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = self._gateway.exchange(self._route, scope, receive, send)
        try:
            await self._answer(exchange)
        finally:
            self._gateway.metrics.observe(exchange.record)
            exchange.record.log()

    async def _answer(self, exchange: HttpExchange) -> None:
        try:
            self._gateway.check(exchange, needs_key=self._route.needs_key)
            await self._route.handle(exchange)
        except (ClientGone, OSError):  # nobody is there to be told; servers raise OSError for a closed connection
            return
        except Exception as error:
            fault = fault_of(error, exchange.names)
            exchange.record.error = fault.code
            if not isinstance(error, RequestRefused) and fault.status >= 500 and not isinstance(error, GreenroomError):
                _log.exception("request %s failed", exchange.id)
            if exchange.is_begun:
                raise
            await exchange.send_fault(fault, self._route.envelope)
