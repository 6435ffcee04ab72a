"""Routes: legs that are any constraint at all, under way side by side, and taken back."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from vocabularies import AB, BYTES, END, THREE, A, B, allowed, filled, ids

from greenroom.constraints import (
    All,
    Choice,
    CompiledConstraint,
    Compiler,
    Constraint,
    ConstraintCompiler,
    ConstraintState,
    JsonSchema,
    Lark,
    Lazy,
    Regex,
    fill_masks,
)
from greenroom.constraints.kinds.reasoning_budget import ReasoningBudget
from greenroom.constraints.routes.markers import Exactly, Unlike, Until
from greenroom.constraints.routes.routes import Leg, Routes
from greenroom.constraints.state import Bits, ForcingState, parts
from greenroom.errors import InvalidConstraint


def routes(*ways: Sequence[Constraint]) -> Routes:
    """One for each sequence."""

    def leg(way: Sequence[Constraint]) -> Leg:
        return Leg(way[0], (leg(way[1:]),) if len(way) > 1 else ())

    return Routes(*[leg(way) for way in ways])


WAYS: list[tuple[list[list[Constraint]], str]] = [
    ([[Regex("ab?"), Regex("b*c")]], "ab?b*c"),
    ([[Regex("(ab)*")], [Regex("a*"), Choice("b", "ba")]], "(ab)*|a*(b|ba)"),
    ([[Regex("a*"), Regex("a*"), Regex("b?")]], "a*a*b?"),
    ([[Until("ab"), Regex("[ab]?"), Regex("c")], [Exactly("cc")]], "(?:(?!ab)[abc])*ab[ab]?c|cc"),
    ([[All(Regex("[abc]{0,4}"), Unlike(("ab", "c")))], [Exactly("ab")]], "(?!ab|c)[abc]{0,4}|ab"),
    ([[Lark('start: "a" start | "b"')], [Lazy("c", Choice("a"))]], "a*b|[ab]*(ca)?"),
]
"""Routes, and the expression that their texts match, over the letters a, b and c."""


@pytest.mark.parametrize("number", range(len(WAYS)))
def test_texts_are_those_of_an_expression(number: int) -> None:
    """Every text of up to five letters: its masks, the end, and the whole; and after steps back what was before."""
    ways, expression = WAYS[number]
    state = ConstraintCompiler(BYTES).compile(routes(*ways)).start()
    texts = [""]
    for _ in range(5):
        texts += [text + letter for text in texts if len(text) == len(texts[-1]) for letter in "abc"]
    whole = {text for text in texts if re.fullmatch(expression, text)}
    began = {text[:length] for text in whole for length in range(len(text) + 1)}
    is_open = number in (3, 5)  # more letters may come before its marker than there are here
    for text in sorted(texts):
        state.reset()
        for place, letter in enumerate(text.encode()):
            if len(text[:place]) < 5 and state.validate((letter,)) == 0:
                break
            state.consume((letter,))
        else:
            assert state.is_accepting is (text in whole), text
            assert text in began or len(text) >= 4 or is_open, text
            mask = allowed(state)
            assert bool(mask & set(BYTES.eos)) is state.is_accepting
            assert {letter for letter in b"abc" if state.validate((letter,))} == mask & set(b"abc")
            if len(text) > 1:
                twin = state.fork()
                twin.rollback(len(text) - 1)
                twin.consume(text[1:].encode())
                assert (allowed(twin), twin.is_accepting, twin.is_stopped) == (mask, *_ends(state))
            continue
        assert text[: place + 1] not in began, text


def _ends(state: ConstraintState) -> tuple[bool, bool]:
    return state.is_accepting, state.is_stopped


def test_walks_to_and_fro_end_where_a_straight_one_does() -> None:
    """Tokens of several letters, drawn from masks; forks and steps back of any length on the way."""
    dice = random.Random(11)  # noqa: S311 - the same walks each time
    given = routes([Until("ab"), Regex("a*"), Regex("[ab]{1,6}")], [Regex("b(ab)*")], [Exactly("bb"), Regex("a+b")])
    compiled = ConstraintCompiler(THREE).compile(given)
    for _ in range(40):
        state, tokens = compiled.start(), list[int]()
        for _ in range(30):
            legal = sorted(allowed(state) - {END})
            if tokens and (not legal or dice.random() < 0.3):
                count = dice.randrange(len(tokens) + 1)
                state.rollback(count)
                del tokens[len(tokens) - count :]
            elif legal:
                tokens.append(dice.choice(legal))
                state.consume(tokens[-1:])
            if dice.random() < 0.2:
                state = state.fork()
            straight = compiled.start()
            straight.consume(tokens)
            assert straight.error is None
            assert (allowed(straight), _ends(straight)) == (allowed(state), _ends(state)), tokens
            assert (straight.forced_tokens(), state.error) == (state.forced_tokens(), None)


def test_what_is_not_legal_is_an_error() -> None:
    """It stays one; an EOS is never consumed; ids may be out of range."""
    state = ConstraintCompiler(BYTES).compile(routes([Exactly("ab")], [Exactly("ac"), Exactly("d")])).start()
    assert state.validate(b"ac") == 2
    assert state.validate([*b"acd", 256]) == 3
    assert [state.validate((token,)) for token in (256, 258, 299, 300, -1, ord("b"))] == [0] * 6
    state.consume(b"ax")
    assert "token 120 is not legal here" in str(state.error)
    assert (_ends(state), state.validate(b"b"), state.fork().error) == ((False, False), 0, state.error)
    with pytest.raises(ValueError, match="cannot take 3 tokens back"):
        state.rollback(3)
    state.reset()
    assert allowed(state) == {ord("a")}


def test_masks_of_a_step_are_filled_together_once_one_leg_is_left() -> None:
    """Before that, in one; either way they are those that the state fills alone."""
    compiled = ConstraintCompiler(BYTES).compile(
        routes([Regex("[a-c]"), All(Regex("[b-x]+"), Unlike(("bc",)))], [Exactly("<tool>")])
    )
    states = [compiled.start() for _ in range(3)]
    for state, text in zip(states, ("", "a", "ab"), strict=True):
        state.consume(text.encode())
    assert [len(parts(state)) for state in states] == [1, 1, 2]
    rows = np.zeros((3, BYTES.words), np.uint32)
    assert fill_masks(states, rows) == [None] * 3
    assert [ids(row) for row in rows] == [
        set(b"abc") | {258},
        set(range(98, 121)),
        set(range(98, 121)) - {99} | {256, 257},
    ]
    assert [ids(row) for row in rows] == [ids(filled(state)) for state in states]


def test_what_all_legs_force_is_forced() -> None:
    """As far as they agree; where one may end, nothing is."""
    compiler = ConstraintCompiler(BYTES)
    state = compiler.compile(routes([Exactly("abcd")], [Exactly("abxy")])).start()
    assert bytes(state.forced_tokens()) == b"ab"
    state.consume(b"abx")
    assert bytes(state.forced_tokens()) == b"y"
    assert compiler.compile(routes([Exactly("ab")], [Regex("(ab)?")])).start().forced_tokens() == ()


def test_a_leg_that_misspells_is_freed() -> None:
    """JSON that has a special token's name is spelt otherwise, and who replays it is told so."""
    compiled = ConstraintCompiler(BYTES).compile(routes([JsonSchema({"const": "<tool>"})], [Exactly("x")]))
    state = compiled.start()
    for letter in b'"<tool>"':
        assert letter in allowed(state)
        state.consume((letter,))
    assert state.is_accepting
    assert any(isinstance(part, ForcingState) and part.is_freed for part in parts(state))


