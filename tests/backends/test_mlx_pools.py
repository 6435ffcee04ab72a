"""Pools of slots: how few they become, what they leave empty, what merging copies, and that memory is as counted."""

from __future__ import annotations

import gc
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import ONE_CALL, Driver, driven, llama, mx, sequential

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.device_profile import CPU, DeviceProfile
from greenroom.backends.mlx.kv import pools as pools_module
from greenroom.backends.mlx.kv.grouping import LOOSE, TIGHT, partition, round_up
from greenroom.backends.mlx.kv.packed import PackedStore
from greenroom.backends.protocol import Close, Feed

ORDERS = {
    "together": [[0, 1, 2, 3, 4, 5, 6, 7, 8]],
    "one by one": [[row] for row in range(9)],
    "in pairs": [[0, 1], [2, 3], [4, 5], [6, 7], [8]],
    "one and the rest": [[0], [1, 2, 3, 4, 5, 6, 7, 8]],
    "eight and one": [[0, 1, 2, 3, 4, 5, 6, 7], [8]],
    "doubling": [[0], [1], [2, 3], [4, 5, 6, 7], [8]],
}
RAGGED = (16, 139, 262, 385, 508, 631, 754, 877, 1000)
SETTLED = 40


def store_of(backend: MlxBackend) -> PackedStore:
    """The backend's rows."""
    assert isinstance(backend.store, PackedStore)
    return backend.store


def held_bytes(store: PackedStore) -> int:
    """What live rows hold."""
    return sum(row.own_length for row in store.rows()) * store.bytes_per_token


def prompt_of(row: int, length: int) -> tuple[int, ...]:
    """A prompt that no other row begins with."""
    return (row + 1, *[(3 * i + row) % 40 + 1 for i in range(length - 1)])


def arrive(driver: Driver, groups: list[list[int]], lengths: dict[int, int]) -> None:
    """Rows come in groups, a pass apart, and decode from then on until pools are as they stay."""
    live: list[int] = []
    for group in groups:
        for row in group:
            driver.open(row)
        driver.turn(*(Feed(row, prompt_of(row, lengths[row])) for row in group), *(Feed(row) for row in live))
        live += group
    for _ in range(SETTLED):
        driver.turn(*(Feed(row) for row in live))
    driver.read()


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=24), st.sampled_from([128, 1 << 16]))
@settings(max_examples=200, deadline=None)
def test_a_partition_has_everybody_once_and_wastes_no_more_than_allowed(needs: list[int], call_cost: int) -> None:
    """Longest first, and one pool where that is allowed; each alone where rounding alone wastes more."""
    for waste in (LOOSE, TIGHT):
        groups = partition(needs, call_cost, waste)
        assert sorted(place for group in groups for place in group) == list(range(len(needs)))
        for group in groups:
            assert [needs[place] for place in group] == sorted((needs[place] for place in group), reverse=True)
        room = sum(round_up(needs[group[0]]) * len(group) for group in groups)
        alone = sum(map(round_up, needs))
        assert waste.allows(room, sum(needs)) or room == alone
    whole = round_up(max(needs)) * len(needs)
    if call_cost > CPU.attention_call_cost and LOOSE.allows(whole, sum(needs)) and max(needs) * len(needs) < call_cost:
        assert len(partition(needs, call_cost, LOOSE)) == 1


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["equal", "ragged"])
def test_memory_is_as_counted_and_near_what_rows_hold(order: str, kind: str) -> None:
    """In any order of arrival; rows are together in the end, and once somebody waits for memory they are held tightly.

    Active memory is MLX's, less the weights and what the last pass holds.
    """
    lengths = dict(enumerate(RAGGED if kind == "ragged" else (518,) * 9))
    with driven(lambda: llama(layers=2, hidden=128), device=ONE_CALL) as (driver, backend):
        gc.collect()
        before = mx.get_active_memory()
        arrive(driver, ORDERS[order], lengths)
        store = store_of(backend)
        assert len(list(store.pools)) == 1
        assert store.nbytes <= (2.2 if kind == "ragged" else 1.35) * held_bytes(store)
        gc.collect()
        assert 0.95 <= (mx.get_active_memory() - before) / store.nbytes <= 1.1
        store.pack(tight=True)
        assert store.nbytes <= 1.35 * held_bytes(store)
        driver.turn(*(Feed(row) for row in lengths))
        driver.read()
        gc.collect()
        assert 0.95 <= (mx.get_active_memory() - before) / store.nbytes <= 1.1
        for row in (0, 8):
            tokens = driver.tokens(row)[-3:]
            known = (*prompt_of(row, lengths[row]), *driver.tokens(row)[:-3])
            assert tokens == sequential(backend._model, known, 3)[0]


