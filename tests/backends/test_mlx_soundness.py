"""Logits from which nothing can be drawn fail their row, by name, and nobody else; zeros are looked at twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np
import pytest
from models import MODELS, Driver, driven, llama, mx, nn

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.rows import SubmittedPass
from greenroom.backends.mlx.soundness import range_of
from greenroom.backends.protocol import Close, Feed, KvOptions, RowFailure, Sampling
from greenroom.errors import BackendFailed, InvalidLogits
from greenroom.events import Token
from greenroom.request.streams import TokenStream
from greenroom.runtime import Runtime

BAD = 7
"""The token that is embedded as no number."""
GOOD = tuple(range(40, 60))
SAMPLINGS = [
    Sampling(),
    Sampling(seed=1, temperature=1.0),
    Sampling(seed=2, temperature=1.0, top_k=20),
    Sampling(seed=3, temperature=1.0, top_k=300),
    Sampling(seed=4, temperature=1.0, top_p=0.9),
    Sampling(seed=5, temperature=1.0, min_p=0.1),
    Sampling(seed=6, temperature=1.0, repetition_penalty=1.3, frequency_penalty=0.4, logprobs=2),
    Sampling(seed=7, logit_bias=((5, 2.0),), banned=(9,), banned_until=99),
]
FAULTS = {
    "not numbers (NaN)": math.nan,
    "all minus infinity": -math.inf,
    "infinite": math.inf,
    "all 0": 0.0,
    "all -2.5": -2.5,
}


class Embedding(nn.Module):  # type: ignore[misc,name-defined]
    """An embedding in which `BAD` is no number."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def __call__(self, ids: Any) -> Any:
        """Vectors of `ids`."""
        x = self.inner(ids)
        return mx.where((ids == BAD)[..., None], mx.array(math.nan, x.dtype), x)

    def as_linear(self, x: Any) -> Any:
        """Its use as a head."""
        return self.inner.as_linear(x)


class Head(nn.Module):  # type: ignore[misc,name-defined]
    """A head that gives `value` where what is below it is no number, and nothing but zeros in its passes `zeros`."""

    def __init__(self, head: Callable[[Any], Any], value: float, zeros: frozenset[int]) -> None:
        super().__init__()
        self.head = head
        self.value = value
        self.zeros = zeros
        self.calls = 0

    def __call__(self, x: Any) -> Any:
        """Logits of hidden states `x`."""
        self.calls += 1
        logits = self.head(x)
        if self.calls in self.zeros:
            return mx.zeros_like(logits)
        return mx.where(mx.isnan(x).any(axis=-1, keepdims=True), mx.array(self.value, logits.dtype), logits)


def faulty(build: Callable[[], tuple[Any, Any]] = llama) -> tuple[Any, Any]:
    """A model in which `BAD` makes every logit NaN."""
    model, tokenizer = build()
    places = [name for name, _ in model.named_modules() if name.endswith(("embed_tokens", "embeddings"))]
    *path, leaf = places[0].split(".")
    parent = reduce(getattr, path, model)
    setattr(parent, leaf, Embedding(getattr(parent, leaf)))
    return model, tokenizer


def headed(value: float = math.nan, zeros: frozenset[int] = frozenset()) -> tuple[Any, Any]:
    """A llama in which `BAD` makes every logit `value`."""
    model, tokenizer = faulty()
    model.lm_head = Head(model.lm_head, value, zeros)
    return model, tokenizer


def failures_of(driver: Driver) -> list[RowFailure]:
    """All that were told."""
    return [failure for result in driver.results for failure in result.failures]


@pytest.mark.parametrize("what", FAULTS)
def test_a_row_whose_logits_are_none_fails_by_name_and_alone(what: str) -> None:
    """However it draws, on its prompt or later; its neighbours draw what they draw without it."""
    count = len(SAMPLINGS)
    with driven(partial(headed, FAULTS[what])) as (driver, _):
        alone = [driver.run(row, GOOD, 4, sampling) for row, sampling in enumerate(SAMPLINGS)]
        good, bad, late = (range(first * count, (first + 1) * count) for first in (1, 2, 3))
        for row in (*good, *bad, *late):
            driver.open(row, SAMPLINGS[row % count])
        driver.turn(
            *[Feed(r, GOOD) for r in good], *[Feed(r, (*GOOD, BAD)) for r in bad], *[Feed(r, GOOD[:9]) for r in late]
        )
        driver.turn(*[Feed(r) for r in good], *[Feed(r, (BAD,)) for r in late])
        driver.edit(*[Close(row) for row in bad])
        driver.turn(*[Feed(r) for r in good])
        driver.turn(*[Feed(r) for r in good])
        driver.read()
        assert [driver.tokens(row) for row in good] == alone
        assert [len(driver.tokens(row)) for row in (*bad, *late)] == [0] * count + [1] * count
        failures = failures_of(driver)
        assert [failure.row for failure in failures] == [*bad, *late]
        for failure in failures:
            assert isinstance(failure.error, InvalidLogits)
            assert failure.error.what == what
            assert failure.may_pass == failure.error.is_doubtful == (what in ("all 0", "all -2.5"))


