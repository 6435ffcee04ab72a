"""JSON schemas as types: plain dicts that grow, with the schema's defaults, validated by jsonschema."""

from __future__ import annotations

from typing import Any

import pytest

from greenroom.constraints.structures import Snapshots
from greenroom.errors import InvalidStructure, UnsupportedType

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "size": {"type": "integer", "minimum": 1},
        "level": {"type": "integer", "default": 3},
        "colour": {"enum": ["red", "green"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        "point": {"$ref": "#/$defs/point"},
        "any": {},
    },
    "required": ["name", "tags", "point"],
    "additionalProperties": False,
    "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
}


def last(schema: dict[str, Any], text: str, **options: Any) -> Any:
    """The snapshot behind a text that may go on."""
    snapshots: Snapshots[Any] = Snapshots(schema, **options)
    snapshots.feed(text)
    return snapshots.snapshot()


def test_a_dict_grows_by_its_schema() -> None:
    """Required properties and defaults stand from the start, others once they come."""
    assert last(SCHEMA, "{") == {"name": "", "level": 3, "tags": [], "point": {"x": None}}
    assert last(SCHEMA, '{"name":"a', missing="omit") == {"name": "a"}
    assert last(SCHEMA, '{"tags":["a","b', missing="omit") == {"tags": ["a", "b"]}
    assert last(SCHEMA, '{"colour":"re', missing="omit") == {}
    assert last(SCHEMA, '{"colour":"red"', missing="omit") == {"colour": "red"}
    assert last(SCHEMA, '{"any":{"a":["x', missing="omit") == {"any": {"a": ["x"]}}


def test_a_schema_may_refer_to_itself() -> None:
    """A reference to the whole, beside null."""
    assert last(SCHEMA, '{"next":{"name":"b","next":null', missing="omit") == {"next": {"name": "b"}}
    assert last(SCHEMA, '{"next":{"name":"b","next":null,', missing="omit") == {"next": {"name": "b", "next": None}}


def test_objects_are_validated_when_they_close() -> None:
    """The part by its own schema, the whole at the end."""
    with pytest.raises(InvalidStructure) as caught:
        last(SCHEMA, '{"next":{"name":"b"}')
    assert caught.value.path == ("next",)
    assert "required" in str(caught.value)
    whole = '{"name":"a","tags":[],"point":{"x":1}}'
    assert last(SCHEMA, whole) == {"name": "a", "tags": [], "point": {"x": 1}}
    with pytest.raises(InvalidStructure):
        last(SCHEMA, '{"name":"a","size":0,"tags":[],"point":{"x":1}}')
    assert last(SCHEMA, '{"name":"a","size":0,"tags":[],"point":{"x":1}}', validate="never")["size"] == 0


def test_what_is_no_schema_is_refused_at_once() -> None:
    """And a reference that leads nowhere."""
    with pytest.raises(UnsupportedType, match="no JSON schema"):
        Snapshots({"type": 3})
    with pytest.raises(UnsupportedType, match="missing"):
        Snapshots({"properties": {"a": {"$ref": "#/$defs/missing"}}})
