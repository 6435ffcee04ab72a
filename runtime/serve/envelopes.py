"""How an API says that something went wrong."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from greenroom.serve.faults import Fault, FaultKind

__all__ = ["Envelope", "OpenAIEnvelope"]


class Envelope(Protocol):
    """An API's form of errors: one as a body, behind a status."""

    def body(self, fault: Fault) -> bytes:
        """The JSON of an answer that is an error."""


_KINDS: dict[FaultKind, str] = {
    "invalid": "invalid_request_error",
    "authentication": "invalid_request_error",
    "permission": "invalid_request_error",
    "not_found": "invalid_request_error",
    "too_large": "invalid_request_error",
    "busy": "rate_limit_error",
    "unavailable": "server_error",
    "failed": "server_error",
}


class OpenAIEnvelope:
    """`{"error": {"message", "type", "param", "code"}}`; a stream has the same as its last data."""

    def __repr__(self) -> str:
        return "<OpenAIEnvelope>"

    def body(self, fault: Fault) -> bytes:
        """See `Envelope.body`."""
        error: dict[str, Any] = {
            "message": fault.message,
            "type": _KINDS[fault.kind],
            "param": fault.param,
            "code": fault.code,
        }
        return msgspec.json.encode({"error": error})
