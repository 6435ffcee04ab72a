"""A decoder for tests of the scheduler, in which no text is read."""

from __future__ import annotations

from greenroom.actors.decoder import Decoded

__all__ = ["Silent"]


class Silent:
    """A decoder that says nothing."""

    def feed(self, tokens: object) -> Decoded:
        """See `Decoder.feed`."""
        del tokens
        return Decoded()

    def finish(self, reason: str) -> tuple[()]:
        """See `Decoder.finish`."""
        del reason
        return ()

    def fork(self) -> Silent:
        """See `Decoder.fork`."""
        return Silent()
