"""Constraints as data, for files: what each is made of, and back.

The set is closed. What is not in it is code: a constraint of the user's own, a foreign engine's, a state that the user
made, a schema whose Python type decides more than its masks do.
"""

from __future__ import annotations

import json
from dataclasses import fields

import msgspec

from greenroom.constraints.constraint import Constraint, GrammarConstraint
from greenroom.constraints.grammar_text import regex_unescape
from greenroom.constraints.json_schemas.json_schema import AnyJson, JsonSchema
from greenroom.constraints.kinds.all_of import All
from greenroom.constraints.kinds.grammars import Choice, Gbnf, Lark, Regex
from greenroom.constraints.kinds.lazy import Lazy
from greenroom.constraints.kinds.reasoning_budget import ReasoningBudget
from greenroom.constraints.kinds.struct_tag import StructTag, Tag
from greenroom.constraints.state import ConstraintState
from greenroom.errors import InvalidConstraint, NotSupported, shown
from greenroom.files.json_depth import check_json_depth

__all__ = ["Budget", "Source", "budget_from", "budget_of", "constraint_from", "source_of"]


class _Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """One kind of constraint, by the names of its own fields."""


class _Regex(_Source, frozen=True, tag="regex"):
    pattern: str


class _Lark(_Source, frozen=True, tag="lark"):
    text: str


class _Gbnf(_Source, frozen=True, tag="gbnf"):
    text: str


class _AnyJson(_Source, frozen=True, tag="any_json"):
    whitespace: bool | str | None
    separators: tuple[str, str] | None


class Budget(_Source, frozen=True, tag="thought_budget"):
    """A bound on thoughts, which stands beside a constraint too."""

    start: tuple[int, ...]
    end: tuple[int, ...]
    most: int
    is_open: bool


class _Schema(_Source, frozen=True, tag="json_schema"):
    text: str
    options: str


class _Choice(_Source, frozen=True, tag="choice"):
    options: tuple[str, ...]


class _Tag(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    begin: str
    content: Source
    end: str
    trigger: str | None


class _Tags(_Source, frozen=True, tag="struct_tag"):
    tags: tuple[_Tag, ...]
    required: bool


class _Lazy(_Source, frozen=True, tag="lazy"):
    trigger: str | int
    constraint: Source


class _All(_Source, frozen=True, tag="all"):
    parts: tuple[Source, ...]


Source = _Regex | _Lark | _Gbnf | _AnyJson | Budget | _Schema | _Choice | _Tags | _Lazy | _All
"""A constraint in a file."""

_PLAIN: dict[type[Constraint], type[_Source]] = {
    Regex: _Regex,
    Lark: _Lark,
    Gbnf: _Gbnf,
    AnyJson: _AnyJson,
    ReasoningBudget: Budget,
}
"""Those whose fields are data as they stand."""
_MADE_OF: dict[type[_Source], type[Constraint]] = {source: kind for kind, source in _PLAIN.items()}


def source_of(constraint: Constraint) -> Source:
    """What `constraint` is made of. Raises `NotSupported`, which names it, for one that is code."""
    kind = type(constraint)
    if kind in _PLAIN:
        values = {field.name: getattr(constraint, field.name) for field in fields(constraint)}  # type: ignore[arg-type]
        found: Source = _PLAIN[kind](**values)  # type: ignore[assignment]
        return found
    if kind in _NESTED:
        return _compound_source(constraint)
    held = getattr(constraint, "state", None)
    name = repr(held if isinstance(held, ConstraintState) else constraint)
    raise NotSupported(f"a file of a generation under {name}", "that constraint is code: it is not in the file")


_NESTED = frozenset({JsonSchema, Choice, StructTag, Lazy, All})


def _compound_source(constraint: Constraint) -> Source:
    match constraint:
        case JsonSchema():
            return _schema(constraint)
        case Choice(options=options):
            return _Choice(options)
        case StructTag(tags=tags, required=required):
            return _Tags(tuple([_Tag(t.begin, source_of(t.content), t.end, t.trigger) for t in tags]), required)
        case Lazy(trigger=trigger, constraint=inner):
            return _Lazy(trigger, source_of(inner))
        case All(parts=parts):
            return _All(tuple([source_of(part) for part in parts]))
        case _:
            raise NotSupported(f"a file of a generation under {shown(constraint)}")


def _schema(schema: JsonSchema) -> _Schema:
    if schema.source is not None:
        why = "its type checks what was written, and is code: give the JSON schema of the type"
        raise NotSupported(f"a file of a generation under {shown(schema)}", why)
    return _Schema(schema.text, schema.options)


def constraint_from(source: Source) -> Constraint:
    """The constraint that `source` was made of. Raises `InvalidConstraint` for one that no constraint gives."""
    kind = _MADE_OF.get(type(source))
    if kind is not None:
        return kind(**msgspec.structs.asdict(source))
    if isinstance(source, _Schema):
        return _schema_from(source)
    return Choice(*source.options) if isinstance(source, _Choice) else _compound(source)


def _compound(source: Source) -> Constraint:
    match source:
        case _Tags(tags=tags, required=required):
            return StructTag(*[_tag_from(tag) for tag in tags], required=required)
        case _Lazy(trigger=trigger, constraint=inner):
            return Lazy(trigger, constraint_from(inner))
        case _All(parts=parts):
            return All(*[constraint_from(part) for part in parts])
        case _:
            raise InvalidConstraint(f"{shown(source)} is no constraint of ours")


def budget_of(budget: ReasoningBudget) -> Budget:
    """A bound on thoughts as data."""
    return Budget(budget.start, budget.end, budget.most, budget.is_open)


def budget_from(source: Budget) -> ReasoningBudget:
    """The bound on thoughts that `source` was made of."""
    return ReasoningBudget(source.start, source.end, source.most, source.is_open)


def _tag_from(tag: _Tag) -> Tag:
    content = constraint_from(tag.content)
    if not isinstance(content, GrammarConstraint):
        raise InvalidConstraint(f"{shown(content)} is no content of a tag")
    return Tag(tag.begin, content, tag.end, tag.trigger)


def _schema_from(source: _Schema) -> JsonSchema:
    """The schema that `source` was made of: what its options give as arguments must come to the same text again."""
    try:
        check_json_depth(source.text.encode())
        check_json_depth(source.options.encode())
        options = json.loads(source.options)
        separators = (options["item_separator"], options["key_separator"]) if "item_separator" in options else None
        made = JsonSchema(
            source.text,
            whitespace=options.get("whitespace_pattern", options.get("whitespace_flexible")),
            separators=None if separators is None else (regex_unescape(separators[0]), regex_unescape(separators[1])),
            lenient=options.get("lenient", False),
        )
    except (ValueError, TypeError, AttributeError, LookupError) as cause:
        raise InvalidConstraint(f"{source.options[:200]!r} are no options of a JSON schema of ours: {cause}") from cause
    if (made.text, made.options) != (source.text, source.options):
        raise InvalidConstraint(f"{shown(source)} is no JSON schema of ours")
    return made
