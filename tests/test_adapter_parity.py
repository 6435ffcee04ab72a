"""Rows of several adapters and of none, in one batch, equal what mlx-lm gives with each adapter alone.

Token for token, in float32 and over quantized weights, in every kind of store; requests arrive and are cancelled at
counted turns, prompts are cut by a small step. As in `test_parity`, a token may differ where two logits tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest
from adapter_folders import Builder, adapted, quantized, steady, write_mlx_lm, write_peft
from mlx_lm.models.cache import make_prompt_cache
from model_files import build
from models import MODELS, VOCAB, driven, gemma2, mx, sequential
from passlog import PassLog
from test_parity import TIE, Mix, run

from greenroom.actors.messages import OpenAdapter
from greenroom.actors.scheduler.admission import Limits
from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.adapters.library import AdapterLibrary
from greenroom.backends.mlx.adapters.reader import FolderReader
from greenroom.backends.mlx.adapters.targets import targets_of
from greenroom.backends.protocol import Feed, KvOptions, Open, Sampling

STORES = {
    "llama": "packed",
    "qwen2": "packed",  # with biases, beside which DoRA scales
    "qwen3": "packed",
    "qwen3_moe": "packed",
    "deepseek_v3": "padded",
    "gemma3": "batch",
    "lfm2": "batch",
    "gemma2": "sequential",
}
"""By model, the store that its rows are in."""
CASES = [(name, bits) for name in STORES for bits in (None, 4, 8)]
"""Weights in float32, or in so many bits."""
ATTENTION = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "self_attn.out_proj")
LIMITS = Limits(rows=16, step_tokens=40, kv_bytes=1 << 28)


def builder_of(name: str) -> Builder:
    """A model of that kind, with the same weights each time."""
    own = {**MODELS, "gemma2": gemma2}
    return steady(own[name]) if name in own else partial(build, name, VOCAB)


def write_all(folder: Path, builder: Builder) -> list[Path]:
    """Four adapters of unlike kinds, ranks and reach: experts among the modules of the first, where there are any."""
    plain = write_mlx_lm(folder / "lora", builder, 1, rank=4)
    few = write_mlx_lm(folder / "few", builder, 2, rank=8, num_layers=1, keys=ATTENTION)
    dora = write_mlx_lm(folder / "dora", builder, 3, kind="dora", rank=2, keys=ATTENTION)
    source = write_mlx_lm(folder / "source", builder, 4, rank=3, keys=ATTENTION)
    return [plain, few, dora, write_peft(folder / "peft", source, stable=True), source]


def with_adapters(mix: Mix, count: int) -> None:
    """Give each request one of so many, or none."""
    mix.submits = [
        (turn, msgspec.structs.replace(submit, adapter=submit.request % (count + 1))) for turn, submit in mix.submits
    ]


def wrong_rows(builder: Builder, mix: Mix, tokens: dict[int, list[int]], folders: Sequence[Path]) -> list[int]:
    """Requests that were given what mlx-lm, with the same adapter, would not have drawn there."""
    models = [adapted(builder, folder) for folder in (None, *folders)]
    greedy = [submit for _, submit in mix.submits if submit.sampling.temperature == 0]
    return [
        submit.request
        for submit in greedy
        if _differs(models[submit.adapter], submit.prompt, tokens[submit.request])
        or (submit.request not in mix.cancels and len(tokens[submit.request]) != submit.max_tokens)
    ]


def _differs(model: Any, prompt: Sequence[int], tokens: Sequence[int]) -> bool:
    """Whether one of `tokens` is not the likeliest behind those before it. From a tie on, nothing is said."""
    if not tokens:
        return False
    logits = model(mx.array([[*prompt, *tokens[:-1]]]), cache=make_prompt_cache(model))[0, len(prompt) - 1 :]
    best: Any = mx.sort(logits, axis=-1)[:, -2:].tolist()
    likeliest: Any = mx.argmax(logits, axis=-1).tolist()
    for mine, theirs, (second, first) in zip(tokens, likeliest, best, strict=True):
        if mine != theirs:
            return bool(first - second > TIE)
    return False


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_rows_of_many_adapters_equal_mlx_lm_with_each_alone(name: str, bits: int | None, tmp_path: Path) -> None:
    """LoRA, DoRA and PEFT's, of several ranks, on some layers or all, beside rows without any."""
    builder = builder_of(name) if bits is None else quantized(builder_of(name), bits)
    *folders, source = write_all(tmp_path, builder)
    reader = FolderReader(targets_of(builder()[0]))
    opened = [OpenAdapter(number, reader.read(folder)) for number, folder in enumerate(folders, 1)]
    inner = MlxBackend.from_model(builder, name=name)
    backend = PassLog(inner)
    mix = Mix(seed=crc32(name.encode()), requests=20)
    with_adapters(mix, len(folders))
    tokens = run(backend, mix, LIMITS, first=opened)
    kind = type(inner.store).__name__.removesuffix("Store").removesuffix("Cache").lower()
    backend.close()
    assert kind == STORES[name]
    assert max(len(rows) for rows in backend.passes) >= 8
    assert not wrong_rows(builder, mix, tokens, [*folders[:3], source])  # mlx-lm reads its own folders alone


