"""The error of a caller that does not keep to `greenroom.backends.protocol`."""

from __future__ import annotations

__all__ = ["ProtocolViolation"]


class ProtocolViolation(RuntimeError):
    """The backend was called out of order, on the wrong thread, or about rows that are not there: a caller's bug."""
