"""What generates nothing: the list of models, health, metrics, and the refusal of embeddings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import msgspec

from greenroom.serve.bodies import header
from greenroom.serve.exchange import HttpExchange
from greenroom.serve.faults import invalid
from greenroom.serve.messages.answers import MessagesModel, MessagesModels
from greenroom.serve.models import ServedModel
from greenroom.serve.observing.metrics import Metrics

__all__ = ["health", "list_models", "refuse_embeddings", "show_metrics", "show_model"]


class ModelCard(msgspec.Struct, frozen=True):
    """A model as OpenAI lists one; `max_model_len`, vLLM's, are the tokens of a row."""

    id: str
    created: int
    max_model_len: int | None
    object: str = "model"
    owned_by: str = "greenroom"


class ModelList(msgspec.Struct, frozen=True):
    """All of them."""

    data: list[ModelCard]
    object: str = "list"


async def list_models(exchange: HttpExchange) -> None:
    """`GET /v1/models`."""
    told: ModelList | MessagesModels
    if _is_anthropic_s(exchange):
        models = [_message_model(exchange, each) for each in exchange.models]
        told = MessagesModels(data=models, first_id=models[0].id, last_id=models[-1].id)
    else:
        told = ModelList([_card(exchange, each) for each in exchange.models])
    await exchange.send_json(msgspec.json.encode(told))


async def show_model(exchange: HttpExchange) -> None:
    """`GET /v1/models/{model}`."""
    found = exchange.models.find(exchange.path["model"])
    make = _message_model if _is_anthropic_s(exchange) else _card
    await exchange.send_json(msgspec.json.encode(make(exchange, found)))


def _card(exchange: HttpExchange, each: ServedModel) -> ModelCard:
    return ModelCard(each.name, exchange.models.created, each.runtime.model.context_length)


def _message_model(exchange: HttpExchange, each: ServedModel) -> MessagesModel:
    moment = datetime.fromtimestamp(exchange.models.created, UTC).isoformat()
    length = each.runtime.model.context_length
    return MessagesModel(id=each.name, display_name=each.name, created_at=moment, max_input_tokens=length)


def _is_anthropic_s(exchange: HttpExchange) -> bool:
    """Both APIs list models on one path; Anthropic's requests have a version."""
    return header(exchange.scope, b"anthropic-version") is not None


async def refuse_embeddings(exchange: HttpExchange) -> None:  # noqa: ARG001 - whatever it asks
    """`POST /v1/embeddings`: a model that writes has none that are good for search."""
    raise invalid("this server generates text and has no embeddings: ask a model of embeddings", code="unsupported")


async def health(exchange: HttpExchange) -> None:
    """`GET /health`: 200 while requests can be made, and else 503 with the reason. Nothing is generated for it."""
    runtimes = exchange.models.runtimes()
    state = "ok"
    if not all(runtime.is_open for runtime in runtimes):
        state = "draining" if any(runtime.is_draining for runtime in runtimes) else "failed"
    await exchange.send_json(msgspec.json.encode({"status": state}), 200 if state == "ok" else 503)


def show_metrics(metrics: Metrics) -> Callable[[HttpExchange], Awaitable[None]]:
    """`GET /metrics`."""

    async def answer(exchange: HttpExchange) -> None:
        """Numbers for Prometheus."""
        body, kind = metrics.text(header(exchange.scope, b"accept") or "")
        await exchange.send_whole(body, [(b"content-type", kind.encode())])

    return answer
