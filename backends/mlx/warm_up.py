"""What a GPU compiles at first use is used once at load: else the first requests wait for it, each for its own kernels.

Chunks and decoding rows run through a store of their own; then tokens are drawn from their logits in every way that
there is, free and under masks. Nothing is left of it. It ends early where it takes too long or something fails: what is
missing then is compiled when it is needed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from greenroom.backends.mlx.device_profile import DeviceProfile
from greenroom.backends.mlx.kv.stores import Store
from greenroom.backends.mlx.rows import Row, RowWork
from greenroom.backends.mlx.sampling.masks import FEW
from greenroom.backends.mlx.sampling.sampler import BatchSampler
from greenroom.backends.protocol import Masks, Sampling

__all__ = ["CHUNKS", "ROWS", "TOKENS", "warm_up"]

_log = logging.getLogger("greenroom")

_SECONDS = 5.0
CHUNKS = (2, 7, 31, 64)
"""Small ones: what is forced or guessed, and what a step's budget leaves. Larger ones run the kernels of a prompt."""
_SHARED = 288
"""Tokens: a beginning that two rows share."""
ROWS = 3
TOKENS = ROWS * 2 * _SHARED
"""The most whose keys and values are held at once, with room that a store may leave."""
_SAMPLINGS = {
    "greedy": Sampling(),
    "candidates": Sampling(temperature=0.7, top_k=20, top_p=0.9, min_p=0.01),
    "nucleus": Sampling(temperature=0.7, top_p=0.9),
    "filtered": Sampling(temperature=0.7, top_k=300, top_p=0.9, min_p=0.01),
    "open": Sampling(temperature=0.7),
    "penalties": Sampling(repetition_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1),
    "bias and bans": Sampling(logit_bias=((0, 0.5),), banned=(0,), banned_until=1 << 30),
    "log-probabilities": Sampling(logprobs=5),
}


def warm_up(
    store: Store, vocab_size: int, device: DeviceProfile, *, clock: Callable[[], float] = time.monotonic
) -> list[str]:
    """Run all of it on `store`, which nobody uses, within some seconds; returns what was run. Raises nothing."""
    began = clock()
    done: list[str] = []
    try:
        for name in _steps(store, vocab_size, device):
            done.append(name)
            if clock() - began > _SECONDS:
                _log.info("the warm-up ended after %s: what it left out is compiled when it is needed", name)
                break
    except Exception as error:  # noqa: BLE001 - whatever it is: nobody asked for what failed
        _log.warning("the warm-up ended after %s: %s", done[-1] if done else "nothing", error)
    try:
        store.clear()
        mx.clear_cache()
    except Exception:  # noqa: BLE001 - likewise
        _log.debug("nothing was left to clear", exc_info=True)
    return done


def _steps(store: Store, vocab_size: int, device: DeviceProfile) -> Iterator[str]:
    """Run one step after the other; each is over when its name is there."""
    # 1. Small chunks, then a long one, and rows that decode beside one: alone, together, and behind what they share.
    ids = [1 % vocab_size] * _SHARED
    first = Row(0, Sampling())
    for size in CHUNKS:
        _run(store, [(first, ids[:size])])
        yield f"a chunk of {size}"
    _run(store, [(first, ids[first.length :])])
    yield f"a prompt of {_SHARED}"
    _run(store, [(first, ids[:1])])
    yield "a row that decodes"
    second, third = Row(1, Sampling()), Row(2, Sampling())
    begun = store.begin(second, tuple(ids))
    _run(store, [(first, ids[:1]), (second, ids[begun:])])
    _run(store, [(first, ids[:1]), (second, ids[:1])])
    yield "rows behind what they share" if begun else "rows of unequal length"
    logits = _run(store, [(first, ids[:1]), (second, ids[:1]), (third, ids[:9])])
    yield "rows beside a chunk"
    # 2. Every way to draw, for some rows and for all, and every kind of mask.
    if logits is None:
        return
    rows = [first, second, third]
    kinds = {name: [sampling] * len(rows) for name, sampling in _SAMPLINGS.items()}
    kinds["several ways"] = [*_SAMPLINGS.values()][: len(rows)]
    for name, samplings in kinds.items():
        _draw(rows, samplings, logits, device)
        yield name
    for name, bits in _masks(vocab_size):
        for count in (len(rows), 1):
            _draw(rows, kinds["several ways"], logits, device, np.repeat(bits, count, axis=0))
        yield name


def _run(store: Store, works: list[tuple[Row, list[int]]]) -> mx.array | None:
    """One pass, computed; its logits."""
    for row, ids in works:
        row.extend(tuple(ids))
    run = store.run([RowWork(row, tuple(ids), sample=True) for row, ids in works])
    if run.failures:
        raise run.failures[0].error
    mx.eval(run.logits, run.asked)
    return run.logits


def _draw(
    rows: list[Row],
    samplings: list[Sampling],
    logits: mx.array,
    device: DeviceProfile,
    bits: npt.NDArray[np.uint32] | None = None,
) -> None:
    """Draw for rows like `rows`, the first of them under masks."""
    likes = []
    for row, sampling in zip(rows, samplings, strict=True):
        like = Row(row.id, sampling)
        like.begin_with(tuple(row.known_tokens()))
        likes.append(like)
    masks = Masks(tuple(row.id for row in rows[: len(bits)]), bits) if bits is not None else None
    positions = np.array([row.length for row in rows], np.uint64)
    drawn = BatchSampler(likes, logits.shape[-1], device).draw(logits[:], None, masks, positions)
    mx.eval(drawn.tokens, drawn.logprobs.arrays() if drawn.logprobs is not None else [])


def _masks(vocab_size: int) -> Iterator[tuple[str, npt.NDArray[np.uint32]]]:
    """A mask `[1, words]` of each kind that there can be: short lists, a few forbidden, and everything between."""
    counts = {f"a list of {width}": width for width in FEW}
    counts["a mask that forbids few"] = vocab_size - 1
    counts["a mask that forbids many"] = vocab_size // 2
    for name, count in counts.items():
        if (name.startswith("a mask") and count > FEW[-1]) or count <= min(vocab_size, FEW[-1]):
            allowed = np.zeros(-(-vocab_size // 32) * 32, np.bool_)
            allowed[:count] = True
            yield name, np.packbits(allowed, bitorder="little").view(np.uint32)[None]
