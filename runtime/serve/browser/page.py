"""`page`: the page as an app of its own."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.applications import Starlette

from greenroom import Adapter, Runtime
from greenroom.inputs.tools import Tools
from greenroom.serve.browser.chats import ChatBounds
from greenroom.serve.browser.routes import page_routes
from greenroom.serve.models import Models
from greenroom.serve.routes import Gateway
from greenroom.serve.settings import ServeSettings, checked_settings

__all__ = ["page"]


def page(
    runtime: Runtime,
    models: Mapping[str, Runtime | Adapter] | None = None,
    *,
    settings: ServeSettings | None = None,
    tools: Tools | None = None,
    bounds: ChatBounds | None = None,
) -> Starlette:
    """An ASGI app that shows a page to chat on with `runtime`, to be mounted or to be run by a server.

    It enters no runtime and leaves none. `models` and `settings` are those of `greenroom.serve.app`: who may ask is the
    same. `tools` are functions, `Tool`s or schemas that a user of the page may let a model call; functions run here. To
    have the page beside the APIs, give `page_routes(tools=…)` to `app` as its `routes`.

    Raises `InvalidParameter`.
    """
    settings = checked_settings(settings)
    gateway = Gateway(settings, Models(runtime, models))
    return gateway.app(page_routes(tools=tools, bounds=bounds))
