"""What the bundled model writes under the schemas of the JSON-Schema-Test-Suite, hot, end to end."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from greenroom.constraints import JsonSchema
from greenroom.errors import InvalidConstraint
from greenroom.runtime import Runtime

DIALECTS = {
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
PROMPT = "Make a JSON record of this person: name, age. Anna is 31."
"""Worded as the model was trained: on other prompts it rambles inside of strings without an end."""


def accepted(shared: Path) -> list[tuple[Any, JsonSchema]]:
    """Every schema of the suite that is not refused."""
    found = []
    for folder, dialect in DIALECTS.items():
        suite = shared / "assets" / "structured" / "JSON-Schema-Test-Suite" / "tests" / folder
        for path in sorted(suite.glob("*.json")):
            for group in json.loads(path.read_text()):
                schema = group["schema"]
                schema = {"$schema": dialect, **schema} if isinstance(schema, dict) else schema
                try:
                    found.append((schema, JsonSchema(schema).validate()))
                except InvalidConstraint:
                    continue
    return found


@pytest.mark.filterwarnings("ignore:.*is a note that nothing enforces")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_two_hundred_schemas_of_the_suite_are_met(shared: Path) -> None:
    """At temperature 1.2 at least four of five end by themselves, and each that does is valid."""
    chosen = random.Random(7).sample(accepted(shared), 200)  # noqa: S311 - a choice is no secret
    async with Runtime() as runtime:
        streams = [
            runtime.generate(
                PROMPT,
                constrain=constraint,
                temperature=1.2,
                seed=seed,
                max_tokens=300,
                frequency_penalty=1.0,
                frequency_context_size=64,
            )
            for seed, (_, constraint) in enumerate(chosen)
        ]
        results = [await stream.collect() for stream in streams]
    ended = 0
    for (schema, _), result in zip(chosen, results, strict=True):
        if result.info.stop_reason == "stop":
            ended += 1
            kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
            kind(schema).validate(json.loads(result.text))
    print(f"{ended} of {len(chosen)} ended by themselves, each of them valid")  # noqa: T201
    assert ended >= 160
