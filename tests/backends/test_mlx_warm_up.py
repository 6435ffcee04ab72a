"""Kernels are used once at load where they are compiled late; nothing is left of it, and it can fail no load."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from models import MODELS, VOCAB, Driver, llama, mx, sequential

from greenroom.backends.mlx import MlxBackend, inspection, warm_up
from greenroom.backends.mlx.device_profile import CPU, CUDA, METAL
from greenroom.backends.mlx.kv import shared_prefix
from greenroom.backends.mlx.kv.packed import PackedStore
from greenroom.backends.mlx.rows import RowWork
from greenroom.backends.mlx.sampling import masks as bitmasks
from greenroom.backends.mlx.sampling import methods, sampler
from greenroom.backends.protocol import Feed

WIDE = partial(llama, vocab_size=5000)
"""A vocabulary for which there is every kind of mask."""


def random_states() -> list[Any]:
    """Of MLX and of numpy."""
    ours: Any = mx.random.state
    theirs: Any = np.random.get_state()  # noqa: NPY002 - it is the one that a user may have seeded
    return [*(part.tolist() for part in ours), theirs[1].tolist()]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each way to draw, to mask and to attend was taken, and each size of chunk."""
    found: Counter[str] = Counter()

    def noted(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            found[name] += 1
            return plain(*given, **options)

        return call

    for name, method in methods.METHODS.items():
        monkeypatch.setitem(methods.METHODS, name, noted(name, method))
    for name in ("Bias", "Bans", "Penalties"):
        monkeypatch.setattr(sampler, name, noted(name, getattr(sampler, name)))
    monkeypatch.setattr(sampler.BatchSampler, "_logprobs", noted("logprobs", sampler.BatchSampler._logprobs))
    for name in ("by_kernel", "by_bools"):
        monkeypatch.setattr(bitmasks, name, noted(name, bitmasks.by_bools))  # there is no Metal here
    monkeypatch.setattr(bitmasks.Short, "values", noted("short", bitmasks.Short.values))
    monkeypatch.setattr(shared_prefix, "attention", noted("shared", shared_prefix.attention))
    run = PackedStore.run

    def run_noted(store: PackedStore, works: Sequence[RowWork]) -> Any:
        found.update(f"{len(works)} rows, the longest piece {max(len(work.ids) for work in works)}" for _ in (0,))
        return run(store, works)

    monkeypatch.setattr(PackedStore, "run", run_noted)
    return found


def test_a_load_uses_every_kernel_once(used: Counter[str]) -> None:
    """Each way to draw, each kind of mask, what rows share, small chunks: counted under Metal's profile."""
    MlxBackend.from_model(WIDE, device_profile="metal").load()
    for name in (*methods.METHODS, "Bias", "Bans", "Penalties", "logprobs", "by_kernel", "short", "shared"):
        assert used[name] > 0, name
    for size in warm_up.CHUNKS:
        assert used[f"1 rows, the longest piece {size}"] > 0
    assert used["2 rows, the longest piece 1"] > 0
    assert used["3 rows, the longest piece 9"] > 0
    used.clear()
    MlxBackend.from_model(WIDE, device_profile="cpu").load()
    assert not {*methods.METHODS, "shared", "short"} & {*used}


@pytest.mark.parametrize("kind", [*MODELS])
@pytest.mark.parametrize("profile", [METAL, CUDA], ids=lambda profile: profile.name)
def test_nothing_is_left_of_it(kind: str, profile: Any) -> None:
    """No row, no KV, no prefix, no random state; and then rows are given mlx-lm's tokens."""
    mx.random.seed(3)
    before = random_states()
    model, tokenizer = MODELS[kind]()
    mx.random.seed(3)
    backend = MlxBackend.from_model(lambda: (model, tokenizer), device_profile=profile, prefix_bytes=1 << 20)
    backend.load()
    assert random_states() == before
    driver = Driver(backend)
    assert driver.edit() == 0
    assert backend.edit([]).prefix_bytes == 0
    assert backend.store is not None
    assert not backend.store.rows()
    assert not sum(array.size for array in backend.store.state())
    driver.open(0)
    driver.turn(Feed(0, (5, 6, 7)))
    for _ in range(5):
        driver.turn(Feed(0))
    driver.read()
    assert driver.tokens(0) == sequential(model, (5, 6, 7), 6)[0]
    backend.close()


def test_it_ends_when_it_took_too_long() -> None:
    """After the step in which the time was over."""
    backend = MlxBackend.from_model(WIDE, device_profile="cpu")
    backend.load()
    assert backend._profile is not None
    store = backend._profile.stores.main
    ticks = itertools.count(0, 2)
    done = warm_up.warm_up(store, 5000, METAL, clock=lambda: float(next(ticks)))
    assert len(done) == 3
    whole = warm_up.warm_up(store, 5000, METAL, clock=lambda: 0.0)
    assert whole[:3] == done
    assert len(whole) > 12
    assert not store.rows()
    backend.close()


@pytest.mark.parametrize("fails_at", [0, 3, 8])
def test_its_failure_fails_no_load(
    fails_at: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A kernel that cannot be compiled is said, and the model serves."""
    count = itertools.count()
    run = warm_up._run

    def failing(*given: Any) -> Any:
        if next(count) == fails_at:
            raise RuntimeError("no pipeline")
        return run(*given)

    monkeypatch.setattr(warm_up, "_run", failing)
    model, tokenizer = llama()
    backend = MlxBackend.from_model(lambda: (model, tokenizer), device_profile=replace(CPU, compiles_late=True))
    backend.load()
    assert "the warm-up ended after" in caplog.text
    driver = Driver(backend)
    assert driver.run(0, (5, 6, 7), 6) == sequential(model, (5, 6, 7), 6)[0]
    backend.close()


def test_it_is_left_out_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its few rows would not fit into what keys and values may use."""
    calls: list[int] = []
    monkeypatch.setattr(inspection, "warm_up", lambda store, vocab_size, device: calls.append(vocab_size))  # noqa: ARG005
    for memory in (1 << 30, 1 << 16):
        MlxBackend.from_model(llama, device_profile="metal", memory_bytes=memory).load()
    assert calls == [VOCAB]
