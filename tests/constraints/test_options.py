"""A choice among many texts: the masks of llguidance's same choice, and more texts than it has states for."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from vocabularies import BYTES, WIDTH

from greenroom import Choice, Runtime, Scripted
from greenroom.constraints import ConstraintCompiler, ConstraintState, Regex, Vocabulary
from greenroom.constraints.kinds.options import Options, OptionsState

PIECES = [
    b"a",
    b"b",
    b"c",
    b"ab",
    b"abc",
    b"bc",
    b"cab",
    b"aaaa",
    "é".encode(),
    "é".encode()[:1],
    b"\xa9",
    b"abcabcabcabc",
]
WORDS = Vocabulary.from_tokens([*PIECES, b"</s>", b"ab"], special=[len(PIECES)], n_vocab=WIDTH, eos=[len(PIECES)])
"""Tokens of several bytes, parts of a character, and two that spell the same."""


def texts(rng: random.Random, count: int, longest: int) -> list[str]:
    """Texts of few letters, the empty one among them at times."""
    return ["".join(rng.choice("abcé") for _ in range(rng.randint(0, longest))) for _ in range(count)]


def legal(state: ConstraintState, vocabulary: Vocabulary) -> set[int]:
    """The ids of its mask."""
    row = np.zeros(vocabulary.words, np.uint32)
    state.fill_mask(row)
    return set(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist())


@pytest.mark.parametrize("vocabulary", [WORDS, BYTES], ids=["words", "bytes"])
def test_masks_are_those_of_a_grammar(vocabulary: Vocabulary) -> None:
    """At each place of random walks, with what is complete and what is stopped."""
    grammars = ConstraintCompiler(vocabulary)
    for seed in range(30):
        rng = random.Random(seed)  # noqa: S311 - a choice is no secret
        options = texts(rng, rng.randint(1, 40), rng.choice([3, 8]))
        ours: ConstraintState = OptionsState(Options(options, vocabulary))
        theirs = grammars.compile(Choice(*options)).start()
        for _ in range(40):
            found = legal(ours, vocabulary)
            assert ours.is_accepting == bool(found.intersection(vocabulary.eos))
            assert ours.is_stopped == (found == set(vocabulary.eos))
            steps = sorted(found.difference(vocabulary.eos))
            for token in range(len(vocabulary.bytes)):
                assert (ours.validate([token]) == 1) == (token in steps)
            assert legal(theirs, vocabulary) == found
            assert theirs.is_accepting == ours.is_accepting
            if not steps:
                break
            token = rng.choice(steps)
            ours.consume([token])
            theirs.consume([token])
            assert ours.error is theirs.error is None


def test_what_was_consumed_is_taken_back_and_what_is_illegal_is_an_error() -> None:
    """As of every state."""
    state = OptionsState(Options(["abc", "abd", "x"], BYTES))
    first = legal(state, BYTES)
    state.consume(list(b"ab"))
    twin = state.fork()
    assert legal(state, BYTES) == set(b"cd")
    assert state.forced_tokens() == ()
    state.rollback(2)
    assert legal(state, BYTES) == first == set(b"ax")
    with pytest.raises(ValueError, match="0 were consumed"):
        state.rollback(1)
    twin.consume(list(b"c"))
    assert twin.is_stopped
    twin.reset()
    assert legal(twin, BYTES) == first
    twin.consume(list(b"a"))
    twin.consume(list(b"z"))
    assert "none of the options" in str(twin.error)
    assert not twin.is_accepting
    state.consume(list(b"x"))
    assert state.is_stopped
    single = OptionsState(Options(["only this"], BYTES))
    assert single.forced_tokens() == tuple(b"only this")


def test_a_hundred_thousand_options_compile_within_two_seconds() -> None:
    """Of this process's time; each that is tried is legal to its end, and nothing else is."""
    rng = random.Random(1)  # noqa: S311 - a choice is no secret
    options = [f"{rng.choice(['order', 'user', 'é'])}-{rng.randrange(10**9)}" for _ in range(100_000)]
    choice = Choice(*options)
    started = time.process_time()
    compiled = ConstraintCompiler(BYTES).compile(choice)
    assert time.process_time() - started < 2
    assert len(repr(choice)) < 500
    for option in rng.sample(options, 50):
        state = compiled.start()
        state.consume(BYTES.tokenize(option.encode()))
        assert state.is_accepting
        assert state.validate(list(b"!")) == 0


async def test_a_choice_among_thousands_is_generated() -> None:
    """To the end of one of them, alone and with another constraint."""
    options = [f"item {number:05}" for number in range(3000)]
    async with Runtime(backend=Scripted(["item 02017", "item 00042"])) as runtime:
        assert await runtime.generate("x", constrain=Choice(*options)).text() == "item 02017"
        both = [Choice(*options), Regex("item 0004[2-9].*")]
        assert await runtime.generate("x", constrain=both).text() in options[42:50]
