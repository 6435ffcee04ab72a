"""Our own writer's call of any JSON value is read back exactly, in every format, or refused."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_forced_formats import read, tool
from vocabularies import BYTES, WIDTH, ids

from greenroom import Chunk, ToolCall
from greenroom.constraints.compiled_grammar import CompiledGrammar
from greenroom.errors import NotSupported
from greenroom.parsing import formats
from greenroom.parsing.forced import forced_calls

FORMATS = formats.names()
GEMMA = {"gemma4", "function_gemma"}
VERBATIM = {*GEMMA, "deepseek_v3_2", "glm47", "laguna", "longcat", "minicpm5", "minimax_m2", "qwen3_coder", "seed_oss"}
"""Formats that write strings as they are: none that holds one of their markers."""
INNER = ("</parameter>", "<parameter=", "<invoke name=", "</｜DSML｜parameter>", "]]>", "<![CDATA[x]]>", "<|call|>")
MARKS = sorted(
    {mark for name in FORMATS for form in [formats.find(name)] for mark in (*form.closes, *form.inner, *form.drops)}
    | {marker.text for name in FORMATS for marker in formats.find(name).opens}
    | set(INNER)
)
HARD = [
    "null",
    "True",
    "12",
    "1e5",
    "{}",
    "[1]",
    '"',
    "'",
    '"""',
    "\\",
    "\\n",
    "</",
    "\u2028",
    "\x7f",
    "\x00",
    "\uffff",
]
CHARACTERS = st.characters(codec="utf-8")
TEXTS = st.lists(st.sampled_from(MARKS) | st.sampled_from(HARD) | st.text(CHARACTERS, max_size=4), max_size=3).map(
    "".join
)
ENDS = [0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64, -0.0, 0.1, 5e-324, 1e22, 1.7976931348623157e308, 2.0**-1022]
NUMBERS = st.sampled_from(ENDS) | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


def written(grammar: str) -> str:
    """The text that a grammar of constants allows; where it leaves a choice, the first byte of it."""
    matcher = CompiledGrammar(BYTES, grammar).prototype().copy()
    text = bytearray()
    while not matcher.is_accepting():
        forced = matcher.compute_ff_tokens()
        if not forced:
            row = np.zeros(-(-WIDTH // 32), np.uint32)
            matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
            forced = [min(ids(row))]
        assert matcher.consume_tokens(forced)
        text.extend(forced)
    return text.decode()


def kind(value: Any) -> str:
    """The type's name in JSON Schema."""
    names = {bool: "boolean", type(None): "null", int: "integer", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object")


def is_same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 is 1.0 and not True, and an object's keys are in their order."""
    if isinstance(one, bool | str | None) or isinstance(other, bool | str | None):
        return type(one) is type(other) and bool(one == other)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, dict):
        return (
            isinstance(other, dict) and list(one) == list(other) and all(is_same(one[key], other[key]) for key in one)
        )
    return bool(one == other)


def takes(properties: dict[str, Any]) -> dict[str, Any]:
    """A tool of these arguments, each of which is required."""
    return tool({"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False})


def check(name: str, values: dict[str, Any], schemas: dict[str, Any]) -> None:
    """The call is written and read by these schemas, and read by its types alone."""
    try:
        grammar = forced_calls(name, [takes(schemas)]).grammar(BYTES)
    except NotSupported:
        assert name in VERBATIM, values
        assert any("<" in text or (name in GEMMA and not re.fullmatch(r"\w+", text)) for text in strings(values)), (
            values
        )
        return
    text = written(grammar)
    typed = {key: {"type": kind(value)} for key, value in values.items()}
    for read_by in (schemas, typed):
        calls = [event for event in read(name, text, [takes(read_by)]) if event != Chunk("\n")]
        assert len(calls) == 1, text
        assert isinstance(calls[0], ToolCall), (text, calls)
        assert is_same(calls[0].function.arguments, values), text


def strings(value: Any) -> list[str]:
    """Every string in it, keys of objects too."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, part in value.items() for text in (key, *strings(part))]
    return [text for part in value for text in strings(part)] if isinstance(value, list) else []


@given(st.data())
@settings(max_examples=120)
def test_a_call_is_read_back_as_it_was_written(data: st.DataObject) -> None:
    """Any values, with every marker in their strings, by schemas that name their types or do not."""
    name = data.draw(st.sampled_from(FORMATS))
    values = data.draw(st.dictionaries(st.sampled_from(["x", "y1", "Z_"]), VALUES, min_size=1))
    is_typed = data.draw(st.booleans())
    schemas = {key: {"const": value, **({"type": kind(value)} if is_typed else {})} for key, value in values.items()}
    check(name, values, schemas)


@pytest.mark.parametrize("name", FORMATS)
def test_every_marker_and_every_end_is_read_back(name: str) -> None:
    """Each marker of any format, each hard text, each end of the numbers."""
    marked = [f"a\n{mark} b" for mark in MARKS]
    texts = ["", *HARD, *(marked if name not in VERBATIM else ())]
    for values in (texts, [*ENDS, math.pi, True, None]):
        named = {f"x{place}": value for place, value in enumerate(values)}
        check(name, named, {key: {"const": value} for key, value in named.items()})
    nested = [[], {}, {"a": [None, texts]}, json.dumps(texts)]
    check(name, {"x": nested}, {"x": {"const": nested}})
    for text in marked if name in VERBATIM else ():
        check(name, {"x": text}, {"x": {"type": "string", "const": text}})


def test_words_that_look_like_something_else_are_choices() -> None:
    """Also where the schema lists strings and says no type, as msgspec's do."""
    words = ["1", "true", "null", "C++", "it's", " a ", ""]
    for name in VERBATIM:
        for word in words:
            check(name, {"x": word}, {"x": {"enum": [word]}})
