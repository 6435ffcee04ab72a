"""Rows that hold their KV in another way than the model's own caches: quantized, or bounded in length."""

from __future__ import annotations

import inspect
import random
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.generate import generate_step
from models import MODELS, Driver, driven, llama, mx, qwen3, sequential

from greenroom import GenerateParameters, Runtime, Token
from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.kv import optioned
from greenroom.backends.protocol import Close, Feed, KvOptions

PROMPTS = ((5, 9, 200, 31, 7, 7, 90), (1, 2, 3), tuple(range(10, 40)))
STEP = 24
"""Of mlx-lm's prefill, and of ours: shorter than most prompts here."""
KINDS: dict[str, dict[str, Any]] = {
    "4 bits": {"kv_bits": 4, "kv_group_size": 32, "quantized_kv_start": 0},
    "8 bits": {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 0},
    "4 bits after 30 tokens": {"kv_bits": 4, "kv_group_size": 32, "quantized_kv_start": 30},
    "bounded": {"max_kv_size": 20},
}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("start", [0, 12])
def test_quantized_rows_equal_mlx_lms_own_beside_plain_ones(bits: int, start: int) -> None:
    """Three quantized rows and a plain one in the same passes, token for token."""
    options = KvOptions(bits=bits, group_size=32, start=start)
    with driven(lambda: llama(hidden=128)) as (driver, backend):
        for i in range(3):
            driver.open(i, kv=options, start=len(PROMPTS[i]))
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
            driver.open(0, kv=options, start=5)
            driver.turn(Feed(0, (1, 2, 3, 4, 5)))
            driver.read()
            held.append(driver.edit())
    assert 0 < held[1] < held[0] / 4


def test_rows_of_bounded_length_equal_mlx_lms_own() -> None:
    """Twelve tokens are kept, and more than thirty are run."""
    with driven(qwen3) as (driver, backend):  # mlx-lm's llama makes caches of its own, which are never bounded
        for i in range(3):
            driver.open(i, kv=KvOptions(max_size=12), start=len(PROMPTS[i]))
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
        driver.open(0, kv=options, start=len(PROMPTS[0]))
        driver.turn(Feed(0, PROMPTS[0]))
        driver.read()
        left = driver.branch(1, (*PROMPTS[0], *driver.tokens(0)), start=len(PROMPTS[0]), kv=options)
        driver.turn(Feed(0), Feed(1, left))
        for _ in range(4):
            driver.turn(Feed(0), Feed(1))
        driver.read()
        assert driver.tokens(0)[1:] == driver.tokens(1)


def many_prompts() -> list[list[int]]:
    """Of one token to many steps; one ends with a step, one before it and one behind it."""
    rng = random.Random(3)  # noqa: S311 - a prompt is no secret
    lengths = (1, 7, STEP - 1, STEP, STEP + 1, 2 * STEP + 1, 90, 131)
    return [[rng.randrange(1, 256) for _ in range(length)] for length in lengths]


def builder_of(kind: str) -> Any:
    """A model whose rows take those options."""
    return qwen3 if kind == "bounded" else lambda: llama(hidden=128)


def options_of(kind: str) -> KvOptions:
    """The options as a backend gets them."""
    given = KINDS[kind]
    if "max_kv_size" in given:
        return KvOptions(max_size=given["max_kv_size"])
    return KvOptions(bits=given["kv_bits"], group_size=given["kv_group_size"], start=given["quantized_kv_start"])


@pytest.fixture
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are run in steps of a few tokens."""
    monkeypatch.setattr(optioned, "PROMPT_STEP", STEP)


def feed_in_pieces(driver: Driver, prompts: dict[int, list[int]], rng: random.Random) -> None:
    """Feed each row its prompt in pieces of any size, each pass to some of the rows; those that are done draw."""
    left = dict(prompts)
    while left:
        feeds = []
        for row in prompts:
            if row not in left:
                feeds.append(Feed(row))
            elif rng.random() < 0.7:
                size = min(len(left[row]), rng.choice((1, 2, 5, 17, 40, 200)))
                feeds.append(Feed(row, tuple(left[row][:size]), size == len(left[row])))
                left[row] = left[row][size:]
        left = {row: ids for row, ids in left.items() if ids}
        if feeds:
            driver.turn(*feeds)


@pytest.mark.usefixtures("short_steps")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_where_passes_cut_a_prompt_changes_nothing(kind: str, seed: int) -> None:
    """Eight prompts in pieces of any size, beside each other, and run again: mlx-lm's tokens, with the same steps."""
    rng = random.Random(seed)  # noqa: S311 - neither are pieces
    prompts, count = many_prompts(), 12
    with driven(builder_of(kind)) as (driver, backend):
        for row, prompt in enumerate(prompts):
            driver.open(row, kv=options_of(kind), start=len(prompt))
        feed_in_pieces(driver, dict(enumerate(prompts)), rng)
        for _ in range(count):
            driver.turn(*(Feed(row) for row in range(len(prompts))))
        driver.read()
        again: dict[int, list[int]] = {}
        for row, prompt in enumerate(prompts):
            expected, _ = sequential(backend._model, prompt, count, prefill_step_size=STEP, **KINDS[kind])
            assert driver.tokens(row)[:count] == expected
            driver.edit(Close(row))
            again[row + 8] = [*prompt, *expected[: row % 3 * 3]]
            driver.open(row + 8, kv=options_of(kind), start=len(prompt))
        feed_in_pieces(driver, again, rng)
        driver.read()
        for row in again:
            assert driver.tokens(row)[0] == driver.tokens(row - 8)[(row - 8) % 3 * 3]


