"""How Anthropic's API says that something went wrong."""

from __future__ import annotations

import msgspec

from greenroom.serve.faults import Fault, FaultKind
from greenroom.serve.messages.answers import MessagesError, MessagesFault

__all__ = ["ANTHROPIC", "AnthropicEnvelope"]

_KINDS: dict[FaultKind, str] = {
    "invalid": "invalid_request_error",
    "authentication": "authentication_error",
    "permission": "permission_error",
    "not_found": "not_found_error",
    "too_large": "invalid_request_error",
    "busy": "rate_limit_error",
    "unavailable": "overloaded_error",
    "failed": "api_error",
}


class AnthropicEnvelope:
    """`{"type": "error", "error": {"type", "message"}}`, as a body and as the last event of a stream."""

    def __repr__(self) -> str:
        return "<AnthropicEnvelope>"

    def error(self, fault: Fault) -> MessagesError:
        """The same as a struct."""
        return MessagesError(MessagesFault(_KINDS[fault.kind], fault.message))

    def body(self, fault: Fault) -> bytes:
        """See `Envelope.body`."""
        return msgspec.json.encode(self.error(fault))


ANTHROPIC = AnthropicEnvelope()