@pytest.mark.parametrize(
    ("name", "kv"),
    [("llama", None), ("gemma3", None), ("mamba2", None), ("llama", KvOptions(max_size=32))],
    ids=["packed", "padded", "recurrent", "bounded"],
)
def test_every_store_tells_it(name: str, kv: KvOptions | None) -> None:
    """And nothing of such a row is left behind for a prompt that begins alike."""
    with driven(partial(faulty, MODELS[name])) as (driver, backend):
        alone = driver.run(0, GOOD, 4)
        driver.open(1)
        driver.open(2, kv=kv, start=5)
        driver.turn(Feed(1, GOOD), Feed(2, (*GOOD * 4, BAD)))
        driver.turn(Feed(1))
        driver.turn(Feed(1))
        driver.turn(Feed(1))
        driver.read()
        assert driver.tokens(1) == alone
        assert [(failure.row, str(failure.error)[:40]) for failure in failures_of(driver)] == [
            (2, "the model's logits of this row are not n")
        ]
        kept = backend.prefixes
        before = 0 if kept is None else kept.nbytes
        assert driver.branch(3, (*GOOD * 4, BAD, 1, 2)) == (*GOOD * 4, BAD, 1, 2)
        driver.edit(Close(2), Close(3))
        assert (0 if kept is None else kept.nbytes) <= before


def test_what_is_drawn_behind_a_wrong_guess_fails_nobody() -> None:
    """It counts for nothing; behind a right one it does, and the first place is told."""
    logits = mx.array(np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32))
    logits[mx.array([1, 4, 6])] = mx.array(math.nan)
    report = ((5, 0), (5, 1), (5, 2), (8, 3), (8, 4), (9, 5), (3, 6))
    tokens = mx.array([11, 0, 12, 21, 0, 31, 0], dtype=mx.uint32)
    step = SubmittedPass(report, tokens, None, None, range_of(logits), None, {5: (10, 11), 8: (21,)})
    assert {row: number for row, (number, _) in step.faults().items()} == {8: 1, 3: 0}
    assert SubmittedPass(report, tokens, None, None, range_of(logits[2:4])).faults() == {}


@pytest.mark.parametrize("kind", ["greedy", "drawn"])
async def test_zeros_of_a_device_are_run_once_more(kind: str) -> None:
    """Everybody of that pass says what they say otherwise; zeros that stay fail their request."""
    options: dict[str, Any] = {"temperature": 0.0} if kind == "greedy" else {"temperature": 1.0, "seed": 3}
    prompts = [list(GOOD), list(GOOD[5:]), list(GOOD[::-1])]

    async def texts(zeros: frozenset[int]) -> list[list[int]]:
        async with Runtime(backend=MlxBackend.from_model(partial(headed, math.nan, zeros))) as runtime:
            streams = [runtime.generate_tokens(ids, max_tokens=12, default_stops=False, **options) for ids in prompts]
            found = [[event.id async for event in stream if isinstance(event, Token)] for stream in streams]
            assert runtime.statistics().kv_bytes == 0
            return found

    whole = await texts(frozenset())
    for passes in ({2}, {3}, {5, 9}, {6, 7}):
        assert await texts(frozenset(passes)) == whole
    with pytest.raises(InvalidLogits, match="all 0"):
        await texts(frozenset(range(4, 99)))


async def test_a_request_with_such_logits_fails_and_others_go_on() -> None:
    """It is a `BackendFailed`, with the counts up to then."""
    options: dict[str, Any] = {"max_tokens": 9, "temperature": 0.0, "default_stops": False}

    async def ids(stream: TokenStream) -> list[int]:
        return [event.id async for event in stream if isinstance(event, Token)]

    async with Runtime(backend=MlxBackend.from_model(faulty)) as runtime:
        alone = await ids(runtime.generate_tokens(list(GOOD), **options))
        other = runtime.generate_tokens(list(GOOD), **options)
        with pytest.raises(BackendFailed, match="not numbers") as caught:
            await ids(runtime.generate_tokens([*GOOD, BAD], **options))
        assert isinstance(caught.value, InvalidLogits)
        assert caught.value.info is not None
        assert caught.value.info.generation_tokens == 0
        assert await ids(other) == alone
        assert len(await ids(runtime.generate_tokens([*GOOD, 1], **options))) == 9