def test_bounded_rows_have_adapters_too(tmp_path: Path) -> None:
    """Rows that keep their last tokens alone, each with another adapter or none."""
    builder = builder_of("qwen3")
    folders = write_all(tmp_path, builder)[:2]
    prompt, bounds = tuple(range(3, 50)), KvOptions(max_size=24)
    with driven(builder) as (driver, backend):
        reader = FolderReader(targets_of(backend.model))
        for number, folder in enumerate(folders, 1):
            backend.open_adapter(number, reader.read(folder))
        for row in range(3):
            backend.edit([Open(row, Sampling(), kv=bounds, prompt=prompt, adapter=row)])
            driver.sampled[row] = []
        driver.turn(*[Feed(row, prompt) for row in range(3)])
        for _ in range(9):
            driver.turn(*[Feed(row) for row in range(3)])
        driver.read()
    wanted = [sequential(adapted(builder, each), prompt, 10, max_kv_size=24)[0] for each in (None, *folders)]
    assert [driver.tokens(row) for row in range(3)] == wanted
    assert len({tuple(tokens) for tokens in wanted}) == 3


@pytest.mark.parametrize("waits", [True, False], ids=["ready", "at once"])
def test_a_load_is_spread_over_the_passes_beside_it(
    waits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each makes a sixteenth of the tables; a row that does not wait has them all made, and the same tokens."""
    made: list[str] = []
    make = AdapterLibrary._make

    def counted(library: AdapterLibrary, path: str) -> None:
        made.append(path)
        make(library, path)

    builder = builder_of("llama")
    one, two, *_ = write_all(tmp_path, builder)
    prompt = tuple(range(3, 30))
    with driven(builder) as (driver, backend):
        reader = FolderReader(targets_of(backend.model))
        backend.open_adapter(1, reader.read(two))
        assert backend.is_adapter_ready(1, is_idle=True)
        for row in (0, 1):
            backend.edit([Open(row, Sampling(), prompt=prompt, adapter=row)])
            driver.sampled[row] = []
        driver.turn(*[Feed(row, prompt) for row in (0, 1)])
        monkeypatch.setattr(AdapterLibrary, "_make", counted)
        backend.open_adapter(2, reader.read(one))
        modules = len(reader.read(one).factors)
        shares = []
        while waits and not backend.is_adapter_ready(2, is_idle=False):
            before = len(made)
            driver.turn(*[Feed(row) for row in (0, 1)])
            shares.append(len(made) - before)
        backend.edit([Open(2, Sampling(), prompt=prompt, adapter=2)])
        driver.sampled[2] = []
        before = len(made)
        driver.turn(Feed(0), Feed(1), Feed(2, prompt))
        shares.append(len(made) - before)
        for _ in range(9):
            driver.turn(*[Feed(row) for row in range(3)])
        driver.read()
    most = -(-modules // 16)
    assert shares[-1] == (0 if waits else modules)
    assert sum(shares) == modules
    assert max(shares) == (most if waits else modules)
    wanted = [sequential(adapted(builder, each), prompt, 10)[0] for each in (None, two, one)]
    assert [driver.tokens(row)[:10] for row in range(3)] == wanted
    assert len({tuple(tokens) for tokens in wanted}) == 3


def test_the_comparison_notices_an_adapter_that_is_another(tmp_path: Path) -> None:
    """With the adapters exchanged, nearly all of the rows that have one differ."""
    builder = builder_of("llama")
    *folders, source = write_all(tmp_path, builder)
    reader = FolderReader(targets_of(builder()[0]))
    opened = [OpenAdapter(number, reader.read(folder)) for number, folder in enumerate(folders[::-1], 1)]
    backend = PassLog(MlxBackend.from_model(builder))
    mix = Mix(seed=2, requests=30)
    with_adapters(mix, len(folders))
    tokens = run(backend, mix, LIMITS, first=opened)
    backend.close()
    assert len(wrong_rows(builder, mix, tokens, [*folders[:3], source])) > 10
