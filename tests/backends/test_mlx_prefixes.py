"""KV that is kept for prompts that begin alike: the store by itself, and rows that begin with what it holds."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from mlx.utils import tree_flatten, tree_map
from models import MODELS, ByteTokenizer, Driver, driven, gemma2, llama, mx, sequential

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.kv.packed import PackedStore
from greenroom.backends.mlx.layer_shape import LayerShape
from greenroom.backends.mlx.prefix_cache import store as prefix_store
from greenroom.backends.mlx.prefix_cache.files import PrefixFiles, PrefixFileWarning
from greenroom.backends.mlx.prefix_cache.layers import CacheSnapshot, Layers
from greenroom.backends.mlx.prefix_cache.store import BLOCK, PrefixStore
from greenroom.backends.protocol import Close, Feed, Open, Sampling

LONG = tuple((7 * i + i * i) % 300 for i in range(3 * BLOCK))
SHAPES = [LayerShape(1, 1, 2, mx.int64, mx.int64), LayerShape(2, 1, 1, mx.int64, mx.int64)]
TOKEN = sum(shape.bytes_per_token for shape in SHAPES)
FULL = BLOCK * TOKEN
MUCH = 1 << 30
KINDS = {**MODELS, "gemma2": gemma2}


def layers_of(tokens: Sequence[int], namespace: str = "model") -> Layers:
    """KV as a function of namespace, layer, and all tokens up to each place: what belongs to others is noticed."""
    sums = []
    state = hash(namespace)
    for token in tokens:
        state = hash((state, token))
        sums.append(state)
    layers = []
    for number, shape in enumerate(SHAPES):
        base = mx.array(sums, mx.int64).reshape(1, 1, -1, 1)
        heads = mx.arange(shape.heads).reshape(1, -1, 1, 1)
        keys = base + heads + 10 * number + 100 * mx.arange(shape.key_size)
        values = base + heads + 10 * number + 100 * mx.arange(shape.value_size) + 1000
        layers.append((keys, values))
    return layers


def same(one: Layers, other: Layers) -> bool:
    """Every number of every layer."""
    return all(
        bool(mx.array_equal(k, keys)) and bool(mx.array_equal(v, values))
        for (k, v), (keys, values) in zip(one, other, strict=True)
    )


def put(store: PrefixStore, tokens: Sequence[int], namespace: str = "model") -> None:
    """Keep what belongs to `tokens`."""
    store.put(namespace, tokens, layers_of(tokens, namespace))


def snapshot_of(tokens: Sequence[int], namespace: str = "model", size: int = 3) -> CacheSnapshot:
    """As `layers_of`, of all tokens together."""
    return CacheSnapshot({"state": mx.full((size,), hash((namespace, tuple(tokens))), mx.int64)}, str(len(tokens)))


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens are alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def held_tokens(store: PrefixStore) -> int:
    """Tokens that all blocks hold together."""
    return sum(len(held.tokens) for held in store._recent)


class Piece(NamedTuple):
    """So many tokens of one kind."""

    kind: int
    length: int


PIECES = st.lists(st.builds(Piece, st.integers(0, 2), st.sampled_from([1, 3, 20, BLOCK - 1, BLOCK, 70])), max_size=4)
NAMESPACES = st.sampled_from(["model", "adapter"])


def written(pieces: list[Piece]) -> tuple[int, ...]:
    """The tokens of pieces, one behind the other."""
    return tuple([piece.kind for piece in pieces for _ in range(piece.length)])


class AgainstNaive(RuleBasedStateMachine):
    """A store beside the plain list of all that was ever put: with memory for all of it, both find the same."""

    budget = MUCH

    def __init__(self) -> None:
        super().__init__()
        self.store = PrefixStore(self.budget, SHAPES)
        self.entries: set[tuple[str, tuple[int, ...]]] = set()
        self.states: set[tuple[str, tuple[int, ...]]] = set()

    @rule(pieces=PIECES, namespace=NAMESPACES)
    def keep(self, pieces: list[Piece], namespace: str) -> None:
        """An entry that fits is held, whole, right after."""
        tokens = written(pieces)
        put(self.store, tokens, namespace)
        self.entries.add((namespace, tokens))
        if len(tokens) * TOKEN <= self.budget:
            assert self.store.match(namespace, tokens) == len(tokens)

    @rule(pieces=PIECES, namespace=NAMESPACES)
    def find(self, pieces: list[Piece], namespace: str) -> None:
        """What is found is the KV of those tokens, and no more than was put."""
        tokens = written(pieces)
        longest = max((common(entry, tokens) for name, entry in self.entries if name == namespace), default=0)
        expected = self.store.match(namespace, tokens)
        hit = self.store.find(namespace, tokens)
        length = hit.length if hit is not None else 0
        assert length == expected
        assert length == longest if self.budget == MUCH else length <= longest
        if hit is not None:
            assert same(hit.layers, layers_of(tokens[:length], namespace))

    @rule(pieces=PIECES, namespace=NAMESPACES)
    def keep_state(self, pieces: list[Piece], namespace: str) -> None:
        """Snapshots share the budget."""
        tokens = written(pieces)
        self.store.put_snapshot(namespace, tokens, snapshot_of(tokens, namespace))
        if tokens:
            self.states.add((namespace, tokens))

    @rule(pieces=PIECES, namespace=NAMESPACES)
    def find_state(self, pieces: list[Piece], namespace: str) -> None:
        """A snapshot is found after all of its tokens, and only then."""
        tokens = written(pieces)
        lengths = [len(state) for name, state in self.states if name == namespace and tokens[: len(state)] == state]
        hit = self.store.find_snapshot(namespace, tokens)
        if self.budget == MUCH:
            assert (hit.length if hit is not None else 0) == max(lengths, default=0)
        if hit is not None:
            assert hit.length in lengths
            wanted = snapshot_of(tokens[: hit.length], namespace)
            assert hit.snapshot.note == wanted.note
            assert mx.array_equal(hit.snapshot.arrays["state"], wanted.arrays["state"])

    @precondition(lambda self: self.entries)
    @rule()
    def clear(self) -> None:
        """Nothing is left."""
        self.store.clear()
        self.entries.clear()
        self.states.clear()

    @invariant()
    def within_budget(self) -> None:
        """The bytes are those of what is held, and no chain has a gap."""
        store = self.store
        assert store.nbytes == sum(held.nbytes for held in store._recent) <= self.budget
        reached = [state for states in store._snapshots.values() for state in states.values()]
        ahead = [block for blocks in store._first.values() for block in blocks.values()]
        while ahead:
            block = ahead.pop()
            reached.append(block)  # type: ignore[arg-type]
            ahead += block.following.values()
        assert set(reached) == set(store._recent)
        assert all(store._first.values())
        assert all(store._snapshots.values())


class AgainstNaiveWithinLittle(AgainstNaive):
    """The same with memory for a few blocks: less is found, and never anything else."""

    budget = 3 * FULL + 100


AgainstNaive.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
AgainstNaiveWithinLittle.TestCase.settings = AgainstNaive.TestCase.settings
TestAgainstNaive = AgainstNaive.TestCase
TestAgainstNaiveWithinLittle = AgainstNaiveWithinLittle.TestCase


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(PIECES, st.booleans()), max_size=15), st.integers(1, 5), st.integers(1, 6))
def test_with_files_nothing_wrong_is_found_either(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[list[Piece], bool]], most: int, files: int
) -> None:
    """What comes back from files is the KV of those tokens, within both budgets."""
    cache = PrefixFiles(tmp_path_factory.mktemp("cache"), files * (FULL + 4000))
    store = PrefixStore(most * FULL, SHAPES, cache)
    entries = set()
    for pieces, is_put in steps:
        tokens = written(pieces)
        if is_put:
            put(store, tokens)
            entries.add(tokens)
        hit = store.find("model", tokens)
        if hit is not None:
            assert hit.length <= max(common(entry, tokens) for entry in entries)
            assert same(hit.layers, layers_of(tokens[: hit.length]))
        assert store.nbytes <= most * FULL
        assert cache.nbytes <= files * (FULL + 4000)


def test_what_entries_share_is_held_once() -> None:
    """To the block: 40 tokens behind two common blocks are held for each of two entries, the blocks once."""
    store = PrefixStore(MUCH, SHAPES)
    put(store, [0] * 2 * BLOCK + [1] * 40)
    put(store, [0] * 2 * BLOCK + [2] * 40)
    assert store.nbytes == (2 * BLOCK + 80) * TOKEN
    put(store, [0] * 2 * BLOCK + [2] * 10)
    put(store, [0] * BLOCK)
    assert store.nbytes == (2 * BLOCK + 80) * TOKEN
    put(store, [0] * 2 * BLOCK, "adapter")
    assert store.nbytes == (4 * BLOCK + 80) * TOKEN


def test_a_reply_that_grows_is_held_once() -> None:
    """The short block at the end gives way to the longer one that begins with it."""
    store = PrefixStore(MUCH, SHAPES)
    for length in (10, 30, BLOCK, BLOCK + 5, 3 * BLOCK):
        put(store, LONG[:length])
        assert store.nbytes == length * TOKEN == held_tokens(store) * TOKEN
    assert store.evictions == 0


def test_the_least_recently_used_go_first() -> None:
    """Finding and putting again are uses, asking what matches is none."""
    store = PrefixStore(4 * FULL, SHAPES)
    first, second, third, fourth = ([kind] * BLOCK for kind in range(4))
    for tokens in (first, second, third, fourth):
        put(store, tokens)
    store.find("model", first)
    put(store, second)
    store.match("model", third)
    put(store, [5] * BLOCK)
    put(store, [6] * BLOCK)
    assert [store.match("model", tokens) for tokens in (first, second, third, fourth)] == [BLOCK, BLOCK, 0, 0]
    assert store.evictions == 2


def test_a_chain_goes_from_its_end() -> None:
    """What is left of an entry is still its beginning."""
    store = PrefixStore(3 * FULL, SHAPES)
    put(store, LONG)
    for count in (1, 2):
        put(store, [300 + count] * BLOCK)
        assert store.match("model", LONG) == (3 - count) * BLOCK


def test_an_entry_larger_than_the_budget_is_not_kept() -> None:
    """Nor does it cost others their place. One that fits exactly is kept."""
    store = PrefixStore(3 * FULL, SHAPES)
    put(store, [1] * BLOCK)
    put(store, (*LONG, 1))
    store.put_snapshot("model", [1], snapshot_of([1], size=3 * FULL // 8 + 1))
    assert (store.nbytes, store.evictions) == (FULL, 0)
    put(store, LONG)
    assert (store.nbytes, store.evictions) == (3 * FULL, 1)
    store.put_snapshot("model", [1], snapshot_of([1], size=3 * FULL // 8))
    assert (store.nbytes, store.evictions) == (3 * FULL, 4)


def test_counts() -> None:
    """A prefix that is too short to be of use is a miss."""
    store = PrefixStore(MUCH, SHAPES)
    put(store, LONG[:100])
    assert store.find("model", LONG[:70]) is not None
    assert store.find("model", LONG[:70], least=71) is None
    assert store.find("model", LONG, least=100) is not None
    assert store.find("other", LONG) is None
    assert store.find("model", (), least=0) is None
    store.put_snapshot("model", LONG[:7], snapshot_of(LONG[:7]))
    assert store.find_snapshot("model", LONG[:6]) is None
    assert store.find_snapshot("model", LONG) is not None
    assert (store.hits, store.misses, store.hit_tokens) == (3, 4, 177)


def test_writing_into_what_was_handed_out_or_in_changes_nothing() -> None:
    """Neither a hit's arrays nor those that were put are those that are held."""
    store = PrefixStore(MUCH, SHAPES)
    given = layers_of(LONG[:BLOCK])
    state = snapshot_of(LONG[:BLOCK])
    mx.eval(given, dict(state.arrays))
    store.put("model", LONG[:BLOCK], given)
    store.put_snapshot("model", LONG[:BLOCK], state)
    for _ in range(2):
        for keys, values in given:
            keys[:] = 0
            values[..., 0] = 0
        state.arrays["state"][1:] = 0
        mx.eval(given, dict(state.arrays))
        hit = store.find("model", LONG[:BLOCK])
        found = store.find_snapshot("model", LONG[:BLOCK])
        assert hit is not None
        assert found is not None
        assert same(hit.layers, layers_of(LONG[:BLOCK]))
        assert mx.array_equal(found.snapshot.arrays["state"], snapshot_of(LONG[:BLOCK]).arrays["state"])
        given, state = hit.layers, found.snapshot


