"""What a user passes to `constrain=`, as one constraint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greenroom.constraints.constraint import MOST_NESTED, CompiledConstraint, Compiler, Constraint
from greenroom.constraints.json_schemas.json_schema import AnyJson, JsonSchema
from greenroom.constraints.kinds.all_of import All
from greenroom.constraints.state import ConstraintState
from greenroom.errors import InvalidConstraint, shown

__all__ = ["constraint_of", "is_json"]


def constraint_of(value: Any) -> Constraint:
    """What a user gave, as one constraint.

    That is a `Constraint`, a `ConstraintState`, a JSON schema as a dict, a Python type, or a list or tuple of these,
    which are ANDed.

    Raises `InvalidConstraint` for anything else, and as `JsonSchema` does. A schema that was checked before costs
    nothing, a new one a millisecond.
    """
    return _constraint_of(value, 0)


def is_json(constraint: Constraint | None) -> bool:
    """Whether all that it allows is JSON."""
    given: Sequence[Constraint | None] = constraint.parts if isinstance(constraint, All) else (constraint,)
    return any(isinstance(part, JsonSchema | AnyJson) for part in given)


def _constraint_of(value: Any, level: int) -> Constraint:
    if isinstance(value, Constraint):
        return value
    if isinstance(value, ConstraintState):
        return _FromState(value)
    if isinstance(value, list | tuple):
        if level == MOST_NESTED:
            raise InvalidConstraint(f"lists of constraints are nested more than {MOST_NESTED} levels deep")
        parts = [_constraint_of(part, level + 1) for part in value]
        return parts[0] if len(parts) == 1 else All(*parts)
    if value is None or isinstance(value, str | bytes | int | float):
        hint = (
            "JsonSchema, Regex, Lark or Gbnf says how a string is meant" if isinstance(value, str) else "see the docs"
        )
        raise InvalidConstraint(f"{shown(value)} is no constraint: {hint}")
    return JsonSchema(dict(value) if isinstance(value, Mapping) else value)


@dataclass(frozen=True)
class _FromState(Constraint):
    """The rest of what a state allows that the user made, from where it stands."""

    state: ConstraintState

    def compile(self, compiler: Compiler) -> CompiledConstraint:  # noqa: ARG002 - made for a vocabulary already
        """See `Constraint.compile`."""
        return CompiledConstraint(self.state.fork())
