"""The decoders: tokens to text, to ids, and the stops that show in them.

Both implement `greenroom.actors.decoder.Decoder`, so they run on the engine thread, once per token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from copy import copy

from greenroom.actors.decoder import Decoded, Payload, Stop
from greenroom.backends.protocol import Sampled, TextStream
from greenroom.events import Chunk, StopReason, Token, TopLogprob
from greenroom.parsing.message_reader import MessageReader

__all__ = ["TextDecoder", "TokenDecoder"]

NOTHING = Decoded()


class TextDecoder:
    """Turns tokens into `Chunk`s, at most one a feed, and ends the row at a stop id or a stop string.

    A stop id (detail `eos` if it is in `eos`, else `stop_token`) gives no text and is not counted. A stop string is
    never emitted, however it is spread over tokens: the longest end of the text that may still become one is held
    back. Of several, the one that is complete first wins, and among those complete at the same character the longest,
    so what is found does not depend on how the text was cut into tokens. The token that completes it counts.

    With `keep_tokens` each chunk carries all tokens since the chunk before it. Where the text of a token is held back
    in part, its token goes with the first part; tokens that no text follows (those of a stop string) are in no chunk.

    A stop string inside of a thought ends nothing, unless `stop_in_thinking`.

    With a `reader` the text, freed of stop strings, becomes what the reader makes of it: thinking and calls beside
    chunks. The tokens of these are in no chunk.
    """

    def __init__(
        self,
        stream: TextStream,
        *,
        stop_ids: frozenset[int],
        eos: frozenset[int],
        stop_strings: tuple[str, ...] = (),
        stop_in_thinking: bool = False,
        keep_tokens: bool = False,
        reader: MessageReader | None = None,
    ) -> None:
        self._stream = stream
        self._reader = reader
        self._stop_ids = stop_ids
        self._eos = eos
        self._scan = _Scan(_Automaton(stop_strings)) if stop_strings else None
        self._stop_in_thinking = stop_in_thinking
        self._keep_tokens = keep_tokens
        self._tokens: list[Token] = []
        self._has_met = False
        """A stop string was met: what is held back is that string, and text behind it."""

    def feed(self, tokens: Sequence[Sampled]) -> Decoded:
        """See `Decoder.feed`."""
        whole = ""
        pieces: list[Payload] = []
        stop = None
        for sampled in tokens:
            token = sampled.token
            if token in self._stop_ids:
                stop = _stop(token, self._eos, counted=False)
                break
            text = self._stream.step(token)
            if self._keep_tokens:
                self._tokens.append(_token(sampled))
            if text and self._scan is not None:
                text, met = self._scanned(text, self._scan, pieces)
                if met is not None:
                    whole += text
                    self._has_met = True
                    stop = Stop("stop", "stop_string", met)
                    break
            whole += text
        if pieces:
            pieces += self._reader.feed(whole) if self._reader is not None and whole else ()
            return Decoded(self._with_tokens(pieces), stop)
        if whole:
            return Decoded(self._told(whole), stop)
        return NOTHING if stop is None else Decoded((), stop)

    def finish(self, reason: StopReason) -> tuple[Payload, ...]:
        """See `Decoder.finish`. A stop string that the last bytes complete is cut off too, though it ended nothing."""
        text = "" if self._has_met else self._rest()
        told = self._told(text) if text else ()
        return told if self._reader is None else (*told, *self._with_tokens(self._reader.finish(reason)))

    def _scanned(self, text: str, scan: _Scan, pieces: list[Payload]) -> tuple[str, str | None]:
        """The text that is free to go, and the stop string that ends it. A thought ends at none, unless it shall.

        Where it does not, what the reader makes of the text goes to `pieces`: where a thought begins it alone knows.
        """
        if self._reader is None or self._stop_in_thinking:
            return scan.push(text)
        for character in text:
            if self._reader.is_thought(character):
                free, met = scan.flush() + character, None
            else:
                free, met = scan.push(character)
            pieces += self._reader.feed(free) if free else ()
            if met is not None:
                return "", met
        return "", None

    def _rest(self) -> str:
        text = self._stream.flush()
        counts = self._reader is None or self._stop_in_thinking or not self._reader.is_thought(text[:1])
        if self._scan is not None and counts:
            text, met = self._scan.push(text)
            if met is None:
                text += self._scan.held
        return text

    def _told(self, text: str) -> tuple[Payload, ...]:
        if self._reader is None:
            return (self._chunk(text),)
        return self._with_tokens(self._reader.feed(text))

    def _with_tokens(self, pieces: Sequence[Payload]) -> tuple[Payload, ...]:
        if not self._keep_tokens:
            return tuple(pieces)
        told: list[Payload] = []
        for piece in pieces:
            if isinstance(piece, Chunk):
                told.append(self._chunk(piece.text))
            else:
                self._tokens.clear()
                told.append(piece)
        return tuple(told)

    @property
    def held(self) -> tuple[Token, ...]:
        """The tokens that go with the next chunk."""
        return tuple(self._tokens)

    def hold(self, tokens: Sequence[Token]) -> None:
        """The same in another's place: what it was fed may have been known by its ids alone."""
        self._tokens = list(tokens)

    def fork(self) -> TextDecoder:
        """See `Decoder.fork`."""
        twin = copy(self)
        twin._stream = self._stream.fork()  # noqa: SLF001 - its own kind
        twin._scan = copy(self._scan)  # noqa: SLF001
        twin._tokens = self._tokens.copy()  # noqa: SLF001
        twin._reader = self._reader and self._reader.fork()  # noqa: SLF001
        return twin

    def _chunk(self, text: str) -> Chunk:
        if not self._tokens:
            return Chunk(text)
        tokens = tuple(self._tokens)
        self._tokens.clear()
        return Chunk(text, tokens)


