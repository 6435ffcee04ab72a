"""The clients of OpenAI and Anthropic over an ASGI app, without a port; and their types, taken at their word."""

from __future__ import annotations

from typing import Any

import httpx2
import pydantic
from anthropic import AsyncAnthropic
from anthropic.types import RawMessageStreamEvent
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseStreamEvent
from starlette.types import ASGIApp

from greenroom.serve.transports import Httpx2Transport

__all__ = ["anthropic_client", "check_message_event", "check_response", "check_response_event", "openai_client"]

OPEN_RESPONSES = frozenset({"frequency_penalty", "presence_penalty", "store", "bytes", "error"})
"""Fields of a response that Open Responses requires, and that OpenAI's own types do not have, or not in each place."""
_MESSAGE_EVENTS: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(RawMessageStreamEvent)
_RESPONSE_EVENTS: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)
_RESPONSES: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(Response)


def check_message_event(event: Any) -> None:
    """An event of `/v1/messages` is what Anthropic's types say, with no field that they do not have."""
    if event["type"] not in {"ping", "error"}:
        _check_fields(_MESSAGE_EVENTS.validate_python(event), frozenset())


def check_response_event(event: Any) -> None:
    """An event of `/v1/responses` is what OpenAI's types say, with no field that they do not have."""
    _check_fields(_RESPONSE_EVENTS.validate_python(event), OPEN_RESPONSES)


def check_response(response: Any) -> None:
    """A whole response, likewise."""
    _check_fields(_RESPONSES.validate_python(response), OPEN_RESPONSES)


def _check_fields(model: Any, known: frozenset[str]) -> None:
    if isinstance(model, list):
        for each in model:
            _check_fields(each, known)
    elif isinstance(model, pydantic.BaseModel):
        assert set(model.model_extra or ()) <= known, (type(model), model.model_extra)
        for name in type(model).model_fields:
            _check_fields(getattr(model, name), known)


def anthropic_client(app: ASGIApp, key: str = "none") -> AsyncAnthropic:
    """Anthropic's own client."""
    http = httpx2.AsyncClient(transport=Httpx2Transport(app))
    return AsyncAnthropic(api_key=key, base_url="http://localhost:8000", http_client=http, max_retries=0)


def openai_client(app: ASGIApp, key: str = "none") -> AsyncOpenAI:
    """OpenAI's own client."""
    http = httpx2.AsyncClient(transport=Httpx2Transport(app))
    return AsyncOpenAI(api_key=key, base_url="http://localhost:8000/v1", http_client=http, max_retries=0)
