"""Failures on demand, which a method raises the next time it is called, and that of a caller that breaks the contract.

The contract is `greenroom.backends.protocol`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Literal, get_args

__all__ = ["Failures", "Method", "ProtocolViolation", "ScriptFailed"]

Method = Literal["load", "edit", "forward", "sample", "read"]


class Failures:
    """Errors that wait for their method, first come first raised."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Exception]] = defaultdict(deque)

    def __repr__(self) -> str:
        waiting = {method: len(errors) for method, errors in self._waiting.items() if errors}
        return f"<Failures {waiting}>"

    def add(self, method: Method, error: Exception) -> None:
        """The next call of `method` that no earlier error waits for raises `error`."""
        if method not in get_args(Method):
            raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
        self._waiting[method].append(error)

    def raise_next(self, method: Method) -> None:
        """Raise what waits for `method`."""
        if self._waiting[method]:
            raise self._waiting[method].popleft()


class ProtocolViolation(RuntimeError):
    """The backend was called out of order, on the wrong thread, or about rows that are not there: a caller's bug."""


class ScriptFailed(RuntimeError):
    """The script has no answer to a request, or none that its constraint takes: the message has both. It ends alone."""
