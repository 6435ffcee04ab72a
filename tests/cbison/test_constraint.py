"""`constrain=Cbison(...)`: compiled, started and ended as our own constraints are."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest
from cbison_engines import (
    ENGINES,
    EOS,
    EOT,
    NUM_TOKENS,
    TOKENS,
    TOOL,
    legal,
    mask_of,
    spelt,
    toy_factory,
)

from greenroom.constraints import Cbison, Constraint, ConstraintCompiler, JsonSchema, Regex, Vocabulary, fill_masks
from greenroom.constraints.cbison import CbisonFactory, CbisonMatcher, llguidance_cbison_factory
from greenroom.errors import FactoryClosed, FactoryInUse, InvalidConstraint

WIDTH = NUM_TOKENS + 70
"""More logits than tokens, as padded models have."""


@pytest.fixture(scope="module")
def grammars() -> ConstraintCompiler:
    """Constraints compiled for the same tokens."""
    return ConstraintCompiler(Vocabulary.from_tokens(TOKENS, special={TOOL}, n_vocab=WIDTH, eos=[EOS, EOT]))


def rows(num: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint32]]:
    """Mask rows as wide as the logits."""
    return np.full((num, -(-WIDTH // 32)), 0xDEADBEEF, np.uint32)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [
        (Regex("(foo|foobar|bar)?x"), ("regex", "(foo|foobar|bar)?x"), b"foobarx"),
        (
            JsonSchema({"enum": ["foo", True, 12]}, whitespace=False),
            ("json_schema", json.dumps({"enum": ["foo", True, 12]})),
            b'"foo"',
        ),
    ],
)
def test_a_step_of_a_batch_is_that_of_our_own_constraint(
    grammars: ConstraintCompiler, engine: str, ours: Constraint, theirs: tuple[str, str], text: bytes
) -> None:
    """Foreign and own rows in one call of the engine's side give the same masks, token by token."""
    with ENGINES[engine]() as factory:
        constraint = Cbison(factory, *theirs)
        states = [grammars.compile(ours).start(), grammars.compile(constraint).start()]
        out = rows(2)
        for token in spelt(text):
            assert fill_masks(states, out) == [None, None]
            assert legal(out[1]).tolist() == legal(out[0]).tolist()
            for state in states:
                state.consume([token])
        assert fill_masks(states, out) == [None, None]
        assert set(legal(out[1])) == set(legal(out[0])) == {EOS, EOT}
        assert [state.is_stopped for state in states] == [True, True]
        states[1].close()  # type: ignore[attr-defined]


def test_requests_share_what_was_compiled_and_nothing_else(grammars: ConstraintCompiler) -> None:
    """Each starts at the start, also after the engine's first matcher was freed."""
    with toy_factory() as factory:
        compiled = grammars.compile(Cbison(factory, "regex", "ab*"))
        assert grammars.compile(Cbison(factory, "regex", "ab*")) is compiled
        first, second = compiled.start(), compiled.start()
        first.consume(spelt(b"a"))
        assert legal(mask_of(second)).tolist() == [ord("a"), 256]
        with pytest.raises(FactoryInUse, match="2 matchers"):
            factory.close()
        third = compiled.start()
        assert legal(mask_of(third)).tolist() == [ord("a"), 256]
        for state in (first, second, third):
            assert isinstance(state, CbisonMatcher)
            state.close()


def test_what_waits_for_requests_does_not_keep_a_factory_open(grammars: ConstraintCompiler) -> None:
    """A compiled constraint of a closed factory says so."""
    factory = toy_factory()
    compiled = grammars.compile(Cbison(factory, "regex", "a"))
    factory.close()
    assert factory.is_released
    with pytest.raises(FactoryClosed):
        compiled.start()
    with pytest.raises(InvalidConstraint, match="closed"):
        grammars.compile(Cbison(factory, "regex", "ab"))


def test_a_request_that_is_dropped_frees_its_matcher(grammars: ConstraintCompiler) -> None:
    """Nobody has to close what a runtime holds."""
    with toy_factory() as factory:
        compiled = grammars.compile(Cbison(factory, "regex", "a"))
        before = factory.num_matchers
        state = compiled.start()
        assert factory.num_matchers == before + 1
        del state
        gc.collect()
        assert factory.num_matchers == before


def test_a_constraint_that_cannot_be_is_refused(grammars: ConstraintCompiler) -> None:
    """No factory, a grammar that does not compile, an engine with too many tokens or without the model's EOS."""
    with pytest.raises(InvalidConstraint, match="CbisonFactory"):
        Cbison(1234, "regex", "a")  # type: ignore[arg-type]
    with toy_factory() as factory:
        refused = [
            (grammars, "(a", "unclosed"),
            (ConstraintCompiler(Vocabulary.from_tokens(TOKENS[:EOS], special=[], n_vocab=EOS, eos=[0])), "a", "logits"),
            (
                ConstraintCompiler(Vocabulary.from_tokens(TOKENS, special=[], n_vocab=WIDTH, eos=[EOS, WIDTH - 1])),
                "a",
                "EOS",
            ),
        ]
        for store, text, why in refused:
            with pytest.raises(InvalidConstraint, match=why):
                store.compile(Cbison(factory, "regex", text))


@pytest.mark.parametrize("native", [True, False])
def test_our_vocabulary_can_be_exported(grammars: ConstraintCompiler, native: bool) -> None:
    """With all its EOS; nothing is forced where it cannot tokenize."""
    with (
        llguidance_cbison_factory(grammars.vocabulary, native=native) as export,
        CbisonFactory.from_address(export.address, owned=False, eos_ids=export.eos_ids) as factory,
    ):
        assert (factory.n_vocab, set(factory.eos_ids)) == (WIDTH, {EOS, EOT})
        with factory.matcher("regex", "foobar") as state:
            [out] = rows(1)
            state.fill_mask(out)
            assert set(legal(out)) == {ord("f"), TOKENS.index(b"foo")}
