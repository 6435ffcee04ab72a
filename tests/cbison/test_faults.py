"""An engine that answers wrongly makes one request fail, never its neighbours and never the process."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cbison_engines import EOS, EOT, NUM_TOKENS, NUM_WORDS, legal, mask_of, spelt, toy_factory

from greenroom.constraints import fill_masks
from greenroom.constraints.cbison import CbisonFactory, CbisonMatcher
from greenroom.errors import FactoryClosed, IncompatibleEngine


def broken(*faults: str) -> tuple[CbisonFactory, CbisonMatcher]:
    """A factory with faults, and a matcher of it that consumed one token."""
    factory = toy_factory(*faults)
    matcher = factory.matcher("regex", "ab*")
    matcher.consume(spelt(b"a"))
    return factory, matcher


def test_a_null_matcher_is_refused() -> None:
    """`new_matcher` must not return it."""
    with toy_factory("null_matcher") as factory:
        with pytest.raises(IncompatibleEngine, match="NULL from new_matcher"):
            factory.matcher("regex", "a")
        assert factory.num_matchers == 0


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (["mask_says_7"], "compute_mask returned 7"),
        (["mask_breaks"], "the mask broke"),
        (["mask_breaks", "silent"], "compute_mask returned -1"),
    ],
)
def test_a_failed_mask_is_empty_and_says_why(faults: list[str], reason: str) -> None:
    """Whether by return code, or by that and its own error."""
    _, matcher = broken(*faults)
    assert not mask_of(matcher).any()
    assert matcher.error == reason


def test_an_error_that_no_return_code_tells_of_is_found() -> None:
    """By whoever fills the masks of a step, since a state's error is asked for after every mask."""
    _, matcher = broken("mask_breaks_unsaid")
    out = np.full((1, NUM_WORDS), 0xFFFFFFFF, np.uint32)
    assert fill_masks([matcher], out) == ["the mask broke, unsaid"]
    assert not out.any()


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("faults", [["mask_breaks"], ["mask_breaks_unsaid"], ["mask_says_7"]])
def test_a_failed_row_is_found_in_a_batch(faults: list[str], bare: bool) -> None:
    """The batch returns success all the same; the row before its first token works."""
    factory, matcher = broken(*faults, *["bare"] * bare)
    other = factory.matcher("regex", "ab*")
    out = np.full((2, NUM_WORDS), 0xFFFFFFFF, np.uint32)
    errors = factory.compute_masks([(matcher, 1), (other, 0)], out)
    if faults == ["mask_says_7"] and not bare:
        assert not out.any()  # its batch threw the code away and wrote nothing
        return
    assert errors[0]
    assert not out[1].any()
    if faults != ["mask_says_7"]:
        assert errors[1] is None
        assert legal(out[0]).tolist() == [ord("a"), 256]


def test_a_batch_that_is_refused_is_asked_for_row_by_row() -> None:
    """The return code does not say which row failed."""
    factory, matcher = broken("batch_refuses")
    out = np.zeros((1, NUM_WORDS), np.uint32)
    assert factory.compute_masks([(matcher, 0)], out) == (None,)
    assert out[0].tolist() == mask_of(matcher).tolist()


def test_a_failed_consume_is_this_state_alone() -> None:
    """The one before the third token goes on."""
    factory, matcher = broken("consume_breaks")
    with matcher.fork() as twin, factory.matcher("regex", "a") as other:
        matcher.consume(spelt(b"bb"))
        assert matcher.error == "no third token"
        twin.consume(spelt(b"b"))
        other.consume(spelt(b"a"))
        assert twin.error is None
        assert other.is_accepting


def test_an_error_without_words_is_still_one() -> None:
    """The state names the call and its code."""
    _, matcher = broken("silent")
    matcher.consume(spelt(b"c"))
    assert matcher.error == "consume_tokens returned -1"


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (["validates_too_many"], "validate_tokens returned 7 of at most 2"),
        (["bare", "clone_only", "null_clone"], "NULL from clone_matcher"),
    ],
)
def test_a_trial_that_cannot_be_believed_is_an_error(faults: list[str], reason: str) -> None:
    """It counts as nothing legal."""
    _, matcher = broken(*faults)
    assert matcher.validate(spelt(b"bb")) == 0
    assert reason in (matcher.error or "")


