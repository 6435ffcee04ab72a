"""Escapes in JSON strings, wherever the text is cut."""

from __future__ import annotations

import re

__all__ = ["PLAIN", "BadEscape", "unescape"]

PLAIN = re.compile(r'[^"\\\x00-\x1f\ud800-\udfff]*').match
"""The run of characters that stand for themselves. A lone surrogate is no text: it cannot be encoded."""
_SHORT = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_UNIT = re.compile(r"\\u([0-9a-fA-F]{4})").match
_PAIR = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})").match
_HIGH_START = r"\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?"
_START = re.compile(rf"\\(?:u[0-9a-fA-F]{{0,3}})?|{_HIGH_START}").fullmatch
"""What may still become an escape, or the pair of a surrogate, when the next characters come."""


class BadEscape(ValueError):
    """No JSON escape is written like that."""


def unescape(text: str, place: int) -> tuple[str, int] | None:
    """The character of the escape at `place` and where it ends; None if the text ends in the middle of it.

    Raises `BadEscape`, for half of a surrogate pair too.
    """
    short = _SHORT.get(text[place + 1 : place + 2])
    if short is not None:
        return short, place + 2
    unit = _UNIT(text, place)
    if unit is not None:
        code = int(unit[1], 16)
        if not 0xD800 <= code <= 0xDFFF:
            return chr(code), place + 6
        pair = _PAIR(text, place)
        if pair is not None:
            return chr(0x10000 + (int(pair[1], 16) - 0xD800) * 0x400 + int(pair[2], 16) - 0xDC00), place + 12
    if len(text) - place < 12 and _START(text, place):
        return None
    raise BadEscape("half of a surrogate pair" if unit else "no escape of JSON")
