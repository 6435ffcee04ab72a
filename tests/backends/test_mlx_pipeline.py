"""Passes that are submitted before the one before them is read: the same tokens, nothing copied, and few calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from models import MODELS, VOCAB, Driver, gemma2, llama, mx, sequential

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.device_profile import CPU, METAL
from greenroom.backends.mlx.kv.packed import PackedStore
from greenroom.backends.mlx.kv.passes import Pass
from greenroom.backends.mlx.layer_shape import LayerShape
from greenroom.backends.mlx.pipeline_probe import stays_in_place
from greenroom.backends.mlx.rows import RowWork
from greenroom.backends.protocol import Close, Feed, ForwardPlan, KvOptions, Masks, Rewind, Sampling


def prompt(seed: int, length: int) -> tuple[int, ...]:
    """Some tokens."""
    return tuple([(7 * place + 31 * seed) % (VOCAB - 4) + 1 for place in range(length)])


@pytest.mark.parametrize("kind", [*MODELS, "gemma2"])
def test_rows_that_join_leave_move_and_rewind_are_given_mlx_lms_tokens(kind: str) -> None:
    """Token for token, on every kind of store, though no pass waits for the one before it to be read."""
    backend = MlxBackend.from_model({**MODELS, "gemma2": gemma2}[kind], device_profile="metal")
    info = backend.load()
    assert info.pipelines
    driver = Driver(backend, pipelines=True)
    prompts = {row: prompt(row, length) for row, length in enumerate((5, 60, 9, 33, 64, 3))}
    rows: list[int] = []
    for row, ids in prompts.items():  # one by one, in chunks, beside those that decode
        driver.open(row)
        driver.turn(Feed(row, ids[:2], sample=False), *[Feed(other) for other in rows])
        driver.turn(Feed(row, ids[2:]), *[Feed(other) for other in rows])
        rows.append(row)
    for gone in (0, 2):  # the others close up, and outgrow their slots
        driver.turn(*[Feed(row) for row in rows])
        driver.read()
        rows.remove(gone)
        driver.edit(Close(gone))
        for _ in range(8):
            driver.turn(*[Feed(row) for row in rows])
    driver.read()
    if kind not in {"mamba2", "gemma3", "gpt_oss"}:  # whose caches cannot be cut
        drawn = driver.tokens(1)
        driver.edit(Rewind(1, len(prompts[1]) + 3))
        driver.turn(Feed(1, tuple(drawn[3:5])), *[Feed(row) for row in rows if row != 1])
        driver.read()
        assert driver.sampled[1].pop().token == drawn[5]
    for row, ids in prompts.items():
        mine = driver.tokens(row)
        assert len(mine) >= 4
        assert mine == sequential(backend._model, ids, len(mine))[0]
    backend.close()


def test_a_row_that_begins_with_anothers_kv_in_flight_goes_on_as_by_itself() -> None:
    """Its prefix is copied out of a row, or shared with one, while a pass that writes there is in flight."""
    backend = MlxBackend.from_model(llama, device_profile=replace(METAL, shared_least=96))
    backend.load()
    driver = Driver(backend, pipelines=True)
    stem = prompt(1, 100)
    driver.open(0)
    driver.turn(Feed(0, (*stem, 3)))
    prompts = {0: (*stem, 3)}
    for row, length in ((1, 70), (2, 100), (3, 98)):
        driver.turn(*[Feed(other) for other in prompts])
        prompts[row] = (*stem[:length], 5 + row, 9)
        left = driver.branch(row, prompts[row])
        assert len(left) < len(prompts[row])
        driver.turn(Feed(row, left), *[Feed(other) for other in range(row)])
    for _ in range(6):
        driver.turn(*[Feed(row) for row in prompts])
    driver.read()
    for row, ids in prompts.items():
        mine = driver.tokens(row)
        assert mine == sequential(backend._model, ids, len(mine))[0]
    backend.close()


@pytest.mark.parametrize("kv", [KvOptions(bits=8, group_size=32, start=6), KvOptions(max_size=24)])
def test_rows_with_caches_of_their_own_are_given_the_same_tokens_in_either_order(kv: KvOptions) -> None:
    """Quantized in mid-run, or bounded, beside a plain row."""

    def heads_of_32() -> tuple[Any, Any]:
        return llama(hidden=128)

    found = []
    for pipelines in (False, True):
        backend = MlxBackend.from_model(heads_of_32, device_profile="metal")
        backend.load()
        driver = Driver(backend, pipelines=pipelines)
        for row, options in enumerate((kv, None, kv)):
            driver.open(row, kv=options)
            driver.turn(Feed(row, prompt(row, 4 + row)), *[Feed(other) for other in range(row)])
        for _ in range(30):
            driver.turn(*[Feed(row) for row in range(3)])
        driver.read()
        found.append([driver.tokens(row) for row in range(3)])
        backend.close()
    assert found[0] == found[1]


def addresses(store: PackedStore) -> list[int]:
    """Of every buffer."""
    return [np.asarray(memoryview(array.view(mx.uint8))).ctypes.data for array in store.state()]  # type: ignore[arg-type]


def test_no_buffer_moves_while_rows_decode_in_a_pipeline() -> None:
    """Of ragged rows, once their pools stay as they are: behind odd and even numbers of passes in a row."""
    backend = MlxBackend.from_model(llama, device_profile="metal")
    backend.load()
    driver = Driver(backend, pipelines=True)
    for row, length in enumerate((3, 70, 20, 150)):
        driver.open(row, expects=length + 60)
        driver.turn(Feed(row, prompt(row, length)), *[Feed(other) for other in range(row)])
    for _ in range(30):
        driver.turn(*[Feed(row) for row in range(4)])
    for passes in (1, 2, 3, 5):
        driver.read()
        store = backend.store
        assert isinstance(store, PackedStore)
        before = addresses(store)
        for _ in range(passes):
            driver.turn(*[Feed(row) for row in range(4)])
        driver.read()
        assert addresses(store) == before
    backend.close()


class Held:
    """A packed store whose buffers have a reader while a second pass is built behind one that nobody waited for."""

    def __init__(self, store: PackedStore, *, always: bool) -> None:
        self._store = store
        self._always = always
        self._was_run = False
        self._readers: list[mx.array] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def run(self, works: Sequence[RowWork]) -> Pass:
        """See `Store.run`."""
        held = self._store.state()[:1] if self._was_run or self._always else []
        self._readers = [array + 0 for array in held]  # not computed
        self._was_run = True
        return self._store.run(works)

    def state(self) -> list[mx.array]:
        """See `Store.state`: somebody has waited."""
        self._was_run = False
        self._readers = []
        return self._store.state()


def packed() -> PackedStore:
    """An empty store of a small model."""
    model, _ = llama()
    shape = LayerShape(heads=2, key_size=16, value_size=16, key_type=mx.float32, value_type=mx.float32)
    return PackedStore(model, [shape] * 3, METAL)


def test_the_probe_finds_a_buffer_that_moves_only_behind_another_pass() -> None:
    """One of six is enough; what moves in a pass alone says nothing, and a store that fails is not pipelined."""
    assert stays_in_place(packed())
    assert not stays_in_place(Held(packed(), always=False))
    assert stays_in_place(Held(packed(), always=True))
    broken: Any = packed()
    broken._layers = []
    assert not stays_in_place(broken)


@pytest.mark.parametrize("kind", MODELS)
def test_passes_are_pipelined_where_submission_does_not_block(kind: str) -> None:
    """The probe's word goes into what is said of the model; a device whose submission blocks is not asked."""
    for profile, expected in ((CPU, False), (METAL, True), (replace(METAL, dispatch_blocks=True), False)):
        backend = MlxBackend.from_model(MODELS[kind], device_profile=profile)
        assert backend.load().pipelines == expected
        backend.close()


