"""One training document: the messages of a conversation and what was offered with it."""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Dialogue", "Message"]

Message = dict[str, Any]


@dataclass(frozen=True)
class Dialogue:
    """A conversation that ends with the assistant's turn.

    `kind` names the skill ("tool", "record", …). With `thinking`, the last assistant turn begins with a thought.
    """

    kind: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    thinking: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """The text of the last assistant turn."""
        return str(self.messages[-1]["content"])
