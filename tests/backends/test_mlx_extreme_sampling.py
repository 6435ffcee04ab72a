"""What may be asked for at the ends of the ranges: each row draws, and no row changes what another draws or costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from models import driven, llama, mx

from greenroom.backends.mlx.device_profile import CPU, DeviceProfile
from greenroom.backends.mlx.rows import Row, ints
from greenroom.backends.mlx.sampling import penalties
from greenroom.backends.mlx.sampling.sampler import BatchSampler
from greenroom.backends.protocol import Feed, Masks, Sampling

VOCAB = 700
SMALLEST, LARGEST = 1.1754943508222875e-38, 3.4028234663852886e38
TOKENS = [3, 9, 3, 250, 251, 3]
PLAIN = [
    Sampling(seed=1, temperature=0.9, repetition_penalty=1.2),
    Sampling(seed=2, temperature=0.9, presence_penalty=0.5, frequency_penalty=0.25, logit_bias=((4, 1.5),)),
    Sampling(seed=3, temperature=0.9, top_p=0.9, top_k=30),
]
WILD: dict[str, dict[str, Any]] = {
    "repetition small": {"repetition_penalty": SMALLEST},
    "repetition 1.2e-38": {"repetition_penalty": 1.2e-38, "presence_penalty": LARGEST},
    "repetition large": {"repetition_penalty": LARGEST},
    "presence large": {"presence_penalty": LARGEST, "frequency_penalty": LARGEST},
    "presence very negative": {"presence_penalty": -LARGEST},
    "frequency very negative": {"frequency_penalty": -LARGEST},
    "all at once": {"repetition_penalty": 1.2e-38, "presence_penalty": LARGEST, "frequency_penalty": -LARGEST},
    "bias large": {"logit_bias": ((3, LARGEST), (8, LARGEST), (9, -LARGEST))},
    "bias and penalty": {"logit_bias": ((3, LARGEST), (9, -LARGEST)), "presence_penalty": -LARGEST},
    "every token biased away": {"logit_bias": tuple([(token, -LARGEST) for token in range(VOCAB)])},
    "all tokens but one banned": {"banned": tuple(range(1, VOCAB)), "banned_until": 2**70},
    "window of ten million": {"repetition_penalty": 1.3, "repetition_context": 10_000_000},
    "window past every integer": {"frequency_penalty": 0.3, "frequency_context": 2**70, "presence_context": 2**70},
}
DRAWS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "coldest": {"temperature": SMALLEST},
    "hottest": {"temperature": LARGEST},
    "narrow": {"temperature": 1.0, "top_p": SMALLEST, "min_p": 1.0},
    "top_k": {"temperature": 1.0, "top_k": 1},
    "wide": {"temperature": 1.0, "top_k": VOCAB - 1, "top_p": 0.5},
    "min_p": {"temperature": SMALLEST, "min_p": 1.0},
}


def rows_of(samplings: list[Sampling]) -> list[Row]:
    """Rows that hold `TOKENS`."""
    rows = [Row(number, sampling) for number, sampling in enumerate(samplings)]
    for row in rows:
        row.tokens = list(TOKENS)
        row.length = len(TOKENS)
    return rows


def draw(samplings: list[Sampling], dtype: Any, device: DeviceProfile) -> list[int]:
    """One draw each, of the same logits."""
    logits = np.random.default_rng(5).normal(size=VOCAB).astype(np.float32) * np.float32(3)
    many = mx.array(np.repeat(logits[None], len(samplings), axis=0)).astype(dtype)
    sampler = BatchSampler(rows_of(samplings), VOCAB, device)
    positions = np.full(len(samplings), len(TOKENS), np.uint64)
    return ints(sampler.draw(many, None, None, positions).tokens)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("wild", WILD)
def test_a_wild_row_draws_and_changes_nobody(wild: str, dtype: Any) -> None:
    """However it draws, on the host and in the graph; its neighbours draw as without it."""
    for device in (CPU, replace(CPU, draws_on_host=False)):
        alone = draw(PLAIN, dtype, device)
        odd = [Sampling(seed=9, **WILD[wild], **how) for how in DRAWS.values()]
        drawn = draw([*PLAIN, *odd], dtype, device)
        assert drawn[: len(PLAIN)] == alone
        assert all(0 <= token < VOCAB for token in drawn)
        if "banned" in WILD[wild]:
            assert drawn[len(PLAIN) :] == [0] * len(DRAWS)


@pytest.mark.parametrize("value", [-np.inf, np.nan, np.inf])
def test_a_row_without_logits_draws_what_means_nothing(value: float) -> None:
    """It fails later, by itself: the draw of the others is theirs."""
    logits = np.random.default_rng(5).normal(size=(3, 130)).astype(np.float32)
    for how in DRAWS.values():
        sampling = Sampling(seed=4, **{**how, "top_k": min(how.get("top_k", 0), 130)})
        sampler = BatchSampler(rows_of([sampling] * 3), 130, CPU)
        positions = np.full(3, 6, np.uint64)
        whole = ints(sampler.draw(mx.array(logits), None, None, positions).tokens)
        logits[1] = value
        broken = ints(sampler.draw(mx.array(logits), None, None, positions).tokens)
        assert [broken[0], broken[2]] == [whole[0], whole[2]]
        assert 0 <= broken[1] < 130


def test_a_window_is_no_wider_than_rows_are_long() -> None:
    """It grows with them, and shows all of them: what is penalised far back still is."""
    long = Sampling(seed=1, temperature=0.0, presence_penalty=50.0, presence_context=2**70)
    with driven(llama) as (driver, backend):
        driver.open(0, long)
        driver.turn(Feed(0, tuple(range(320))))
        driver.turn(Feed(0, tuple(range(200))))
        for _ in range(3):
            driver.turn(Feed(0))
        driver.read()
        _, sampler = backend._sampler or (None, None)
        assert sampler is not None
        assert isinstance(sampler._penalties, penalties.Penalties)
        assert sampler._penalties._width <= 523 + 256
        assert len(set(driver.tokens(0))) == len(driver.tokens(0))


def test_a_penalty_looks_back_as_far_as_it_is_told_while_the_row_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the length at which its window was laid out: the same tokens as with a window that was wide at once."""

    def said(context: int) -> list[int]:
        sampling = Sampling(temperature=0.0, repetition_penalty=1.7, repetition_context=context)
        with driven(llama) as (driver, _):
            return driver.run(0, (5, 6, 7), 24, sampling)

    wide = said(40)
    monkeypatch.setattr(penalties, "_ROOM", 4)
    assert said(2**70) == wide


