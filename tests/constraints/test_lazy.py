"""Free until a trigger, then constrained."""

from __future__ import annotations

import numpy as np
import pytest
from annotations import Differing
from hypothesis import given
from hypothesis import strategies as st
from vocabularies import AB, BYTES, END, THREE, WIDTH, A, B, allowed, filled, ids

from greenroom.constraints import Bits, Choice, ConstraintCompiler, ConstraintState, JsonSchema, Lazy, Regex, Vocabulary
from greenroom.constraints.kinds import lazy
from greenroom.constraints.kinds.lazy import CROSSES, Trigger
from greenroom.errors import InvalidConstraint

WORDS = [b"a", b"b", b"ab", b"ba", b"aa", b"aba", b"bab", b"aab", b"abab", b"</s>"]
MANY = Vocabulary.from_tokens(WORDS, special=(), n_vocab=WIDTH, eos=[9])
"""Tokens that overlap a trigger in every way."""


def start(lazy: Lazy, vocabulary: Vocabulary = BYTES) -> ConstraintState:
    """A state at the start."""
    return ConstraintCompiler(vocabulary).compile(lazy).start()


def test_before_the_trigger_everything_is_legal_and_after_it_the_constraint_decides() -> None:
    """Special tokens and the end too; the constraint's end is the end."""
    state = start(Lazy("=>", Choice("yes", "no")))
    state.consume(b"what = ")
    assert state.is_accepting
    assert allowed(state) == set(range(259))
    state.consume(b"=>")
    assert not allowed(state) - set(b"yn \t\r\n")
    state.consume(b"y")
    assert state.forced_tokens() == tuple(b"es")
    state.consume(b"es")
    assert state.is_stopped
    assert allowed(state) == {256, 257}


def test_a_trigger_may_be_a_token_or_a_special_tokens_name() -> None:
    """By id it must be that token; by name the text that spells it will do."""
    tool = BYTES.special_tokens["<tool>"]
    by_id, by_name = start(Lazy(tool, Regex("x"))), start(Lazy("<tool>", Regex("x")))
    for state in (by_id, by_name):
        state.consume([ord("a"), tool])
        assert allowed(state) == set(b"x \t\r\n")
    spelt = [start(Lazy(trigger, Regex("x"))) for trigger in (tool, "<tool>")]
    for state in spelt:
        state.consume(b"<tool>")
    assert [len(allowed(state)) for state in spelt] == [259, 5]


def test_a_token_that_goes_past_the_trigger_is_illegal() -> None:
    """The trigger can be spelt by shorter ones; after "a", so can its rest."""
    state = start(Lazy("a", Regex("b+")), THREE)
    assert allowed(state) == {A, B, END}
    assert state.validate([B, AB]) == 1
    state.consume([AB])
    assert state.error is not None


@pytest.mark.parametrize("token", [-1, END, 100, 10**9])
def test_ids_that_are_no_text_are_errors_before_the_trigger_too(token: int) -> None:
    """Out of range, unknown, or an EOS."""
    state = start(Lazy("bb", Regex("a")), THREE)
    assert state.validate([A, token]) == 1
    state.consume([A, token])
    assert str(token) in str(state.error)
    assert not state.is_accepting


@given(st.text("ab", min_size=1, max_size=5), st.lists(st.sampled_from(range(9)), max_size=10))
def test_the_trigger_is_found_where_the_text_first_holds_it(what: str, tokens: list[int]) -> None:
    """And a mask allows exactly the tokens that do not go past it."""
    trigger = Trigger(MANY, what)
    position, text = 0, b""
    for token in tokens:
        crossing = {
            number
            for number, word in enumerate(WORDS)
            if number != 9 and 0 <= (text + word).find(what.encode()) < len(text + word) - len(what)
        }
        assert ids(trigger.mask(position)) == set(range(10)) - crossing
        position = trigger.step(position, token)
        text += WORDS[token]
        assert (position == CROSSES) == (token in crossing)
        if position in (CROSSES, trigger.end):
            assert position == CROSSES or text.endswith(what.encode())
            return
        assert what.encode() not in text


