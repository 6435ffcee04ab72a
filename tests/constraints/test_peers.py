"""Cases of peers' own tests: grammars and schemas, with texts that are theirs and texts that are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vocabularies import BYTES

from greenroom.constraints import Constraint, ConstraintCompiler, Gbnf, JsonSchema, Regex

COMPILER = ConstraintCompiler(BYTES)


def takes(constraint: Constraint, text: str) -> bool:
    """Whether `text` is complete, byte by byte."""
    state = COMPILER.compile(constraint).start()
    data = list(text.encode())
    if state.validate(data) < len(data):
        return False
    state.consume(data)
    return state.is_accepting


def cases(shared: Path, name: str) -> list[dict[str, Any]]:
    """Those of one file."""
    found: list[dict[str, Any]] = json.loads((shared / "assets" / "peer_suites" / name).read_text())
    return found


def test_pie_s_grammars_are_right(shared: Path) -> None:
    """Of its tests of grammars and of regular expressions, each case."""
    kinds = {"test_grammar": Gbnf, "regex": Regex}
    found = cases(shared, "pie-grammars.json")
    assert len(found) > 200
    for case in found:
        constraint = kinds[case["kind"]](case["grammar"])
        assert all(takes(constraint, text) for text in case["pass"]), case
        assert not any(takes(constraint, text) for text in case["fail"]), case


def test_llguidance_s_schemas_are_right(shared: Path) -> None:
    """Each value that is valid can be written, no other can, and no schema is refused."""
    found = cases(shared, "llguidance-json.json")
    assert len(found) > 200
    for case in found:
        text = json.dumps(case["value"], ensure_ascii=False)
        assert takes(JsonSchema(case["schema"]), text) == case["valid"], case
