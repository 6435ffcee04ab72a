"""All rows of a grammar share one lexer, which llguidance leaves broken where one of them needs too much of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from grammar_fuzz import wide
from llguidance import LLParserLimits
from vocabularies import BYTES, allowed, filled

from greenroom.constraints import ConstraintCompiler, ConstraintState, Gbnf, JsonSchema, compiled_grammar, fill_masks
from greenroom.constraints.grammar_matcher import GrammarMatcher


@pytest.fixture
def poor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little fuel, so that a document is long for it."""
    limits = LLParserLimits(verbose_errors=False, step_lexer_fuel=8000)
    monkeypatch.setattr(compiled_grammar, "LIMITS", limits)


def break_lexer(state: ConstraintState, text: bytes) -> None:
    """As whoever walks llguidance's matcher too far would leave it."""
    assert isinstance(state, GrammarMatcher)
    matcher = state.matcher
    assert matcher is not None
    for byte in text:
        if not matcher.consume_token(byte):
            break
    assert state._prototype.is_broken()


def test_a_document_of_many_open_properties_is_accepted_without_masks_between() -> None:
    """A mask up front leaves the fuel of one step, which has to last for all of it."""
    schema, text = wide(240)
    state = ConstraintCompiler(BYTES).compile(JsonSchema(schema)).start()
    state.consume(text[:2])
    assert len(allowed(state)) > 1
    for byte in text[2:]:
        assert state.validate([byte]) == 1
        state.consume([byte])
        assert state.error is None
    assert state.is_accepting


@pytest.mark.usefixtures("poor")
def test_fuel_is_filled_up_on_the_way() -> None:
    """By masks for nothing else, so that texts of any length take no more than a little of it at once."""
    schema, text = wide()
    compiled = ConstraintCompiler(BYTES).compile(JsonSchema(schema))
    one_by_one, at_once = compiled.start(), compiled.start()
    assert isinstance(one_by_one, GrammarMatcher)
    assert isinstance(at_once, GrammarMatcher)
    lexer = one_by_one._prototype
    one_by_one.consume(text[:2])
    assert len(allowed(one_by_one)) > 1, "what is forced takes no fuel, and gives none"
    for byte in text[2:]:
        one_by_one.consume([byte])
    at_once.consume(list(text))
    assert (one_by_one.error, at_once.error) == (None, None)
    assert one_by_one.is_accepting
    assert at_once.is_accepting
    assert one_by_one._prototype is at_once._prototype is lexer, "nothing was broken"


STEPS = ["mask", "masks", "consume", "validate", "rollback", "fork", "reset"]


@pytest.mark.usefixtures("poor")
def test_what_one_row_breaks_no_other_row_meets() -> None:
    """Whatever a row is asked next, it answers as it would have; rows that begin later too."""
    schema, text = wide()
    for step in STEPS:
        compiler = ConstraintCompiler(BYTES)
        compiled = compiler.compile(JsonSchema(schema))
        victim, culprit = compiled.start(), compiled.start()
        victim.consume(text[:100])
        wanted = ids_after(ConstraintCompiler(BYTES), schema, text)
        culprit.consume(text[:2])
        allowed(culprit)
        break_lexer(culprit, text[2:])
        match step:
            case "mask":
                assert allowed(victim) == wanted[100]
            case "masks":
                rows = filled(victim)[None].repeat(2, 0)
                assert fill_masks([victim, compiled.start()], rows) == [None, None]
                assert (rows[0] == filled(victim)).all()
                assert rows[1].any()
            case "consume":
                victim.consume(text[100:130])
            case "validate":
                assert victim.validate(list(text[100:140])) == 40
            case "rollback":
                victim.rollback(50)
                assert allowed(victim) == wanted[50]
            case "fork":
                assert allowed(victim.fork()) == wanted[100]
            case _:
                victim.reset()
                assert allowed(victim) == wanted[0]
        assert victim.error is None, step
        later = compiled.start()
        later.consume(text)
        assert later.is_accepting, step
        assert later.error is None, step


def ids_after(compiler: ConstraintCompiler, schema: dict[str, Any], text: bytes) -> dict[int, set[int]]:
    """The legal tokens behind some of the text, of a row that shares with nobody."""
    state = compiler.compile(JsonSchema(schema)).start()
    found = {}
    for at in (0, 50, 100):
        state.reset()
        state.consume(text[:at])
        found[at] = allowed(state)
    return found


def test_a_row_that_needs_more_than_there_is_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It breaks the lexers that it is given; the others go on with ones of their own."""
    limits = LLParserLimits(verbose_errors=False, step_lexer_fuel=400)
    monkeypatch.setattr(compiled_grammar, "LIMITS", limits)
    schema, text = wide(200)
    compiled = ConstraintCompiler(BYTES).compile(JsonSchema(schema))
    thrifty = compiled.start()
    thrifty.consume(text[:1])
    greedy = [compiled.start() for _ in range(3)]
    for state in greedy:
        allowed(state)
        for byte in text:
            state.consume([byte])
    assert [state.error for state in greedy] == [greedy[0].error] * 3
    assert "expressions" in str(greedy[0].error)
    assert thrifty.validate(list(text[1:2])) == 1
    thrifty.consume(text[1:2])
    assert thrifty.error is None


def walks(compiled: Any, copies: int, tokens: int, seed: int) -> Iterator[str | None]:
    """The error of each of many copies that are walked at random, with and without masks, so many tokens together."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    rows = [(compiled.start(), dice.random() < 0.5) for _ in range(copies)]
    for _ in range(tokens // copies):
        for place, (state, masked) in enumerate(rows):
            if state.is_stopped or len(state._tokens) > 2000:
                rows[place] = (compiled.start(), dice.random() < 0.5)
                continue
            if masked:
                legal = sorted(token for token in allowed(state) if token < 256)
            else:
                legal = [token for token in dice.sample(range(32, 127), 95) if state.validate([token])][:1]
            if legal:
                state.consume([dice.choice(legal)])
            yield state.error


GRAMMARS = [
    JsonSchema(wide()[0]),
    JsonSchema({"type": "string", "maxLength": 3000}),
    JsonSchema({"type": "array", "items": {"type": "string", "pattern": "^(a|b){1,60}[^c]{3,40}c?$"}}),
    Gbnf('root ::= ("a" | "ab" | "b" root "c")*'),
]


def test_many_copies_walk_at_random_without_an_error_of_the_lexer() -> None:
    """Some with masks before each token and some without any, sixteen of a grammar at once."""
    for seed, constraint in enumerate(GRAMMARS):
        compiled = ConstraintCompiler(BYTES).compile(constraint)
        for error in walks(compiled, 16, 1600, seed):
            assert error is None
