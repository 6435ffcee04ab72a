"""One request's place in a grammar: masks, consuming, rolling back, and what looks like an end but is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocabularies import AB, BYTES, END, THREE, A, B, allowed, filled

from greenroom.constraints import Choice, Constraint, ConstraintCompiler, ConstraintState, Lark, Regex, Vocabulary


def start(constraint: Constraint, vocabulary: Vocabulary = THREE) -> ConstraintState:
    """A state at the start."""
    return ConstraintCompiler(vocabulary).compile(constraint).start()


def ends(state: ConstraintState) -> tuple[bool, bool]:
    """Whether it accepts, and whether it is stopped."""
    return state.is_accepting, state.is_stopped


def problem(state: ConstraintState) -> str | None:
    """Its error now."""
    return state.error


def test_a_mask_allows_every_token_that_a_legal_text_may_go_on_with() -> None:
    """Three tokens, two of them a prefix of the text, spell it in any way."""
    state = start(Regex("aba"))
    assert allowed(state) == {A, AB}
    state.consume([AB])
    assert allowed(state) == {A}


def test_eos_is_legal_exactly_where_the_text_is_complete() -> None:
    """And a text that nothing can follow is stopped, with EOS as the only way on."""
    state = start(Regex("a(ba)?"))
    assert ends(state) == (False, False)
    state.consume([A])
    assert ends(state) == (True, False)
    assert allowed(state) == {B, END}
    state.consume([B, A])
    assert ends(state) == (True, True)
    assert allowed(state) == {END}
    assert state.error is None


def test_an_illegal_token_is_an_error_and_never_an_end() -> None:
    """Though llguidance itself calls such a matcher stopped and offers EOS."""
    state = start(Regex("ab"))
    state.consume([B])
    assert state.error is not None
    assert ends(state) == (False, False)
    assert allowed(state) == set()
    assert state.forced_tokens() == ()
    assert state.validate([A]) == 0
    state.reset()
    assert state.error is not None


@pytest.mark.parametrize("token", [-1, END, 40, 10**9])
def test_ids_that_are_no_text_never_reach_llguidance(token: int) -> None:
    """An id out of range would poison a matcher in `validate` already; EOS would be counted or not, as it likes."""
    state = start(Regex("a*"))
    assert state.validate([A, token, A]) == 1
    assert problem(state) is None
    state.consume([A])
    assert ends(state) == (True, False)
    state.consume([token])
    assert str(token) in str(problem(state))


def test_rolling_back_past_the_start_is_refused_and_changes_nothing() -> None:
    """It would put llguidance's matcher into its error state."""
    state = start(Regex("a*"))
    state.consume([A, A])
    with pytest.raises(ValueError, match="cannot take 3 tokens back, 2 were consumed"):
        state.rollback(3)
    state.rollback(2)
    state.rollback(0)
    assert state.error is None
    assert allowed(state) == {A, END}


def test_a_text_that_the_vocabulary_cannot_spell_is_a_dead_end_that_can_be_taken_back() -> None:
    """No token holds a "c": the mask is empty, which is no error, and before it all is as it was."""
    state = start(Regex("ab(c|a)|bb"))
    state.consume([AB])
    dead = start(Regex("abc"))
    dead.consume([AB])
    assert allowed(state) == {A}
    assert allowed(dead) == set()
    assert dead.error is None
    assert ends(dead) == (False, False)
    dead.rollback(1)
    assert allowed(dead) == {A, AB}
    dead.consume([A])
    assert allowed(dead) == {B}


def test_a_grammar_that_names_an_eos_gets_it_only_at_the_end() -> None:
    """The contract is that an EOS ends the turn, whatever a grammar makes of it."""
    state = start(Lark(f'start: "a" <[{END}]> "b"'))
    state.consume([A])
    assert allowed(state) == set()


def test_without_an_encoder_nothing_is_forced_and_with_one_the_canonical_tokens_are() -> None:
    """A text has many spellings; only an encoder knows the model's own."""
    assert start(Regex("abab")).forced_tokens() == ()
    forced = start(Regex("(abc|abd)e"), BYTES)
    assert forced.forced_tokens() == tuple(b"ab")
    forced.consume(b"ab")
    assert forced.forced_tokens() == ()
    assert allowed(forced) == set(b"cd")
    assert forced.validate(b"cex") == 2


def test_forced_text_that_spells_a_special_token_stays_text() -> None:
    """The tokenizer reads "<tool>" as its special token, which no grammar takes for text; forcing then stops."""
    state = start(Choice("say <tool> now"), BYTES)
    text: list[int] = []
    while not state.is_stopped:
        legal = allowed(state)
        assert state.error is None
        assert len(legal) == 1
        text += legal
        state.consume([*legal])
    assert bytes(text) == b"say <tool> now"


def test_a_special_token_that_the_grammar_names_is_legal() -> None:
    """By name or by id."""
    tool = BYTES.special_tokens["<tool>"]
    for grammar in ('start: "a" <tool> "b"', f'start: "a" <[{tool}]> "b"'):
        state = start(Lark(grammar), BYTES)
        assert state.forced_tokens() == (ord("a"), tool, ord("b"))
        state.consume([ord("a")])
        assert allowed(state) == {tool}


TEXTS = st.lists(st.sampled_from([A, B, AB]), max_size=12)


@given(TEXTS, TEXTS, st.integers(0, 12))
def test_a_fork_and_a_rollback_equal_a_replay(before: list[int], after: list[int], back: int) -> None:
    """From any history: neither knows of the other's tokens."""
    state = start(Regex("(aab|ba|ab)*"))
    before = before[: state.validate(before)]
    state.consume(before)
    filled(state)
    twin = state.fork()
    legal = after[: twin.validate(after)]
    twin.consume(legal)
    filled(twin)
    back = min(back, len(before) + len(legal))
    twin.rollback(back)
    kept = [*before, *legal][: len(before) + len(legal) - back]
    assert_same(twin, replayed(kept))
    assert_same(state, replayed(before))
    twin.reset()
    assert_same(twin, replayed([]))


def replayed(tokens: Sequence[int]) -> ConstraintState:
    """A fresh state after `tokens`."""
    state = start(Regex("(aab|ba|ab)*"))
    state.consume(tokens)
    return state


def assert_same(one: ConstraintState, other: ConstraintState) -> None:
    """Nothing tells the two apart."""
    np.testing.assert_array_equal(filled(one), filled(other))
    assert (*ends(one), one.error) == (*ends(other), other.error)
    assert one.forced_tokens() == other.forced_tokens()