class Pairs(ConstraintState):
    """A user's own: an even number of tokens."""

    def __init__(self, vocabulary: Any, count: int = 0) -> None:
        self._vocabulary, self._count = vocabulary, count

    def fill_mask(self, out: Bits) -> None:
        """See `ConstraintState.fill_mask`."""
        out[:] = self._vocabulary.known
        if not self.is_accepting:
            out &= ~self._vocabulary.ends

    def consume(self, tokens: Sequence[int]) -> None:
        """See `ConstraintState.consume`."""
        self._count += len(tokens)

    def validate(self, tokens: Sequence[int]) -> int:
        """See `ConstraintState.validate`."""
        return len(tokens)

    def forced_tokens(self) -> tuple[int, ...]:
        """See `ConstraintState.forced_tokens`."""
        return ()

    def rollback(self, count: int) -> None:
        """See `ConstraintState.rollback`."""
        self._count -= count

    def fork(self) -> Pairs:
        """See `ConstraintState.fork`."""
        return Pairs(self._vocabulary, self._count)

    def reset(self) -> None:
        """See `ConstraintState.reset`."""
        self._count = 0

    @property
    def is_accepting(self) -> bool:
        """See `ConstraintState.is_accepting`."""
        return self._count % 2 == 0

    @property
    def is_stopped(self) -> bool:
        """See `ConstraintState.is_stopped`."""
        return False

    @property
    def error(self) -> str | None:
        """See `ConstraintState.error`."""
        return None