def test_forced_tokens_outside_the_vocabulary_are_dropped() -> None:
    """And a count past the buffer is an error."""
    _, matcher = broken("forces_nonsense")
    assert matcher.forced_tokens() == ()
    assert matcher.error is None
    _, matcher = broken("forces_too_many")
    assert matcher.forced_tokens() == ()
    assert "compute_ff_tokens returned" in (matcher.error or "")


def test_a_null_clone_is_an_error_of_the_copy() -> None:
    """The original goes on."""
    _, matcher = broken("null_clone")
    twin = matcher.fork()
    assert "NULL from clone_matcher" in (twin.error or "")
    assert matcher.error is None
    twin.close()


def test_a_reset_that_is_refused_is_an_error() -> None:
    """A state that cannot go back must not go on as if it had."""
    _, matcher = broken("bare", "reset_only", "reset_refuses")
    matcher.rollback(1)
    assert "reset returned -1" in (matcher.error or "")


def test_a_message_without_an_end_is_cut() -> None:
    """The engine was told of one byte less than there are."""
    with toy_factory("endless_message") as factory:
        found = factory.validate("regex", "a")
        assert found.status == "warning"
        assert found.is_ok
        assert set(found.message) == {"x"}


def test_bits_past_the_vocabulary_are_closed() -> None:
    """In the last word and in the words after."""
    _, matcher = broken("stray_bits")
    out = np.full(NUM_WORDS + 2, 0xFFFFFFFF, np.uint32)
    matcher.fill_mask(out)
    assert legal(out).max() < NUM_TOKENS
    assert {EOS, EOT} <= set(legal(out))


def test_an_engines_eos_that_is_none_of_the_models_is_closed() -> None:
    """The model's own opens in its place."""
    with toy_factory() as factory, factory.matcher("regex", "a*", eos_ids=[EOT]) as matcher:
        assert EOT in legal(mask_of(matcher))
        assert EOS not in legal(mask_of(matcher))
        matcher.consume(spelt(b"a"))
        assert matcher.validate([EOT]) == 0


@pytest.mark.parametrize(
    "out",
    [
        np.zeros(NUM_WORDS - 1, np.uint32),
        np.zeros(NUM_WORDS, np.int32),
        np.zeros(NUM_WORDS, np.uint64),
        np.zeros(2 * NUM_WORDS, np.uint32)[::2],
        np.zeros((1, NUM_WORDS), np.uint32),
        np.frombuffer(bytes(4 * NUM_WORDS), np.uint32),
    ],
    ids=["narrow", "signed", "wide items", "strided", "two dimensions", "read-only"],
)
def test_a_row_that_would_be_written_outside_is_refused(out: np.ndarray[tuple[int, ...], np.dtype[np.uint32]]) -> None:
    """Before the engine gets its address."""
    _, matcher = broken()
    with pytest.raises(ValueError, match="mask row"):
        matcher.fill_mask(out)
    assert matcher.error is None


def test_a_batch_that_breaks_its_rules_is_refused() -> None:
    """Twice a matcher, twice a row, a row outside, somebody else's matcher."""
    factory, matcher = broken()
    other = factory.matcher("regex", "a")
    _, foreign = broken()
    out = np.zeros((2, NUM_WORDS), np.uint32)
    for rows in (
        [(matcher, 0), (matcher, 1)],
        [(matcher, 0), (other, 0)],
        [(matcher, 2)],
        [(matcher, -1)],
        [(foreign, 0)],
    ):
        with pytest.raises(ValueError, match=r"twice|rows must lie|not made by"):
            factory.compute_masks(rows, out)
    assert factory.compute_masks([], out) == ()


def test_nothing_of_a_closed_matcher_reaches_the_engine() -> None:
    """Each call raises; closing again does nothing."""
    factory, matcher = broken()
    matcher.close()
    matcher.close()
    calls: list[Callable[[], object]] = [
        lambda: matcher.fill_mask(np.zeros(NUM_WORDS, np.uint32)),
        lambda: matcher.consume([97]),
        lambda: matcher.validate([97]),
        matcher.forced_tokens,
        lambda: matcher.rollback(1),
        matcher.fork,
        matcher.reset,
        lambda: matcher.is_accepting,
        lambda: matcher.is_stopped,
        lambda: matcher.error,
        lambda: factory.compute_masks([(matcher, 0)], np.zeros((1, NUM_WORDS), np.uint32)),
    ]
    for call in calls:
        with pytest.raises(FactoryClosed):
            call()
    assert "closed" in repr(matcher)
