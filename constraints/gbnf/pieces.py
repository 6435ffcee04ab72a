"""A grammar whose regular parts are lexemes, and which of them llguidance's lexer would read too far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from greenroom.constraints.gbnf.automata import automaton, overlaps, runs_past
from greenroom.constraints.gbnf.expressions import (
    ANY,
    EMPTY,
    NEVER,
    Alternatives,
    CharSet,
    Expression,
    Piece,
    Repeated,
    RuleName,
    Series,
    TokenName,
    either,
    is_nullable,
    without_empty,
)
from greenroom.constraints.gbnf.joining import is_regular
from greenroom.errors import InvalidConstraint

__all__ = ["in_pieces", "split_where_read_too_far"]

_MOST_NODES = 100_000
"""Of a lexeme: many texts to choose from have as many nodes as characters."""
_MOST_LINKS = 1_000_000
"""Pairs of lexemes that may follow each other."""
_MOST_PLACES = 1000
"""Places of a text that differ by what may come there."""


def in_pieces(rules: Mapping[str, Expression]) -> dict[str, Expression]:
    """`rules`, each largest regular part of them a lexeme.

    Of the tokens that may stand at one place none is another: llguidance would look for one of them alone. So any token
    but one is any that is named nowhere, or one of the others.
    """
    named: set[int] = set()
    todo = list(rules.values())
    while todo:
        each = todo.pop()
        todo += each.parts
        named.update(each.tokens if isinstance(each, TokenName) else ())
    return {name: _in_pieces(body, sorted(named)) for name, body in rules.items()}


def _in_pieces(expression: Expression, named: Sequence[int]) -> Expression:
    if is_regular(expression):
        return _piece(expression)
    if isinstance(expression, Series):
        return Series(tuple(_in_pieces(part, named) for part in _grouped(expression.members)))
    if isinstance(expression, Alternatives):
        regular = [part for part in expression.members if is_regular(part)]
        others = [_in_pieces(part, named) for part in expression.members if not is_regular(part)]
        return Alternatives((*([_piece(either(regular))] if regular else []), *others))
    if isinstance(expression, Repeated):
        return Repeated(_in_pieces(expression.inner, named), expression.least, expression.most)
    if isinstance(expression, TokenName) and expression.is_negated:
        others = [
            TokenName((token,), is_negated=False, is_text=True) for token in named if (token,) != expression.tokens
        ]
        return Alternatives((TokenName(tuple(named), is_negated=True, is_text=True), *others))
    return expression


def _grouped(parts: Iterable[Expression]) -> list[Expression]:
    """`parts`, of which those that are regular and next to each other are one."""
    found: list[Expression] = []
    run: list[Expression] = []
    for part in [*parts, None]:
        if part is not None and is_regular(part):
            run.append(part)
            continue
        if run:
            found.append(run[0] if len(run) == 1 else Series(tuple(run)))
        run = []
        if part is not None:
            found.append(part)
    return found


def _piece(expression: Expression) -> Expression:
    """One lexeme, or none where it may be empty: llguidance's are never empty."""
    if expression in (EMPTY, Alternatives(())):
        return expression
    body = without_empty(expression)
    if body.size > _MOST_NODES and not isinstance(expression, CharSet):
        return _split(expression)
    return Repeated(Piece(body), 0, 1) if is_nullable(expression) else Piece(body)


def _split(expression: Expression) -> Expression:
    """A regular expression as its parts, a lexeme each."""
    if isinstance(expression, Series):
        return Series(tuple(map(_piece, expression.members)))
    if isinstance(expression, Alternatives):
        return Alternatives(tuple(map(_piece, expression.members)))
    if isinstance(expression, Repeated):
        return Repeated(_piece(expression.inner), expression.least, expression.most)
    return _piece(expression)


def split_where_read_too_far(rules: dict[str, Expression]) -> dict[str, Expression]:
    """`rules` with each lexeme taken apart that may end before the longest text that lexemes fit there."""
    found = dict(rules)
    while True:
        doubtful = _Positions(found).read_too_far()
        if not doubtful:
            return found
        found = {name: _without(body, doubtful) for name, body in found.items()}


def _without(expression: Expression, doubtful: set[Piece]) -> Expression:
    if isinstance(expression, Piece):
        return _split(expression.body) if expression in doubtful else expression
    if isinstance(expression, Series):
        return Series(tuple(_without(part, doubtful) for part in expression.members))
    if isinstance(expression, Alternatives):
        return Alternatives(tuple(_without(part, doubtful) for part in expression.members))
    if isinstance(expression, Repeated):
        return Repeated(_without(expression.inner, doubtful), expression.least, expression.most)
    return expression


Leaf = Piece | TokenName
Leaves = dict[Leaf, None]
Ends = tuple[Leaves, Leaves, bool]
"""The lexemes with which a part may begin and end, and whether it may be empty."""


