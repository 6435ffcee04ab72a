"""Which store is chosen at load, what is said of it, and that rounding is not taken for another result."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from model_files import build
from models import mx

# isort: split
from mlx_lm.utils import quantize_model

from greenroom import Runtime
from greenroom.backends.mlx import MlxBackend
from greenroom.backends.protocol import ModelInfo

NOISE = 2**-9
"""Half of bfloat16's step."""


def quantized(name: str) -> tuple[Any, Any]:
    """In 4 bits and bfloat16."""
    model, tokenizer = build(name)
    quantize_model(model, {}, 32, 4)
    model.set_dtype(mx.bfloat16)
    return model, tokenizer


def loaded(builder: Callable[[], tuple[Any, Any]], name: str) -> ModelInfo:
    """What is found at load."""
    backend = MlxBackend.from_model(builder, name=name)
    info = backend.load()
    backend.close()
    return info


@pytest.fixture
def rounds_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products as on a GPU: the same row comes out otherwise by how many are multiplied at once."""

    def noisy(product: Callable[..., mx.array]) -> Callable[..., mx.array]:
        def call(x: mx.array, *given: Any, **options: Any) -> mx.array:
            out = product(x, *given, **options)
            noise = mx.random.normal(out.shape[-1:], key=mx.random.key(x.size // x.shape[-1] * 10_007 + out.shape[-1]))
            return (out * (1 + NOISE * noise)).astype(out.dtype)

        return call

    for name in ("quantized_matmul", "gather_qmm"):
        monkeypatch.setattr(mx, name, noisy(getattr(mx, name)))


@pytest.mark.usefixtures("rounds_by_rows")
@pytest.mark.parametrize(
    ("name", "store"),
    [("llama", "packed"), ("qwen3_moe", "packed"), ("deepseek_v3", "padded"), ("granitemoehybrid", "batch")],
)
def test_rounding_by_the_number_of_rows_changes_no_choice(name: str, store: str) -> None:
    """In half precision a store that is right differs from mlx-lm as mlx-lm does from itself."""
    assert loaded(partial(quantized, name), name).store == store


@pytest.mark.usefixtures("rounds_by_rows")
@pytest.mark.parametrize("name", ["gemma2", "longcat_flash_ngram"])
def test_rounding_hides_no_wrong_store(name: str) -> None:
    """What rounds so much is told from what is wrong all the same."""
    info = loaded(partial(quantized, name), name)
    assert info.store == "sequential"
    assert "deviations off mlx-lm's" in info.store_reason


@pytest.mark.parametrize(
    ("name", "store", "reason"),
    [
        ("llama", "packed", "^packed: rows get mlx-lm's logits$"),
        ("deepseek_v3", "padded", "^packed: TypeError: a mask .*; padded: rows get mlx-lm's logits$"),
        ("mamba2", "batch", "^its caches are ArraysCache, not plain keys and values; batch: rows get mlx-lm's logits$"),
        ("llama4", "sequential", "batch: mlx-lm has none of ChunkedKVCache$"),
        ("minimax_m3_vl", "sequential", "batch: attention picks blocks of keys"),
        ("phi3small", "sequential", "logits are not finite"),
    ],
)
def test_the_log_says_once_which_store_and_why(
    name: str, store: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As a warning where a step costs a forward for each row; and the same stands in the model's description."""
    with caplog.at_level(logging.INFO, logger="greenroom"):
        info = loaded(partial(build, name), name)
    assert info.store == store
    assert re.search(reason, info.store_reason)
    assert [record.levelno for record in caplog.records] == [logging.WARNING if store == "sequential" else logging.INFO]
    assert caplog.messages == [f"{name}: rows are in the store {store!r}: {info.store_reason}"]


async def test_a_runtime_tells_which_store_its_model_is_in() -> None:
    """In `runtime.model`."""
    async with Runtime(backend=MlxBackend.from_model(partial(build, "qwen3"))) as runtime:
        assert runtime.model.store == "packed"
        assert runtime.model.store_reason