def test_no_larger_buffer_is_kept_alive() -> None:
    """Not by a block of a long slot, and not by a snapshot that is a view."""
    shape = LayerShape(1, 64, 64, mx.float32, mx.float32)
    store = PrefixStore(MUCH, [shape])
    gc.collect()
    before = mx.get_active_memory()
    slot = mx.ones((1, 1, 200 * BLOCK, 64))
    mx.eval(slot)
    part = slot[:, :, BLOCK : 2 * BLOCK]
    store.put("model", LONG[:BLOCK], [(part, part)])
    store.put_snapshot("model", LONG, CacheSnapshot({"state": part}))
    assert mx.get_active_memory() - before > slot.nbytes
    del slot, part
    store.settle()
    assert mx.get_active_memory() - before < 2 * store.nbytes


def test_layers_of_another_form_are_refused() -> None:
    """Shape, type, count of tokens and of layers; nothing is kept then."""
    store = PrefixStore(MUCH, SHAPES)
    right = layers_of(LONG[:5])
    wrong: list[Layers] = [
        right[:1],
        layers_of(LONG[:6]),
        [(keys.astype(mx.int32), values) for keys, values in right],
        [(values, keys) for keys, values in right],
    ]
    for layers in wrong:
        with pytest.raises(ValueError, match="5 tokens have KV of"):
            store.put("model", LONG[:5], layers)
    assert store.nbytes == 0


