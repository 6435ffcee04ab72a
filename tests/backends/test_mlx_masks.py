"""Masks over logits: short lists, a few forbidden, and everything between give what the mask says."""

from __future__ import annotations

import ctypes
import logging
import shutil
import subprocess
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models import Driver, llama, mx

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.rows import Row, ints
from greenroom.backends.mlx.sampling import masks as bitmasks
from greenroom.backends.mlx.sampling.sampler import BatchSampler
from greenroom.backends.protocol import Feed, Masks, Sampling

VOCAB = 5000
WORDS = -(-VOCAB // 32)
SAMPLINGS = [
    Sampling(),
    Sampling(seed=1, temperature=1.5),
    Sampling(seed=2, temperature=0.8, top_p=0.9),
    Sampling(seed=3, temperature=1.2, top_k=40, top_p=0.95),
    Sampling(seed=4, temperature=2.0, top_k=2000, min_p=0.01),
    Sampling(seed=5, temperature=1.0, repetition_penalty=1.3, logprobs=2),
]

Bools = npt.NDArray[np.bool_]


def mask_of(rng: np.random.Generator, count: int) -> Bools:
    """`count` ids that are allowed."""
    row = np.zeros(VOCAB, np.bool_)
    row[rng.choice(VOCAB, count, replace=False)] = True
    return row


def packed(rows: list[Bools]) -> npt.NDArray[np.uint32]:
    """As the protocol has it."""
    octets = np.zeros((len(rows), WORDS * 4), np.uint8)
    bits = np.packbits(np.array(rows, np.bool_).reshape(-1, VOCAB), axis=1, bitorder="little")
    octets[:, : bits.shape[1]] = bits
    return octets.view(np.uint32)


def drawn(logits: npt.NDArray[np.float32], rows: list[int], masks: Masks) -> dict[int, int]:
    """What each of `rows` draws of its own line of `logits`, together."""
    made = []
    for number in rows:
        row = Row(number, SAMPLINGS[number % len(SAMPLINGS)])
        row.tokens, row.length = [0, 7, 9], 3
        made.append(row)
    sampler = BatchSampler(made, VOCAB)
    positions = np.full(len(rows), 3, np.uint64)
    tokens = ints(sampler.draw(mx.array(logits[rows]), None, masks, positions).tokens)
    return dict(zip(rows, tokens, strict=True))


@example(seed=11308, counts=[64, 4990])
@example(seed=1, counts=[2500] * 12)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**16), counts=st.lists(st.sampled_from([1, 3, 64, 65, 900, 2500, 4990, 5000]), max_size=12))
def test_rows_under_any_masks_draw_what_they_draw_alone(seed: int, counts: list[int]) -> None:
    """Only legal ids, the best legal one where greedy; nothing changes with the rows beside, or the masks' order."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(12, VOCAB)).astype(np.float32) * 3
    allowed = {row: mask_of(rng, count) for row, count in enumerate(counts)}
    order: list[int] = rng.permutation(len(counts)).tolist()
    masks = Masks(tuple(order), packed([allowed[row] for row in order]))
    together = drawn(logits, list(range(12)), masks)
    for row, mask in allowed.items():
        assert mask[together[row]]
        if row % len(SAMPLINGS) == 0:
            assert together[row] == np.flatnonzero(mask)[np.argmax(logits[row][mask])]
        assert drawn(logits, [row], Masks((row,), packed([mask])))[row] == together[row]
    for row in range(len(counts), 12):
        none = Masks((), np.empty((0, WORDS), np.uint32))
        assert drawn(logits, [row], none)[row] == together[row]


def test_raw_log_probabilities_are_told_under_a_mask() -> None:
    """They are of the model's own logits: the mask changes what is drawn, not what is told."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=VOCAB).astype(np.float32)
    row = Row(0, Sampling(logprobs=1))
    row.tokens, row.length = [0], 1
    mask = mask_of(rng, 5)
    mask[np.argmax(logits)] = False
    given_masks = Masks((0,), packed([mask]))
    found = BatchSampler([row], VOCAB).draw(mx.array(logits[None]), None, given_masks, np.array([1], np.uint64))
    assert found.logprobs is not None
    (token,) = ints(found.tokens)
    total = np.log(np.exp(logits.astype(np.float64)).sum())
    assert np.array(found.logprobs.drawn)[0] == pytest.approx(logits[token] - total, abs=1e-4)
    assert found.logprobs.ids is not None
    assert found.logprobs.ids.tolist() == [[int(np.argmax(logits))]]


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("vocab", [VOCAB, VOCAB - 3])
def test_caps_equal_the_portable_way(vocab: int, dtype: mx.Dtype) -> None:
    """Bit for bit, whether or not the vocabulary fills its last word."""
    rng = np.random.default_rng(3)
    x = mx.array(rng.normal(size=(3, vocab)).astype(np.float32)).astype(dtype)
    bits = packed([mask_of(rng, 2500) for _ in range(3)])
    assert mx.array_equal(bitmasks.by_caps(x, bits), bitmasks.by_bools(x, bits))


@pytest.mark.skipif(not mx.metal.is_available(), reason="the kernel runs on Metal alone")
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_the_kernel_equals_the_portable_way(dtype: mx.Dtype) -> None:
    """Bit for bit."""
    rng = np.random.default_rng(2)
    x = mx.array(rng.normal(size=(3, VOCAB)).astype(np.float32)).astype(dtype)
    bits = packed([mask_of(rng, 2500) for _ in range(3)])
    assert mx.array_equal(bitmasks.by_kernel(x, bits), bitmasks.by_bools(x, bits))


