"""Decoders for requests whose tokens somebody keeps: they remember what they were fed, one by one.

They run on the engine thread while their request lives; once it is settled they belong to who made them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from greenroom.actors.decoder import Decoded, Decoder, Payload, Stop
from greenroom.backends.protocol import Sampled
from greenroom.events import Chunk, StopReason

__all__ = ["LogitsCollector", "RecordedToken", "RecordingDecoder"]


class RecordedToken(msgspec.Struct, frozen=True):
    """One token that was recorded: what it told, whether it ended the row, and what was asked for beside it."""

    sampled: Sampled
    events: tuple[Payload, ...]
    stop: Stop | None

    @property
    def token(self) -> int:
        """Its id."""
        return self.sampled.token

    @property
    def is_kept(self) -> bool:
        """Whether the token stays: one that only ended the turn does not."""
        return self.stop is None or self.stop.detail not in ("eos", "stop_token")

    @property
    def text(self) -> str:
        """The text that it completed."""
        return "".join([event.text for event in self.events if isinstance(event, Chunk)])

    @property
    def logits(self) -> Any:
        """The raw logits that it was drawn from, where they were asked for."""
        return self.sampled.logits


class RecordingDecoder:
    """A decoder around another, which outlives the request: `finish` leaves what it holds back where it is.

    With `tells`, each `RecordedToken` is delivered as if it were an event; with `passes_on`, the inner decoder's events
    are.
    """

    def __init__(self, decoder: Decoder, *, tells: bool = False, passes_on: bool = False) -> None:
        self.decoder = decoder
        self.recorded: list[RecordedToken] = []
        self._tells = tells
        self._passes_on = passes_on

    def feed(self, tokens: Sequence[Sampled]) -> Decoded:
        """See `Decoder.feed`."""
        events: list[Payload] = []
        for sampled in tokens:
            decoded = self.decoder.feed((sampled,))
            recorded = RecordedToken(sampled, decoded.events, decoded.stop)
            self.recorded.append(recorded)
            if self._tells:
                events.append(cast("Payload", recorded))  # the mailbox does not look at what it carries
            elif self._passes_on:
                events += decoded.events
            if decoded.stop is not None:
                return Decoded(tuple(events), decoded.stop)
        return Decoded(tuple(events))

    def finish(self, reason: StopReason) -> tuple[Payload, ...]:
        """See `Decoder.finish`."""
        return self.decoder.fork().finish(reason) if self._passes_on else ()

    def fork(self) -> RecordingDecoder:
        """See `Decoder.fork`."""
        twin = RecordingDecoder(self.decoder.fork(), tells=self._tells, passes_on=self._passes_on)
        twin.recorded = self.recorded.copy()
        return twin


class LogitsCollector:
    """The decoder of a request that draws nothing: it keeps the draws for their logits."""

    def __init__(self) -> None:
        self.draws: tuple[Sampled, ...] = ()

    def feed(self, tokens: Sequence[Sampled]) -> Decoded:
        """See `Decoder.feed`."""
        self.draws = tuple(tokens)
        return Decoded()

    def finish(self, reason: StopReason) -> tuple[Payload, ...]:  # noqa: ARG002 - there is no text
        """See `Decoder.finish`."""
        return ()

    def fork(self) -> LogitsCollector:
        """See `Decoder.fork`."""
        return LogitsCollector()
