"""Strings that are written as they are, between markers: what they may be, so that they are read as they were meant."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from greenroom.constraints.calls.rules import Rules, pattern

__all__ = ["Plain"]

_WORDS = "null|none|nil|true|false|yes|no|on|off|inf|infinity|nan"
"""What readers take for something else, in any case of letters."""
_META = frozenset("^$|")


class Plain(msgspec.Struct, frozen=True, kw_only=True):
    """How a format writes strings. `marks` are what must not stand in one.

    A `guessed` one would be read as a number, a list or the like if it looked like one, so it begins with a letter and
    has no quotes.
    """

    marks: tuple[str, ...]
    guessed: bool = False

    def terminal(self, rules: Rules, schema: Mapping[str, Any], others: Sequence[str] = ()) -> str | None:
        """The terminal of strings by `schema`, and of the literal texts `others`; None where there is none.

        Of a pattern that is more than a text with anchors at its ends, nothing is enforced, nor of a format.
        """
        if "const" in schema or "enum" in schema:
            values = schema["enum"] if "enum" in schema else [schema["const"]]
            strings = [each for each in values if isinstance(each, str)]
            spelt = [json.dumps(each) for each in values if not isinstance(each, str)]
            fine = [*filter(self.fits, strings), *(text for text in spelt if text not in strings)]
            literals = [*map(pattern, fine), *map(pattern, others)]
            return rules.token(" | ".join(literals)) if literals else None
        free = rules.token(" & ".join(self._free(rules, schema)))
        return rules.token(" | ".join([free, *map(pattern, others)])) if others else free

    def fits(self, text: str) -> bool:
        """Whether this string is read as it stands."""
        if any(mark in text for mark in self.marks):
            return False
        if not text or not self.guessed:
            return True
        return text[0].isalpha() and not {"'", '"'}.intersection(text) and text.lower() not in _WORDS.split("|")

    def _free(self, rules: Rules, schema: Mapping[str, Any]) -> list[str]:
        low, high = schema.get("minLength", 0), schema.get("maxLength", "")
        within = [f"/(?s:.{{{low},{high}}})/"]
        marks = " | ".join(map(pattern, self.marks))
        within.append(f"~{rules.token(f'/(?s:.*)/ ({marks}) /(?s:.*)/')}")
        if self.guessed:
            within += [r"/\p{L}[^'" + '"' + r"]*/", f"~/(?i:{_WORDS})/"]
        wanted = _whole_pattern(schema.get("pattern"))
        return [*within, wanted] if wanted else within


def _whole_pattern(wanted: object) -> str | None:
    """`wanted` as a regular expression of the whole text; None where it cannot be turned into one."""
    if not isinstance(wanted, str) or "(?" in wanted or "/" in wanted:
        return None
    inner = wanted.removeprefix("^").removesuffix("$")
    if _META.intersection(inner.replace("[^", "[")) or inner.endswith("\\"):
        return None
    before = "" if wanted.startswith("^") else "(?s:.*)"
    behind = "" if wanted.endswith("$") else "(?s:.*)"
    return f"/{before}({inner}){behind}/"
