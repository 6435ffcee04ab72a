"""What a rule of GBNF says, as a value; its constructors bring it into a form without empty or double parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

__all__ = [
    "ANY",
    "EMPTY",
    "NEVER",
    "Alternatives",
    "CharSet",
    "Expression",
    "Piece",
    "Repeated",
    "RuleName",
    "Series",
    "TokenName",
    "char_set",
    "either",
    "is_nullable",
    "repeated",
    "series",
    "without_empty",
]

_LAST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
"""Code points that no text has."""


class Expression:
    """A set of texts. `size` is how many nodes it has, `depth` how many are in each other."""

    size: int = 1
    depth: int = 1

    @property
    def parts(self) -> tuple[Expression, ...]:
        """What it is made of."""
        return ()


@dataclass(frozen=True)
class CharSet(Expression):
    """One character, out of `ranges`: first and last code points, in order, none of which touch."""

    ranges: tuple[tuple[int, int], ...]

    def meets(self, other: CharSet) -> bool:
        """Whether a character is in both."""
        mine, theirs = iter(self.ranges), iter(other.ranges)
        left, right = next(mine, None), next(theirs, None)
        while left is not None and right is not None:
            if left[0] <= right[1] and right[0] <= left[1]:
                return True
            if left[1] < right[1]:
                left = next(mine, None)
            else:
                right = next(theirs, None)
        return False


@dataclass(frozen=True, eq=False)
class TokenName(Expression):
    """One token by its id; or any other than those. `is_text` where it may be one that a text has too."""

    tokens: tuple[int, ...]
    is_negated: bool
    is_text: bool


@dataclass(frozen=True)
class RuleName(Expression):
    """What the rule of that name says."""

    name: str


class _Compound(Expression):
    """What has parts. Its hash is known, since parts are looked up over and over."""

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((type(self).__name__, self.__dict__.get("least"), self.__dict__.get("most"), self.parts))

    @cached_property
    def size(self) -> int:  # type: ignore[override]
        """See `Expression`."""
        return 1 + sum(part.size for part in self.parts)

    @cached_property
    def depth(self) -> int:  # type: ignore[override]
        """See `Expression`."""
        return 1 + max((part.depth for part in self.parts), default=0)


@dataclass(frozen=True)
class _Members(_Compound):
    members: tuple[Expression, ...]

    __hash__ = _Compound.__hash__

    @property
    def parts(self) -> tuple[Expression, ...]:
        """See `Expression`."""
        return self.members


class Series(_Members):
    """Its parts after each other; without any, the empty text."""


class Alternatives(_Members):
    """One of its parts; without any, no text at all."""


@dataclass(frozen=True)
class Repeated(_Compound):
    """`inner` from `least` to `most` times; without `most`, as often as one likes."""

    inner: Expression
    least: int
    most: int | None

    __hash__ = _Compound.__hash__

    @property
    def parts(self) -> tuple[Expression, ...]:
        """See `Expression`."""
        return (self.inner,)


@dataclass(frozen=True, eq=False)
class Piece(Expression):
    """A text that is read as one lexeme, at one place of a grammar. `body` is regular and never empty."""

    body: Expression


EMPTY = Series(())
NEVER = Alternatives(())


def char_set(ranges: Iterable[tuple[int, int]], *, is_negated: bool = False) -> Expression:
    """One character in `ranges`, or out of them. Ranges that go downwards, and surrogates, are of no text."""
    joined = _joined([(first, min(last, _LAST)) for first, last in ranges if first <= min(last, _LAST)])
    if is_negated:
        joined = _others(_joined([*joined, _SURROGATES]))
    else:
        joined = [span for each in joined for span in _without_surrogates(*each)]
    return CharSet(tuple(joined)) if joined else NEVER


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def _others(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    starts = [0, *[last + 1 for _, last in ranges]]
    ends = [*[first - 1 for first, _ in ranges], _LAST]
    return [(first, last) for first, last in zip(starts, ends, strict=True) if first <= last]


def _without_surrogates(first: int, last: int) -> Iterator[tuple[int, int]]:
    if last < _SURROGATES[0] or first > _SURROGATES[1]:
        yield first, last
        return
    if first < _SURROGATES[0]:
        yield first, _SURROGATES[0] - 1
    if last > _SURROGATES[1]:
        yield _SURROGATES[1] + 1, last


ANY = char_set([], is_negated=True)


def series(parts: Iterable[Expression]) -> Expression:
    """`parts` after each other. Those that are series themselves stay so: a grammar's own units are not mixed."""
    found: list[Expression] = []
    for part in parts:
        if part == NEVER:
            return NEVER
        if found and (isinstance(part, Repeated) or isinstance(found[-1], Repeated)):
            found[-1:] = _counted(found[-1], part)
        elif part != EMPTY:
            found.append(part)
    return found[0] if len(found) == 1 else Series(tuple(found))


def _counted(one: Expression, other: Expression) -> list[Expression]:
    """Both after each other: of one thing that each repeats, as often as both do together."""
    inner, least, most = _times(one)
    others, fewest, highest = _times(other)
    if other == EMPTY or inner != others:
        return [one] if other == EMPTY else [one, other]
    return [Repeated(inner, least + fewest, None if most is None or highest is None else most + highest)]


def _times(part: Expression) -> tuple[Expression, int, int | None]:
    return (part.inner, part.least, part.most) if isinstance(part, Repeated) else (part, 1, 1)


def either(parts: Iterable[Expression]) -> Expression:
    """One of `parts`; all that are single characters become one set."""
    found: dict[Expression, None] = {}
    ranges: list[tuple[int, int]] = []
    for part in parts:
        for each in part.members if isinstance(part, Alternatives) else [part]:
            if isinstance(each, CharSet):
                ranges += each.ranges
            else:
                found[each] = None
    if ranges:
        found = {char_set(ranges): None, **found}
    return next(iter(found)) if len(found) == 1 else Alternatives(tuple(found))


def repeated(inner: Expression, least: int, most: int | None) -> Expression:
    """`inner` from `least` to `most` times."""
    if inner == EMPTY or most == 0 or (inner == NEVER and least == 0):
        return EMPTY
    if inner == NEVER or (least, most) == (1, 1):
        return inner
    if is_nullable(inner):
        return repeated(without_empty(inner), 0, most)
    if isinstance(inner, Repeated) and _is_contiguous(inner, least, most):
        ends = None if most is None or inner.most is None else most * inner.most
        return repeated(inner.inner, least * inner.least, ends)
    return Repeated(inner, least, most)


def _is_contiguous(inner: Repeated, least: int, most: int | None) -> bool:
    """Whether that many of `inner` are any number of what it repeats between the fewest and the most."""
    return inner.least <= 1 or least == most or (inner.most is None and least > 0)


def is_nullable(expression: Expression) -> bool:
    """Whether the empty text is among its texts; that of a rule is not looked into."""
    if isinstance(expression, Series):
        return all(map(is_nullable, expression.members))
    if isinstance(expression, Alternatives):
        return any(map(is_nullable, expression.members))
    return isinstance(expression, Repeated) and (expression.least == 0 or is_nullable(expression.inner))


def without_empty(expression: Expression) -> Expression:
    """Its texts but for the empty one, for what names no rules."""
    if not is_nullable(expression):
        return expression
    if isinstance(expression, Alternatives):
        return either(map(without_empty, expression.members))
    if isinstance(expression, Repeated):
        return repeated(expression.inner, 1, expression.most)
    if isinstance(expression, Series) and expression.members:
        first, *others = expression.members
        after = series(others)
        return either([series([without_empty(first), after]), without_empty(after)])
    return NEVER
