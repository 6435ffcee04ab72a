"""What a decoder asks of the code that tells thoughts and calls apart in a text."""

from __future__ import annotations

from typing import Literal, Protocol

from greenroom.events import Chunk, Reasoning, RejectedToolCall, StopReason, ToolCall

__all__ = ["MessageReader", "Piece", "Style"]

Piece = Chunk | Reasoning | ToolCall | RejectedToolCall
"""What a text is made of, in its order."""
Style = Literal["events", "text", "drop"]
"""What becomes of thinking: `Reasoning` events, text with its markers as the model wrote it, or nothing."""


class MessageReader(Protocol):
    """Reads one message."""

    def feed(self, text: str) -> list[Piece]:
        """Take the next piece."""

    def finish(self, reason: StopReason) -> list[Piece]:
        """The message is over: what was held back."""

    def is_thought(self, character: str) -> bool:
        """Whether the next character, if it is this one, is a thought's or the white space around one."""

    def fork(self) -> MessageReader:
        """An independent copy."""
