"""The cache of compiled constraints of one vocabulary: compiling takes milliseconds, starting microseconds."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from concurrent.futures import Future
from threading import Lock

from greenroom.constraints.compiled_grammar import CompiledGrammar
from greenroom.constraints.constraint import Check, CompiledConstraint, Constraint
from greenroom.constraints.grammar_matcher import GrammarMatcher
from greenroom.constraints.grammar_warning import GrammarWarning
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import CompilersBusy, InvalidConstraint

__all__ = ["ConstraintCompiler"]

CAPACITY = 128
"""Compiled constraints that are kept: some 200 KB each, so about 25 MB; an agent's tools and schemas are fewer."""


class ConstraintCompiler:
    """Compiles constraints for one vocabulary and keeps the ones used last. Thread-safe; compiling gives the GIL away.

    Compiling takes milliseconds, for hard grammars a second: call it off the event loop.
    """

    def __init__(self, vocabulary: Vocabulary, capacity: int = CAPACITY) -> None:
        self.vocabulary = vocabulary
        self._capacity = capacity
        self._kept: OrderedDict[Constraint, Future[CompiledConstraint]] = OrderedDict()
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<ConstraintCompiler kept={len(self._kept)} vocabulary={self.vocabulary!r}>"

    def __len__(self) -> int:
        return len(self._kept)

    def compile(self, constraint: Constraint) -> CompiledConstraint:
        """`constraint` compiled, from the store where an equal one was compiled before.

        Gives a `GrammarWarning` for each of its `warnings` when it is compiled. Raises `InvalidConstraint` where it
        does not compile; what a user's own constraint raises becomes the cause of one.
        """
        try:
            hash(constraint)
        except TypeError:  # a user's constraint, or metadata of a Python type: nothing to know it by
            return self._compile(constraint)
        with self._lock:
            future = self._kept.get(constraint)
            is_first = future is None
            if future is None:
                future = self._kept[constraint] = Future()
            self._kept.move_to_end(constraint)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        if is_first:
            self._compile_into(constraint, future)
        return future.result()

    def compile_grammar(self, grammar: str, *, check: Check | None = None) -> CompiledConstraint:
        """See `Compiler.compile_grammar`; what is made is not kept."""
        compiled = CompiledGrammar(self.vocabulary, grammar)
        return CompiledConstraint(GrammarMatcher(compiled), warnings=compiled.warnings, check=check)

    def _compile_into(self, constraint: Constraint, future: Future[CompiledConstraint]) -> None:
        try:
            future.set_result(self._compile(constraint))
        except BaseException as error:  # noqa: BLE001 - who waits for the same grammar gets it too
            with self._lock:
                if self._kept.get(constraint) is future:
                    del self._kept[constraint]
            future.set_exception(error)

    def _compile(self, constraint: Constraint) -> CompiledConstraint:
        try:
            compiled = constraint.compile(self)
        except (CompilersBusy, InvalidConstraint):
            raise
        except Exception as error:
            raise InvalidConstraint(f"{constraint!r} does not compile: {error}") from error
        for message in compiled.warnings:
            warnings.warn(f"{constraint!r}: {message}", GrammarWarning, stacklevel=3)
        return compiled
