"""How values are spelt that JSON has no kind for, as regular expressions of exactly what libraries read.

Digits are bounded: a model that may write a fraction for ever does. Dates are those of the calendar, with leap years.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable

__all__ = [
    "FORMATS",
    "WHOLE",
    "any_of",
    "base64_of",
    "base64_of_ascii",
    "date_between",
    "datetime_between",
    "decimal_of",
    "integer_between",
    "stripped",
    "url_of",
    "whole",
]

WHOLE = "(?:0|-?[1-9][0-9]*)"
_DIGITS = "(?:0|[1-9][0-9]{0,17})"
_NUMBER = rf"-?{_DIGITS}(?:\.[0-9]{{1,12}})?"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
_OFFSET = "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_OFFSETS = {None: f"{_OFFSET}?", True: _OFFSET, False: ""}
_FIRST, _LAST = dt.date.min.year, dt.date.max.year
_UNITS = "(?:[kKMGTPE]?B|[KMGTPE]iB)"


def any_of(patterns: Iterable[str]) -> str:
    """A pattern of what one of them matches."""
    return f"(?:{'|'.join(patterns)})"


def whole(pattern: str) -> str:
    """A pattern that has to match all of a text."""
    return f"^(?:{pattern})$"


# Numbers.


def _between(low: str, high: str) -> str:
    """Digits, as many as both have, that are a number between the two."""
    if low == high:
        return low
    if not low.strip("0") and not high.strip("9"):
        return f"[0-9]{{{len(low)}}}"
    first, last = int(low[0]), int(high[0])
    if len(low) == 1:
        return f"[{first}-{last}]"
    if first == last:
        return low[0] + _between(low[1:], high[1:])
    rest = len(low) - 1
    parts = []
    if low[1:].strip("0"):
        parts.append(low[0] + _between(low[1:], "9" * rest))
        first += 1
    if high[1:].strip("9"):
        parts.append(high[0] + _between("0" * rest, high[1:]))
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}][0-9]{{{rest}}}")
    return any_of(parts)


def integer_between(low: int | None, high: int | None) -> str:
    """An integer in decimal digits, at least `low` and at most `high`."""
    if low is not None and high is not None and low > high:
        return "[^\\s\\S]"
    parts = []
    if low is None or low < 0:
        least = None if low is None else -low
        most = max(1, 1 if high is None else -high)
        parts.append(f"-{_natural(most, least)}")
    if high is None or high >= 0:
        parts.append(_natural(max(0, low or 0), high))
    return any_of(parts)


def _natural(low: int, high: int | None) -> str:
    parts = []
    for length in range(len(str(low)), len(str(low if high is None else high)) + 1):
        least = max(low, 10 ** (length - 1) if length > 1 else 0)
        most = 10**length - 1 if high is None else min(high, 10**length - 1)
        parts.append(_between(str(least).zfill(length), str(most).zfill(length)))
    if high is None:
        parts.append(f"[1-9][0-9]{{{len(str(low))},}}")
    return any_of(parts)


def decimal_of(max_digits: int | None, decimal_places: int | None) -> str:
    """A decimal number of so many digits, so many of them behind its point; of some thirty where that is free."""
    places = 12 if decimal_places is None else decimal_places
    if max_digits is None:
        return f"-?{_DIGITS}{_fraction(places)}"
    parts = []
    for behind in range(min(places, max_digits) + 1):
        before = max_digits - behind
        if decimal_places is not None:
            before = max_digits - decimal_places
        integer = f"(?:0|[1-9][0-9]{{0,{before - 1}}})" if before > 0 else "0"
        parts.append(integer + (rf"\.[0-9]{{{behind}}}" if behind else ""))
    return f"-?{any_of(parts)}"


def _fraction(places: int) -> str:
    return rf"(?:\.[0-9]{{1,{places}}})?" if places else ""


# Dates and times.


def _date(years: str, leap_years: str) -> str:
    long = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    short = "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    february = "02-(?:0[1-9]|1[0-9]|2[0-8])"
    usual = f"{years}-(?:{long}|{short}|{february})"
    return f"(?:{usual}|{leap_years}-02-29)" if leap_years else f"(?:{usual})"


_CENTURIES = "(?:0[48]|[2468][048]|[13579][26])"
_DATE = _date(
    "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})",
    f"(?:[0-9]{{2}}{_CENTURIES}|{_CENTURIES}00)",
)


def date_between(low: dt.date | None, high: dt.date | None) -> str:
    """A date of the calendar, at least `low` and at most `high`."""
    if low is None and high is None:
        return _DATE
    low, high = low or dt.date.min, high or dt.date.max
    if low > high:
        return "[^\\s\\S]"
    parts = []
    first, last = low.year, high.year
    if (low.month, low.day) != (1, 1) or first == last:
        parts.append(_days(low, min(high, dt.date(low.year, 12, 31))))
        first += 1
    if (high.month, high.day) != (12, 31) and first <= last:
        parts.append(_days(dt.date(high.year, 1, 1), high))
        last -= 1
    if first <= last:
        leap = [f"{year:04}" for year in range(first, last + 1) if _is_leap(year)]
        parts.append(_date(_between(f"{first:04}", f"{last:04}"), any_of(leap) if leap else ""))
    return any_of(parts)


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _days(low: dt.date, high: dt.date) -> str:
    """The dates of one year between the two."""
    parts = []
    for month in range(low.month, high.month + 1):
        following = dt.date(low.year, month, 28) + dt.timedelta(days=4)
        first = low.day if month == low.month else 1
        last = high.day if month == high.month else (following - dt.timedelta(days=following.day)).day
        parts.append(f"{month:02}-{_between(f'{first:02}', f'{last:02}')}")
    return f"{low.year:04}-{any_of(parts)}"


def datetime_between(low: dt.date | None, high: dt.date | None, has_offset: bool | None) -> str:
    """A date with a time of day; with an offset to UTC, without, or either."""
    return f"{date_between(low, high)}T{_TIME}{_OFFSETS[has_offset]}"


_SECONDS = r"[0-9]{1,6}(?:\.[0-9]{1,6})?S"
_MINUTES = f"[0-9]{{1,4}}M(?:{_SECONDS})?"
_HOURS = f"[0-9]{{1,4}}H(?:{_MINUTES}|{_SECONDS})?"
_CLOCK = f"T(?:{_HOURS}|{_MINUTES}|{_SECONDS})"
_DURATION = f"-?P(?:[0-9]{{1,6}}D(?:{_CLOCK})?|{_CLOCK})"
"""Years and months are no timedelta's."""


