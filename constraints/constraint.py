"""What a request may say, as a value: compiled per vocabulary, started per request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from greenroom.constraints.state import ConstraintState
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import InvalidConstraint

__all__ = ["Check", "CompiledConstraint", "Compiler", "Constraint", "GrammarConstraint", "limit_nesting"]

MOST_NESTED = 32
"""Constraints in each other."""
MOST_MEMBERS = 1000
"""Constraints in one, each as often as it stands there."""

Check = Callable[[Sequence[int]], str | None]
"""Why the tokens of a complete output fail what masks could not enforce; None where they are right."""


class Constraint(ABC):
    """What a request may say. A small immutable value: equal ones are compiled once per vocabulary.

    A constraint of your own implements `compile`, which builds a `ConstraintState` and hands it over as the prototype
    of a `CompiledConstraint`. It is called on a worker thread.
    """

    @abstractmethod
    def compile(self, compiler: Compiler, /) -> CompiledConstraint:
        """Compile for `compiler.vocabulary`. Raises `InvalidConstraint`; `compiler.compile` is there for parts."""

    def check(self, text: str) -> str | None:  # noqa: ARG002 - nothing is left to check
        """Why a complete output fails what masks cannot enforce; None where it is right, as it mostly is."""
        return None


class GrammarConstraint(Constraint):
    """A constraint that llguidance enforces."""

    @abstractmethod
    def grammar(self, vocabulary: Vocabulary) -> str:
        """The form of llguidance: Lark text, or JSON with `grammars`. Raises `InvalidConstraint`."""

    def left_out(self) -> tuple[str, ...]:
        """What the constraint says and its grammar does not enforce, beside what the grammar's engine tells."""
        return ()

    def compile(self, compiler: Compiler) -> CompiledConstraint:
        """See `Constraint.compile`."""
        return self.compile_text(self.grammar(compiler.vocabulary), compiler)

    def compile_text(self, grammar: str, compiler: Compiler) -> CompiledConstraint:
        """Compile a `grammar` of this constraint, with what is left out of it and what is to be checked behind it."""
        vocabulary = compiler.vocabulary
        compiled = compiler.compile_grammar(grammar, check=lambda tokens: self.check(vocabulary.decode(tokens)))
        compiled.warnings = (*self.left_out(), *compiled.warnings)
        return compiled


class CompiledConstraint:
    """A constraint ready to start, in as many requests as one likes, from any thread."""

    def __init__(
        self,
        prototype: ConstraintState,
        *,
        warnings: Sequence[str] = (),
        check: Check | None = None,
    ) -> None:
        self._prototype = prototype
        self._check = check
        self.warnings = tuple(warnings)
        """What the grammar leaves out of the constraint, in its engine's words."""

    def __repr__(self) -> str:
        return f"<CompiledConstraint {self._prototype!r} warnings={len(self.warnings)}>"

    def start(self) -> ConstraintState:
        """A state at the start, for one request."""
        return self._prototype.fork()

    def check(self, tokens: Sequence[int]) -> str | None:
        """Why a complete output (without its EOS) fails what masks could not enforce; None where it is right."""
        return None if self._check is None else self._check(tokens)


class Compiler(Protocol):
    """Compiles constraints, and the parts that they are made of, for one vocabulary."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of every mask."""

    def compile(self, constraint: Constraint) -> CompiledConstraint:
        """`constraint` for this vocabulary. Raises `InvalidConstraint`."""

    def compile_grammar(self, grammar: str, *, check: Check | None = None) -> CompiledConstraint:
        """A grammar in llguidance's form for this vocabulary. Raises `InvalidConstraint`."""


def limit_nesting(outer: Constraint, inner: Sequence[Constraint]) -> None:
    """Have `outer` know how large it is with `inner`. Raises `InvalidConstraint` where that is too deep or too many."""
    sizes = [cast("tuple[int, int]", getattr(part, "_size", (1, 1))) for part in inner]
    depth, count = 1 + max(depth for depth, _ in sizes), 1 + sum(count for _, count in sizes)
    if depth > MOST_NESTED or count > MOST_MEMBERS:
        raise InvalidConstraint(
            f"{type(outer).__name__} holds constraints {depth} levels deep, {count} in all: "
            f"at most {MOST_NESTED} levels and {MOST_MEMBERS} are possible"
        )
    object.__setattr__(outer, "_size", (depth, count))
