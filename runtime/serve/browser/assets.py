"""The page's own files, and the headers that keep everything else out of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from greenroom.serve.exchange import HttpExchange
from greenroom.serve.routes import ApiRoute

__all__ = ["PRIVATE", "asset_routes"]

_RULES = (
    *("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self' data:"),
    *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
    *("require-trusted-types-for 'script'", "trusted-types 'none'"),  # no text becomes HTML or code, by any mistake
)
_SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
PRIVATE = (*_SAFE, (b"cache-control", b"no-store"))
"""Of what is somebody's own."""
_FILE = (*_SAFE, (b"cache-control", b"no-cache"))
_PAGE = (
    *_FILE,
    (b"content-security-policy", "; ".join(_RULES).encode()),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
_INDEX = "index.html"
_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}


def asset_routes() -> list[ApiRoute]:
    """A route a file, read once: no name that is asked for is looked up in a folder. None needs a key."""
    routes = []
    for file in sorted((files("greenroom.serve.browser") / "static").iterdir(), key=lambda each: each.name):
        kind = _TYPES.get("." + file.name.rpartition(".")[2])
        if kind is None:
            continue
        is_page = file.name == _INDEX
        handle = _shows(file.read_bytes(), [(b"content-type", kind), *(_PAGE if is_page else _FILE)])
        path = "/" if is_page else f"/page/{file.name}"
        routes.append(ApiRoute("GET", path, handle, needs_key=False, is_described=False))
    return routes


def _shows(body: bytes, headers: list[tuple[bytes, bytes]]) -> Callable[[HttpExchange], Awaitable[None]]:
    async def show(exchange: HttpExchange) -> None:
        await exchange.send_whole(body, headers)

    return show