class Twos(Constraint):
    """Its constraint."""

    def compile(self, compiler: Compiler) -> CompiledConstraint:
        """See `Constraint.compile`."""
        return CompiledConstraint(Pairs(compiler.vocabulary), check=lambda tokens: f"{len(tokens)} tokens")


def test_a_users_own_constraint_may_be_a_leg() -> None:
    """And is checked, with what it took of the output."""
    compiled = ConstraintCompiler(THREE).compile(routes([Exactly("a"), Twos()], [Exactly("b")]))
    state = compiled.start()
    assert allowed(state) == {A, B}
    state.consume([A, B])
    assert (state.is_accepting, allowed(state)) == (False, {A, B, AB})
    state.consume([AB])
    assert END in allowed(state)
    assert compiled.check([A, B, AB]) == "2 tokens"
    assert compiled.check([B]) is None


class Even(msgspec.Struct):
    """Which no grammar knows."""

    number: int

    def __post_init__(self) -> None:
        """Refuse odd ones."""
        if self.number % 2:
            raise ValueError("odd")


def test_each_leg_is_checked_in_its_own_part() -> None:
    """Of routes that the output follows, one that is right is enough."""
    fits = JsonSchema(Even, whitespace=False)
    way = [Exactly("<"), fits, Exactly(">"), Regex("x*")]
    compiled = ConstraintCompiler(BYTES).compile(routes(way, [Regex("<.*")]))
    assert compiled.check(b'<{"number":2}>x') is None
    assert compiled.check(b'<{"number":1}>x') is None  # by the other route
    alone = ConstraintCompiler(BYTES).compile(routes(way))
    assert "odd" in (alone.check(b'<{"number":1}>x') or "")
    assert alone.check(b'<{"number":2}>') is None


def test_a_bound_on_thoughts_counts_beside() -> None:
    """The marker is forced, and what follows is what would."""
    compiler = ConstraintCompiler(BYTES)
    given = routes([Until("</t>"), Exactly("a")])
    state = compiler.compile(All(given, ReasoningBudget(tuple(b"<t>"), tuple(b"</t>"), 3, is_open=True))).start()
    for letter in b"xyz</t>a":
        assert letter in allowed(state)
        state.consume((letter,))
    assert state.is_stopped
    state.rollback(5)
    assert (bytes(state.forced_tokens()), allowed(state)) == (b"</t>", {ord("<")})


def test_no_token_goes_past_a_marker_that_is_waited_for() -> None:
    """Shorter ones spell it; special tokens that are none of it are not legal, nor is the end."""
    state = ConstraintCompiler(THREE).compile(Until("aa")).start()
    assert allowed(state) == {A, B, AB}
    state.consume([A])
    assert allowed(state) == {A, B}
    assert allowed(ConstraintCompiler(BYTES).compile(Until("x")).start()) == set(range(256))
    assert 258 in allowed(ConstraintCompiler(BYTES).compile(Until("<tool>")).start())
    state.consume([A])
    assert (_ends(state), allowed(state)) == ((True, True), {END})
    state.consume([A])
    assert state.error is not None


def test_a_text_begins_as_none_of_those() -> None:
    """White space in front does not hide them, a special token counts as its name, and behind them all is legal."""
    state = ConstraintCompiler(BYTES).compile(Unlike(("<tool>", "ab"))).start()
    assert 258 not in allowed(state)
    for text, barred in (("", {258}), ("a", {ord("b")}), (" \n", {258}), (" a", {ord("b")}), ("<tool", {ord(">")})):
        state.reset()
        state.consume(text.encode())
        assert set(range(259)) - allowed(state) == barred, text
        assert all(state.validate((token,)) == 0 for token in barred)
    state.consume(b"s>")
    assert allowed(state) == set(range(259))


def test_routes_are_made_of_legs() -> None:
    """Not of anything else, and not too many in each other."""
    with pytest.raises(InvalidConstraint, match="Routes needs legs"):
        Routes(Regex("a"))  # type: ignore[arg-type]
    deep: Constraint = Regex("a")
    for _ in range(31):
        deep = routes([deep])
    with pytest.raises(InvalidConstraint, match="levels"):
        routes([deep])