@pytest.mark.usefixtures("short_steps")
@pytest.mark.parametrize("kind", KINDS)
async def test_neighbours_change_nothing(kind: str) -> None:
    """Alone, and beside others that come and go and share the step: mlx-lm's tokens."""
    prompts, count = many_prompts(), 12
    backend = MlxBackend.from_model(builder_of(kind), prefix_bytes=0)
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": count, "default_stops": False}
    async with Runtime(backend=backend, max_rows=6, max_step_tokens=32) as runtime:
        alone = [await _drawn(runtime.generate_tokens(prompt, **options, **KINDS[kind])) for prompt in prompts]
        streams = [runtime.generate_tokens([*prompt, 9], **options) for prompt in prompts[2:5]]
        optioned_streams = [runtime.generate_tokens(prompt, **options, **KINDS[kind]) for prompt in prompts]
        streams += [runtime.generate_tokens(prompt[::-1], **options) for prompt in prompts]
        together = [await _drawn(stream) for stream in optioned_streams]
        for stream in streams:
            await stream.collect()
    assert together == alone
    model, _ = builder_of(kind)()
    for prompt, tokens in zip(prompts, alone, strict=True):
        assert tokens == sequential(model, prompt, count, prefill_step_size=STEP, **KINDS[kind])[0]


async def _drawn(stream: Any) -> list[int]:
    return [event.id for event in (await stream.collect()).events if isinstance(event, Token)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_a_step_changes_what_is_drawn(kind: str) -> None:
    """Else none of this shows anything."""
    prompt = many_prompts()[-1]
    model, _ = builder_of(kind)()
    _, expected = sequential(model, prompt, 1, prefill_step_size=STEP, **KINDS[kind])
    for other in ({}, KINDS[kind]):
        _, found = sequential(model, prompt, 1, prefill_step_size=2 * STEP - 1, **other)
        assert bool((mx.abs(found[0] - expected[0]).max() > 1e-2).item())


@pytest.mark.parametrize(
    ("prompt_end", "start", "place"),
    [(1, 0, 1), (2, 0, 1), (10, 0, 9), (10, 9, 9), (10, 10, 10), (10, 30, 30), (5000, 0, 2048), (5000, 2049, 4096)],
)
def test_rows_are_quantized_where_mlx_lm_does_it(prompt_end: int, start: int, place: int) -> None:
    """After a step of the prompt, before its last token, or as soon as there are enough tokens."""
    assert optioned.quantization_place(KvOptions(bits=4, start=start), prompt_end) == place


@pytest.mark.usefixtures("short_steps")
@pytest.mark.parametrize("kind", ["4 bits after 30 tokens", "bounded"])
def test_bytes_are_those_that_a_row_holds(kind: str) -> None:
    """While the prompt is run, and behind it: quantized once it is, and bounded once it is."""
    prompt = many_prompts()[-1]
    with driven(builder_of(kind)) as (driver, backend):
        driver.open(0, kv=options_of(kind), start=len(prompt))
        assert backend._profile is not None
        for at in range(0, len(prompt), 10):
            driver.turn(Feed(0, tuple(prompt[at : at + 10]), at + 10 >= len(prompt)))
            driver.read()
            cache = backend._rows[0].cache
            assert cache is not None
            tokens = cache[0].keys.shape[2] if kind == "bounded" else backend._rows[0].length
            is_quantized = hasattr(cache[0], "bits")
            assert is_quantized == (kind != "bounded" and at + 10 >= 2 * STEP)
            stores = backend._profile.stores
            assert driver.edit() == stores.row_bytes(options_of(kind) if is_quantized else None, [tokens])


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
