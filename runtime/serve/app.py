"""`app`: the ASGI app."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.applications import Starlette

from greenroom import Adapter, Runtime
from greenroom.serve.completions.chat import chat_completions
from greenroom.serve.completions.requests import IGNORED, ChatRequest, TextRequest
from greenroom.serve.completions.text import text_completions
from greenroom.serve.description import description_route
from greenroom.serve.messages.routes import MESSAGE_ROUTES
from greenroom.serve.models import Models
from greenroom.serve.plain import health, list_models, refuse_embeddings, show_metrics, show_model
from greenroom.serve.responses.routes import response_routes
from greenroom.serve.routes import ApiRoute, Gateway
from greenroom.serve.settings import ServeSettings, checked_settings

__all__ = ["ROUTES", "app"]

ROUTES: tuple[ApiRoute, ...] = (
    ApiRoute("POST", "/v1/chat/completions", chat_completions, reads=ChatRequest, ignores=IGNORED),
    ApiRoute("POST", "/v1/completions", text_completions, reads=TextRequest, ignores=IGNORED),
    *MESSAGE_ROUTES,
    ApiRoute("GET", "/v1/models", list_models),
    ApiRoute("GET", "/v1/models/{model:path}", show_model),
    ApiRoute("POST", "/v1/embeddings", refuse_embeddings),
    ApiRoute("GET", "/health", health, needs_key=False),
)
"""All that an app answers without a state of its own."""


def app(
    runtime: Runtime,
    models: Mapping[str, Runtime | Adapter] | None = None,
    *,
    settings: ServeSettings | None = None,
    routes: Sequence[ApiRoute] = (),
) -> Starlette:
    """An ASGI app that answers OpenAI's and Anthropic's APIs from `runtime`, to be mounted or to be run by a server.

    It enters no runtime and leaves none: it answers 503 where its runtime is not entered. `models` are runtimes and
    adapters by the names that requests have for them; those of an adapter are `model:adapter`, which is of the runtime
    `model`, or else of `runtime`. They are looked up for each request, so a dict may change while the app runs.
    `runtime` is served by the model's own name where it is none of them. `routes` are answered beside our own.

    Raises `InvalidParameter`.
    """
    settings = checked_settings(settings)
    gateway = Gateway(settings, Models(runtime, models))
    metrics = ApiRoute("GET", "/metrics", show_metrics(gateway.metrics))
    answered = [*ROUTES, metrics, *response_routes(settings), *routes]
    answered.append(description_route(answered))
    return gateway.app(answered)
