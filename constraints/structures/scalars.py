"""Numbers and literals, a character at a time: what may follow, and what a whole one is worth.

One table for both. A phase is what was read so far as far as it matters; the phases of a literal are its beginnings.
"""

from __future__ import annotations

import re

__all__ = ["START", "WHOLE", "Phase", "is_whole", "next_phase", "worth"]

Phase = str
START: Phase = ""
_LITERALS: dict[str, bool | None] = {"true": True, "false": False, "null": None}
_DIGITS = "0123456789"
_WHOLE_PHASES = frozenset({"zero", "integer", "fraction", "exponent", *_LITERALS})

WHOLE = re.compile(
    r"(?:-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null)(?=[ \t\n\r,\]}])",
).match
"""A number or a literal with its delimiter behind it: the usual case, in one look."""


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
