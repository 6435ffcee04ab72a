"""OpenAI's and other APIs over HTTP, as an ASGI app to mount or to run: `app(runtime)`, with `ServeSettings`.

It is an app like any other: it uses what the package exports, and does not know actors, backends or how a request is
scheduled. The parts that every API shares are here; an API is a folder with its requests, its answers and the state
machine between. `page(runtime)` is a page to look at; `page_routes` has it beside the APIs, as `greenroom serve` does.
`transports` is what clients need to reach an app without a port.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from greenroom.errors import MissingExtra

if TYPE_CHECKING:
    from greenroom.serve.app import app
    from greenroom.serve.browser.chats import ChatBounds
    from greenroom.serve.browser.page import page
    from greenroom.serve.browser.routes import page_routes
    from greenroom.serve.settings import ServeSettings, StoreBounds

__all__ = ["ChatBounds", "ServeSettings", "StoreBounds", "app", "page", "page_routes"]

_HOMES = {
    "ChatBounds": "browser.chats",
    "ServeSettings": "settings",
    "StoreBounds": "settings",
    "app": "app",
    "page": "browser.page",
    "page_routes": "browser.routes",
}


def __getattr__(name: str) -> object:
    """The names of `__all__`, loaded when they are asked for: transports need no Starlette."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found: object = getattr(import_module(f"greenroom.serve.{home}"), name)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in ("starlette", "prometheus_client"):
            raise
        raise MissingExtra(f"greenroom.serve.{name} needs {error.name}: pip install 'greenroom[serve]'") from error
    globals()[name] = found
    return found
