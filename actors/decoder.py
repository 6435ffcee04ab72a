"""What the scheduler asks of the code that turns tokens into events. Implementations live in the layer above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from greenroom.backends.protocol import Sampled
from greenroom.events import Chunk, Finish, Reasoning, RejectedToolCall, StopReason, Token, ToolCall

__all__ = ["Decoded", "Decoder", "Payload", "Stop"]

Payload = Chunk | Reasoning | ToolCall | RejectedToolCall | Token
"""Every event but `Info`."""


class Stop(Finish, frozen=True):
    """A decoder's wish to end its row: why, what it met, and whether the token that showed it counts as emitted."""

    counted: bool = True


class Decoded(msgspec.Struct, frozen=True):
    """What one step's tokens gave: events to deliver, and perhaps a stop; tokens behind the stop were not looked at."""

    events: tuple[Payload, ...] = ()
    stop: Stop | None = None


class Decoder(Protocol):
    """All per-token text work of one request. Called on the engine thread alone; an exception fails the request."""

    def feed(self, tokens: Sequence[Sampled]) -> Decoded:
        """Take the row's next tokens, in order."""

    def finish(self, reason: StopReason) -> tuple[Payload, ...]:
        """The events still held back. Called once, when the row has ended in `reason`; `feed` is not called again."""

    def fork(self) -> Decoder:
        """An independent copy in the same state."""
