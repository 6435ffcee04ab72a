"""What answers `/v1/responses` and what lies below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

import msgspec

from greenroom.events import Event, Info
from greenroom.serve.exchange import HttpExchange
from greenroom.serve.faults import Fault, invalid
from greenroom.serve.responses.asking import NAMES, Asked, read_request
from greenroom.serve.responses.items import listed
from greenroom.serve.responses.requests import IGNORED, ResponseRequest
from greenroom.serve.responses.store import ResponseStore, StoredResponse
from greenroom.serve.responses.writer import ResponseWriter
from greenroom.serve.routes import OPENAI, ApiRoute
from greenroom.serve.settings import ServeSettings
from greenroom.serve.sse import DONE, tagged_frames
from greenroom.serve.tokens import token_logprob

__all__ = ["response_routes"]

_LISTED, _MOST_LISTED = 20, 100


class _Answer:
    """See `Answer`. What is over is kept, where the request does not say otherwise."""

    def __init__(self, asked: Asked, store: ResponseStore, owner: str) -> None:
        runtime = asked.request.model.runtime
        self._writer = ResponseWriter(
            asked.response,
            lambda tokens: [token_logprob(runtime, token) for token in tokens],
            encrypts=asked.encrypts,
        )
        self._asked = asked
        self._store = store
        self._owner = owner

    def begin(self) -> bytes:
        """See `Answer.begin`."""
        return tagged_frames(self._writer.begin())

    def write(self, number: int, event: Event) -> bytes:  # noqa: ARG002 - there is one text
        """See `Answer.write`."""
        return tagged_frames(self._writer.end(event) if isinstance(event, Info) else self._writer.write(event))

    def finish(self) -> bytes:
        """See `Answer.finish`."""
        self._keep()
        return DONE

    def fail(self, fault: Fault) -> bytes:
        """See `Answer.fail`."""
        frames = tagged_frames(self._writer.fail(OPENAI.details(fault)))
        self._keep()
        return frames

    def whole(self, texts: Sequence[Sequence[Event]]) -> bytes:
        """See `Answer.whole`."""
        for event in texts[0]:
            self.write(0, event)
        return self._keep()

    def _keep(self) -> bytes:
        response, items = self._writer.response, self._asked.items
        body = msgspec.json.encode(response)
        if response.store:
            size = len(msgspec.json.encode(items))
            self._store.put(StoredResponse(response, body, tuple(items), self._owner, size))
        return body


class _Responses:
    """The handlers of one app, over its store."""

    def __init__(self, settings: ServeSettings) -> None:
        self._store = ResponseStore(settings.responses)
        self._has_keys = bool(settings.keys)

    def _owner(self, exchange: HttpExchange) -> str:
        """Whose responses are found: those of the same key. Without keys all who may ask are one."""
        return exchange.caller if self._has_keys else ""

    async def create(self, exchange: HttpExchange) -> None:
        """`POST /v1/responses`."""
        exchange.names = NAMES
        given = await exchange.read(ResponseRequest, IGNORED)
        owner = self._owner(exchange)
        asked = await read_request(given, exchange, self._store, owner)
        await exchange.generate(asked.request, _Answer(asked, self._store, owner), streams=bool(given.stream))

    async def show(self, exchange: HttpExchange) -> None:
        """`GET /v1/responses/{id}`."""
        if _query(exchange).get("stream", "false") not in ("false", ""):
            raise invalid("stream: what is over is not streamed again: ask without it", "stream")
        await exchange.send_json(self._find(exchange).body)

    async def delete(self, exchange: HttpExchange) -> None:
        """`DELETE /v1/responses/{id}`."""
        identity = exchange.path["response_id"]
        self._store.delete(identity, self._owner(exchange))
        told = {"id": identity, "object": "response", "deleted": True}
        await exchange.send_json(msgspec.json.encode(told))

    async def cancel(self, exchange: HttpExchange) -> None:
        """`POST /v1/responses/{id}/cancel`."""
        self._find(exchange)
        message = "only responses in the background can be cancelled, and there are none: a client that leaves cancels"
        raise invalid(message, "response_id", code="not_cancellable")

    async def list_input(self, exchange: HttpExchange) -> None:
        """`GET /v1/responses/{id}/input_items`: of its own input, the newest first unless `order=asc`."""
        stored = self._find(exchange)
        query = _query(exchange)
        name = stored.response.id.removeprefix("resp_")
        found = [listed(item, f"item_{name}{number:04x}") for number, item in enumerate(stored.items)]
        if query.get("order", "desc") != "asc":
            found.reverse()
        shown, has_more = _page(found, query)
        told = {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else "",
            "last_id": shown[-1]["id"] if shown else "",
            "has_more": has_more,
        }
        await exchange.send_json(msgspec.json.encode(told))

    async def count_input(self, exchange: HttpExchange) -> None:
        """`POST /v1/responses/input_tokens`."""
        exchange.names = NAMES
        given = await exchange.read(ResponseRequest, IGNORED)
        asked = await read_request(given, exchange, self._store, self._owner(exchange))
        count = await asked.count()
        await exchange.send_json(msgspec.json.encode({"object": "response.input_tokens", "input_tokens": count}))

    def _find(self, exchange: HttpExchange) -> StoredResponse:
        return self._store.get(exchange.path["response_id"], self._owner(exchange))


def _query(exchange: HttpExchange) -> dict[str, str]:
    """The first value of each name."""
    text = exchange.scope.get("query_string", b"").decode("latin-1")
    try:
        return {name: values[0] for name, values in parse_qs(text, max_num_fields=20).items()}
    except ValueError:
        raise invalid("the query has too many fields") from None


def _page(items: list[dict[str, Any]], query: dict[str, str]) -> tuple[list[dict[str, Any]], bool]:
    limit = query.get("limit", str(_LISTED))
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 4 and 1 <= int(limit) <= _MOST_LISTED):
        raise invalid(f"limit: an integer from 1 to {_MOST_LISTED}, got {limit[:20]!r}", "limit", code="invalid_value")
    first = 0
    if (after := query.get("after")) is not None:
        place = next((place for place, item in enumerate(items) if item["id"] == after), None)
        if place is None:
            raise invalid(f"after: there is no item {after[:80]!r} in this input", "after", code="invalid_value")
        first = place + 1
    return items[first : first + int(limit)], len(items) > first + int(limit)


def response_routes(settings: ServeSettings) -> tuple[ApiRoute, ...]:
    """What an app answers of `/v1/responses`, with a store of its own."""
    responses = _Responses(settings)
    one = "/v1/responses/{response_id}"
    return (
        ApiRoute("POST", "/v1/responses", responses.create, reads=ResponseRequest, ignores=IGNORED),
        ApiRoute("POST", "/v1/responses/input_tokens", responses.count_input),
        ApiRoute("GET", one, responses.show),
        ApiRoute("DELETE", one, responses.delete),
        ApiRoute("POST", f"{one}/cancel", responses.cancel),
        ApiRoute("GET", f"{one}/input_items", responses.list_input),
    )
