"""One suite over every way to an engine: each says what llguidance says directly."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import numpy as np
import pytest
from cbison_engines import (
    ENGINES,
    EOS,
    EOT,
    NUM_TOKENS,
    NUM_WORDS,
    PAD,
    TOKENS,
    TOOL,
    Direct,
    legal,
    mask_of,
    spelt,
)

from greenroom.constraints.cbison import CbisonFactory, CbisonMatcher

COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
PERSON = {
    "x-guidance": COMPACT,
    "type": "object",
    "properties": {
        "name": {"enum": ["foo", "foobar", "bar"]},
        "age": {"type": "integer"},
        "is": {
            "type": "object",
            "properties": {"true": {"type": "boolean"}},
            "required": ["true"],
            "additionalProperties": False,
        },
        "none": {"type": "null"},
    },
    "required": ["name", "age", "is", "none"],
    "additionalProperties": False,
}
SCHEMA = json.dumps(PERSON)
DOCUMENT = b'{"name":"foobar","age":-120,"is":{"true":false},"none":null}'
REGEXES = {
    r"(ab|true)*[0-9]{2,4}": b"abtrue123",
    r"[a-z]+@[a-z]+\.(com|org)": b"foo@bar.org",
    r"(foo|foobar|bar)?x": b"foobarx",
    r"-?[0-9]+(\.[0-9]+)?": b"-12.5",  # not \d, which is all of Unicode's digits to one of them
    r"foobar": b"foobar",
}
GRAMMARS = [("json_schema", SCHEMA, DOCUMENT), *[("regex", regex, text) for regex, text in REGEXES.items()]]


@pytest.fixture(params=list(ENGINES))
def factory(request: pytest.FixtureRequest) -> Iterator[CbisonFactory]:
    """Each engine; a matcher that a test forgets is a failure of `close`."""
    with ENGINES[request.param]() as found:
        yield found


def assert_same(state: CbisonMatcher, direct: Direct) -> None:
    """Masks, acceptance and stopping are equal."""
    assert state.error is None
    assert legal(mask_of(state)).tolist() == legal(direct.mask()).tolist()
    assert state.is_accepting == direct.matcher.is_accepting()
    assert state.is_stopped == direct.matcher.is_stopped()


@pytest.mark.parametrize(("kind", "grammar", "text"), GRAMMARS)
def test_masks_along_a_text_are_equal(factory: CbisonFactory, kind: str, grammar: str, text: bytes) -> None:
    """Byte by byte; at the end both accept, and both EOS are legal."""
    direct = Direct(kind, grammar)
    with factory.matcher(kind, grammar) as state:
        assert factory.validate(kind, grammar).is_ok
        for token in spelt(text):
            assert_same(state, direct)
            state.consume([token])
            assert direct.matcher.consume_token(token)
        assert_same(state, direct)
        assert state.is_accepting
        assert {EOS, EOT} <= set(legal(mask_of(state)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("kind", "grammar"), [grammar[:2] for grammar in GRAMMARS])
def test_a_random_walk_is_equal(factory: CbisonFactory, kind: str, grammar: str, seed: int) -> None:
    """Legal tokens in any spelling, rollbacks, copies, resets and trials, each compared with llguidance's own."""
    draw = random.Random(seed)  # noqa: S311 - a walk to repeat, no secret
    direct, state = Direct(kind, grammar), factory.matcher(kind, grammar)
    consumed: list[int] = []
    for _ in range(30):
        assert_same(state, direct)
        legal_now = [token for token in legal(mask_of(state)).tolist() if token not in (EOS, EOT)]
        tried = [draw.choice(legal_now or [0]), draw.randrange(NUM_TOKENS - 4), draw.randrange(256)]
        assert state.validate(tried) == direct.matcher.validate_tokens(tried)
        match draw.randrange(10):
            case 0 if consumed:
                count = draw.randint(1, len(consumed))
                state.rollback(count)
                assert direct.matcher.rollback(count)
                del consumed[len(consumed) - count :]
            case 1:
                twin = state.fork()
                state.close()
                state, direct = twin, direct.fork()
            case 2 if len(consumed) > 10:
                state.reset()
                assert direct.matcher.reset()
                consumed.clear()
            case _ if legal_now:
                token = draw.choice(legal_now)
                state.consume([token])
                assert direct.matcher.consume_token(token)
                consumed.append(token)
            case _:
                pass
    state.close()


