"""JSON that fits a schema, or a Python type."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from greenroom.constraints.bounds.schema_bounds import MOST_NESTED, check_size
from greenroom.constraints.constraint import CompiledConstraint, Compiler, GrammarConstraint
from greenroom.constraints.grammar_text import regex_escape
from greenroom.constraints.json_schemas.checking import check_of, rewriting_of
from greenroom.constraints.json_schemas.mistakes import unwrapped
from greenroom.constraints.python_types.libraries import ExportedType, export
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import CompilationTimeout, InvalidConstraint, InvalidSchema, shown

__all__ = ["AnyJson", "JsonSchema"]

WHITESPACE = " |\\n[ \\t]{0,24}"
"""By default: what people and models write between the parts of JSON. Unbounded, small models write it for ever."""


@dataclass(frozen=True, init=False, repr=False)
class JsonSchema(GrammarConstraint):
    """The output is JSON that fits `schema`: a dict, a bool, JSON text, or a Python type.

    Python types are pydantic models, msgspec Structs, dataclasses, TypedDicts, and what is made of them and of the
    plain types, such as `list[Point]`. They take no unknown keys, and else what their library takes; what a grammar
    cannot know (a validator of pydantic's) `check` finds in the complete text.

    `whitespace` is True for any JSON whitespace between the parts, False for none, or a regular expression that is
    matched at most once at each place; None is one space or a line break with an indent, and nothing where `separators`
    are given. `separators` are those between items
    and after keys, as of `json.dumps`, to the letter. Properties come in the schema's order. With `lenient`, keywords
    that cannot be enforced are left out with a `GrammarWarning`, and `oneOf` means `anyOf`.

    The schema is taken as it is now: what becomes of the dict later changes nothing. Making a `JsonSchema` raises
    `InvalidConstraint` for what is no JSON, no object and no boolean, and `UnsupportedType` for a type that no output
    can be of. Whether each keyword can be enforced takes longer, for a large schema a second: `validate` finds out, or
    the request does before it is queued.
    """

    text: str
    """The schema, as JSON text."""
    options: str
    """llguidance's options, as JSON text."""
    source: Any = field(default=None)
    """The Python type that the schema was made from, if any."""

    def __init__(
        self,
        schema: Any,
        *,
        whitespace: bool | str | None = None,
        separators: tuple[str, str] | None = None,
        lenient: bool = False,
    ) -> None:
        exported = None if isinstance(schema, Mapping | str | bool) else _export(schema)
        _check_layout(whitespace, separators, lenient)
        options: dict[str, Any] = {"lenient": True} if lenient else {}
        if exported is not None:
            options["coerce_one_of"] = True  # the alternatives of a Python union; decoding the text decides
        object.__setattr__(self, "text", _schema_text(schema if exported is None else exported.schema))
        object.__setattr__(self, "options", json.dumps(options | _layout(whitespace, separators)))
        object.__setattr__(self, "source", schema if exported is not None else None)
        object.__setattr__(self, "_exported", exported)

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 80 else f"{self.text[:77]}..."
        return f"JsonSchema({text if self.source is None else self.source!r})"

    def validate(self) -> Self:
        """The schema itself, once it is known to compile. Takes milliseconds, for a large one a second: not on a loop.

        Raises `UnsupportedKeyword` for a keyword that cannot be enforced, `InvalidSchema` for one that is wrong or that
        nothing fits, each with its place and what to do; `InvalidConstraint` for a schema too deep or too large, and
        `CompilationTimeout` for one that takes too long.
        """
        check_of(self.text, self.options).result()
        return self

    def grammar(self, vocabulary: Vocabulary) -> str:  # noqa: ARG002 - the same for all
        """See `GrammarConstraint.grammar`. Raises as `validate` does."""
        return check_of(self.text, self.options).result().grammar

    def compile(self, compiler: Compiler) -> CompiledConstraint:
        """See `Constraint.compile`. Where it does not, the schema is checked once more: that finds the place."""
        try:
            return self.compile_text(rewriting_of(self.text, self.options).result().grammar, compiler)
        except (CompilationTimeout, InvalidSchema):
            raise
        except InvalidConstraint:
            self.validate()
            raise

    def left_out(self) -> tuple[str, ...]:
        """See `GrammarConstraint.left_out`."""
        warnings = rewriting_of(self.text, self.options).result().warnings
        exported: ExportedType | None = self._exported  # type: ignore[attr-defined]
        if exported is None:
            return warnings
        return (*warnings, *[f"it leaves to the complete text {what}" for what in exported.differences])

    def check(self, text: str) -> str | None:
        """See `Constraint.check`; from a Python type, whether `text` decodes to it."""
        exported: ExportedType | None = self._exported  # type: ignore[attr-defined]
        return None if exported is None else exported.problem(text)


@dataclass(frozen=True)
class AnyJson(GrammarConstraint):
    """The output is JSON, of whatever shape. `whitespace` and `separators` as of `JsonSchema`."""

    whitespace: bool | str | None = None
    separators: tuple[str, str] | None = None

    def grammar(self, vocabulary: Vocabulary) -> str:
        """See `GrammarConstraint.grammar`."""
        return JsonSchema(True, whitespace=self.whitespace, separators=self.separators).grammar(vocabulary)


def _export(source: Any) -> ExportedType:
    try:
        return export(source)
    except RecursionError as error:
        raise InvalidConstraint(f"{type(source).__name__} types are nested too deeply: {error}") from None
    except InvalidConstraint:
        raise
    except Exception as error:  # what stands in a type is its author's, and looking at it can raise anything
        raise InvalidConstraint(f"{shown(source)} cannot be read as a type: {type(error).__name__}") from error


def _schema_text(schema: Any) -> str:
    """The schema as JSON text, the same for equal ones."""
    try:
        return _checked_text(schema)
    except InvalidConstraint:
        raise
    except RecursionError as error:
        raise InvalidConstraint(f"the schema is nested more than {MOST_NESTED} levels deep: make it flatter") from error
    except Exception as error:  # what stands in it is the caller's, and looking at it can raise anything
        raise InvalidConstraint(f"the schema is not JSON: {error}") from error


def _checked_text(schema: Any) -> str:
    content = json.loads(schema) if isinstance(schema, str) else schema
    if not isinstance(content, Mapping | bool):
        raise InvalidConstraint(f"a JSON schema is an object or a boolean, got {shown(schema)}")
    if content is False:
        raise InvalidConstraint("nothing fits the schema `false`: leave the constraint out, or say what may come")
    if content is not True:
        check_size(content)
    return json.dumps({} if content is True else dict(unwrapped(content)), allow_nan=False)


def _check_layout(whitespace: object, separators: object, lenient: object) -> None:
    if not isinstance(whitespace, bool | str | None):
        raise InvalidConstraint(f"the whitespace of a schema is None, a bool or a regex, got {shown(whitespace)}")
    is_pair = isinstance(separators, tuple | list) and len(separators) == 2
    if separators is not None and not (is_pair and all(isinstance(each, str) for each in separators)):  # type: ignore[attr-defined]
        raise InvalidConstraint(f"the separators of a schema are None or two strings, got {shown(separators)}")
    if not isinstance(lenient, bool):
        raise InvalidConstraint(f"a schema's lenient is a bool, got {shown(lenient)}")


def _layout(whitespace: bool | str | None, separators: tuple[str, str] | None) -> dict[str, Any]:
    layout: dict[str, Any] = {}
    if separators is not None:
        item, key = separators
        layout |= {"item_separator": regex_escape(item), "key_separator": regex_escape(key)}
        whitespace = False if whitespace is None else whitespace
    whitespace = WHITESPACE if whitespace is None else whitespace
    if isinstance(whitespace, str):
        layout["whitespace_pattern"] = whitespace
    else:
        layout["whitespace_flexible"] = whitespace
    return layout