def test_a_copy_that_cannot_be_started_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error leaves, and the store is as it was."""
    store = PrefixStore(MUCH, SHAPES)
    put(store, LONG[:BLOCK])

    def fail(*_: object) -> None:
        raise RuntimeError("the device says no")

    longer = layers_of(LONG)
    with monkeypatch.context() as patch:
        patch.setattr(mx, "async_eval", fail)
        with pytest.raises(RuntimeError, match="the device says no"):
            store.put("model", LONG, longer)
        with pytest.raises(RuntimeError, match="the device says no"):
            store.put_snapshot("model", LONG, snapshot_of(LONG))
    assert store.match("model", LONG) == BLOCK
    assert store.find_snapshot("model", LONG) is None
    assert store.nbytes == FULL


@pytest.mark.parametrize("scratch", [1, 2 * FULL, MUCH])
def test_blocks_are_those_of_the_entry_however_many_are_copied_at_once(
    scratch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One, two or all; with a short one at the end, and a beginning that is held."""
    monkeypatch.setattr(prefix_store, "_SCRATCH", scratch)
    store = PrefixStore(MUCH, SHAPES)
    tokens = (*LONG, *LONG[5:], 9)
    put(store, tokens[: BLOCK + 3])
    behind = store.whole_length("model", tokens)
    assert behind == BLOCK
    rest = [(keys[:, :, behind:], values[:, :, behind:]) for keys, values in layers_of(tokens)]
    store.put("model", tokens, rest, behind=behind)
    hit = store.find("model", tokens)
    assert hit is not None
    assert hit.length == len(tokens)
    assert same(hit.layers, layers_of(tokens))
    assert store.nbytes == len(tokens) * TOKEN


