"""KV that is kept for prompts that begin alike: the store by itself, and rows that begin with what it holds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Driver, driven, llama, mx, sequential

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.prefixes import BLOCK, Layers, PrefixStore
from greenroom.backends.protocol import Close, Feed, Open, Sampling

LONG = tuple((7 * i + i * i) % 300 for i in range(3 * BLOCK))


def layers_of(tokens: Sequence[int], start: int, stop: int) -> Layers:
    """KV as a function of all tokens up to each place: what belongs to other tokens is noticed."""
    sums = [float(hash(tuple(tokens[: i + 1])) % 9973) for i in range(start, stop)]
    keys = mx.array(sums)[None, None, :, None]
    return [(keys, keys + layer) for layer in range(2)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=5), st.booleans()), max_size=30),
    st.integers(1, 8),
)
def test_what_is_handed_out_belongs_to_the_tokens(steps: list[tuple[list[int], bool]], most: int) -> None:
    """Random prompts of few kinds of blocks, kept and asked for, within a budget of a few blocks."""
    store = PrefixStore(most * BLOCK * 16, 16)
    kept: set[tuple[int, ...]] = set()
    for kinds, is_put in steps:
        tokens = [kind * 5 + i % 5 for kind in kinds for i in range(BLOCK)]
        if is_put:
            store.put(tokens, lambda start, stop, tokens=tokens: layers_of(tokens, start, stop))  # type: ignore[misc]
            kept |= {tuple(tokens[: n * BLOCK]) for n in range(1, len(kinds) + 1)}
            assert store.match(tokens) == min(len(kinds), most) * BLOCK
        length = store.match(tokens)
        assert length == 0 or tuple(tokens[:length]) in kept
        if length:
            wanted = layers_of(tokens, 0, length)
            for (keys, values), (k, v) in zip(store.take(tokens), wanted, strict=True):
                assert mx.array_equal(keys, k)
                assert mx.array_equal(values, v)
        assert store.nbytes <= most * BLOCK * 16


def test_shared_blocks_are_held_once_and_the_least_recently_used_go_first() -> None:
    """Two prompts with one block in common hold three; the one that was asked for last stays."""
    store = PrefixStore(3 * BLOCK * 16, 16)
    first, second, third = ([0] * BLOCK + [kind] * BLOCK for kind in (1, 2, 3))
    for tokens in (first, second):
        store.put(tokens, lambda start, stop, tokens=tokens: layers_of(tokens, start, stop))  # type: ignore[misc]
    assert store.nbytes == 3 * BLOCK * 16
    store.take(first)
    store.put(third, lambda start, stop: layers_of(third, start, stop))
    assert (store.match(first), store.match(second), store.match(third)) == (2 * BLOCK, BLOCK, 2 * BLOCK)
    assert store.evictions == 1


def begun(driver: Driver, backend: MlxBackend, row: int, prompt: tuple[int, ...]) -> int:
    """Open a row with a prompt and feed it what is left of it; how much it began with."""
    held = backend.edit([Open(row, Sampling(), prompt=prompt)])
    driver.sampled[row] = []
    reused = dict(held.reused).get(row, 0)
    driver.turn(Feed(row, prompt[reused:]))
    return reused


@pytest.mark.parametrize("leaves", [True, False])
def test_a_prompt_begins_with_what_another_has_run(leaves: bool) -> None:
    """Whether the other row has left or not; and the tokens are those of a prompt that was run whole."""
    with driven(llama) as (driver, backend):
        assert begun(driver, backend, 0, LONG) == 0
        driver.turn(Feed(0))
        driver.read()
        if leaves:
            driver.edit(Close(0))
        second = (*LONG[: 2 * BLOCK + 10], 5, 6, 7, 8)
        assert begun(driver, backend, 1, second) == (2 * BLOCK if leaves else 2 * BLOCK + 10)
        assert begun(driver, backend, 2, (9, *LONG)) == 0
        for _ in range(5):
            driver.turn(Feed(1), Feed(2))
        driver.read()
        assert driver.tokens(1) == sequential(backend._model, second, 6)[0]
        assert driver.tokens(2) == sequential(backend._model, (9, *LONG), 6)[0]


def test_the_last_token_of_a_prompt_is_always_run() -> None:
    """Also where all of it is held: its logits are needed."""
    with driven(llama) as (driver, backend):
        begun(driver, backend, 0, LONG)
        driver.read()
        assert begun(driver, backend, 1, LONG) == len(LONG) - 1
        driver.read()
        driver.edit(Close(0), Close(1))
        assert begun(driver, backend, 2, LONG) == 2 * BLOCK
        driver.read()
        assert driver.tokens(0) == driver.tokens(1) == driver.tokens(2)


def test_without_a_budget_nothing_is_kept() -> None:
    """`prefix_bytes=0`: neither of rows that have left nor of those that are here."""
    backend = MlxBackend.from_model(llama, prefix_bytes=0)
    assert not backend.load().reuses_prefixes
    driver = Driver(backend)
    begun(driver, backend, 0, LONG)
    driver.read()
    assert begun(driver, backend, 1, LONG) == 0
    driver.read()
    assert backend.edit([Close(0), Close(1)]).prefix_bytes == 0
    backend.close()
