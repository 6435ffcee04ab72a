"""Texts against patterns of schemas: what fits, and that no pattern takes longer than its text."""

from __future__ import annotations

import threading
from typing import Any

import jsonschema
import msgspec
import pytest

from greenroom import Tool
from greenroom.constraints import GrammarWarning, watch
from greenroom.constraints.json_schemas import patterns
from greenroom.constraints.json_schemas.patterns import PatternTimeout, PatternValidator
from greenroom.constraints.structures.validators import Schema
from greenroom.errors import InvalidParameter, UnsupportedType

HOSTILE = {
    "^(a+)+$": "a" * 60 + "b",
    "^(a|a)*$": "a" * 60 + "b",
    "^(a|aa)+$": "a" * 60 + "b",
    "(x+x+)+y": "x" * 300,
    r"^(([a-z])+.)+[A-Z]([a-z])+$": "a" * 60,
    r"^\s*(\s*\w+\s*)*$": "a " * 40 + "!",
}
"""Patterns over which Python's `re` takes years, with the texts."""

SCHEMAS: dict[str, Any] = {
    "pattern": lambda p: {"properties": {"x": {"pattern": p}}},
    "in a list": lambda p: {"properties": {"x": {"anyOf": [{"type": "integer"}, {"allOf": [{"pattern": p}]}]}}},
    "by reference": lambda p: {"properties": {"x": {"$ref": "#/$defs/t"}}, "$defs": {"t": {"pattern": p}}},
}
NAMES: dict[str, Any] = {
    "patternProperties": lambda p: {"patternProperties": {p: {"type": "integer"}}, "additionalProperties": False},
    "unevaluated": lambda p: {"patternProperties": {p: True, "^z": True}, "unevaluatedProperties": False},
    "propertyNames": lambda p: {"propertyNames": {"pattern": p}},
}


def tool(schema: dict[str, Any]) -> Tool:
    """A tool with arguments of that schema."""
    return Tool("f", "", {"type": "object", **schema})


@pytest.mark.timeout(20)
@pytest.mark.parametrize("pattern", HOSTILE)
def test_no_pattern_takes_longer_than_its_text(pattern: str) -> None:
    """Wherever it stands in the schema of a tool, or of an object that is made of a text."""
    text = HOSTILE[pattern]
    for make in SCHEMAS.values():
        assert tool(make(pattern)).problem({"x": text}) is not None
        with pytest.raises(jsonschema.ValidationError):
            Schema(make(pattern)).converter(make(pattern))({"x": text})
    for make in NAMES.values():
        assert tool(make(pattern)).problem({text: 1}) is not None
        with pytest.raises(jsonschema.ValidationError):
            Schema(make(pattern)).decoder(make(pattern))(msgspec.json.encode({text: 1}).decode())
    assert not tool(SCHEMAS["pattern"](pattern)).takes("x", text)


FITS = [
    (r"\d{3}", "call 555", True),
    (r"^\d{3}$", "call 555", False),
    ("^a|b$", "ac", True),
    ("^a|b$", "ca", False),
    ("^a$", "a\n", False),
    ("é", "café", True),
    ("\\\\", "a\\b", True),
    ('"', 'say "x"', True),
    ("^.*$", "a\nb", False),
    ("", "", True),
    ("^$", "", True),
    ("\x00", "a\x00b", True),
    ("^😀$", "😀", True),
    ("^(a+)+$", "a" * 20_000, True),
]


@pytest.mark.parametrize(("pattern", "text", "fits"), FITS)
def test_a_pattern_is_looked_for_in_the_text(pattern: str, text: str, fits: bool) -> None:
    """As JSON Schema has it, in names too: what a constraint with the pattern could write is what fits."""
    assert (tool(SCHEMAS["pattern"](pattern)).problem({"x": text}) is None) is fits
    assert (tool(NAMES["patternProperties"](pattern)).problem({text: 1}) is None) is fits
    assert (tool(NAMES["unevaluated"](pattern)).problem({text: 1}) is None) is fits


def test_an_error_has_the_pattern_of_the_schema() -> None:
    """Not what stood in its place while names were looked up; two patterns that match alike stay two."""
    schema = {"patternProperties": {"^a": {"type": "integer"}, "b$": {"maximum": 5}}, "additionalProperties": False}
    assert tool(schema).problem({"ab": 3}) is None
    assert "maximum" in str(tool(schema).problem({"ab": 7}))
    assert "'^a', 'b$'" in str(tool(schema).problem({"c": 1}))


@pytest.mark.parametrize("pattern", [r"^(?=.*\d).{8,}$", r"^(\w)\1$", r"\bfoo\b", "a(?<!b)"])
def test_what_takes_no_bounded_time_is_not_checked_and_that_is_said(pattern: str) -> None:
    """Once, when the tool or the type is made; all else of the schema is checked."""
    schema = {"properties": {"x": {"type": "string", "pattern": pattern}}}
    with pytest.warns(GrammarWarning, match="not checked"):
        made = tool(schema)
    assert made.problem({"x": "no"}) is None
    assert made.problem({"x": 5}) is not None
    with pytest.warns(GrammarWarning, match="not checked"):
        Schema(schema)


def test_patterns_that_take_longer_than_they_may_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not known to fit is refused, with the reason: all patterns of a value share the time."""
    monkeypatch.setattr(patterns, "_PER_BYTE", 0.0)
    schema = {"items": {"pattern": "(x+x+)+y"}}
    texts = ["x" * 100] * 100_000
    with pytest.raises(PatternTimeout, match="took too long"):
        PatternValidator(schema, jsonschema.Draft202012Validator).best_error(texts)
    assert "could not be checked" in str(tool({"properties": {"x": schema}}).problem({"x": texts}))


def test_patterns_that_do_not_compile_in_time_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the tool is made, not when a model calls it."""
    monkeypatch.setattr(patterns, "_PATIENCE", 0.0)
    schema = {"properties": {"x": {"pattern": "^(a{1,900}){1,900}$"}}}
    with pytest.raises(InvalidParameter, match="make them simpler"):
        tool(schema)
    with pytest.raises(UnsupportedType, match="make them simpler"):
        Schema({"properties": {"x": {"pattern": "^(b{1,900}){1,900}$"}}})


def test_patience_is_counted_in_computing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others have the machine, seconds pass in which nothing is compiled: only computing uses patience up."""
    computed = [0.0]
    monkeypatch.setattr("time.process_time", lambda: computed[0])
    go_on = threading.Event()
    work = watch.Watched("the work", go_on.wait)
    found: list[bool] = []
    try:
        waiting = threading.Thread(target=lambda: found.append(work.wait(0.01)))
        waiting.start()
        waiting.join(0.2)  # twenty times as long, and nothing was computed
        assert waiting.is_alive()
        computed[0] = 0.02
        waiting.join(10)
        assert found == [False]
    finally:
        go_on.set()
    assert work.wait(10.0)
    assert work.result()
