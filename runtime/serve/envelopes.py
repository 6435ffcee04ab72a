"""How an API says that something went wrong."""

from __future__ import annotations

from typing import Protocol

import msgspec

from greenroom.serve.faults import Fault, FaultKind

__all__ = ["Envelope", "ErrorDetails", "OpenAIEnvelope"]


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


class ErrorDetails(msgspec.Struct, frozen=True):
    """What OpenAI says of an error."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIEnvelope:
    """`{"error": {"message", "type", "param", "code"}}`; a stream has the same as its last data."""

    def __repr__(self) -> str:
        return "<OpenAIEnvelope>"

    def body(self, fault: Fault) -> bytes:
        """See `Envelope.body`."""
        return msgspec.json.encode({"error": self.details(fault)})

    def details(self, fault: Fault) -> ErrorDetails:
        """What stands in the envelope."""
        return ErrorDetails(fault.message, _KINDS[fault.kind], fault.param, fault.code)
