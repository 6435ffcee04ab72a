"""One way of writing calls, as a grammar's rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from greenroom.constraints.calls.rules import Rules

__all__ = ["CallWriter"]


class CallWriter(Protocol):
    """Writes calls of one tool at a time."""

    def head(self, name: str) -> str:
        """What stands in front of the arguments of the tool `name`, where it has any."""

    def call(self, rules: Rules, name: str, schema: Mapping[str, Any], opened: str = "") -> str:
        """A call of the tool `name`, with arguments by `schema`, as a rule.

        `opened` is a beginning of it that stands there already. Raises `NotSupported` where no call can be written.
        """