# Bytes as text.

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def _letters(chosen: Iterable[int], *, url: bool) -> str:
    alphabet = _ALPHABET.replace("+/", "-_") if url else _ALPHABET
    return f"[{re.escape(''.join(alphabet[value] for value in chosen))}]"


def base64_of(low: int, high: int | None, *, url: bool = False) -> str:
    """Base64 of `low` to `high` bytes, padded."""
    letter = "[A-Za-z0-9_-]" if url else "[A-Za-z0-9+/]"
    tails = ["", f"{letter}{{2}}==", f"{letter}{{3}}="]
    parts = []
    for rest, tail in enumerate(tails):
        least = max(0, -(-(low - rest) // 3))
        most = None if high is None else (high - rest) // 3
        if most is None or most >= least:
            parts.append(f"(?:{letter}{{4}}){{{least},{'' if most is None else most}}}{tail}")
    return any_of(parts)


def base64_of_ascii(*, url: bool = False) -> str:
    """Base64 of ASCII text, which every decoder reads as UTF-8."""
    first = _letters(range(32), url=url)
    second = _letters([value for value in range(64) if not value & 8], url=url)
    third = _letters([value for value in range(64) if not value & 2], url=url)
    last = _letters(range(64), url=url)
    ends = f"{first}{_letters([0, 16, 32, 48], url=url)}==|{first}{second}{_letters(range(0, 64, 4), url=url)}="
    return f"(?:{first}{second}{third}{last})*(?:{ends})?"


# Networks.

_LABEL = "[a-z0-9](?:-?[a-z0-9]){0,30}"
_HOST = rf"(?:{_LABEL}\.){{0,4}}[a-z](?:[a-z0-9]){{0,20}}"
"""Lower case, without `--`, which begins an encoded name, and with a last part that is no number."""
_PORT = f":{integer_between(1, 65535)}"
_CHARACTERS = "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[2-7][0-9A-F])"
_PATH = f"(?:/{_CHARACTERS}{{0,60}}){{0,12}}"
_TAIL = rf"(?:\?(?:{_CHARACTERS}|[/?]){{0,120}})?(?:#(?:{_CHARACTERS}|[/?]){{0,60}})?"
_USER = "[A-Za-z0-9._~-]{1,30}"


def url_of(schemes: Iterable[str] | None, *, hosts: int = 1, needs_host: bool = True, room: int | None = None) -> str:
    """A URL of one of `schemes`, with up to `hosts` hosts; shorter than `room` characters, where that is given."""
    schemes = list(schemes) if schemes else ["http", "https", "ftp", "ws", "wss"]
    if schemes == ["file"]:
        return f"file://(?:{_HOST})?{_PATH}"
    scheme = any_of(map(re.escape, schemes))
    host = f"{_HOST}(?:{_PORT})?"
    several = f"{host}(?:,{host}){{0,{hosts - 1}}}" if hosts > 1 else host
    authority = f"(?:{_USER}(?::{_USER})?@)?{several}"
    if room is not None and room < 2000:
        return f"{scheme}://{host}"
    return f"{scheme}://{authority if needs_host else f'(?:{authority})?'}{_PATH}{_TAIL}"


_OCTET = integer_between(0, 255)
_IPV4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
_GROUP = "[0-9a-f]{1,4}"
_IPV6 = any_of(
    [
        f"(?:{_GROUP}:){{7}}{_GROUP}",
        *[f"(?:{_GROUP}:){{{before}}}(?::{_GROUP}){{1,{7 - before}}}" for before in range(1, 7)],
        f"::(?:{_GROUP}(?::{_GROUP}){{0,6}})?",
        f"(?:{_GROUP}:){{1,7}}:",
    ]
)


def _ipv4_networks() -> str:
    """Each with its prefix, behind which no bit is set."""
    parts = []
    for length in range(33):
        octets, bits = divmod(length, 8)
        words = [_OCTET] * octets
        if octets < 4:
            words.append(any_of(map(str, range(0, 256, 1 << (8 - bits)))) if bits else "0")
        parts.append(r"\.".join([*words, *["0"] * (4 - len(words))]) + f"/{length}")
    return any_of([_IPV4, *parts])


_IPV4_NETWORK = _ipv4_networks()
_IPV6_NETWORK = any_of(
    [_IPV6, "::/0", *[f"{_GROUP}(?::{_GROUP}){{{words - 1}}}::/{16 * words}" for words in range(1, 7)], f"{_IPV6}/128"]
)
_IPV4_INTERFACE = f"{_IPV4}(?:/{integer_between(0, 32)})?"
_IPV6_INTERFACE = f"{_IPV6}(?:/{integer_between(0, 128)})?"

_ATOM = r"(?:[A-Za-z0-9_ :;,/@=<>!~#%&'\"-]|\\[dDwWsS.\\+*?()\[\]{}|^$]|\.|\[\^?[A-Za-z0-9_]+\])"
"""Of regular expressions: those without groups and counts, which are always right."""


def _hex(length: int) -> str:
    return f"[0-9a-f]{{{length}}}"


def _uuid(version: int | None) -> str:
    third, fourth = (_hex(4), _hex(4)) if version is None else (f"{version}{_hex(3)}", f"[89ab]{_hex(3)}")
    return f"{_hex(8)}-{_hex(4)}-{third}-{fourth}-{_hex(12)}"


def stripped(low: int, high: int | None) -> str:
    """Text with no white space at either end, so that it is as long behind a strip as before."""
    inner = f"[\\s\\S]{{{max(0, low - 2)},{'' if high is None else max(0, high - 2)}}}"
    parts = [r"\S"] if low <= 1 and high != 0 else []
    if high is None or high > 1:
        parts.append(f"\\S{inner}\\S")
    return any_of(["", *parts] if low == 0 else parts)


_LABELS = rf"{_LABEL}(?:\.{_LABEL}){{0,3}}"
_EMAIL = rf"[A-Za-z0-9](?:[._+-]?[A-Za-z0-9]){{0,30}}@{_LABELS}\.[a-z]{{2,3}}"

FORMATS = {
    "date-time": datetime_between(None, None, None),
    "aware-date-time": datetime_between(None, None, True),
    "naive-date-time": datetime_between(None, None, False),
    "date": _DATE,
    "time": f"{_TIME}{_OFFSET}?",
    "aware-time": f"{_TIME}{_OFFSET}",
    "naive-time": _TIME,
    "duration": _DURATION,
    "decimal": decimal_of(None, None),
    "number": _NUMBER,
    "fraction": f"-?{_DIGITS}(?:/[1-9][0-9]{{0,17}})?",
    "complex": rf"{_NUMBER}(?:[+-]{_NUMBER.removeprefix('-?')}j)?",
    "byte-size": rf"(?:0|[1-9][0-9]{{0,5}})(?:\.[0-9]{{1,3}})? ?{_UNITS}?",
    "uuid": _uuid(None),
    **{f"uuid{version}": _uuid(version) for version in range(1, 9)},
    "base64": base64_of(0, None),
    "base64url": base64_of(0, None, url=True),
    "email": _EMAIL,
    "name-email": rf"(?:[A-Za-z]{{1,20}} <{_EMAIL}>|{_EMAIL})",
    "uri": url_of(None),
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "ipvanyaddress": any_of([_IPV4, _IPV6]),
    "ipv4interface": _IPV4_INTERFACE,
    "ipv6interface": _IPV6_INTERFACE,
    "ipvanyinterface": any_of([_IPV4_INTERFACE, _IPV6_INTERFACE]),
    "ipv4network": _IPV4_NETWORK,
    "ipv6network": _IPV6_NETWORK,
    "ipvanynetwork": any_of([_IPV4_NETWORK, _IPV6_NETWORK]),
    "regex": rf"\^?(?:{_ATOM}[*+?]?){{0,60}}\$?",
}
"""By the names of JSON schema, of pydantic, and of ours for what those have none for."""
