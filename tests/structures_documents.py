"""Documents for the tests of structures, and every way to cut them."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import strategies as st

__all__ = ["SMALL", "cuts", "json_values", "pieces"]

SMALL = [
    '{"a":1}',
    '["\\u00e9"]',
    '"\\ud83d\\ude00"',
    "[-1.5e3,0]",
    " [true] ",
    '{"a":{"a":""}}',
    '{"\\n":[]}',
    '"a\\"\\\\"',
    "[[],{}]",
    '{"é":null}',
    "-0.0",
    "false",
    "[1 , 2]",
    '"😀é"',
]
"""At most some fifteen characters: every way to cut them is tried."""


def cuts(text: str, longest: int = 3) -> Iterator[list[str]]:
    """Every way to cut a text into chunks of up to `longest` characters: there are about 1.84 ** len(text)."""
    if not text:
        yield []
    for size in range(1, min(longest, len(text)) + 1):
        for rest in cuts(text[size:], longest):
            yield [text[:size], *rest]


def pieces(text: str, sizes: list[int]) -> list[str]:
    """One way to cut a text: `sizes` in turn, again and again."""
    found: list[str] = []
    place = 0
    while place < len(text):
        size = sizes[len(found) % len(sizes)]
        found.append(text[place : place + size])
        place += size
    return found


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(_texts, inner, max_size=6),
    max_leaves=40,
)
"""Whole documents, as Python has them."""
