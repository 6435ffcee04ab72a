"""Where free text ends: a string or a token to wait for, looked for in bytes as tokens come.

A token that completes the string and goes on would have to be judged by two constraints at once. Such tokens are not
allowed: the string can always be completed by shorter ones. The string is matched by the automaton of Knuth, Morris and
Pratt; its position is how many bytes of the string are read.
"""

from __future__ import annotations

from bisect import bisect_left

from greenroom.constraints.state import Bits
from greenroom.constraints.vocabulary import Vocabulary

__all__ = ["Trigger"]

CROSSES = -1
"""The position after a token that completes the string and goes on."""


class Trigger:
    """What to wait for, compiled for one vocabulary. Shared by all requests; nothing in it changes."""

    def __init__(self, vocabulary: Vocabulary, what: str | int) -> None:
        self.vocabulary = vocabulary
        self._token = what if isinstance(what, int) else None
        self._text = what.encode() if isinstance(what, str) else b"?"
        self._borders = _borders(self._text)
        self.end = len(self._text)
        """The position at which it has come."""
        self._masks = self._build_masks() if self._token is None else [vocabulary.known] * self.end

    def __repr__(self) -> str:
        return f"<Trigger {self._text!r}>" if self._token is None else f"<Trigger token {self._token}>"

    def step(self, position: int, token: int) -> int:
        """The position after `token`; `CROSSES` where that token is not allowed."""
        if self._token is not None:
            return self.end if token == self._token else 0
        word = self.vocabulary.token_bytes(token)
        for at, byte in enumerate(word, 1):
            while position and self._text[position] != byte:
                position = self._borders[position]
            position += self._text[position] == byte
            if position == self.end:
                return position if at == len(word) else CROSSES
        return position

    def mask(self, position: int) -> Bits:
        """The ids that may come at `position`, EOS among them. Do not write to it."""
        return self._masks[position]

    def _build_masks(self) -> list[Bits]:
        crossing = self._crossing()
        masks = []
        for position in range(self.end):
            mask = self.vocabulary.known.copy()
            alignment = position
            while alignment:
                _clear(mask, crossing[alignment])
                alignment = self._borders[alignment]
            _clear(mask, crossing[0])
            mask.flags.writeable = False
            masks.append(mask)
        return masks

    def _crossing(self) -> list[list[int]]:
        """For each position, the tokens that continue the string there, complete it and go on; at 0, that hold it."""
        words = sorted((word, token) for token, word in enumerate(self.vocabulary.bytes) if word)
        inside = [token for word, token in words if 0 <= word.find(self._text) < len(word) - self.end]
        crossing = [inside]
        for position in range(1, self.end):
            rest = self._text[position:]
            first = bisect_left(words, (rest + b"\x00",))
            tokens = []
            for word, token in words[first:]:
                if not word.startswith(rest):
                    break
                tokens.append(token)
            crossing.append(tokens)
        return crossing


def _borders(text: bytes) -> list[int]:
    """For each length, how long the longest proper prefix is that is a suffix too."""
    borders = [0] * (len(text) + 1)
    length = 0
    for at in range(1, len(text)):
        while length and text[at] != text[length]:
            length = borders[length]
        length += text[at] == text[length]
        borders[at + 1] = length
    return borders


def _clear(mask: Bits, tokens: list[int]) -> None:
    for token in tokens:
        mask[token // 32] &= ~(1 << token % 32) & 0xFFFFFFFF