def test_once_copies_are_settled_their_buffer_is_written_in_place() -> None:
    """Not before: they wait for what the device is at, and a write that is dispatched meanwhile copies the buffer."""
    shape = LayerShape(1, 64, 64, mx.float32, mx.float32)
    store = PrefixStore(MUCH, [shape])
    slots, busy = mx.zeros((4, 1, 10 * BLOCK, 64)), mx.ones((1000, 1000))
    mx.eval(slots, busy)
    before = np.asarray(slots).ctypes.data
    mx.async_eval(busy @ busy)
    store.put("model", LONG[:BLOCK], [(slots[:1, :, :BLOCK], slots[1:2, :, :BLOCK])])
    store.settle()
    slots[:1, :, :BLOCK] = mx.ones((1, 1, BLOCK, 64))
    mx.eval(slots)
    assert np.asarray(slots).ctypes.data == before
    hit = store.find("model", LONG[:BLOCK])
    assert hit is not None
    assert not mx.any(hit.layers[0][0])


def test_what_is_dropped_is_given_back_to_the_byte() -> None:
    """Though blocks are cut out of one copy of their entry: each has a buffer of its own, and no more."""
    shape = LayerShape(2, 64, 64, mx.float32, mx.float32)
    full = 2 * BLOCK * shape.bytes_per_token
    store = PrefixStore(5 * full, [shape, shape])
    before = mx.set_cache_limit(0)  # else a buffer that is taken again may be larger
    try:
        gc.collect()
        start = mx.get_active_memory()
        for place in range(4):
            keys = mx.ones((1, 2, 3 * BLOCK, 64)) * place
            store.put("model", [place] * 3 * BLOCK, [(keys, keys + 1), (keys + 2, keys + 3)])
            del keys
            store.settle()
            gc.collect()
            assert store.nbytes == min(3 * (place + 1), 5) * full
            assert mx.get_active_memory() - start == store.nbytes
        assert store.evictions == 7
    finally:
        mx.set_cache_limit(before)


