"""`collect_json`: the constraint that it attaches, and what it makes of the text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from greenroom.constraints.coercion import constraint_of
from greenroom.constraints.constraint import Constraint
from greenroom.constraints.json_schemas.json_schema import AnyJson
from greenroom.constraints.structures import Snapshots
from greenroom.errors import InvalidConstraint, MalformedJson, TruncatedJson
from greenroom.request.config import GenerationConfig
from greenroom.request.generation import Generation, follow, redecoded

__all__ = ["constrain", "parse_object", "schema_constraint"]


def schema_constraint(schema: Any, *, has_other: bool) -> Constraint | None:
    """What the text must be; None where the generator's own constraint says it. Raises `InvalidConstraint`."""
    if schema is None:
        return None if has_other else AnyJson()
    if isinstance(schema, str):
        try:
            return constraint_of(json.loads(schema))
        except ValueError as cause:
            raise InvalidConstraint(f"the schema is no JSON: {cause}") from cause
    return constraint_of(schema)


async def constrain(
    course: GenerationConfig, state: Generation, more: Constraint
) -> tuple[GenerationConfig, Generation]:
    """The same generation under `more` too. Raises `InvalidConstraint` where what was written contradicts it."""
    constraint = constraint_of([course.constraint, more]) if course.constraint is not None else more
    parameters = msgspec.structs.replace(course.parameters, default_stops=True)
    course = await replace(course, parameters=parameters, constraint=constraint, compiled=None).compile()
    begun = course.compiled.start() if course.compiled is not None else None
    if begun is not None and state.output:
        follow(begun, state.output, course.model.vocab_size)
        if begun.error is not None:
            raise InvalidConstraint(f"{state.text!r} was written already, and contradicts it: {begun.error}")
    return course, redecoded(replace(state, constraint=begun), course.decoder)


def parse_object(text: str, schema: Any, parse: Callable[[str], Any] | None, *, is_whole: bool) -> Any:
    """The text as an object, as `Runtime.collect` makes it of a stream.

    Raises `TruncatedJson` where the text ended early and is no JSON, `MalformedJson` where it came to its own end and
    is none, `InvalidStructure`, `JsonTooLarge`, `UnsupportedType`, and what `parse` raises.
    """
    if parse is not None:
        return parse(text)
    is_plain = schema is None or isinstance(schema, str | Mapping | Constraint)  # the grammar has enforced these
    snapshots: Snapshots[Any] = Snapshots(Any, validate="never") if is_plain else Snapshots(schema, validate="final")
    try:
        snapshots.feed(text)
        snapshots.finish()
    except (MalformedJson, TruncatedJson) as cause:
        if not is_whole:
            raise TruncatedJson(len(text), snapshots.snapshot()) from cause
        raise MalformedJson(f"the text is no JSON: {cause}", len(text)) from cause
    return snapshots.snapshot()
