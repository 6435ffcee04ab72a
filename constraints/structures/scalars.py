"""Scalars of JSON wherever the text is cut: numbers and literals, a character at a time, and escapes in strings.

One table says what may follow in numbers and literals, and what a whole one is worth. A phase is what was read so far
as far as it matters; the phases of a literal are its beginnings.
"""

from __future__ import annotations

import re

__all__ = ["PLAIN", "START", "WHOLE", "BadEscape", "Phase", "is_whole", "next_phase", "unescape", "worth"]

Phase = str
START: Phase = ""
_LITERALS: dict[str, bool | None] = {"true": True, "false": False, "null": None}
_DIGITS = "0123456789"
_WHOLE_PHASES = frozenset({"zero", "integer", "fraction", "exponent", *_LITERALS})

WHOLE = re.compile(
    r"(?:-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null)(?=[ \t\n\r,\]}])",
).match
"""A number or a literal with its delimiter behind it: the usual case, in one look."""

PLAIN = re.compile(r'[^"\\\x00-\x1f\ud800-\udfff]*').match
"""The run of characters that stand for themselves. A lone surrogate is no text: it cannot be encoded."""
_SHORT = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_UNIT = re.compile(r"\\u([0-9a-fA-F]{4})").match
_PAIR = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})").match
_HIGH_START = r"\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?"
_BEGUN = re.compile(rf"\\(?:u[0-9a-fA-F]{{0,3}})?|{_HIGH_START}").fullmatch
"""What may still become an escape, or the pair of a surrogate, when the next characters come."""


def _table() -> dict[Phase, dict[str, Phase]]:
    digits = "123456789"
    exponent = {"e": "mark", "E": "mark"}
    table: dict[Phase, dict[str, Phase]] = {
        START: {"-": "minus", "0": "zero", **dict.fromkeys(digits, "integer")},
        "minus": {"0": "zero", **dict.fromkeys(digits, "integer")},
        "zero": {".": "point", **exponent},
        "integer": {".": "point", **exponent, **dict.fromkeys(_DIGITS, "integer")},
        "point": dict.fromkeys(_DIGITS, "fraction"),
        "fraction": {**exponent, **dict.fromkeys(_DIGITS, "fraction")},
        "mark": {"+": "sign", "-": "sign", **dict.fromkeys(_DIGITS, "exponent")},
        "sign": dict.fromkeys(_DIGITS, "exponent"),
        "exponent": dict.fromkeys(_DIGITS, "exponent"),
    }
    for literal in _LITERALS:
        for end, character in enumerate(literal):
            table.setdefault(literal[:end], {})[character] = literal[: end + 1]
        table[literal] = {}
    return table


_TABLE = _table()


def next_phase(phase: Phase, character: str) -> Phase | None:
    """The phase behind `character`; None where no number and no literal goes on like that."""
    return _TABLE[phase].get(character)


def is_whole(phase: Phase) -> bool:
    """Whether what was read may end here."""
    return phase in _WHOLE_PHASES


def worth(text: str) -> bool | float | None:
    """The value of a whole scalar. Raises `ValueError` for an integer of more digits than Python converts."""
    if text in _LITERALS:
        return _LITERALS[text]
    return int(text) if text.lstrip("-").isdigit() else float(text)


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
    if len(text) - place < 12 and _BEGUN(text, place):
        return None
    raise BadEscape("half of a surrogate pair" if unit else "no escape of JSON")
