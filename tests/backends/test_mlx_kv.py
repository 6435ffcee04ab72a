"""Rows that hold their KV in another way than the model's own caches: quantized, or bounded in length."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from mlx_lm.generate import generate_step
from models import MODELS, driven, llama, sequential

from greenroom import GenerateParameters
from greenroom.backends.protocol import Close, Feed, KvOptions

PROMPTS = ((5, 9, 200, 31, 7, 7, 90), (1, 2, 3), tuple(range(10, 40)))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("start", [0, 12])
def test_quantized_rows_equal_mlx_lms_own_beside_plain_ones(bits: int, start: int) -> None:
    """Three quantized rows and a plain one in the same passes, token for token."""
    options = KvOptions(bits=bits, group_size=32, start=start)
    with driven(lambda: llama(hidden=128)) as (driver, backend):
        for i in range(3):
            driver.open(i, kv=options)
        driver.open(3)
        driver.turn(*(Feed(i, PROMPTS[i]) for i in range(3)), Feed(3, PROMPTS[0]))
        for _ in range(15):
            driver.turn(*(Feed(i) for i in (2, 3, 0, 1)))
        driver.read()
        quantization = {"kv_bits": bits, "kv_group_size": 32, "quantized_kv_start": start}
        for i in range(3):
            assert driver.tokens(i) == sequential(backend._model, PROMPTS[i], 16, **quantization)[0]
        assert driver.tokens(3) == sequential(backend._model, PROMPTS[0], 16)[0]
        assert driver.edit(*(Close(i) for i in range(4))) == 0


def test_quantized_rows_hold_fewer_bytes() -> None:
    """Four bits and their scales, against thirty-two: less than a quarter."""
    held = []
    for options in (None, KvOptions(bits=4, group_size=32)):
        with driven(lambda: llama(hidden=128)) as (driver, _):
            driver.open(0, kv=options)
            driver.turn(Feed(0, (1, 2, 3, 4, 5)))
            driver.read()
            held.append(driver.edit())
    assert 0 < held[1] < held[0] / 4


def test_rows_of_bounded_length_equal_mlx_lms_own() -> None:
    """Twelve tokens are kept, and more than thirty are run."""
    with driven(llama) as (driver, backend):
        for i in range(3):
            driver.open(i, kv=KvOptions(max_size=12))
        driver.open(3)
        driver.turn(*(Feed(i, PROMPTS[i]) for i in range(3)), Feed(3, PROMPTS[2]))
        for _ in range(20):
            driver.turn(*(Feed(i) for i in range(4)))
        driver.read()
        for i in range(3):
            assert driver.tokens(i) == sequential(backend._model, PROMPTS[i], 21, max_kv_size=12)[0]
        assert driver.tokens(3) == sequential(backend._model, PROMPTS[2], 21)[0]


def test_a_fork_of_a_quantized_row_goes_on_alike() -> None:
    """And neither disturbs the other."""
    options = KvOptions(bits=8, group_size=32)
    with driven(lambda: llama(hidden=128)) as (driver, _):
        driver.open(0, kv=options)
        driver.turn(Feed(0, PROMPTS[0]))
        driver.read()
        left = driver.branch(1, (*PROMPTS[0], *driver.tokens(0)), kv=options)
        driver.turn(Feed(0), Feed(1, left))
        for _ in range(4):
            driver.turn(Feed(0), Feed(1))
        driver.read()
        assert driver.tokens(0)[1:] == driver.tokens(1)


@pytest.mark.parametrize(
    ("name", "groups", "rotates"), [("qwen3", (), True), ("gemma3", (), False), ("mamba2", (), False)]
)
def test_the_model_says_what_its_caches_allow(name: str, groups: tuple[int, ...], rotates: bool) -> None:
    """Heads of sixteen cannot be cut into groups of 32; caches of a model's own cannot be replaced."""
    with driven(MODELS[name], name) as (_, backend):
        assert backend._profile is not None
        info = backend._profile.info
        assert (info.kv_group_sizes, info.can_rotate) == (groups, rotates)


def test_the_page_on_memory_says_where_mlx_lms_default_is_another() -> None:
    """Ours and theirs, as both are."""
    theirs = inspect.signature(generate_step).parameters["quantized_kv_start"].default
    page = (Path(__file__).resolve().parents[2] / "docs" / "memory.md").read_text()
    assert f"`quantized_kv_start={theirs}`" in page
    assert f"(`quantized_kv_start={GenerateParameters().quantized_kv_start}`)" in page
