"""The masks of one step: many states in one call, each to blame for itself alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocabularies import AB, END, THREE, WIDTH, A, B, filled, ids

from greenroom.constraints import AllOf, ConstraintCompiler, ConstraintState, Lazy, Regex, fill_masks, is_dead_end
from greenroom.constraints.masks import Problem
from greenroom.constraints.state import Bits

GRAMMARS = ConstraintCompiler(THREE)
PATTERNS = ("a*", "(ab)*", "(a|b){3}", "ab|ba", "b*a", "(aab|b)*")
TEXTS = st.lists(st.sampled_from([A, B, AB]), max_size=6)


class Own(ConstraintState):
    """A user's own: allows `token` and no more; `fault` is raised where a mask is asked for."""

    def __init__(self, token: int, fault: Exception | None = None) -> None:
        self._token = token
        self._fault = fault

    def fill_mask(self, out: Bits) -> None:
        """One bit."""
        if self._fault is not None:
            raise self._fault
        out[:] = 0
        out[self._token // 32] = 1 << self._token % 32

    def consume(self, tokens: Sequence[int]) -> None:
        """Takes anything."""

    def validate(self, tokens: Sequence[int]) -> int:
        """Its token alone is legal."""
        return next((at for at, token in enumerate(tokens) if token != self._token), len(tokens))

    def forced_tokens(self) -> tuple[int, ...]:
        """None."""
        return ()

    def rollback(self, count: int) -> None:
        """Nothing to take back."""

    def fork(self) -> Own:
        """It never changes."""
        return self

    def reset(self) -> None:
        """It never changes."""

    @property
    def is_accepting(self) -> bool:
        """Never."""
        return False

    @property
    def is_stopped(self) -> bool:
        """Never."""
        return False

    @property
    def error(self) -> str | None:
        """Never."""
        return None


def start(pattern: str, *tokens: int) -> ConstraintState:
    """The state of a regular expression after `tokens`."""
    state = GRAMMARS.compile(Regex(pattern)).start()
    state.consume(tokens)
    return state


def masks(states: Sequence[ConstraintState]) -> tuple[Bits, list[Problem]]:
    """All masks at once, written over noise."""
    out = np.full((len(states), -(-WIDTH // 32)), 0xDEADBEEF, np.uint32)
    return out, fill_masks(states, out)


@given(st.lists(st.tuples(st.sampled_from(PATTERNS), TEXTS), max_size=8))
def test_all_masks_at_once_are_the_masks_one_by_one(cases: list[tuple[str, list[int]]]) -> None:
    """Those in error and those at their end among them."""
    states = [start(pattern, *tokens) for pattern, tokens in cases]
    out, errors = masks(states)
    assert errors == [state.error for state in states]
    for row, state in zip(out, states, strict=True):
        np.testing.assert_array_equal(row, filled(state) if state.error is None else np.zeros_like(row))


def test_every_kind_of_state_fills_its_own_row() -> None:
    """Grammars, several ANDed, lazy ones before and after their trigger, and a user's own, in one call."""
    lazy = GRAMMARS.compile(Lazy("ab", Regex("b+"))).start()
    late = lazy.fork()
    late.consume([AB])
    both = AllOf([start("(a|b)*"), AllOf([start("a*b"), Own(A)])])
    out, errors = masks([start("ab"), both, lazy, Own(B), late])
    assert errors == [None] * 5
    assert [ids(row) for row in out] == [{A, AB}, {A}, {A, B, AB, END}, {B}, {B}]


def test_a_state_that_raises_is_blamed_alone() -> None:
    """Its row is zero, its error is what it raised, and the others have their masks."""
    states = [
        start("ab"),
        Own(A, ZeroDivisionError("by hand")),
        start("b", A),
        AllOf([start("a"), Own(A, KeyError(1))]),
    ]
    out, errors = masks(states)
    assert errors[0] is None
    assert errors[1] == "ZeroDivisionError: by hand"
    assert errors[2] == states[2].error is not None
    assert errors[3] == "KeyError: 1"
    assert [ids(row) for row in out] == [{A, AB}, set(), set(), set()]


def test_a_dead_end_is_an_empty_mask_without_an_error() -> None:
    """Unlike an error, and unlike a stop, whose mask is EOS."""
    states = [AllOf([start("a+"), start("b+")]), start("b", A), start("a", A)]
    out, _ = masks(states)
    assert [is_dead_end(state, row) for state, row in zip(states, out, strict=True)] == [True, False, False]


def test_rows_of_another_shape_are_refused() -> None:
    """Too few, of another type, or not one after the other in memory: llguidance writes where it is told."""
    wrong: list[Any] = [np.zeros((2, 10), np.uint32), np.zeros((1, 10), np.int32), np.zeros((1, 20), np.uint32)[:, ::2]]
    for rows in wrong:
        with pytest.raises(ValueError, match="masks of 1 states need contiguous uint32 rows"):
            fill_masks([start("a")], rows)


@given(st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3), TEXTS)
def test_and_is_what_all_members_allow(patterns: list[str], tokens: list[int]) -> None:
    """After any history that is legal for all; EOS where all accept."""
    members = [start(pattern) for pattern in patterns]
    both = AllOf(members)
    tokens = tokens[: both.validate(tokens)]
    both.consume(tokens)
    row = filled(both)
    assert ids(row) == set.intersection(*[ids(filled(member)) for member in members])
    np.testing.assert_array_equal(masks([both])[0][0], row)
    assert both.is_accepting == (END in ids(row))
    assert both.validate(tokens) == min(member.validate(tokens) for member in members)
    twin = both.fork()
    twin.rollback(len(tokens))
    both.reset()
    np.testing.assert_array_equal(filled(twin), filled(both))
