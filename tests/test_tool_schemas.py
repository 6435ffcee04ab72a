"""Schemas of tools with types that JSON has not."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from callcorpus import TOOLS

from greenroom import Tool
from greenroom.errors import InvalidParameter

SHARED = Path(__file__).resolve().parents[2] / "shared" / "assets"


def tool(schema: dict[str, Any]) -> Tool:
    """One with these arguments."""
    return Tool("book", "", schema)


def test_pythons_types_are_read_as_what_they_mean() -> None:
    """Wherever a schema may stand, with one warning that names them; a parameter may be called `type`."""
    schema = {
        "type": "dict",
        "properties": {
            "type": {"type": "str", "enum": ["str", "int"]},
            "price": {"type": "float"},
            "days": {"type": ["int", "null"]},
            "tags": {"type": "list", "items": {"type": "String"}},
            "pair": {"type": "tuple", "prefixItems": [{"type": "INTEGER"}, {"type": "bool"}]},
            "either": {"anyOf": [{"type": "any"}, {"$ref": "#/$defs/map"}]},
            "default": {"type": "string", "default": {"type": "str"}},
        },
        "$defs": {"map": {"type": "object", "additionalProperties": {"type": "double"}}},
        "required": ["type"],
    }
    with pytest.warns(UserWarning, match="'dict' as object, 'double' as number, 'float' as number") as caught:
        made = tool(schema)
    assert len(caught) == 1
    assert Path(caught[0].filename) == Path(__file__)
    properties = made.parameters["properties"]
    assert made.parameters["type"] == "object"
    assert properties["type"] == {"type": "string", "enum": ["str", "int"]}
    assert properties["days"]["type"] == ["integer", "null"]
    assert properties["tags"] == {"type": "array", "items": {"type": "string"}}
    assert properties["pair"]["prefixItems"] == [{"type": "integer"}, {"type": "boolean"}]
    assert properties["either"]["anyOf"][0] == {}
    assert properties["default"]["default"] == {"type": "str"}
    assert made.parameters["$defs"]["map"]["additionalProperties"] == {"type": "number"}
    assert schema["type"] == "dict"
    assert made.problem({"type": "int", "days": None, "tags": ["a"], "pair": [1, True]}) is None
    assert made.problem({"type": "int", "price": "cheap"}) is not None


@pytest.mark.parametrize("written", ["HashMap", "List[str]", "", 7, None, ["str", "date"]])
def test_a_type_that_means_nothing_names_those_that_there_are(written: Any) -> None:
    """With its place."""
    schema = {"type": "object", "properties": {"when": {"type": written}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InvalidParameter, match=r"at /properties/when/type.*array, boolean, integer, null, number"):
            tool(schema)


def test_a_schema_of_jsons_types_is_left_as_it_is() -> None:
    """Without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in TOOLS:
            made = Tool.from_schema(each)
            assert made.parameters == each.get("function", each)["parameters"]


def test_the_schemas_of_a_public_benchmark_are_read() -> None:
    """It writes Python's names throughout."""
    found = sorted((SHARED / "toolcalls" / "bfcl_v4").glob("BFCL*simple_python*.gz")) if SHARED.is_dir() else []
    if not found:
        pytest.skip("no ../shared folder beside the repository")
    read = 0
    for path in found:
        for line in gzip.decompress(path.read_bytes()).splitlines():
            for function in json.loads(line).get("function", []) if line.strip() else []:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    made = Tool.from_schema(function)
                assert made.parameters["type"] == "object"
                read += 1
    assert read > 300