class Calls(NamedTuple):
    """What was called in which order."""

    names: list[str]

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Note every evaluation, and whether it is waited for."""
        for name in ("eval", "async_eval"):
            patch.setattr(mx, name, partial(self._call, name, getattr(mx, name)))

    def _call(self, name: str, function: Callable[..., None], *arrays: Any) -> None:
        leaves: Any = tree_flatten(arrays)
        if any(isinstance(leaf, mx.array) for _, leaf in leaves):
            self.names.append(name)
        function(*arrays)


@pytest.mark.parametrize("kind", ["llama", "deepseek_v3", "gemma2", "mamba2"])
def test_who_closes_waits_for_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every kind of cache; the next pass waits before it is dispatched, and goes on right."""
    with driven(KINDS[kind]) as (driver, backend):
        prompts = [(number, *LONG[: BLOCK + 9 * number]) for number in range(3)]
        for row, prompt in enumerate(prompts):
            begun(driver, backend, row, prompt)
        for _ in range(3):
            driver.turn(*[Feed(row) for row in range(3)])
        driver.read()
        calls = Calls([])
        with monkeypatch.context() as patch:
            calls.watch(patch)
            driver.edit(Close(1), Close(2))
            assert set(calls.names) == {"async_eval"}
            calls.names.clear()
            driver.turn(Feed(0))
            assert calls.names[-2:] == ["eval", "async_eval"]
            calls.names.clear()
            driver.turn(Feed(0))
            driver.read()
            assert "async_eval" in calls.names
            assert calls.names[0] == "async_eval"
        again = (*prompts[2], *driver.tokens(2)[:-1], 3, 1, 4)
        assert begun(driver, backend, 3, again) == len(again) - 3
        driver.turn(Feed(0), Feed(3))
        driver.read()
        assert driver.tokens(0) == sequential(backend._model, prompts[0], 7)[0]
        assert driver.tokens(3) == sequential(backend._model, again, 2)[0]