@pytest.mark.parametrize("unit", ["a", "ab", "aab"])
def test_a_trigger_that_repeats_itself_takes_each_token_out_once_a_place(
    unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of its beginnings end where it has come to: thousands of tokens may go past one of them."""
    runs = [(unit * 40)[:length].encode() for length in range(1, 41)]
    more = [bytes((unit.encode()[-1] ^ 3, first, second)) for first in range(97, 122) for second in range(97, 122)]
    others = [unit[:1].encode() + each for each in more]
    vocabulary = Vocabulary.from_tokens(
        [*runs, *others, b"</s>"], special=(), n_vocab=WIDTH * 8, eos=[len(runs + others)]
    )
    taken: list[int] = []
    without = lazy.without

    def count(mask: Bits, tokens: list[int]) -> Bits:
        taken.append(len(tokens))
        return without(mask, tokens)

    monkeypatch.setattr(lazy, "without", count)
    trigger = Trigger(vocabulary, (unit * 5000)[:10_000])
    places = range(trigger.end - 41, trigger.end)
    words = [word for word in vocabulary.bytes if word]
    most = sum(word.startswith(trigger._text[place:]) for place in places for word in words)
    assert sum(taken) <= most
    assert len(taken) <= 42


@given(st.lists(st.sampled_from([A, B, AB]), max_size=10), st.integers(0, 10))
def test_rolling_back_over_the_trigger_equals_a_replay(tokens: list[int], back: int) -> None:
    """From inside the constraint to before the trigger, and on from there."""
    compiled = ConstraintCompiler(THREE).compile(Lazy("ab", Regex("(ab|ba)*")))
    state = compiled.start()
    tokens = tokens[: state.validate(tokens)]
    state.consume(tokens)
    twin = state.fork()
    back = min(back, len(tokens))
    twin.rollback(back)
    again = compiled.start()
    again.consume(tokens[: len(tokens) - back])
    np.testing.assert_array_equal(filled(twin), filled(again))
    assert (twin.is_accepting, twin.is_stopped) == (again.is_accepting, again.is_stopped)
    with pytest.raises(ValueError, match="were consumed"):
        twin.rollback(len(tokens) - back + 1)
    state.reset()
    np.testing.assert_array_equal(filled(state), filled(compiled.start()))


def test_what_follows_the_trigger_is_checked_afterwards() -> None:
    """A validator of the JSON after it; without a trigger there is nothing to check."""
    compiled = ConstraintCompiler(BYTES).compile(Lazy(">", JsonSchema(Differing)))
    assert compiled.check([*b"a>[1,2]"]) is None
    assert compiled.check([*b"[1,1]"]) is None
    assert "must differ" in str(compiled.check([*b"a>[1,1]"]))


def test_white_space_may_stand_behind_the_trigger() -> None:
    """As models write it behind a thought: a little, and only in front of what follows."""
    compiled = ConstraintCompiler(BYTES).compile(Lazy("</think>", JsonSchema(Differing, whitespace=False)))
    assert compiled.check([*b"so</think>\n\n[1,2]"]) is None
    assert "must differ" in str(compiled.check([*b"so</think>\n\n[1,1]"]))
    state = compiled.start()
    state.consume(b"so</think>")
    assert state.forced_tokens() == ()
    assert allowed(state) == set(b"[ \t\r\n")
    assert state.validate([*b"\n\n\n\n\n["]) == 4
    assert state.validate([*b"\n\n[1, "]) == 5
    state.consume(b" \n \n")
    assert allowed(state) == set(b"[")
    state.consume(b"[1,2]")
    assert state.is_stopped


def test_white_space_that_the_constraint_takes_is_its_own() -> None:
    """So it is counted there, and checked with the rest."""
    state = start(Lazy(">", Regex(r"\n{2,3}x")))
    state.consume(b">\n")
    assert allowed(state) == set(b"\n")
    state.consume(b"\n\n")
    assert allowed(state) == set(b"x")


SPACED = [b" ", b"\n", b"\n\n", b" \n \n ", b">", b"a", b"a ", b"</s>"]
SPACES = Vocabulary.from_tokens(SPACED, special=(), n_vocab=WIDTH, eos=[7])


@given(st.lists(st.sampled_from(range(7)), max_size=9), st.integers(0, 9), st.sampled_from(["(a ?)*", " ?a*", "\n\na"]))
def test_masks_validation_and_rolling_back_agree_about_white_space(tokens: list[int], back: int, inner: str) -> None:
    """Token by token, at once, and after any of them were taken back."""
    compiled = ConstraintCompiler(SPACES).compile(Lazy(">", Regex(inner)))
    state = compiled.start()
    taken: list[int] = []
    for token in tokens:
        if token not in allowed(state):
            assert state.validate([token]) == 0
            break
        state.consume([token])
        taken.append(token)
        assert state.error is None
    assert compiled.start().validate(tokens) == len(taken)
    back = min(back, len(taken))
    twin, again = state.fork(), compiled.start()
    twin.rollback(back)
    again.consume(taken[: len(taken) - back])
    np.testing.assert_array_equal(filled(twin), filled(again))


@pytest.mark.parametrize("trigger", ["", True, 1.5, None])
def test_a_trigger_is_text_or_an_id(trigger: object) -> None:
    """At creation."""
    with pytest.raises(InvalidConstraint, match="a trigger is a string"):
        Lazy(trigger, Regex("a"))  # type: ignore[arg-type]


def test_a_trigger_must_be_in_the_vocabulary() -> None:
    """When it is compiled."""
    with pytest.raises(InvalidConstraint, match="no token 299"):
        ConstraintCompiler(BYTES).compile(Lazy(299, Regex("a")))