class TokenDecoder:
    """Turns tokens into `Token`s, and ends the row at a stop id.

    The stop token is yielded, and counts, only with `include_stop_token`. It holds nothing back.
    """

    def __init__(self, *, stop_ids: frozenset[int], eos: frozenset[int], include_stop_token: bool = False) -> None:
        self._stop_ids = stop_ids
        self._eos = eos
        self._include_stop_token = include_stop_token

    def feed(self, tokens: Sequence[Sampled]) -> Decoded:
        """See `Decoder.feed`."""
        events: list[Token] = []
        for sampled in tokens:
            if sampled.token in self._stop_ids:
                if self._include_stop_token:
                    events.append(_token(sampled))
                return Decoded(tuple(events), _stop(sampled.token, self._eos, counted=self._include_stop_token))
            events.append(_token(sampled))
        return Decoded(tuple(events))

    def finish(self, reason: StopReason) -> tuple[Payload, ...]:  # noqa: ARG002 - nothing is held back in any case
        """See `Decoder.finish`."""
        return ()

    def fork(self) -> TokenDecoder:
        """See `Decoder.fork`."""
        return copy(self)


def _token(sampled: Sampled) -> Token:
    if not sampled.top:
        return Token(sampled.token, sampled.logprob)
    return Token(sampled.token, sampled.logprob, tuple(TopLogprob(token, logprob) for token, logprob in sampled.top))


def _stop(token: int, eos: frozenset[int], *, counted: bool) -> Stop:
    return Stop("stop", "eos" if token in eos else "stop_token", token, counted)


class _Automaton:
    """Aho-Corasick over the stop strings: one step a character, whatever the strings are. Never changed once made.

    State 0 is the start. `depth[state]` is the length of the longest end of the text that begins a stop string, `met`
    the longest stop string that is complete in that state.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.steps: list[dict[str, int]] = [{}]
        self.depth = [0]
        self.met: list[str | None] = [None]
        for string in strings:
            state = 0
            for character in string:
                if character not in self.steps[state]:
                    self.steps[state][character] = len(self.steps)
                    self.steps.append({})
                    self.depth.append(self.depth[state] + 1)
                    self.met.append(None)
                state = self.steps[state][character]
            self.met[state] = string
        self.shorter = [0] * len(self.steps)
        """The state of the next shorter end of the text that begins a stop string."""
        self.first = frozenset(self.steps[0])
        pending = deque(self.steps[0].values())
        while pending:
            state = pending.popleft()
            for character, after in self.steps[state].items():
                self.shorter[after] = self.after(self.shorter[state], character)
                self.met[after] = self.met[after] or self.met[self.shorter[after]]
                pending.append(after)

    def after(self, state: int, character: str) -> int:
        """The state that `character` leads to."""
        while (found := self.steps[state].get(character)) is None:
            if state == 0:
                return 0
            state = self.shorter[state]
        return found


class _Scan:
    """One text's way through an automaton; `held` is the end of the text that may still become a stop string."""

    __slots__ = ("_automaton", "_state", "held")

    def __init__(self, automaton: _Automaton) -> None:
        self._automaton = automaton
        self._state = 0
        self.held = ""

    def flush(self) -> str:
        """What is held, which becomes no stop string."""
        held, self.held, self._state = self.held, "", 0
        return held

    def push(self, text: str) -> tuple[str, str | None]:
        """The text that is free to go, and the stop string that ends it, if one is complete."""
        automaton = self._automaton
        state = self._state
        if state == 0 and automaton.first.isdisjoint(text):
            return text, None
        for place, character in enumerate(text, 1):
            state = automaton.after(state, character)
            met = automaton.met[state]
            if met is not None:
                return (self.held + text[:place])[: -len(met)], met
        text = self.held + text
        free = len(text) - automaton.depth[state]
        self._state = state
        self.held = text[free:]
        return text[:free], None