def pointers(backend: MlxBackend) -> list[int]:
    """Where the buffers of all pools are in memory."""
    assert isinstance(backend.store, PackedStore)
    return [np.asarray(array).ctypes.data for array in backend.store.state()]


def test_no_pool_is_copied_because_a_row_left_it() -> None:
    """The rows that stay are written where they stand, though what the others leave behind is read beside them."""
    with driven(llama) as (driver, backend):
        for row in range(4):
            driver.open(row)
        driver.turn(*[Feed(row, (row, *LONG[:-20])) for row in range(4)])
        driver.turn(*[Feed(row) for row in range(4)])
        driver.read()
        before = pointers(backend)
        assert before
        for row in (3, 2):
            driver.edit(Close(row))
            driver.turn(*[Feed(other) for other in range(row)])
            driver.read()
            assert pointers(backend) == before
        assert backend.prefixes is not None
        assert backend.prefixes.match(backend._kept.namespace, (3, *LONG)) == len(LONG) - 19  # type: ignore[union-attr]


def test_memory_goes_back_with_the_last_row() -> None:
    """All but what is kept: also buffers from which that is still copied when the row is closed."""
    with driven(llama) as (driver, backend):
        gc.collect()
        mx.clear_cache()
        before, busy = mx.get_active_memory(), mx.ones((1000, 1000))
        mx.eval(busy)
        for number in range(2):
            begun(driver, backend, number, (number, *LONG * 10))
            driver.read()
            mx.async_eval(busy @ busy)
            held = backend.edit([Close(number)])
            mx.synchronize()
            gc.collect()
            assert mx.get_cache_memory() == 0
            assert mx.get_active_memory() - before - busy.nbytes < held.prefix_bytes + (64 << 10)


