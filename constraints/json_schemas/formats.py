"""The formats of strings that are enforced: some by llguidance under their names, others as patterns written here.

By the standard any other format is a note, of which nothing follows. Fractions and counts have an end here, where a
small model might write digits for ever: fifteen at most.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["ENFORCED", "PATTERNS", "beyond_grammars"]

_DIGITS = 15

_YEAR_OF_366 = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_YEAR_OF_366}-02-29)"
)
_FRACTION = rf"(?:\.[0-9]{{1,{_DIGITS}}})?"
_OFFSET = "(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"


def _leap_seconds() -> Iterator[str]:
    """Second 60 where it is the last one of a day in UTC, at offsets of whole and half hours."""
    yield f"23:59:60{_FRACTION}[zZ]"
    for minutes in range(0, 24 * 60, 30):
        offset = f"{minutes // 60:02}:{minutes % 60:02}"
        for sign, local in (("+", minutes - 1), ("-", -1 - minutes)):
            yield f"{local // 60 % 24:02}:{local % 60:02}:60{_FRACTION}[{sign}]{offset}"


_TIME = f"(?:(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]{_FRACTION}{_OFFSET}|{'|'.join(_leap_seconds())})"

_NUMBER = f"[0-9]{{1,{_DIGITS}}}"
_CLOCK = f"T(?:{_NUMBER}H(?:{_NUMBER}M(?:{_NUMBER}S)?)?|{_NUMBER}M(?:{_NUMBER}S)?|{_NUMBER}S)"
_CALENDAR = f"(?:{_NUMBER}Y(?:{_NUMBER}M(?:{_NUMBER}D)?)?|{_NUMBER}M(?:{_NUMBER}D)?|{_NUMBER}D)"
_DURATION = f"P(?:{_CALENDAR}(?:{_CLOCK})?|{_CLOCK}|{_NUMBER}W)"

_POINTER_STEP = r"(?:/(?:[^~/]|~[01])*)"
"""A step of a JSON pointer."""
_HEX = "%[0-9A-Fa-f]{2}"


def _ipv6() -> str:
    """RFC 4291: eight groups, of which the last two may be an IPv4 address, one run of zeros left out."""
    group = "[0-9A-Fa-f]{1,4}"
    last = f"(?:{group}:{group}|{_IPV4})"
    ways = [f"(?:{group}:){{6}}{last}"]
    for before in range(8):
        head = f"(?:{group}(?::{group}){{0,{before - 1}}})?" if before else ""
        behind = 5 - before
        if behind >= 0:
            ways.append(f"{head}::(?:{group}:){{{behind}}}{last}")
        else:
            ways.append(f"{head}::{group}" if behind == -1 else f"{head}::")
    return f"(?:{'|'.join(ways)})"


_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"(?:{_BYTE}\.){{3}}{_BYTE}"
_IPV6 = _ipv6()


def _reference(more: str, private: str, *, scheme: str) -> str:
    """RFC 3986's and 3987's grammar: `more` may be used beside ASCII, `private` in a query."""

    def some(marks: str) -> str:
        return rf"(?:[A-Za-z0-9\-._~!$&'()*+,;={marks}{more}]|{_HEX})"

    user, name, character = some(":"), some(""), some(":@")
    host = rf"(?:\[(?:{_IPV6}|[vV][0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+)\]|{name}*)"
    path = f"(?:/{character}*)*"
    authority = f"//(?:{user}*@)?{host}(?::[0-9]*)?{path}"
    absolute = f"/(?:{character}+{path})?"
    tail = rf"(?:\?(?:{character}|[/?{private}])*)?(?:#(?:{character}|[/?])*)?"
    known = rf"[A-Za-z][A-Za-z0-9+\-.]*:(?:{authority}|{absolute}|{character}+{path}|)"
    relative = f"(?:{authority}|{absolute}|{some('@')}+{path}|)"
    return f"(?:{known}{'' if scheme == 'needed' else f'|{relative}'}){tail}"


_UNICODE = r"\x{A0}-\x{D7FF}\x{F900}-\x{FDCF}\x{FDF0}-\x{FFEF}\x{10000}-\x{DFFFD}"
_PRIVATE = r"\x{E000}-\x{F8FF}\x{F0000}-\x{10FFFD}"
_NAME = rf"(?:[A-Za-z0-9_]|{_HEX})(?:\.?(?:[A-Za-z0-9_]|{_HEX}))*(?::[1-9][0-9]{{0,3}}|\*)?"
_TEMPLATE = rf"(?:[^\x00-\x20\x7F\"%<>\\^`{{|}}]|{_HEX}|\{{[+#./;?&=,!@|]?{_NAME}(?:,{_NAME})*\}})*"
_BEYOND = r"\x{80}-\x{10FFFF}"
_LETTER = rf"[A-Za-z0-9!#$%&'*+\-/=?^_`{{|}}~{_BEYOND}]"
_QUOTED = rf'"(?:[\x20\x21\x23-\x5B\x5D-\x7E{_BEYOND}]|\\[\x20-\x7E])*"'
_MAILBOX = rf"(?:{_LETTER}+(?:\.{_LETTER}+)*|{_QUOTED})"
_LABEL = rf"[A-Za-z0-9{_UNICODE}](?:[A-Za-z0-9\-{_UNICODE}]{{0,61}}[A-Za-z0-9{_UNICODE}])?"

PATTERNS = {
    name: f"^(?:{body})$"
    for name, body in {
        "date": _DATE,
        "time": _TIME,
        "date-time": f"{_DATE}[tT]{_TIME}",
        "duration": _DURATION,
        "json-pointer": f"{_POINTER_STEP}*",
        "relative-json-pointer": f"(?:0|[1-9][0-9]{{0,{_DIGITS}}})(?:#|{_POINTER_STEP}*)",
        "uri-reference": _reference("", "", scheme="optional"),
        "iri": _reference(_UNICODE, _PRIVATE, scheme="needed"),
        "iri-reference": _reference(_UNICODE, _PRIVATE, scheme="optional"),
        "uri-template": _TEMPLATE,
        "idn-email": rf"{_MAILBOX}@(?:{_LABEL}(?:\.{_LABEL})*|\[{_IPV4}\]|\[IPv6:{_IPV6}\])",
        "ipv6": _IPV6,
    }.items()
}
"""The whole string, as the pattern of a schema."""
ENFORCED = frozenset([*PATTERNS, "email", "hostname", "ipv4", "ipv6", "uuid", "uri"])


_PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?:<?[=!]|P=)|.", re.DOTALL)


def beyond_grammars(pattern: str) -> str | None:
    """What is in a regular expression that no grammar follows, in words; None where nothing is."""
    for found in _PIECE.finditer(pattern):
        piece = found[0]
        if piece in ("(?=", "(?!", "(?<=", "(?<!"):
            return "a look-around"
        if piece in ("\\b", "\\B"):
            return "a word boundary"
        if piece == "(?P=" or (piece[0] == "\\" and piece[1] in "123456789k"):
            return "a back-reference"
    return None
