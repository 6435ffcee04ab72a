"""JSON-Schema-Test-Suite: an instance is accepted exactly when it is valid, but for a list of exceptions with reasons.

Each instance's JSON text is tokenized by the Qwen3 tokenizer and walked token by token. `exceptions.json` names every
difference: a new one fails, and so does one that is gone.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from greenroom.constraints import CompiledConstraint, ConstraintCompiler, GrammarWarning, JsonSchema, Vocabulary
from greenroom.errors import InvalidConstraint, InvalidSchema

HERE = Path(__file__).parent
EXCEPTIONS: dict[str, Any] = json.loads((HERE / "exceptions.json").read_text())
DRAFTS = {
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
    "draft2020-12/optional/format": "https://json-schema.org/draft/2020-12/schema",
}
"""The suite's folders, and the dialect of the schemas in them, which few of them name themselves."""

Case = tuple[str, str, str]
"""A file's name, a group's and a test's description."""


@pytest.fixture(scope="module")
def grammars(shared: Path) -> ConstraintCompiler:
    """For Qwen3's tokenizer and the width of its logits."""
    folder = shared / "assets" / "tokenizers" / "qwen3"
    return ConstraintCompiler(Vocabulary.from_json((folder / "tokenizer.json").read_text(), 151936, [151645, 151643]))


def groups(shared: Path, folder: str) -> Iterator[tuple[str, Any, Any]]:
    """Each file's name with each of its groups and the group's schema, its dialect named."""
    suite = shared / "assets" / "structured" / "JSON-Schema-Test-Suite" / "tests"
    for path in sorted((suite / folder).glob("*.json")):
        for group in json.loads(path.read_text()):
            schema = group["schema"]
            yield path.name, group, {"$schema": DRAFTS[folder], **schema} if isinstance(schema, dict) else schema


def refusals(shared: Path, folder: str) -> Iterator[tuple[Any, InvalidConstraint]]:
    """Each schema that is refused, with the error."""
    for _, _, schema in groups(shared, folder):
        try:
            JsonSchema(schema).validate()
        except InvalidConstraint as error:
            yield schema, error


def accepts(compiled: CompiledConstraint, vocabulary: Vocabulary, instance: object) -> bool:
    """Whether the instance's JSON text is complete and legal token by token."""
    state = compiled.start()
    state.consume(vocabulary.tokenize(json.dumps(instance, ensure_ascii=False).encode()))
    return state.is_accepting


@pytest.mark.parametrize("folder", DRAFTS)
def test_an_instance_is_accepted_exactly_when_it_is_valid(
    shared: Path, grammars: ConstraintCompiler, folder: str
) -> None:
    """But for the exceptions of this folder, each of which is still one. Schemas that are refused are none.

    Nor are formats that are notes here, where the folder is of formats that are assertions: they are counted.
    """
    differing: set[Case] = set()
    judged = refused = noted = 0
    for name, group, schema in groups(shared, folder):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", GrammarWarning)
                compiled = grammars.compile(JsonSchema(schema))
        except InvalidConstraint:
            refused += 1
            continue
        if compiled.warnings and "format" in folder:
            noted += 1
            continue
        for test in group["tests"]:
            judged += 1
            if accepts(compiled, grammars.vocabulary, test["data"]) != test["valid"]:
                differing.add((name, group["description"], test["description"]))
    listed = EXCEPTIONS["folders"][folder]
    expected = {
        (name, group, test)
        for name, reasons in listed["exceptions"].items()
        for by_group in reasons.values()
        for group, tests in by_group.items()
        for test in tests
    }
    assert differing == expected
    assert (judged, refused, noted) == (listed["judged"], listed["refused"], listed["noted"])


@pytest.mark.parametrize("folder", DRAFTS)
def test_a_refused_schema_gives_a_typed_error_that_points_at_the_keyword(shared: Path, folder: str) -> None:
    """The pointer leads to a place of the schema that has the keyword."""
    for schema, error in refusals(shared, folder):
        if schema is not False:
            assert isinstance(error, InvalidSchema)
            assert error.keyword in at(schema, error.pointer)
            assert repr(error.keyword) in str(error)
            assert error.advice


def test_every_exception_has_a_reason() -> None:
    """One of those that the file explains."""
    used = {
        reason for folder in EXCEPTIONS["folders"].values() for by in folder["exceptions"].values() for reason in by
    }
    assert used == set(EXCEPTIONS["reasons"])


def at(schema: Any, pointer: str) -> Any:
    """What stands at a JSON pointer."""
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        schema = schema[int(name)] if isinstance(schema, list) else schema[name]
    return schema
