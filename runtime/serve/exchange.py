"""One request over HTTP and its answer: what was asked, what is sent, and whether anybody still listens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import anyio
import msgspec
from starlette.types import Receive, Scope, Send

from greenroom import Event, Tool
from greenroom.inputs.prompts import Prompt
from greenroom.serve.bodies import BodyReader, ClientGone, header
from greenroom.serve.envelopes import Envelope
from greenroom.serve.faults import Fault, FieldNames, fault_of, invalid
from greenroom.serve.generations import GenerationRequest, Generations
from greenroom.serve.known_tools import KnownTools
from greenroom.serve.models import Models
from greenroom.serve.observing.record import RequestRecord
from greenroom.serve.observing.telemetry import Telemetry
from greenroom.serve.settings import ServeSettings
from greenroom.serve.streamed_body import StreamedBody

__all__ = ["Answer", "HttpExchange"]

T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R")
Header = tuple[bytes, bytes]

MOST_MESSAGES = 10_000
"""Of a conversation: more than any context holds."""
_JSON = (b"content-type", b"application/json")
_STREAM: Sequence[Header] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx passes on what it gets, when it gets it
)


class Answer(Protocol):
    """How one API tells what is generated: a state machine from events to server-sent events, or one JSON body.

    Events come with the number of their text, and end in its `Info`. Nothing of it is sent, or decided, here.
    """

    def begin(self) -> bytes:
        """What stands in front of the first event."""

    def write(self, number: int, event: Event) -> bytes:
        """What `event` comes to; nothing where it says nothing to this API."""

    def finish(self) -> bytes:
        """What stands behind the last event."""

    def fail(self, fault: Fault) -> bytes:
        """What is sent in place of the rest, once the stream has begun."""

    def whole(self, texts: Sequence[Sequence[Event]]) -> bytes:
        """The JSON of all texts, each with its events in order."""


class HttpExchange:
    """One request, its answer, and the app's parts that they need. Made by the frame, for one handler."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        settings: ServeSettings,
        models: Models,
        bodies: BodyReader,
        tools: KnownTools,
        record: RequestRecord,
        telemetry: Telemetry,
    ) -> None:
        self.scope = scope
        self.settings = settings
        self.models = models
        self.caller = ""
        """Who asks: see `Access.check_key`."""
        self.names = FieldNames()
        """What the API calls what greenroom's errors name; a handler may set its own."""
        self.record = record
        """What is logged of it, and counted."""
        self._telemetry = telemetry
        self._receive = receive
        self._send = send
        self._bodies = bodies
        self._tools = tools

    def __repr__(self) -> str:
        return f"<HttpExchange {self.scope['method']} {self.scope['path']} {self.id}>"

    @property
    def id(self) -> str:
        """Of this request, in the header `x-request-id`."""
        return self.record.id

    @property
    def is_begun(self) -> bool:
        """Whether the answer's status has been sent."""
        return self.record.status is not None

    @property
    def path(self) -> Mapping[str, str]:
        """The parts of the path that the route has names for."""
        found: Mapping[str, str] = self.scope.get("path_params", {})
        return found

    async def read(self, kind: type[T], ignored: Mapping[str, str]) -> T:
        """The body: see `BodyReader.read`."""
        return await self._bodies.read(self.scope, self._receive, kind, ignored)

    async def work(self, job: Callable[[], R], *, is_long: bool = False) -> R:
        """Do what takes as long as the body is large: see `BodyReader.work`."""
        return await self._bodies.work(self.scope, job, is_long=is_long)

    async def tools(self, given: Sequence[Mapping[str, Any]]) -> list[Tool]:
        """Tools of the request, checked: see `KnownTools.find`."""
        return await self._tools.find(given)

    def check_messages(self, prompt: Prompt) -> None:
        """Raise `RequestRefused` for more messages than are looked at without delaying others."""
        if len(prompt) > MOST_MESSAGES and isinstance(prompt[0], Mapping):
            field = self.names.prompt
            message = f"{field} has at most {MOST_MESSAGES} messages here, got {len(prompt)}: join some"
            raise invalid(message, field, code="invalid_value")

    async def send_json(self, body: bytes, status: int = 200, headers: Sequence[Header] = ()) -> None:
        """Answer with a whole body."""
        await self.send_whole(body, [_JSON, *headers], status)

    async def send_whole(self, body: bytes, headers: Sequence[Header], status: int = 200) -> None:
        """Answer with a body of any type, which `headers` say."""
        length = (b"content-length", str(len(body)).encode())
        await self._start(status, [*headers, length])
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def send_fault(self, fault: Fault, envelope: Envelope) -> None:
        """Answer that it did not work."""
        headers: list[Header] = []
        if fault.retry_after is not None:
            headers.append((b"retry-after", str(fault.retry_after).encode()))
        if fault.kind == "authentication":
            headers.append((b"www-authenticate", b"Bearer"))
        status = self.settings.busy_status if fault.kind == "busy" else fault.status
        await self.send_json(envelope.body(fault), status, headers)

    async def generate(self, request: GenerationRequest, answer: Answer, *, streams: bool) -> None:
        """Generate, and answer as it comes or at the end. A client that leaves ends it: `ClientGone`.

        Raises what is wrong with the request before anything was sent; a stream that fails later says so in its end.
        """
        request = request.asked_by(self.caller, self.settings.most_priority)
        record = self.record
        record.model, record.choices = request.model.name, request.choices
        with self._telemetry.generation(record, request.options, self._traced_headers()):
            try:
                await self._answer(request, answer, streams=streams)
            except (ClientGone, OSError):
                record.error = "client_left"
                raise
            except Exception as error:
                record.error = fault_of(error, self.names).code
                raise

    async def stream(self, work: Callable[[StreamedBody], Awaitable[None]]) -> None:
        """Answer with server-sent events that `work` writes. A client that leaves ends it: `ClientGone`."""
        body = StreamedBody(self._send, self.settings.quiet_seconds, self.settings.client_seconds)

        async def write() -> None:
            await self._start(200, _STREAM)
            body.begin()
            await work(body)
            await body.end(b"")

        await self._until_gone(write, body.keep_alive)

    def _traced_headers(self) -> dict[str, str]:
        """Those in which a client says which span of its own a request belongs to."""
        named = {name: header(self.scope, name.encode()) for name in ("traceparent", "tracestate")}
        return {name: value for name, value in named.items() if value is not None}

    async def _answer(self, request: GenerationRequest, answer: Answer, *, streams: bool) -> None:
        for prompt in request.prompts:
            self.check_messages(prompt)
        given = request.options.get("tools")
        if given and not isinstance(given[0], Tool):
            request = replace(request, options={**request.options, "tools": await self.tools(given)})
        body = StreamedBody(self._send, self.settings.quiet_seconds, self.settings.client_seconds)
        if streams:
            await self._until_gone(lambda: self._stream(request, answer, body), body.keep_alive)
        else:
            await self._until_gone(lambda: self._collect(request, answer))

    async def _stream(self, request: GenerationRequest, answer: Answer, body: StreamedBody) -> None:
        async with Generations.begin(request) as generations:
            await self._start(200, _STREAM)
            body.begin()
            await body.write(answer.begin())

            async def write(number: int, event: Event) -> None:
                self.record.see(number, event)
                await body.write(answer.write(number, event))

            try:
                await generations.read(write)
                rest = answer.finish()
            except (OSError, ClientGone):
                raise
            except Exception as error:  # noqa: BLE001 - the status is sent: the last event says it
                fault = fault_of(error, self.names)
                self.record.error = fault.code
                rest = answer.fail(fault)
        await body.end(rest)

    async def _collect(self, request: GenerationRequest, answer: Answer) -> None:
        texts: list[list[Event]] = [[] for _ in range(request.num_texts)]

        async def keep(number: int, event: Event) -> None:
            self.record.see(number, event)
            texts[number].append(event)

        async with Generations.begin(request) as generations:
            await generations.read(keep)
        await self.send_json(answer.whole(texts))

    async def _start(self, status: int, headers: Sequence[Header]) -> None:
        self.record.status = status
        own = [(name, self.id.encode()) for name in (b"x-request-id", b"request-id")]  # OpenAI's name, and Anthropic's
        named = [*headers, *own]
        await self._send({"type": "http.response.start", "status": status, "headers": named})

    async def _until_gone(
        self, work: Callable[[], Awaitable[None]], beside: Callable[[], Coroutine[Any, Any, None]] | None = None
    ) -> None:
        """Do `work`, with something `beside` it, and give both up once the client has left: `ClientGone`."""
        failure: Exception | None = None
        is_over = False
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, group.cancel_scope)
            if beside is not None:
                group.start_soon(beside)
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - out of the group as it is, and not in a group of errors
                failure = error
            is_over = True
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if not is_over:
            raise ClientGone

    async def _watch(self, scope: anyio.CancelScope) -> None:
        """No server ends the task of an answer whose client has left."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        scope.cancel()
