"""The optional slots, for an engine that lacks them.

Everything rests on two things that every engine can do: make a matcher from the grammar's text, and consume. A state is
its grammar and its tokens, so a copy, an earlier state and a trial are each a new matcher that consumes again. The cost
is the grammar's compilation and the tokens so far, each time.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

from greenroom.constraints.cbison.engine import CbisonEngine, MatcherHandle, create_matcher, error_of
from greenroom.errors import InvalidConstraint


class Grammar(NamedTuple):
    """What `new_matcher` is given."""

    kind: bytes
    text: bytes

    @classmethod
    def of(cls, kind: str, text: str) -> Grammar:
        """Raises `InvalidConstraint` for text that C cannot carry."""
        if "\0" in kind or "\0" in text:
            raise InvalidConstraint("a NUL in a grammar cannot be handed to an engine: its text would end there")
        try:
            return cls(kind.encode(), text.encode())
        except UnicodeEncodeError as error:
            raise InvalidConstraint(f"the grammar is no text: {error}") from error


class Unable(Exception):
    """The engine refused to do again what it had done."""


def create(engine: CbisonEngine, grammar: Grammar) -> MatcherHandle:
    """A new matcher of `grammar`. Raises `InvalidConstraint` with the engine's words where it does not compile."""
    handle = create_matcher(engine, lambda: engine.slots.new_matcher(engine.address, *grammar), "new_matcher")
    error = error_of(engine, handle.pointer)
    if error is not None:
        handle.close()
        raise InvalidConstraint(f"{engine} refused the {grammar.kind.decode()} grammar: {error}")
    return handle


def consume(engine: CbisonEngine, pointer: int, tokens: Sequence[int]) -> bool:
    """Whether the matcher took all `tokens`."""
    batch = array("I", tokens)
    return not len(batch) or engine.slots.consume_tokens(pointer, batch.buffer_info()[0], len(batch)) == 0


def rebuild(engine: CbisonEngine, grammar: Grammar, history: Sequence[int]) -> MatcherHandle:
    """A new matcher that consumed `history`. Raises `Unable`."""
    try:
        handle = create(engine, grammar)
    except InvalidConstraint as error:
        raise Unable(str(error)) from error
    if not consume(engine, handle.pointer, history):
        why = error_of(engine, handle.pointer)
        handle.close()
        raise Unable(f"a new matcher did not take the {len(history)} tokens again: {why}")
    return handle


def clone(engine: CbisonEngine, grammar: Grammar, pointer: int, history: Sequence[int]) -> MatcherHandle:
    """A matcher in the same state: the engine's own copy, or one rebuilt. Raises `Unable`, `IncompatibleEngine`."""
    call = engine.slots.clone_matcher
    if call is None:
        return rebuild(engine, grammar, history)
    return create_matcher(engine, lambda: call(pointer), "clone_matcher")


def rewind(engine: CbisonEngine, grammar: Grammar, pointer: int, history: Sequence[int]) -> MatcherHandle | None:
    """Bring the matcher back to `history`; a new one in its place where the engine cannot reset. Raises `Unable`."""
    call = engine.slots.reset
    if call is None:
        return rebuild(engine, grammar, history)
    code = call(pointer)
    if code or not consume(engine, pointer, history):
        raise Unable(f"reset returned {code}, and then {len(history)} tokens were to be consumed again")
    return None


def num_legal(
    engine: CbisonEngine, grammar: Grammar, pointer: int, history: Sequence[int], tokens: Sequence[int]
) -> int:
    """How many of `tokens` a copy consumes, one by one. Raises as `clone` does."""
    trial = clone(engine, grammar, pointer, history)
    try:
        for index, token in enumerate(tokens):
            if not consume(engine, trial.pointer, (token,)):
                return index
        return len(tokens)
    finally:
        trial.close()
