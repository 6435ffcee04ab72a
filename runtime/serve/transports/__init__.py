"""An app's HTTP without a port: what httpx and httpx2 need to send their requests to an ASGI app of this process.

It knows nothing of greenroom's API and works with any ASGI app. httpx's own ASGI transport hands a response over once
it is whole; these hand over each part as the app sends it, and tell the app of a client that leaves.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greenroom.serve.transports.httpx2_transport import Httpx2Transport, SyncHttpx2Transport
    from greenroom.serve.transports.httpx_transport import HttpxTransport, SyncHttpxTransport

__all__ = ["Httpx2Transport", "HttpxTransport", "SyncHttpx2Transport", "SyncHttpxTransport"]

_HOMES = {
    "Httpx2Transport": "httpx2_transport",
    "HttpxTransport": "httpx_transport",
    "SyncHttpx2Transport": "httpx2_transport",
    "SyncHttpxTransport": "httpx_transport",
}
"""Each in a module of its own: most apps have only one of the two libraries."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