def test_where_the_device_fails_to_copy_what_is_held_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody begins with it, and the rows that stay go on."""
    with driven(llama) as (driver, backend):
        begun(driver, backend, 0, LONG)
        begun(driver, backend, 1, (9, *LONG))
        driver.read()
        driver.edit(Close(0))
        assert backend.prefixes is not None
        assert backend.prefixes.nbytes > 0
        evaluate = mx.eval

        def fail(*_: object) -> None:
            monkeypatch.setattr(mx, "eval", evaluate)
            raise RuntimeError("the device says no")

        monkeypatch.setattr(mx, "eval", fail)
        driver.turn(Feed(1))
        assert mx.eval is evaluate
        assert backend.prefixes.nbytes == 0
        assert begun(driver, backend, 2, LONG) == 0
        driver.read()
        assert driver.tokens(1) == sequential(backend._model, (9, *LONG), 2)[0]
        assert driver.tokens(2) == driver.tokens(0)


def test_a_row_that_comes_begins_with_what_one_leaves_in_the_same_step() -> None:
    """Its copy is under way, and so is what the row is given of it."""
    with driven(llama) as (driver, backend):
        begun(driver, backend, 0, LONG)
        begun(driver, backend, 1, (9, *LONG))
        driver.read()
        wanted = (*LONG[:-20], 5, 6)
        held = backend.edit([Close(0), Open(2, Sampling(), prompt=wanted)])
        assert dict(held.reused) == {2: len(LONG) - 20}
        driver.sampled[2] = []
        driver.turn(Feed(1), Feed(2, wanted[-2:]))
        driver.turn(Feed(1), Feed(2))
        driver.read()
        assert driver.tokens(1) == sequential(backend._model, (9, *LONG), 3)[0]
        assert driver.tokens(2) == sequential(backend._model, wanted, 2)[0]


def test_what_was_dropped_comes_back_from_files(tmp_path: Path) -> None:
    """Dropped blocks and snapshots are written, found again when asked for, and held again."""
    store = PrefixStore(3 * FULL, SHAPES, PrefixFiles(tmp_path, MUCH))
    put(store, LONG)
    store.put_snapshot("model", LONG[:9], snapshot_of(LONG[:9]))
    put(store, [300] * 3 * BLOCK)
    assert store.match("model", LONG) == 0
    hit = store.find("model", LONG)
    assert hit is not None
    assert hit.length == 3 * BLOCK
    assert same(hit.layers, layers_of(LONG))
    assert store.match("model", LONG) == 3 * BLOCK
    assert store.nbytes == 3 * FULL
    found = store.find_snapshot("model", LONG)
    assert found is not None
    assert found.length == 9
    assert found.snapshot.note == "9"
    assert mx.array_equal(found.snapshot.arrays["state"], snapshot_of(LONG[:9]).arrays["state"])


def test_another_process_begins_with_what_was_flushed(tmp_path: Path) -> None:
    """Whole blocks and snapshots; the short block at the end is for memory alone. Namespaces stay apart."""
    store = PrefixStore(MUCH, SHAPES, PrefixFiles(tmp_path, MUCH))
    put(store, LONG[: 2 * BLOCK + 10])
    for length in (5, 50, 150):
        store.put_snapshot("model", LONG[:length], snapshot_of(LONG[:length]))
    store.flush()
    other = PrefixStore(MUCH, SHAPES, PrefixFiles(tmp_path, MUCH))
    assert other.find("adapter", LONG) is None
    hit = other.find("model", LONG)
    assert hit is not None
    assert same(hit.layers, layers_of(LONG[: 2 * BLOCK]))
    found = other.find_snapshot("model", LONG[:149])
    assert found is not None
    assert found.length == 50
    assert other.find_snapshot("adapter", LONG) is None


def test_the_longest_of_memory_and_files_is_found(tmp_path: Path) -> None:
    """A snapshot in memory hides no longer one in a file, nor the other way round."""
    store = PrefixStore(MUCH, SHAPES, PrefixFiles(tmp_path, MUCH))
    store.put_snapshot("model", LONG[:20], snapshot_of(LONG[:20]))
    store.flush()
    store.clear()
    lengths = []
    for length in (10, 30):
        store.put_snapshot("model", LONG[:length], snapshot_of(LONG[:length]))
        found = store.find_snapshot("model", LONG)
        lengths.append(found.length if found is not None else 0)
    assert lengths == [20, 30]


def test_a_short_block_in_memory_gives_way_to_the_whole_one_in_a_file(tmp_path: Path) -> None:
    """It is held once."""
    store = PrefixStore(MUCH, SHAPES, PrefixFiles(tmp_path, MUCH))
    put(store, LONG)
    store.flush()
    store.clear()
    put(store, LONG[: BLOCK + 5])
    hit = store.find("model", LONG)
    assert hit is not None
    assert hit.length == 3 * BLOCK
    assert store.nbytes == 3 * FULL


def test_files_bring_no_more_than_memory_may_hold(tmp_path: Path) -> None:
    """A chain is read as far as all of it fits, and a snapshot that does not fit is left where it is."""
    store = PrefixStore(MUCH, SHAPES, PrefixFiles(tmp_path, MUCH))
    put(store, LONG)
    store.put_snapshot("model", LONG, snapshot_of(LONG, size=MUCH // 1000))
    store.put_snapshot("model", LONG[:5], snapshot_of(LONG[:5]))
    store.flush()
    small = PrefixStore(2 * FULL, SHAPES, PrefixFiles(tmp_path, MUCH))
    put(small, [300] * 2 * BLOCK)
    hit = small.find("model", LONG)
    assert hit is not None
    assert hit.length == 2 * BLOCK
    found = small.find_snapshot("model", LONG)
    assert found is not None
    assert found.length == 5
    assert small.nbytes <= 2 * FULL


def test_files_of_another_model_by_the_same_name_are_ignored(tmp_path: Path) -> None:
    """Their KV has other shapes: a warning, and a miss."""
    store = PrefixStore(MUCH, SHAPES, PrefixFiles(tmp_path, MUCH))
    put(store, LONG)
    store.flush()
    other = PrefixStore(MUCH, SHAPES[:1], PrefixFiles(tmp_path, MUCH))
    with pytest.warns(PrefixFileWarning, match="other shapes"):
        assert other.find("model", LONG) is None


def test_bfloat16_goes_through_memory_and_files(tmp_path: Path) -> None:
    """Every bit of it."""
    shape = LayerShape(2, 4, 4, mx.bfloat16, mx.bfloat16)
    keys = mx.random.normal((1, 2, BLOCK, 4)).astype(mx.bfloat16)
    store = PrefixStore(MUCH, [shape], PrefixFiles(tmp_path, MUCH))
    store.put("model", LONG[:BLOCK], [(keys, keys * 2)])
    for _ in range(2):
        hit = store.find("model", LONG)
        assert hit is not None
        assert hit.layers[0][0].dtype == mx.bfloat16
        assert same(hit.layers, [(keys, keys * 2)])
        store.flush()
        store.clear()


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
        assert begun(driver, backend, 1, second) == 2 * BLOCK + 10
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
        assert begun(driver, backend, 2, LONG) == len(LONG) - 1
        driver.read()
        assert driver.tokens(0) == driver.tokens(1) == driver.tokens(2)


def test_without_a_budget_nothing_is_kept() -> None:
    """`prefix_bytes=0`: of rows that have left; those that are here are begun from all the same."""
    backend = MlxBackend.from_model(llama, prefix_bytes=0)
    assert backend.load().reuses_prefixes
    driver = Driver(backend)
    begun(driver, backend, 0, LONG)
    driver.read()
    assert begun(driver, backend, 1, LONG) == len(LONG) - 1
    driver.read()
    assert backend.edit([Close(0), Close(1)]).prefix_bytes == 0
    assert begun(driver, backend, 2, LONG) == 0
    driver.read()
    backend.close()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_conversation_goes_on_from_what_was_held(kind: str) -> None:
    """On every kind of cache: the next turn's prompt begins with the last one and its reply, and runs only the rest."""
    first = tuple((7 * i) % 250 for i in range(BLOCK + 20))
    with driven(KINDS[kind]) as (driver, backend):
        assert begun(driver, backend, 0, first) == 0
        for _ in range(6):
            driver.turn(Feed(0))
        driver.read()
        reply = driver.tokens(0)
        driver.edit(Close(0))
        second = (*first, *reply[:-1], 3, 1, 4)
        assert begun(driver, backend, 1, second) == len(first) + len(reply) - 1
        other = (*first, 9, 9)
        reused = begun(driver, backend, 2, other)
        assert reused in (len(first) - 1, len(first))
        for _ in range(5):
            driver.turn(Feed(1), Feed(2))
        driver.read()
        assert driver.tokens(1) == sequential(backend._model, second, 6)[0]
        assert driver.tokens(2) == sequential(backend._model, other, 6)[0]


