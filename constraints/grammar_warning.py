"""What is said where less is enforced or checked than was asked for."""

from __future__ import annotations

__all__ = ["GrammarWarning"]


class GrammarWarning(UserWarning):
    """A constraint enforces less than it says; the message says what is left out. Given once, when it is compiled."""
