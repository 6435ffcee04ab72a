"""What a request may say, as a value: compiled per vocabulary, started per request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from greenroom.constraints.compiled_grammar import CompiledGrammar
from greenroom.constraints.compiler import CompiledConstraint
from greenroom.constraints.grammar_matcher import GrammarMatcher

if TYPE_CHECKING:
    from greenroom.constraints.compiler import ConstraintCompiler
    from greenroom.constraints.vocabulary import Vocabulary

__all__ = ["Constraint", "GrammarConstraint"]


class Constraint(ABC):
    """What a request may say. A small immutable value: equal ones are compiled once per vocabulary.

    A constraint of your own implements `compile`, which builds a `ConstraintState` and hands it over as the prototype
    of a `CompiledConstraint`. It is called on a worker thread.
    """

    @abstractmethod
    def compile(self, grammars: ConstraintCompiler) -> CompiledConstraint:
        """Compile for `grammars.vocabulary`. Raises `InvalidConstraint`; `grammars.compile` is there for parts."""

    def check(self, text: str) -> str | None:  # noqa: ARG002 - nothing is left to check
        """Why a complete output fails what masks cannot enforce; None where it is right, as it mostly is."""
        return None


class GrammarConstraint(Constraint):
    """A constraint that llguidance enforces."""

    @abstractmethod
    def grammar(self, vocabulary: Vocabulary) -> str:
        """The form of llguidance: Lark text, or JSON with `grammars`. Raises `InvalidConstraint`."""

    def compile(self, grammars: ConstraintCompiler) -> CompiledConstraint:
        """See `Constraint.compile`."""
        vocabulary = grammars.vocabulary
        prototype = CompiledGrammar(vocabulary, self.grammar(vocabulary))
        return CompiledConstraint(
            GrammarMatcher(prototype),
            warnings=prototype.warnings,
            check=lambda tokens: self.check(vocabulary.decode(tokens)),
        )