def test_a_copy_is_independent(factory: CbisonFactory) -> None:
    """What either does, the other does not see."""
    with factory.matcher("regex", r"(ab|true)*[0-9]{2,4}") as state:
        state.consume(spelt(b"ab"))
        with state.fork() as twin:
            state.consume(spelt(b"true"))
            twin.consume(spelt(b"12"))
            assert not state.is_accepting
            assert twin.is_accepting
            twin.rollback(4)
            state.rollback(6)
            assert mask_of(state).tolist() == mask_of(twin).tolist()


def test_an_illegal_token_is_an_error_for_good(factory: CbisonFactory) -> None:
    """The mask is empty, nothing is accepted or legal, and neither rollback nor reset heals; a copy has it too."""
    with factory.matcher("regex", "foobar") as state:
        state.consume(spelt(b"fo"))
        state.consume(spelt(b"x"))
        assert state.error
        with state.fork() as twin:
            for one in (state, twin):
                one.reset()
                one.consume(spelt(b"o"))
                assert one.error
                assert not mask_of(one).any()
                assert (one.is_accepting, one.is_stopped) == (False, False)
                assert one.validate(spelt(b"o")) == 0
                assert one.forced_tokens() == ()


@pytest.mark.parametrize("token", [EOS, EOT, NUM_TOKENS, 1 << 32, -1])
def test_ids_that_no_engine_may_see_are_errors_of_the_state_alone(factory: CbisonFactory, token: int) -> None:
    """An EOS, and ids outside the vocabulary; a trial of them changes nothing."""
    with factory.matcher("regex", "a*") as state:
        assert state.validate([97, token, 97]) == 1
        assert state.error is None
        state.consume([97])
        state.consume([token])
        assert f"token {token} is an EOS, or outside" in str(state.error)


@pytest.mark.parametrize("token", [PAD, TOOL])
def test_padding_and_special_tokens_are_never_text(factory: CbisonFactory, token: int) -> None:
    """Neither has bytes that a text could spell."""
    with factory.matcher("regex", r"[ -~]*") as state:
        assert token not in legal(mask_of(state))
        assert state.validate([token]) == 0


def test_more_cannot_be_taken_back_than_was_consumed(factory: CbisonFactory) -> None:
    """It raises and changes nothing, where llguidance itself would break."""
    with factory.matcher("regex", "a*") as state:
        state.consume([97, 97])
        for count in (3, -1):
            with pytest.raises(ValueError, match="cannot take"):
                state.rollback(count)
        state.rollback(0)
        state.rollback(2)
        assert state.error is None


def test_a_batch_of_masks_is_equal_to_single_ones(factory: CbisonFactory) -> None:
    """Rows in any order, in a wider array; one in error is empty and hurts no other."""
    states = [factory.matcher("regex", regex) for regex in REGEXES]
    broken = factory.matcher("regex", "a")
    broken.consume(spelt(b"b"))
    out = np.full((len(states) + 2, NUM_WORDS + 3), 0xFFFFFFFF, np.uint32)
    rows = [(broken, 0), *[(state, len(states) - at) for at, state in enumerate(states)]]
    errors = factory.compute_masks(rows, out)
    assert errors[0]
    assert errors[1:] == (None,) * len(states)
    for state, row in rows:
        assert not out[row, NUM_WORDS:].any()
        expected = np.zeros(NUM_WORDS, np.uint32) if state is broken else mask_of(state)
        assert out[row, :NUM_WORDS].tolist() == expected.tolist()
    assert (out[-1] == 0xFFFFFFFF).all()
    for state, _ in rows:
        state.close()


def test_a_grammar_that_does_not_compile_is_refused_with_a_reason(factory: CbisonFactory) -> None:
    """By `validate` as by `matcher`; nothing is left behind."""
    from greenroom.errors import InvalidConstraint

    for kind, text in (("regex", "(a"), ("nonsense", "a"), ("json_schema", '{"type":"nonsense"}')):
        found = factory.validate(kind, text)
        assert found.status == "error"
        assert found.message
        with pytest.raises(InvalidConstraint, match=kind):
            factory.matcher(kind, text)
    with pytest.raises(InvalidConstraint, match="NUL"):
        factory.matcher("regex", "a\0b")
    assert factory.num_matchers == 0


def test_forced_tokens_are_legal(factory: CbisonFactory) -> None:
    """None can be forced with a vocabulary that cannot tokenize."""
    with factory.matcher("regex", "foobar") as state:
        assert state.forced_tokens() == ()
        assert TOKENS[legal(mask_of(state))[0]] == b"f"