@pytest.mark.parametrize("device", [CPU, ONE_CALL], ids=lambda device: device.name)
def test_copies_are_bounded_by_what_rows_write_however_they_come_and_go(device: DeviceProfile) -> None:
    """A thousand comings, goings and passes: merging and moving copies at most 1.25 tokens for each that was written.

    Growing is not bounded by that: a row that outgrows its slot has to. Here lengths are announced.
    """
    rng = random.Random(1)  # noqa: S311 - a test is no secret
    with driven(lambda: llama(layers=1), device=device) as (driver, backend):
        store = store_of(backend)
        live: list[int] = []
        written = 0
        for number in range(400):
            if rng.random() < 0.2 and len(live) < 16:
                length = rng.randrange(1, 400)
                driver.open(number, expects=length + 200)
                driver.turn(Feed(number, prompt_of(number, length)))
                live.append(number)
                written += length
            if rng.random() < 0.18 and live:
                driver.edit(Close(live.pop(rng.randrange(len(live)))))
            if live:
                driver.turn(*(Feed(row) for row in live))
                written += len(live)
        driver.read()
        assert store.bytes_copied <= 1.25 * written * store.bytes_per_token
        assert store.bytes_copied > 0


@pytest.mark.parametrize(("tight", "part"), [(False, 8), (True, 16)])
def test_a_pool_that_is_rebuilt_is_never_held_twice(*, tight: bool, part: int) -> None:
    """Beside the larger of the two there is at most an eighth of one, and one layer of sixteen under pressure."""
    with driven(lambda: llama(layers=16), device=ONE_CALL) as (driver, backend):
        arrive(driver, [[row] for row in range(6)], dict.fromkeys(range(6), 650))
        store = store_of(backend)
        store.pack(tight=tight)
        for capacity in (1600, 704):
            gc.collect()
            before, active = store.nbytes, mx.get_active_memory()
            mx.reset_peak_memory()
            store.pools._rebuild([pools_module._Group(store.pools.rows(), capacity)])
            larger = max(before, store.nbytes)
            assert store.nbytes != before
            assert mx.get_peak_memory() - active <= larger - before + 1.1 * store.nbytes / part


def test_a_rebuild_that_fails_costs_rows_their_kv_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """At each layer in turn: the rows are run again from their tokens, and say what they would have said."""
    prompts = {row: prompt_of(row, 100 + 30 * row) for row in range(4)}
    evaluate, rebuild = mx.eval, pools_module.Pools._rebuild
    left = 0

    def evaluate_some(*arrays: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise RuntimeError("[malloc] Unable to allocate")
        evaluate(*arrays)

    def rebuild_failing(pools: pools_module.Pools, groups: list[pools_module._Group]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(mx, "eval", evaluate_some)
            rebuild(pools, groups)

    monkeypatch.setattr(pools_module.Pools, "_rebuild", rebuild_failing)
    for fails_at in (1, 2, 3):
        with driven(llama, device=ONE_CALL) as (driver, backend):
            for row, prompt in prompts.items():
                driver.open(row)
                driver.turn(Feed(row, prompt), *(Feed(other) for other in range(row)))
            driver.read()
            left = fails_at
            for _ in range(12):
                driver.turn(*(Feed(row) for row in prompts))
            driver.read()
            assert left <= 0
            for row, prompt in prompts.items():
                tokens = driver.tokens(row)
                assert tokens == sequential(backend._model, prompt, len(tokens))[0]
            driver.edit(*(Close(row) for row in prompts))
            assert store_of(backend).nbytes == 0
