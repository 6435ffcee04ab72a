"""Checking a schema: alternatives that are told apart, references, formats, where it happens, how long it takes."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from vocabularies import BYTES

from greenroom import JsonSchema, Runtime, Scripted
from greenroom.constraints import ConstraintCompiler, GrammarWarning
from greenroom.constraints.json_schemas import checking
from greenroom.errors import InvalidSchema, UnsupportedKeyword

GRAMMARS = ConstraintCompiler(BYTES)


def accepts(schema: Any, text: str) -> bool:
    """Whether `text` is legal byte by byte, and complete."""
    state = GRAMMARS.compile(JsonSchema(schema)).start()
    state.consume(text.encode())
    return state.is_accepting


def pet(kind: str, **more: Any) -> dict[str, Any]:
    """An object that says its kind."""
    return {"type": "object", "required": ["kind"], "properties": {"kind": {"const": kind}, **more}}


KINDS = {"cat": pet("cat"), "dog": pet("dog", good={"type": "boolean"})}
REFERENCES = [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}]
NAMED = {name: {"type": "object", "properties": {"kind": {"type": "string"}}} for name in KINDS}
TOLD_APART: list[tuple[Any, list[str], list[str]]] = [
    ({"oneOf": REFERENCES, "$defs": KINDS}, ['{"kind": "dog", "good": true}'], ['{"kind": "cow"}']),
    (
        {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        ['{"a": 1}', '{"b": 1}'],
        ["{}", '{"a": 1, "b": 1}'],
    ),
    ({"oneOf": [{"enum": ["any"]}, {"type": "string", "pattern": "^[0-9]+$"}]}, ['"any"', '"12"'], ['"some"']),
    ({"oneOf": [{"type": "integer"}, {"type": "string", "format": "date"}]}, ["1", '"2026-01-02"'], ['"1"']),
    (
        {
            "oneOf": [
                {"type": "object", "additionalProperties": False, "properties": {name: {"type": "integer"}}}
                for name in "ab"
            ]
        },
        ['{"a": 1}', '{"b": 1}'],
        ["{}", '{"a": 1, "b": 1}', '{"c": 1}'],
    ),
    (
        {"oneOf": REFERENCES, "discriminator": {"propertyName": "kind"}, "$defs": NAMED},
        ['{"kind": "cat"}', '{"kind": "dog"}'],
        ['{"kind": "cow"}', "{}"],
    ),
    (
        {
            "oneOf": REFERENCES,
            "discriminator": {"propertyName": "kind", "mapping": {"c": "#/$defs/cat", "d": "#/$defs/dog"}},
            "$defs": NAMED,
        },
        ['{"kind": "c"}', '{"kind": "d"}'],
        ['{"kind": "cat"}'],
    ),
]


@pytest.mark.parametrize(("schema", "taken", "refused"), TOLD_APART)
def test_alternatives_are_told_apart(schema: Any, taken: list[str], refused: list[str]) -> None:
    """By constants behind references, properties, patterns, types, the names they may have, a discriminator."""
    assert [text for text in [*taken, *refused] if accepts(schema, text)] == taken


def test_alternatives_that_nothing_tells_apart_are_named() -> None:
    """By their places, and what they refer to."""
    schema = {"$defs": NAMED, "items": {"oneOf": [{"type": "null"}, *REFERENCES]}}
    with pytest.raises(UnsupportedKeyword) as caught:
        JsonSchema({**schema, "$defs": {name: {"pattern": "a", "type": "string"} for name in KINDS}}).validate()
    assert (caught.value.keyword, caught.value.pointer) == ("oneOf", "/items")
    assert "alternative 1 (#/$defs/cat) and alternative 2 (#/$defs/dog)" in str(caught.value)


def test_keywords_beside_a_reference_count_where_it_leads_back_to_them_too() -> None:
    """A tree whose inner nodes need more than its root."""
    beside = {"$ref": "#/$defs/node", "required": ["n"]}
    for child in (beside, {"allOf": [{"$ref": "#/$defs/node"}, {"required": ["n"]}]}):
        node = {"type": "object", "properties": {"n": {"type": "integer"}, "child": child}}
        schema = {"$ref": "#/$defs/node", "$defs": {"node": node}}
        assert accepts(schema, '{"child": {"n": 1, "child": {"n": 2}}}')
        assert not accepts(schema, '{"child": {"n": 1, "child": {}}}')


def test_references_by_name_and_in_older_dialects_are_followed() -> None:
    """`$id`, `$anchor`, and the words of drafts 4 and 7."""
    named = {"$id": "b", "$defs": {"y": {"$anchor": "c", "type": "null"}}}
    by_name = {"$id": "http://example.com/a", "$ref": "b#c", "$defs": {"x": named}}
    assert accepts(by_name, "null")
    assert not accepts(by_name, "1")
    four = {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": True}
    assert accepts(four, "2")
    assert not accepts(four, "1")
    seven = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "items": [{"type": "null"}],
        "additionalItems": False,
    }
    assert accepts(seven, "[null]")
    assert not accepts(seven, "[null, 1]")
    assert not accepts({"dependencies": {"a": ["b"]}}, '{"a": 1}')


FORMATS: dict[str, tuple[list[str], list[str]]] = {
    "date-time": (["2024-02-29T10:00:00.5Z", "1998-12-31T15:59:60-08:00"], ["2023-02-29T10:00:00Z", "10:00"]),
    "time": (["23:59:60Z", "10:00:00+01:30"], ["12:00:60Z", "25:00:00Z", f"10:00:00.{'1' * 16}Z"]),
    "duration": (["P1Y2M3DT4H", "P2W"], ["P", "P1YT", "1D"]),
    "ipv6": (["::1", "::ffff:1.2.3.4", "1:2:3:4:5:6:7:8"], ["1::2::3", ":1", "::ffff:1.2.3.256"]),
    "json-pointer": (["", "/a~1b/0"], ["a", "/~2"]),
    "relative-json-pointer": (["0", "1/a", "2#"], ["/a", "01"]),
    "uri-reference": (["/a/b?c#d", "//host", "http://a/"], ["a b", "\\\\"]),
    "iri": (["http://é.example/ü"], ["/é", "http://a b"]),
    "uri-template": (["/a/{b,c*}"], ["/a/{b"]),
    "idn-email": (["é@exämple.org"], ["@", "a@"]),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_known_format_is_enforced_beside_a_pattern_too(name: str) -> None:
    """And of strings alone."""
    taken, refused = FORMATS[name]
    for schema in ({"format": name}, {"pattern": "", "format": name}):
        assert [text for text in [*taken, *refused] if accepts(schema, json.dumps(text, ensure_ascii=False))] == taken
        assert accepts(schema, "1")


def test_an_unknown_format_is_a_note_of_which_a_warning_tells() -> None:
    """Of a number nothing is said: no format of ours speaks of numbers."""
    with pytest.warns(GrammarWarning, match="'zip' at /items is a note"):
        compiled = ConstraintCompiler(BYTES).compile(JsonSchema({"items": {"type": "string", "format": "zip"}}))
    assert len(compiled.warnings) == 1
    assert ConstraintCompiler(BYTES).compile(JsonSchema({"type": "number", "format": "double"})).warnings == ()


async def test_a_request_checks_its_schema_where_it_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """On no event loop: the call returns, and the first await tells."""
    threads: list[int] = []
    check = checking._check

    def noted(*given: str) -> Any:
        threads.append(threading.get_ident())
        return check(*given)

    monkeypatch.setattr(checking, "_check", noted)
    async with Runtime(backend=Scripted("{}")) as runtime:
        stream = runtime.generate("x", constrain={"title": f"of this test at {time.monotonic()}", "uniqueItems": True})
        with pytest.raises(UnsupportedKeyword, match="'uniqueItems' at /"):
            await stream.text()
    assert threads
    assert threading.get_ident() not in threads


def test_making_a_schema_of_a_hundred_kilobytes_takes_a_moment() -> None:
    """Two milliseconds, measured on this thread; here with room for slow machines."""
    part = {
        "type": "object",
        "properties": {"name": {"maxLength": 40}, "kind": {"enum": ["a", "b"]}},
        "required": ["name"],
    }
    schema = {"type": "object", "properties": {f"property {at}": part for at in range(750)}}
    assert len(json.dumps(schema)) > 90_000
    times = []
    for _ in range(5):
        started = time.thread_time()
        JsonSchema(schema)
        times.append(time.thread_time() - started)
    assert min(times) < 0.02


def test_the_search_for_the_part_to_blame_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names a part around, then."""
    schema = {"properties": {f"p{at}": {"pattern": "a" if at < 50 else "("} for at in range(51)}}
    with pytest.raises(InvalidSchema) as caught:
        JsonSchema(schema).validate()
    assert (caught.value.keyword, caught.value.pointer) == ("pattern", "/properties/p50")
    monkeypatch.setattr(checking, "_SEARCH", -1)
    with pytest.raises(InvalidSchema) as caught:
        JsonSchema({**schema, "title": "again"}).validate()
    assert (caught.value.keyword, caught.value.pointer) == ("properties", "")