def test_masks_and_wild_values_go_together() -> None:
    """Of what a mask leaves, one is drawn, whatever the penalties make of it."""
    bits = np.zeros((1, -(-VOCAB // 32)), np.uint32)
    bits[0, 0] = 1 << 3 | 1 << 9
    for how in (DRAWS["greedy"], DRAWS["coldest"]):
        for wild in WILD.values():
            if "banned" in wild:
                continue
            sampler = BatchSampler(rows_of([Sampling(seed=9, **wild, **how)]), VOCAB, CPU)
            logits = mx.array(np.random.default_rng(1).normal(size=(1, VOCAB)).astype(np.float32))
            drawn = sampler.draw(logits, None, Masks((0,), bits), np.full(1, 6, np.uint64))
            assert ints(drawn.tokens)[0] in (3, 9)


def test_a_wild_bias_leaves_the_raw_logits_alone() -> None:
    """Log-probabilities are of them."""
    with driven(llama) as (driver, _):
        plain, wild = Sampling(logprobs=0), Sampling(logprobs=0, logit_bias=((4, LARGEST),))
        driver.open(0, Sampling(logprobs=20))
        driver.open(1, wild)
        driver.open(2, plain)
        driver.turn(*[Feed(row, (1, 2, 3)) for row in range(3)])
        driver.read()
        assert driver.tokens(1) == [4]
        assert (driver.sampled[1][0].logprob or 0.0) < (driver.sampled[2][0].logprob or 0.0) < 0