@pytest.mark.parametrize("kind", ["llama", "deepseek_v3", "gemma3", "mamba2"])
def test_the_next_process_begins_with_what_files_hold(kind: str, tmp_path: Path) -> None:
    """Closing writes what is held; another backend of the same weights reads it, one of other weights does not."""
    first = tuple((7 * i) % 250 for i in range(2 * BLOCK + 20))
    second = (*first, 3, 1, 4)
    built = MODELS[kind]()
    for number in range(2):
        backend = MlxBackend.from_model(lambda: built, prefix_folder=tmp_path)
        backend.load()
        driver = Driver(backend)
        reused = begun(driver, backend, 0, second if number else first)
        assert reused >= 2 * BLOCK if number else reused == 0
        for _ in range(4):
            driver.turn(Feed(0))
        driver.read()
        if number:
            assert driver.tokens(0) == sequential(backend._model, second, 5)[0]
        driver.edit(Close(0))
        backend.close()

    def other() -> tuple[Any, ByteTokenizer]:
        model, tokenizer = built
        model.update(tree_map(lambda weight: weight * 1.01, model.parameters()))
        return model, tokenizer

    backend = MlxBackend.from_model(other, prefix_folder=tmp_path)
    backend.load()
    assert begun(Driver(backend), backend, 0, second) == 0
    backend.close()
