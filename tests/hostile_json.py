"""JSON with one value in the place of another: what a file holds that somebody else wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import reduce
from operator import getitem
from typing import Any

from hypothesis import strategies as st

__all__ = ["DEEP", "altered", "deep", "text_of"]

Path = tuple[Any, ...]
DEEP = 300
"""Levels: more than a file may have, few enough for the tests' own encoder."""
_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 1.0, 1.5, 2**31, 2**63, 2**64, 2**70, -(2**70), 1e308),
    *("", "x", "\x00", "null", "{", "[]", "é", "\ud800", "0", "auto", "required", "json_schema", "regex", "(" * 300),
    *([], {}, [None], [[]], {"": None}, {"kind": "regex"}, {"type": "info"}, [0, 0], [1, [None, False]]),
]


def deep(levels: int = DEEP) -> Any:
    """Lists in lists."""
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def _places(value: Any, path: Path = ()) -> Iterator[Path]:
    yield path
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _places(each, (*path, key))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _places(each, (*path, number))


@st.composite
def altered(draw: st.DrawFn, value: Any) -> Any:
    """`value` with one or two of its parts replaced, left out or repeated."""
    value = deepcopy(value)
    for _ in range(draw(st.integers(1, 2))):
        places = [place for place in _places(value) if place]
        if not places:
            break
        *path, last = draw(st.sampled_from(places))
        holder: Any = reduce(getitem, path, value)
        what = draw(st.sampled_from(["replace", "replace", "replace", "deep", "remove", "repeat"]))
        if what == "remove":
            del holder[last]
        elif what == "repeat" and isinstance(holder, list):
            holder.insert(0, deepcopy(reduce(getitem, (*path, last), value)))
        else:
            holder[last] = deep() if what == "deep" else deepcopy(draw(st.sampled_from(_VALUES)))
    return value


def text_of(value: Any) -> str:
    """As JSON; what is no Unicode text stays escaped."""
    return json.dumps(value)
