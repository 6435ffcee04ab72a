"""Constraints compiled for a vocabulary, and the store that keeps them: compiling takes milliseconds, starting µs."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import TYPE_CHECKING

from greenroom.constraints.state import ConstraintState
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import InvalidConstraint

if TYPE_CHECKING:
    from greenroom.constraints.constraint import Constraint

__all__ = ["CompiledConstraint", "ConstraintCompiler", "GrammarWarning"]

CAPACITY = 128
"""Compiled constraints that are kept: some 200 KB each, so about 25 MB; an agent's tools and schemas are fewer."""


class GrammarWarning(UserWarning):
    """A constraint enforces less than it says; the message says what is left out. Given once, when it is compiled."""


class CompiledConstraint:
    """A constraint ready to start, in as many requests as one likes, from any thread."""

    def __init__(
        self,
        prototype: ConstraintState,
        *,
        warnings: Sequence[str] = (),
        check: Callable[[Sequence[int]], str | None] | None = None,
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
            return self._compiled(constraint)
        with self._lock:
            future = self._kept.get(constraint)
            is_first = future is None
            if future is None:
                future = self._kept[constraint] = Future()
            self._kept.move_to_end(constraint)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        if is_first:
            self._settle(constraint, future)
        return future.result()

    def _settle(self, constraint: Constraint, future: Future[CompiledConstraint]) -> None:
        try:
            future.set_result(self._compiled(constraint))
        except BaseException as error:  # noqa: BLE001 - who waits for the same grammar gets it too
            with self._lock:
                if self._kept.get(constraint) is future:
                    del self._kept[constraint]
            future.set_exception(error)

    def _compiled(self, constraint: Constraint) -> CompiledConstraint:
        try:
            compiled = constraint.compile(self)
        except InvalidConstraint:
            raise
        except Exception as error:
            raise InvalidConstraint(f"{constraint!r} does not compile: {error}") from error
        for message in compiled.warnings:
            warnings.warn(f"{constraint!r}: {message}", GrammarWarning, stacklevel=3)
        return compiled