class _Positions:
    """Which lexemes may follow each, and which the lexer may look for at once."""

    def __init__(self, rules: dict[str, Expression]) -> None:
        self._ends: dict[str, Ends] = {name: ({}, {}, False) for name in rules}
        self._follows: defaultdict[Leaf, Leaves] = defaultdict(dict)
        self._after: dict[Leaf, Expression] | None = None
        self._links = 0
        self._is_changed = True
        while self._is_changed:
            self._is_changed = False
            for name, body in reversed(rules.items()):  # those that are named come last
                self._update(name, self._walk(body))

    def _update(self, name: str, ends: Ends) -> None:
        firsts, lasts, is_empty = self._ends[name]
        if len(ends[0]) > len(firsts) or len(ends[1]) > len(lasts) or ends[2] != is_empty:
            self._is_changed = True
        self._ends[name] = ends

    def _walk(self, expression: Expression) -> Ends:
        if isinstance(expression, Piece | TokenName):
            return {expression: None}, {expression: None}, False
        if isinstance(expression, RuleName):
            return self._ends[expression.name]
        if isinstance(expression, Series):
            return self._walk_series(expression.members)
        if isinstance(expression, Alternatives):
            ends = [self._walk(part) for part in expression.members]
            firsts = {leaf: None for first, _, _ in ends for leaf in first}
            lasts = {leaf: None for _, last, _ in ends for leaf in last}
            return firsts, lasts, any(empty for _, _, empty in ends)
        assert isinstance(expression, Repeated)  # noqa: S101 - there is no other
        first, last, empty = self._walk(expression.inner)
        if expression.most != 1:
            once = _read_as_one(expression)
            self._link([leaf for leaf in last if leaf not in once], first)
            for leaf in once:
                self._link([leaf], [other for other in first if other is not leaf])
        return first, last, empty or expression.least == 0

    def _walk_series(self, parts: Iterable[Expression]) -> Ends:
        firsts: Leaves = {}
        lasts: Leaves = {}
        is_empty = True
        for part in parts:
            first, last, empty = self._walk(part)
            self._link(lasts, first)
            if is_empty:
                firsts = {**firsts, **first}
            lasts = {**lasts, **last} if empty else last
            is_empty = is_empty and empty
        return firsts, lasts, is_empty

    def _link(self, lasts: Iterable[Leaf], firsts: Iterable[Leaf]) -> None:
        for leaf in lasts:
            before = len(self._follows[leaf])
            self._follows[leaf].update(dict.fromkeys(firsts))
            added = len(self._follows[leaf]) - before
            self._is_changed = self._is_changed or added > 0
            self._links += added
        if self._links > _MOST_LINKS:
            raise InvalidConstraint(
                "the GBNF's rules share characters in too many ways: begin or end its parts with texts that differ"
            )

    def read_too_far(self) -> set[Piece]:
        """The lexemes to take apart."""
        found: set[Piece] = set()
        todo = [frozenset(self._ends["root"][0]), *map(frozenset, self._follows.values())]
        seen: set[frozenset[Leaf]] = set()
        alike: dict[frozenset[tuple[Expression, Expression]], list[tuple[Expression, Expression]]] = {}
        while todo:
            leaves = todo.pop()
            if leaves in seen:
                continue
            seen.add(leaves)
            if len(seen) > _MOST_PLACES:  # as if all could be looked for at once
                leaves, todo = frozenset(self._follows), []
            pieces = _by_body(leaves)
            after = frozenset((body, self._chars_after(those)) for body, those in pieces.items())
            if after not in alike:  # else the same was found in another place
                found.update(piece for body in _read_too_far(dict(after)) for piece in pieces[body])
                alike[after] = [pair for pair in _pairs(pieces) if overlaps(*pair)]
            for one, other in alike[after]:
                both = {*pieces[one], *pieces[other]}
                if len(both) > 1:  # what was read may be either: what follows any of them is looked for next
                    todo.append(frozenset(leaf for piece in both for leaf in self._follows.get(piece, ())))
        return found

    def _chars_after(self, pieces: Iterable[Piece]) -> Expression:
        if self._after is None:
            self._after = {leaf: either(map(_first_chars, leaves)) for leaf, leaves in self._follows.items()}
        return either(self._after.get(piece, NEVER) for piece in pieces)


def _by_body(leaves: Iterable[Leaf]) -> dict[Expression, list[Piece]]:
    """The lexemes by what they say: those that say the same are read as one."""
    found: defaultdict[Expression, list[Piece]] = defaultdict(list)
    for leaf in leaves:
        if isinstance(leaf, Piece):
            found[leaf.body].append(leaf)
    _check_tokens(leaves, is_mixed=bool(found))
    return found


def _read_too_far(after: dict[Expression, Expression]) -> set[Expression]:
    """Those that go on where another may end, for lexemes that are looked for at one place, with what comes `after`."""
    return {going_on for ending, going_on in _pairs(after) if runs_past(ending, going_on, after[ending])}


def _pairs(bodies: Iterable[Expression]) -> Iterator[tuple[Expression, Expression]]:
    """Those that begin alike, in both orders; each with itself too."""
    firsts = [(body, automaton(body).first_chars) for body in bodies]
    for (one, left), (other, right) in product(firsts, repeat=2):
        if isinstance(left, CharSet) and isinstance(right, CharSet) and left.meets(right):
            yield one, other


def _check_tokens(group: Iterable[Leaf], *, is_mixed: bool) -> None:
    """Raise where a token that a text has too may stand where other text may: llguidance takes it for the token."""
    for leaf in group:
        if is_mixed and isinstance(leaf, TokenName) and leaf.is_text:
            mark = "any token but " if leaf.is_negated else "the token "
            raise InvalidConstraint(
                f"the GBNF asks for {mark}{leaf.tokens[0]} where it also allows text that may be spelt with the same "
                "token: put a text or a special token between the two, or write the token as text"
            )


def _read_as_one(loop: Repeated) -> list[Piece]:
    """The lexemes of a loop of which two in a row are one as well, so that nothing is lost where they are read as one.

    `([^<]+ | tag)*` has such a lexeme.
    """
    if loop.most is not None or loop.least > 1:
        return []
    parts = loop.inner.members if isinstance(loop.inner, Alternatives) else (loop.inner,)
    return [part for part in parts if isinstance(part, Piece) and _is_closed(part.body)]


def _is_closed(body: Expression) -> bool:
    return isinstance(body, Repeated) and body.most is None and body.least <= 1


def _first_chars(leaf: Leaf) -> Expression:
    if isinstance(leaf, TokenName):
        return ANY if leaf.is_text else NEVER
    return automaton(leaf.body).first_chars
