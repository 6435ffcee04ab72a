"""One of several routes: sequences of constraints that may begin alike, and part where the text tells them apart.

    thought -> blank -> calls
                     -> answer

Each leg that may be under way has a state of its own, which takes every token for as long as it can. Where one is
complete the legs behind it begin, while it may go on itself. A mask is the OR of those of all legs under way, so
whatever they are made of (a grammar, several ANDed, a user's own), none has to know of the others. Once one is left,
its mask is filled with all others of the step. A leg begins with a token of its own: none belongs to two legs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from greenroom.constraints.constraint import CompiledConstraint, Compiler, Constraint, limit_nesting
from greenroom.constraints.state import Bits, CompositeState, ConstraintState, ForcingState, parts, stop_forcing
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import InvalidConstraint, shown

__all__ = ["Leg", "Routes"]


@dataclass(frozen=True)
class Leg:
    """A constraint, and the legs of which one follows it; a route ends behind a leg that has none."""

    constraint: Constraint
    then: tuple[Leg, ...] = ()


@dataclass(frozen=True, init=False)
class Routes(Constraint):
    """The output follows one of the routes that begin with `legs`, from end to end."""

    legs: tuple[Leg, ...]

    def __init__(self, *legs: Leg) -> None:
        object.__setattr__(self, "legs", legs)
        if not legs or not all(isinstance(leg, Leg) for leg in legs):
            raise InvalidConstraint(f"Routes needs legs, got {shown(legs)}")
        limit_nesting(self, [leg.constraint for leg in _all_legs(legs)])

    def compile(self, compiler: Compiler) -> CompiledConstraint:
        """See `Constraint.compile`. The check is that of the legs of a route that the whole output follows."""
        legs = _all_legs(self.legs)
        numbers = {id(leg): number for number, leg in enumerate(legs)}
        compiled = [compiler.compile(leg.constraint) for leg in legs]
        nodes = [
            _Node(each, tuple([numbers[id(behind)] for behind in leg.then]))
            for leg, each in zip(legs, compiled, strict=True)
        ]
        graph = _Graph(compiler.vocabulary, tuple(nodes), tuple([numbers[id(leg)] for leg in self.legs]))
        warnings = [message for each in compiled for message in each.warnings]
        return CompiledConstraint(_State(graph), warnings=warnings, check=graph.check)


def _all_legs(legs: Sequence[Leg]) -> list[Leg]:
    """Those, and all behind them, each once: two routes may share one."""
    found: dict[int, Leg] = {}
    waiting = list(legs)
    while waiting:
        leg = waiting.pop()
        if id(leg) not in found:
            found[id(leg)] = leg
            waiting += leg.then
    return list(found.values())


class _Node(NamedTuple):
    """A leg of one vocabulary, and the numbers of those behind it."""

    compiled: CompiledConstraint
    then: tuple[int, ...]


class _Graph(NamedTuple):
    """All legs; `first` are those that a route begins with."""

    vocabulary: Vocabulary
    nodes: tuple[_Node, ...]
    first: tuple[int, ...]

    def check(self, tokens: Sequence[int]) -> str | None:
        """Why a complete output is wrong; of several routes that it follows, one without a problem is enough."""
        state = _State(self)
        for place in range(len(tokens)):
            if state.last_walk is not None:  # the rest is its own
                break
            state.consume(tokens[place : place + 1])
        ends = [walk for walk in state.under_way if walk.is_last and (state.last_walk or walk.state.is_accepting)]
        problems = [self._problem(walk, tokens, len(tokens)) for walk in ends]
        return None if None in problems or not problems else problems[-1]

    def _problem(self, walk: _Walk, tokens: Sequence[int], end: int) -> str | None:
        own = self.nodes[walk.number].compiled.check(tokens[walk.start : end])
        return own if own is not None or walk.before is None else self._problem(walk.before, tokens, walk.start)


class _Walk:
    """A leg from the token `start` on, of which it took `count`; `before` is that which it follows."""

    __slots__ = ("before", "count", "is_last", "number", "start", "state")

    def __init__(
        self, number: int, state: ConstraintState, start: int, count: int, before: _Walk | None, *, is_last: bool
    ) -> None:
        self.number = number
        self.state = state
        self.start = start
        self.count = count
        self.before = before
        self.is_last = is_last

    def __repr__(self) -> str:
        return f"<_Walk {self.start}+{self.count} {self.state!r}>"

    def fork(self) -> _Walk:
        """An independent copy; of those before it only where they began is asked for."""
        return _Walk(self.number, self.state.fork(), self.start, self.count, self.before, is_last=self.is_last)


class _State(CompositeState, ForcingState):
    """Walks that took every token so far are under way; the others are kept for what is taken back."""

    __slots__ = ("_error", "_graph", "_length", "_walks")

    def __init__(self, graph: _Graph) -> None:
        self._graph = graph
        self._length = 0
        self._walks: list[_Walk] = []
        self._error: str | None = None
        self._begin()

    def __repr__(self) -> str:
        return f"<Routes tokens={self._length} under_way={self.under_way!r}>"

    @property
    def under_way(self) -> list[_Walk]:
        """The walks of which one is the output's."""
        return [walk for walk in self._walks if self._is_under_way(walk)]

    @property
    def last_walk(self) -> _Walk | None:
        """The only one left, where no leg follows it."""
        walks = self.under_way
        return walks[0] if len(walks) == 1 and walks[0].is_last else None

    def _is_under_way(self, walk: _Walk) -> bool:
        return walk.start + walk.count == self._length and walk.state.error is None

    def _begin(self) -> None:
        """Begin each leg that may begin here."""
        if self._length == 0:
            self._add(self._graph.first, None)
        for walk in self._walks:  # and those that are added meanwhile
            if not walk.is_last and self._is_under_way(walk) and walk.state.is_accepting:
                self._add(self._graph.nodes[walk.number].then, walk)

    def _add(self, numbers: Sequence[int], before: _Walk | None) -> None:
        here = {walk.number for walk in self._walks if walk.start == self._length}
        for number in numbers:
            if number not in here:
                node = self._graph.nodes[number]
                walk = _Walk(number, node.compiled.start(), self._length, 0, before, is_last=not node.then)
                self._walks.append(walk)

    @property
    def parts(self) -> tuple[ConstraintState, ...]:
        """See `CompositeState.parts`: of the last leg, once it is alone."""
        last = self.last_walk
        others = [walk for walk in self._walks if walk is not last]
        return (self,) if last is None or _are_freed(others) else parts(last.state)

    def fill_mask(self, out: Bits) -> None:
        """See `ConstraintState.fill_mask`."""
        last = self.last_walk
        if last is not None:
            last.state.fill_mask(out)
            return
        out[:] = 0
        mask = np.empty_like(out)
        for walk in self.under_way:
            walk.state.fill_mask(mask)
            if walk.state.error is None:
                out |= mask
        self._graph.vocabulary.end_only_where(np.array([self.is_accepting]), out[None], np.array([0]))

    def consume(self, tokens: Sequence[int]) -> None:
        """See `ConstraintState.consume`."""
        for place, token in enumerate(tokens):
            if self.error is not None:
                return
            last = self.last_walk
            if last is not None:
                rest = tokens[place:]
                last.state.consume(rest)
                last.count += len(rest)
                self._length += len(rest)
                return
            self._take(token)

    def _take(self, token: int) -> None:
        walks = [walk for walk in self.under_way if walk.state.validate((token,)) == 1]
        if not walks:
            self._error = f"token {token} is not legal here"
            return
        for walk in walks:
            walk.state.consume((token,))
            walk.count += 1
        self._length += 1
        self._walks = [walk for walk in self._walks if walk.count]
        self._begin()

    def validate(self, tokens: Sequence[int]) -> int:
        """See `ConstraintState.validate`."""
        last = self.last_walk
        if last is not None:
            return last.state.validate(tokens)
        twin = self.fork()
        for count, token in enumerate(tokens):
            twin.consume((token,))
            if twin.error is not None:
                return count
        return len(tokens) if self.error is None else 0

    def forced_tokens(self) -> tuple[int, ...]:
        """See `ConstraintState.forced_tokens`: what all legs under way force alike."""
        forced = [walk.state.forced_tokens() for walk in self.under_way]
        length = min(map(len, forced), default=0)
        alike = next((place for place in range(length) if len({each[place] for each in forced}) > 1), length)
        return forced[0][:alike] if alike else ()

    def rollback(self, count: int) -> None:
        """See `ConstraintState.rollback`."""
        if not 0 <= count <= self._length:
            raise ValueError(f"cannot take {count} tokens back, {self._length} were consumed")
        if count == 0 or self._error is not None:
            return
        self._length -= count
        self._walks = [walk for walk in self._walks if walk.start <= self._length]
        for walk in self._walks:
            beyond = walk.start + walk.count - self._length
            if beyond > 0:
                walk.state.rollback(beyond)
                walk.count -= beyond
        self._begin()

    def fork(self) -> _State:
        """See `ConstraintState.fork`."""
        twin = object.__new__(_State)
        twin._graph, twin._length, twin._error = self._graph, self._length, self._error
        twin._walks = [walk.fork() for walk in self._walks]
        return twin

    def reset(self) -> None:
        """See `ConstraintState.reset`."""
        self._walks.clear()
        self._length, self._error = 0, None
        self._begin()

    @property
    def is_freed(self) -> bool:
        """See `ForcingState.is_freed`."""
        return _are_freed(self._walks)

    def stop_forcing(self) -> bool:
        """See `ForcingState.stop_forcing`."""
        return stop_forcing([part for walk in self.under_way for part in parts(walk.state)])

    @property
    def is_accepting(self) -> bool:
        """See `ConstraintState.is_accepting`."""
        return self._error is None and any(walk.is_last and walk.state.is_accepting for walk in self.under_way)

    @property
    def is_stopped(self) -> bool:
        """See `ConstraintState.is_stopped`."""
        return self.is_accepting and all(walk.state.is_stopped for walk in self.under_way)

    @property
    def error(self) -> str | None:
        """See `ConstraintState.error`: where no leg is under way, that of the last that was."""
        if self._error is not None or self.under_way:
            return self._error
        return next((walk.state.error for walk in reversed(self._walks) if walk.state.error is not None), None)


def _are_freed(walks: Sequence[_Walk]) -> bool:
    return any(isinstance(part, ForcingState) and part.is_freed for walk in walks for part in parts(walk.state))
