"""OpenAI's and other APIs over HTTP, as an ASGI app to mount or to run: `app(runtime)`, with `ServeSettings`.

It is an app like any other: it uses what the package exports, and does not know actors, backends or how a request is
scheduled. The parts that every API shares are here; an API is a folder with its requests, its answers and the state
machine between. `transports` is what clients need to reach an app without a port.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from greenroom.errors import MissingExtra

if TYPE_CHECKING:
    from greenroom.serve.app import app
    from greenroom.serve.settings import ServeSettings, StoreBounds

__all__ = ["ServeSettings", "StoreBounds", "app"]


def __getattr__(name: str) -> object:
    """The names of `__all__`, loaded when they are asked for: transports need no Starlette."""
    if name in ("ServeSettings", "StoreBounds"):
        found: object = getattr(import_module("greenroom.serve.settings"), name)
    elif name == "app":
        found = _app()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def _app() -> object:
    try:
        found: object = import_module("greenroom.serve.app").app
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in ("starlette", "prometheus_client"):
            raise
        raise MissingExtra(f"greenroom.serve.app needs {error.name}: pip install 'greenroom[serve]'") from error
    return found
