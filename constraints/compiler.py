"""The cache of compiled constraints of one vocabulary: compiling takes milliseconds, starting microseconds."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from greenroom.constraints.compiled_grammar import CompiledGrammar
from greenroom.constraints.constraint import Check, CompiledConstraint, Constraint
from greenroom.constraints.grammar_matcher import GrammarMatcher
from greenroom.constraints.grammar_warning import GrammarWarning
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import CompilersBusy, InvalidConstraint, shown

__all__ = ["CompiledElsewhere", "ConstraintCompiler", "forsake", "waiting_by_callback"]

CAPACITY = 128
"""Compiled constraints that are kept: some 200 KB each, so about 25 MB; an agent's tools and schemas are fewer."""


_HERE = threading.local()
"""Of each thread: what it waited for by callback, where it does so, and what it compiles, the outermost first."""


class _Compilation:
    """One constraint, compiled by one thread for all who ask. What is called twice, or cut short, is safe to repeat."""

    def __init__(self) -> None:
        self.compiled: CompiledConstraint | None = None
        self.error: Exception | None = None
        """With neither, once it is over, it was given up: whoever waits begins anew."""
        self.is_over = False
        self._waiting: deque[Callable[[], object]] = deque()

    def __repr__(self) -> str:
        return f"<_Compilation is_over={self.is_over} waiting={len(self._waiting)}>"

    def then(self, call: Callable[[], object]) -> None:
        """Have `call` called once it is over, on whichever thread; at once where it is. Twice must do no harm."""
        self._waiting.append(call)
        if self.is_over:
            self.finish()

    def wait(self) -> None:
        """Return once it is over."""
        over = threading.Event()
        self.then(over.set)
        over.wait()

    def finish(self) -> None:
        """It is over: tell whoever waits."""
        self.is_over = True
        while self._waiting:
            with suppress(IndexError, ValueError):  # another thread may be telling the same
                call = self._waiting[0]
                call()
                self._waiting.remove(call)  # last: cut short, it is called again


class CompiledElsewhere(BaseException):  # no Exception: a constraint's own `except` must let it through
    """Another thread compiles what is asked for: the work that asks is to be done again once that is over."""

    def __init__(self, constraint: Constraint, compilation: _Compilation) -> None:
        super().__init__(f"{shown(constraint)} is compiled on another thread")
        self._constraint = constraint
        self._compilation = compilation

    def then(self, call: Callable[[], object]) -> None:
        """Have `call` called once that is over, on whichever thread; at once where it is. Twice must do no harm."""
        self._compilation.then(call)

    def error_of(self, constraint: Constraint) -> Exception | None:
        """Why `constraint` does not compile, where this is of that one, and it did not."""
        return self._compilation.error if self._constraint == constraint else None


@contextmanager
def waiting_by_callback(awaited: Sequence[CompiledElsewhere]) -> Iterator[None]:
    """Here `compile` raises `CompiledElsewhere` where it would wait for another thread; `awaited` are those before."""
    _HERE.awaited = awaited
    try:
        yield
    finally:
        _HERE.awaited = None


def _awaited() -> Sequence[CompiledElsewhere] | None:
    found: Sequence[CompiledElsewhere] | None = getattr(_HERE, "awaited", None)
    return found


def _raise_awaited(constraint: Constraint) -> None:
    """Raise why `constraint` does not compile, where this thread has waited for it by callback, and it does not."""
    for each in _awaited() or ():
        error = each.error_of(constraint)
        if error is not None:
            raise error


def _wait(constraint: Constraint, compilation: _Compilation) -> None:
    if compilation in _mine():
        raise InvalidConstraint(f"{shown(constraint)} asks for itself while it is compiled")
    if _awaited() is not None:
        raise CompiledElsewhere(constraint, compilation)
    compilation.wait()


def forsake() -> None:
    """This thread was interrupted: what it compiled is given up, and whoever waits for that begins anew."""
    mine = _mine()
    while mine:
        mine.pop().finish()


def _mine() -> list[_Compilation]:
    if not hasattr(_HERE, "compilations"):
        _HERE.compilations = []
    found: list[_Compilation] = _HERE.compilations
    return found


class ConstraintCompiler:
    """Compiles constraints for one vocabulary and keeps the ones used last. Thread-safe; compiling gives the GIL away.

    Compiling takes milliseconds, for hard grammars a second: call it off the event loop. Who asks for what another
    thread compiles waits for that, or is told to come again: see `waiting_by_callback`.
    """

    def __init__(self, vocabulary: Vocabulary, capacity: int = CAPACITY) -> None:
        self.vocabulary = vocabulary
        self._capacity = capacity
        self._kept: OrderedDict[Constraint, _Compilation] = OrderedDict()
        self._lock = threading.Lock()

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
        while True:
            _raise_awaited(constraint)
            compilation, is_first = self._compilation(constraint)
            if is_first:
                return self._compile_for_all(constraint, compilation)
            if not compilation.is_over:
                _wait(constraint, compilation)
            if compilation.error is not None:
                raise compilation.error
            if compilation.compiled is not None:
                return compilation.compiled

    def compile_grammar(self, grammar: str, *, check: Check | None = None) -> CompiledConstraint:
        """See `Compiler.compile_grammar`; what is made is not kept."""
        compiled = CompiledGrammar(self.vocabulary, grammar)
        return CompiledConstraint(GrammarMatcher(compiled), warnings=compiled.warnings, check=check)

    def _compilation(self, constraint: Constraint) -> tuple[_Compilation, bool]:
        """What is kept of `constraint`, and whether that is new, so that this thread is to compile it."""
        with self._lock:
            found = self._kept.get(constraint)
            is_first = found is None or (found.is_over and found.compiled is None)
            if found is None or is_first:
                found = _Compilation()
                _mine().append(found)  # first: an interruption may come between any two lines
                self._kept[constraint] = found
            self._kept.move_to_end(constraint)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
            return found, is_first

    def _compile_for_all(self, constraint: Constraint, compilation: _Compilation) -> CompiledConstraint:
        try:
            compilation.compiled = self._compile(constraint)
        except Exception as error:
            compilation.error = error  # who waits for the same grammar gets it too
            raise
        else:
            return compilation.compiled
        finally:
            if compilation.compiled is None:
                self._forget(constraint, compilation)
            compilation.finish()
            _mine().remove(compilation)

    def _forget(self, constraint: Constraint, compilation: _Compilation) -> None:
        with self._lock:
            if self._kept.get(constraint) is compilation:
                del self._kept[constraint]

    def _compile(self, constraint: Constraint) -> CompiledConstraint:
        try:
            compiled = constraint.compile(self)
        except (CompilersBusy, InvalidConstraint):
            raise
        except Exception as error:
            raise InvalidConstraint(f"{shown(constraint)} does not compile: {error}") from error
        for message in compiled.warnings:
            warnings.warn(f"{shown(constraint)}: {message}", GrammarWarning, stacklevel=3)
        return compiled
