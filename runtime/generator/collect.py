"""A generator's whole text as one object: the constraint that makes it one, and what becomes of the text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from greenroom.backends.protocol import Sampled
from greenroom.constraints.coercion import constraint_of
from greenroom.constraints.constraint import Constraint
from greenroom.constraints.json_schemas.json_schema import AnyJson
from greenroom.constraints.structures import Snapshots
from greenroom.errors import CalledInstead, CallRejected, InvalidConstraint, MalformedJson, TruncatedJson
from greenroom.events import RejectedToolCall, ToolCall
from greenroom.files.json_depth import read_json
from greenroom.generator.cursor import Cursor
from greenroom.request.generation import Generation, follow

__all__ = ["constrain", "object_parser", "require_answer", "schema_constraint"]


def schema_constraint(schema: Any, *, has_other: bool) -> Constraint | None:
    """The constraint that `schema` adds; None where the generator's own one says it all. Raises `InvalidConstraint`."""
    if schema is None:
        return None if has_other else AnyJson()
    if isinstance(schema, str):
        try:
            return constraint_of(read_json(schema))
        except ValueError as cause:
            raise InvalidConstraint(f"the schema is no JSON: {cause}") from cause
    return constraint_of(schema)


async def constrain(cursor: Cursor, more: Constraint) -> None:
    """Go on under `more` too. Raises `InvalidConstraint` where what was written contradicts it."""
    with cursor.exclusive():
        cursor.require_no_step()
        generation = await cursor.settle()
        cursor.generation = await _constrain(generation, more)


async def _constrain(generation: Generation, more: Constraint) -> Generation:
    config = generation.config
    constraint = constraint_of([config.constraint, more]) if config.constraint is not None else more
    parameters = msgspec.structs.replace(config.parameters, default_stops=True)
    wanted = replace(config, parameters=parameters, constraint=constraint, compiled=None)
    prompt = generation.tokens[: generation.start]
    config = await config.client.prepare(lambda: wanted.for_prompt(prompt).compile())
    matcher = config.compiled.start() if config.compiled is not None else None
    if matcher is not None and generation.output:
        follow(matcher, generation.output, config.model.vocab_size)
        if matcher.error is not None:
            raise InvalidConstraint(f"{generation.text!r} was written already, and contradicts it: {matcher.error}")
    return replace(generation, config=config, constraint=matcher).decode()


def require_answer(generation: Generation, text: str) -> None:
    """Raise `CalledInstead` or `CallRejected` where a generation that is over said nothing and called tools."""
    calling, ending = generation.config.calling, generation.ending
    if text.strip() or calling is None or not calling.has_tools:
        return
    decoder = generation.config.decoder(generation.tokens[: generation.start], generation.seed)
    told = decoder.feed([Sampled(0, token) for token in generation.output]).events
    told = (*told, *decoder.finish("length" if ending is None else ending.reason))
    rejected = next((event for event in told if isinstance(event, RejectedToolCall)), None)
    if rejected is not None:
        raise CallRejected(rejected)
    calls = [event for event in told if isinstance(event, ToolCall)]
    if calls:
        raise CalledInstead(calls)


def object_parser(schema: Any, parse: Callable[[str], Any] | None) -> Callable[[str, bool], Any]:
    """What makes an object of the whole text, as `Runtime.collect` makes it of a stream: `parser(text, is_whole)`.

    Raises `UnsupportedType` here, before anything runs. The parser raises `TruncatedJson` where the text ended early
    and is no JSON, `MalformedJson` where it came to its own end and is none, `InvalidStructure`, `JsonTooLarge`, and
    what `parse` raises.
    """
    if parse is not None:
        return lambda text, _: parse(text)
    is_plain = schema is None or isinstance(schema, str | Mapping | Constraint)  # the grammar has enforced these
    snapshots: Snapshots[Any] = Snapshots(Any, validate="never") if is_plain else Snapshots(schema, validate="final")

    def parser(text: str, is_whole: bool) -> Any:
        try:
            snapshots.feed(text)
            snapshots.finish()
        except (MalformedJson, TruncatedJson) as cause:
            if not is_whole:
                raise TruncatedJson(len(text), snapshots.snapshot()) from cause
            raise MalformedJson(f"the text is no JSON: {cause}", len(text)) from cause
        return snapshots.snapshot()

    return parser
