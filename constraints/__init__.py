"""What may be said: constraints, their grammars, the states of requests in them, and masks.

This package does not know MLX, tasks, or the scheduler. Its three lifetimes: a `Vocabulary` per tokenizer, a
`CompiledConstraint` per grammar, a `ConstraintState` per request. Names are handed on when they are asked for, so that
importing a part loads that part alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greenroom.constraints.cbison import Cbison
    from greenroom.constraints.coercion import constraint_of
    from greenroom.constraints.compiler import ConstraintCompiler
    from greenroom.constraints.constraint import CompiledConstraint, Compiler, Constraint, GrammarConstraint
    from greenroom.constraints.grammar_matcher import GrammarMatcher
    from greenroom.constraints.grammar_warning import GrammarWarning
    from greenroom.constraints.json_schemas.json_schema import AnyJson, JsonSchema
    from greenroom.constraints.kinds.all_of import All, AllOf
    from greenroom.constraints.kinds.grammars import Choice, Gbnf, Lark, Regex
    from greenroom.constraints.kinds.lazy import Lazy
    from greenroom.constraints.kinds.struct_tag import StructTag, Tag
    from greenroom.constraints.masks import fill_masks, is_dead_end
    from greenroom.constraints.state import Bits, ConstraintState
    from greenroom.constraints.vocabulary import Vocabulary

__all__ = [
    "All",
    "AllOf",
    "AnyJson",
    "Bits",
    "Cbison",
    "Choice",
    "CompiledConstraint",
    "Compiler",
    "Constraint",
    "ConstraintCompiler",
    "ConstraintState",
    "Gbnf",
    "GrammarConstraint",
    "GrammarMatcher",
    "GrammarWarning",
    "JsonSchema",
    "Lark",
    "Lazy",
    "Regex",
    "StructTag",
    "Tag",
    "Vocabulary",
    "constraint_of",
    "fill_masks",
    "is_dead_end",
]

_HOMES = {
    "cbison": "Cbison",
    "coercion": "constraint_of",
    "compiler": "ConstraintCompiler",
    "grammar_warning": "GrammarWarning",
    "constraint": "CompiledConstraint Compiler Constraint GrammarConstraint",
    "grammar_matcher": "GrammarMatcher",
    "json_schemas.json_schema": "AnyJson JsonSchema",
    "kinds.all_of": "All AllOf",
    "kinds.grammars": "Choice Gbnf Lark Regex",
    "kinds.lazy": "Lazy",
    "kinds.struct_tag": "StructTag Tag",
    "masks": "fill_masks is_dead_end",
    "state": "Bits ConstraintState",
    "vocabulary": "Vocabulary",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"greenroom.constraints.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