TWIN = """
#include <cmath>
#include <cstdint>
#include <cstring>
typedef uint32_t uint;
struct Three { uint x, y; };
// What Metal calls bfloat: the upper half of a float, which these values fill exactly.
struct bfloat {
    uint16_t half;
    bfloat() = default;
    explicit bfloat(float value) { uint32_t word; std::memcpy(&word, &value, 4); half = word >> 16; }
};
template <typename T> void thread(const T* x, const uint* bits, uint words, T* out, Three thread_position_in_grid,
                                  Three threads_per_grid) {
KERNEL
}
template <typename T> void grid(const T* x, const uint* bits, uint words, T* out, uint width, uint rows) {
    for (uint row = 0; row < rows; row++)
        for (uint column = 0; column < width; column++) thread<T>(x, bits, words, out, {column, row}, {width, rows});
}
extern "C" void in_float(const float* x, const uint* bits, uint words, float* out, uint width, uint rows) {
    grid<float>(x, bits, words, out, width, rows);
}
extern "C" void in_bfloat(const bfloat* x, const uint* bits, uint words, bfloat* out, uint width, uint rows) {
    grid<bfloat>(x, bits, words, out, width, rows);
}
"""


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernel's body, compiled as C++ and run thread by thread."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "twin.cpp").write_text(TWIN.replace("KERNEL", bitmasks.KERNEL))
    command = [
        compiler,
        "-std=c++17",
        "-O1",
        "-shared",
        "-fPIC",
        "-o",
        str(folder / "twin.so"),
        str(folder / "twin.cpp"),
    ]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(folder / "twin.so"))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("width", [31, 32, 33, 4997, 151_936])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_the_kernels_twin_equals_the_portable_way(twin: ctypes.CDLL, dtype: mx.Dtype, width: int, rows: int) -> None:
    """Bit for bit, for widths that fill their last word and that do not."""
    rng = np.random.default_rng(width)
    x = mx.array(rng.normal(size=(rows, width)).astype(np.float32)).astype(dtype)
    words = -(-width // 32)
    bits = rng.integers(0, 1 << 32, (rows, words), dtype=np.uint32)
    is_float = dtype == mx.float32
    numbers = np.array(x if is_float else x.view(mx.uint16))
    out = np.empty_like(numbers)
    run = twin.in_float if is_float else twin.in_bfloat
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (numbers, bits, out)]
    run(pointers[0], pointers[1], words, pointers[2], width, rows)
    wanted = bitmasks.by_bools(x, bits)
    assert np.array_equal(out, np.array(wanted if is_float else wanted.view(mx.uint16)))


@pytest.mark.skipif(mx.metal.is_available(), reason="the kernel runs here")
def test_a_kernel_that_does_not_run_is_said_once_at_load(caplog: pytest.LogCaptureFixture) -> None:
    """The portable way serves in its place: nothing fails, and the log says why."""
    with caplog.at_level(logging.WARNING, logger="greenroom"):
        assert not bitmasks.kernel_works()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "does not run here" in caplog.text


@pytest.mark.parametrize("where", ["built", "dispatched"])
def test_the_portable_way_serves_once_the_kernel_raises(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a running pass too: no row fails, each is given the tokens that it would be, and the log says so once."""
    calls: list[int] = []
    broken = [False]

    def kernel(x: mx.array, bits: Any) -> mx.array:
        calls.append(len(x))
        if broken[0] and where == "built":
            raise RuntimeError("no pipeline")
        return bitmasks.by_bools(x, bits)

    def dispatch(*given: Any) -> None:
        if broken[0] and where == "dispatched":
            broken[0] = False
            raise RuntimeError("no pipeline")
        plain(*given)

    plain: Any = mx.async_eval
    monkeypatch.setattr(bitmasks, "by_kernel", kernel)
    monkeypatch.setattr(mx, "async_eval", dispatch)
    rng = np.random.default_rng(8)
    masks = [Masks((0, 1), packed([mask_of(rng, 2500), mask_of(rng, 2500)])) for _ in range(5)]
    samplings = (
        Sampling(temperature=1.0, seed=4, repetition_penalty=1.3),
        Sampling(),
        Sampling(temperature=0.7, seed=5),
    )
    drawn = []
    for breaks_at in (None, 2):
        backend = MlxBackend.from_model(partial(llama, vocab_size=VOCAB), device_profile="metal")
        backend.load()
        driver = Driver(backend)
        for row, sampling in enumerate(samplings):
            driver.open(row, sampling)
        driver.turn(*[Feed(row, (1, 2, 3 + row)) for row in range(3)])
        calls.clear()
        with caplog.at_level(logging.WARNING, logger="greenroom"):
            for turn, mask in enumerate(masks):
                broken[0] = turn == breaks_at or (broken[0] and where == "built")
                driver.turn(*[Feed(row) for row in range(3)], masks=mask)
        driver.read()
        drawn.append([driver.tokens(row) for row in range(3)])
        assert len(calls) == (5 if breaks_at is None else 3)
        broken[0] = False
        backend.close()
    assert drawn[0] == drawn[1]
    assert [record.getMessage() for record in caplog.records] == [
        "masks are laid by an array of bools from now on, since their kernel failed: no pipeline"
    ]