def test_where_buffers_move_passes_are_not_pipelined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the last pass is read before the next one is submitted."""
    monkeypatch.setattr("greenroom.backends.mlx.inspection.stays_in_place", lambda *_: False)
    backend = MlxBackend.from_model(llama, device_profile="metal")
    assert not backend.load().pipelines
    backend.close()


@pytest.mark.parametrize(
    ("sampling", "masked", "calls"),
    [
        (Sampling(), False, {"async_eval": 1, "tolist": 1}),
        (Sampling(temperature=0.8), False, {"async_eval": 1, "tolist": 1}),
        (Sampling(temperature=0.8, top_p=0.9), False, {"async_eval": 1, "tolist": 1}),
        (Sampling(temperature=0.8, repetition_penalty=1.2), False, {"async_eval": 1, "tolist": 1}),
        (Sampling(), True, {"async_eval": 2, "tolist": 1}),
    ],
    ids=["greedy", "temperature", "top_p", "penalty", "masked"],
)
def test_a_step_gives_the_interpreter_lock_away_twice(
    sampling: Sampling, masked: bool, calls: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To submit the pass, and to wait for the last one; once more where the pass runs while masks are filled."""
    backend = MlxBackend.from_model(llama, device_profile="metal")
    backend.load()
    driver = Driver(backend, pipelines=True)
    for row in range(3):
        driver.open(row, sampling)
    driver.turn(*[Feed(row, (1, 2, 3 + row)) for row in range(3)])
    driver.turn(*[Feed(row) for row in range(3)])
    found: Counter[str] = Counter()

    def noted(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            found[name] += 1
            return plain(*given)

        return call

    for owner, name in (
        (mx.array, "tolist"),
        (mx.array, "item"),
        (mx, "eval"),
        (mx, "async_eval"),
        (mx, "synchronize"),
    ):
        monkeypatch.setattr(owner, name, noted(name, getattr(owner, name)))
    bits = np.full((3, -(-VOCAB // 32)), 0xFFFF0000, np.uint32)
    backend.forward(ForwardPlan(tuple([Feed(row) for row in range(3)])))
    backend.sample((lambda: Masks((0, 1, 2), bits)) if masked else None)
    backend.read()
    monkeypatch.undo()
    assert found == calls
    backend.read()
    backend.close()
