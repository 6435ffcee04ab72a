"""From tokens to events: text with stop strings, and raw tokens.

Called on the engine thread, once a step, so that a stop string stops on its step. A decoder knows one row's tokens and
nothing of the row.
"""

from __future__ import annotations

from collections.abc import Sequence

from greenroom.actors.decoding import Decoded, Payload, Stop
from greenroom.backends.protocol import Sampled, TextStream
from greenroom.events import Chunk, StopReason, Token, TopLogprob

__all__ = ["TextDecoder", "TokenDecoder"]


class TextDecoder:
    """Text chunks. A stop string is never emitted, however its text is split over tokens.

    The stop string that is complete first ends the text; where two end at one place, the one that begins first.
    """

    def __init__(
        self,
        stream: TextStream,
        *,
        stop_ids: frozenset[int],
        eos: frozenset[int],
        stop_strings: tuple[str, ...] = (),
        keep_tokens: bool = False,
    ) -> None:
        """`eos`: those ids whose stop is called `eos`, not `stop_token`. `keep_tokens`: chunks carry their tokens."""
        self._stream = stream
        self._stop_ids = stop_ids
        self._eos = eos
        self._stop_strings = stop_strings
        self._keep_tokens = keep_tokens
        self._held = ""
        self._tokens: list[Token] = []
        self._is_stopped = False

    def feed(self, tokens: Sequence[Sampled]) -> Decoded:
        """See `Decoder.feed`. At most one chunk."""
        text = ""
        stop: Stop | None = None
        for sampled in tokens:
            if sampled.token in self._stop_ids:
                stop = _stop_of(sampled.token, self._eos, counted=False)
                break
            if self._keep_tokens:
                self._tokens.append(_token_of(sampled))
            text += self._stream.step(sampled.token)
            if self._stop_strings and text:
                text, stop = self._cut(text)
                if stop is not None:
                    break
        return Decoded(self._chunk(text), stop)

    def _cut(self, text: str) -> tuple[str, Stop | None]:
        """What of the held text and `text` may be emitted, and the stop string that was met."""
        whole = self._held + text
        found = [(at + len(s), at, s) for s in self._stop_strings if (at := whole.find(s)) >= 0]
        if found:
            _, at, string = min(found)
            self._held = ""
            self._is_stopped = True
            return whole[:at], Stop("stop", "stop_string", string)
        keep = max(_overlap(whole, s) for s in self._stop_strings)
        self._held = whole[len(whole) - keep :]
        return whole[: len(whole) - keep], None

    def _chunk(self, text: str) -> tuple[Payload, ...]:
        if not text:
            return ()
        tokens, self._tokens = tuple(self._tokens), []
        return (Chunk(text, tokens),)

    def finish(self, reason: StopReason) -> tuple[Payload, ...]:
        """See `Decoder.finish`: the tail of the text, unless a stop string ended it."""
        del reason
        if self._is_stopped:
            return ()
        text = self._stream.flush()
        if self._stop_strings:
            text, stop = self._cut(text)
            if stop is None:
                text += self._held
        return self._chunk(text)

    def fork(self) -> TextDecoder:
        """See `Decoder.fork`."""
        twin = TextDecoder(
            self._stream.fork(),
            stop_ids=self._stop_ids,
            eos=self._eos,
            stop_strings=self._stop_strings,
            keep_tokens=self._keep_tokens,
        )
        twin._held = self._held
        twin._tokens = list(self._tokens)
        twin._is_stopped = self._is_stopped
        return twin


class TokenDecoder:
    """A `Token` event for each token; the stop token only where it was asked for."""

    def __init__(self, *, stop_ids: frozenset[int], eos: frozenset[int], include_stop_token: bool = False) -> None:
        self._stop_ids = stop_ids
        self._eos = eos
        self._include_stop_token = include_stop_token

    def feed(self, tokens: Sequence[Sampled]) -> Decoded:
        """See `Decoder.feed`."""
        events: list[Payload] = []
        for sampled in tokens:
            if sampled.token not in self._stop_ids:
                events.append(_token_of(sampled))
                continue
            if self._include_stop_token:
                events.append(_token_of(sampled))
            return Decoded(tuple(events), _stop_of(sampled.token, self._eos, counted=self._include_stop_token))
        return Decoded(tuple(events))

    def finish(self, reason: StopReason) -> tuple[Payload, ...]:
        """Nothing is ever held back."""
        del reason
        return ()

    def fork(self) -> TokenDecoder:
        """Without state, its own fork."""
        return self


def _overlap(text: str, string: str) -> int:
    """The length of the longest end of `text` that is a proper beginning of `string`."""
    for size in range(min(len(text), len(string) - 1), 0, -1):
        if string.startswith(text[-size:]):
            return size
    return 0


def _stop_of(token: int, eos: frozenset[int], *, counted: bool) -> Stop:
    return Stop("stop", "eos" if token in eos else "stop_token", token, counted)


def _token_of(sampled: Sampled) -> Token:
    return Token(sampled.token, sampled.logprob, tuple([TopLogprob(id_, value) for id_, value in sampled.top]))
