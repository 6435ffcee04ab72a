"""Regular expressions as automata over characters: whether one ends where another goes on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from greenroom.constraints.gbnf.expressions import (
    Alternatives,
    CharSet,
    Expression,
    Repeated,
    Series,
    either,
    series,
)

__all__ = ["Automaton", "automaton", "overlaps", "runs_past"]

_MOST_COPIES = 12
"""How often a part is written out that is repeated up to some number; beyond, it counts as without bound."""


@dataclass(frozen=True)
class Automaton:
    """A place for each character of an expression: those that a text begins with, that follow each, that end one.

    What it takes is the expression's texts, and more where parts are repeated up to a high number.
    """

    chars: tuple[CharSet, ...]
    firsts: tuple[int, ...]
    follows: tuple[tuple[int, ...], ...]
    lasts: frozenset[int]

    @cached_property
    def first_chars(self) -> Expression:
        """The characters that a text may begin with."""
        return either(self.chars[place] for place in self.firsts)


@lru_cache(maxsize=4096)
def automaton(expression: Expression) -> Automaton:
    """That of `expression`, which names neither rules nor tokens. By Glushkov."""
    builder = _Builder()
    firsts, lasts, _ = builder.add(expression)
    follows = tuple(tuple(sorted(after)) for after in builder.follows)
    return Automaton(tuple(builder.chars), tuple(firsts), follows, frozenset(lasts))


Ends = tuple[list[int], list[int], bool]
"""The first and last places of a part, and whether it may be empty."""


class _Builder:
    def __init__(self) -> None:
        self.chars: list[CharSet] = []
        self.follows: list[set[int]] = []

    def add(self, expression: Expression) -> Ends:
        if isinstance(expression, CharSet):
            self.chars.append(expression)
            self.follows.append(set())
            place = len(self.chars) - 1
            return [place], [place], False
        if isinstance(expression, Series):
            return self._add_series(expression.members)
        if isinstance(expression, Alternatives):
            ends = [self.add(part) for part in _factored(expression.members)]
            firsts = [place for first, _, _ in ends for place in first]
            lasts = [place for _, last, _ in ends for place in last]
            return firsts, lasts, any(empty for _, _, empty in ends)
        assert isinstance(expression, Repeated)  # noqa: S101 - there is no other
        return self._add_repeated(expression)

    def _add_series(self, parts: Iterable[Expression]) -> Ends:
        firsts: list[int] = []
        lasts: list[int] = []
        is_empty = True
        for part in parts:
            first, last, empty = self.add(part)
            self._link(lasts, first)
            firsts += first if is_empty else []
            lasts = lasts + last if empty else last
            is_empty = is_empty and empty
        return firsts, lasts, is_empty

    def _add_repeated(self, expression: Repeated) -> Ends:
        inner, least, most = expression.inner, expression.least, expression.most
        copies = min(least, _MOST_COPIES)
        if most is not None and most <= _MOST_COPIES:
            options = [Repeated(inner, 0, 1) if number >= least else inner for number in range(most)]
            if len(options) == 1 and least == 0:
                first, last, _ = self.add(inner)
                return first, last, True
            return self._add_series(options)
        if copies > 1 or (copies == 1 and most is None and least > 1):
            return self._add_series([*[inner] * (copies - 1), Repeated(inner, 1, None)])
        first, last, empty = self.add(inner)
        self._link(last, first)
        return first, last, empty or least == 0

    def _link(self, lasts: Sequence[int], firsts: Sequence[int]) -> None:
        for place in lasts:
            self.follows[place].update(firsts)


def _factored(members: Sequence[Expression]) -> list[Expression]:
    """`members`, of which those that begin with the same characters have these in common: many texts are a tree."""
    groups: dict[Expression, list[list[Expression]]] = {}
    others: list[Expression] = []
    for member in members:
        parts = _flat(member)
        if len(members) > 1 and len(parts) > 1 and isinstance(parts[0], CharSet):
            groups.setdefault(parts[0], []).append(parts)
        else:
            others.append(member)
    for group in groups.values():
        size = 1
        while len(group) > 1 and all(size < len(parts) and parts[size] == group[0][size] for parts in group):
            size += 1
        rests = either([series(parts[size:]) for parts in group])
        others.append(series([*group[0][:size], rests]))
    return others


def _flat(member: Expression) -> list[Expression]:
    """The parts of a series and of those in it."""
    found: list[Expression] = []
    todo = [member]
    while todo:
        part = todo.pop()
        if isinstance(part, Series):
            todo += reversed(part.members)
        else:
            found.append(part)
    return found


def _pairs(one: Automaton, other: Automaton) -> Iterable[tuple[int, int]]:
    """The places that both may be in after one text."""
    todo = [(mine, theirs) for mine in one.firsts for theirs in other.firsts]
    seen: set[tuple[int, int]] = set()
    while todo:
        pair = todo.pop()
        if pair in seen or not one.chars[pair[0]].meets(other.chars[pair[1]]):
            continue
        seen.add(pair)
        yield pair
        todo += [(mine, theirs) for mine in one.follows[pair[0]] for theirs in other.follows[pair[1]]]


@lru_cache(maxsize=16384)
def overlaps(one: Expression, other: Expression) -> bool:
    """Whether a text is of both."""
    mine, theirs = automaton(one), automaton(other)
    return any(place in mine.lasts and beside in theirs.lasts for place, beside in _pairs(mine, theirs))


@lru_cache(maxsize=16384)
def runs_past(one: Expression, other: Expression, after: Expression) -> bool:
    """Whether `other` goes on, by a character of the set `after`, where a text of `one` ends."""
    mine, theirs = automaton(one), automaton(other)
    if not isinstance(after, CharSet) or not any(after.meets(each) for each in theirs.chars):
        return False
    goes_on = {
        place
        for place, following in enumerate(theirs.follows)
        if any(theirs.chars[each].meets(after) for each in following)
    }
    if not goes_on:
        return False
    return any(place in mine.lasts and beside in goes_on for place, beside in _pairs(mine, theirs))
