"""Profiles of devices: chosen by name or by the device, and the same tokens under each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from models import VOCAB, Driver, llama, mx, qwen3, sequential

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.device_profile import CPU, CUDA, METAL, DeviceProfile, choose_profile
from greenroom.backends.mlx.kv.packed import PackedStore
from greenroom.backends.mlx.sampling import methods
from greenroom.backends.protocol import Feed, ForwardPlan, Masks, Sampling
from greenroom.errors import InvalidParameter

LENGTHS = (5, 17, 40, 90, 3, 61)


def test_a_profile_is_chosen_by_name_by_the_environment_or_by_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the caller says beats what the environment says, and that the device."""
    monkeypatch.delenv("GREENROOM_DEVICE_PROFILE", raising=False)
    assert choose_profile() in (CPU, METAL, CUDA)
    monkeypatch.setenv("GREENROOM_DEVICE_PROFILE", "metal")
    assert choose_profile() is METAL
    assert choose_profile("cuda") is CUDA
    own = replace(CPU, attention_call_cost=7)
    assert choose_profile(own) is own


@pytest.mark.parametrize("asked", ["gpu", None])
def test_a_name_that_is_no_profile_is_refused_by_name(asked: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever said it: the argument, or the variable."""
    monkeypatch.setenv("GREENROOM_DEVICE_PROFILE", "tpu")
    with pytest.raises(InvalidParameter, match=r"'gpu'" if asked else "GREENROOM_DEVICE_PROFILE"):
        choose_profile(asked)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("profile", [CPU, METAL, CUDA], ids=lambda profile: profile.name)
def test_rows_of_any_lengths_are_given_mlx_lms_tokens_under_each_profile(profile: DeviceProfile, kind: str) -> None:
    """Alone, token for token: fewer calls over masked keys are the same attention."""
    builder = {"llama": llama, "qwen3": qwen3}[kind]
    prompts = [tuple([(7 * i + row) % (VOCAB - 4) + 1 for i in range(length)]) for row, length in enumerate(LENGTHS)]
    backend = MlxBackend.from_model(builder, device_profile=profile)
    backend.load()
    driver = Driver(backend)
    for row, prompt in enumerate(prompts):
        driver.open(row)
        driver.turn(Feed(row, prompt), *[Feed(other) for other in range(row)])
    for _ in range(12):
        driver.turn(*[Feed(row) for row in range(len(prompts))])
    driver.read()
    for row, prompt in enumerate(prompts):
        mine = driver.tokens(row)
        assert mine == sequential(backend._model, prompt, len(mine))[0]
    backend.close()


@pytest.mark.parametrize("profile", [CPU, METAL, CUDA], ids=lambda profile: profile.name)
def test_draws_and_masks_are_possible_under_each_profile(profile: DeviceProfile) -> None:
    """Every method to draw, and a mask that forbids many: what is drawn is allowed, and the same the second time."""
    samplings = [
        Sampling(temperature=1.0, seed=1),
        Sampling(temperature=1.0, top_p=0.8, seed=2),
        Sampling(temperature=1.0, top_k=5, seed=3),
        Sampling(temperature=1.0, min_p=0.05, seed=4),
    ]
    runs = []
    for _ in range(2):
        backend = MlxBackend.from_model(llama, device_profile=profile)
        backend.load()
        driver = Driver(backend)
        for row, sampling in enumerate(samplings):
            driver.open(row, sampling)
        driver.turn(*[Feed(row, (1, 2, 3 + row)) for row in range(len(samplings))])
        words = -(-VOCAB // 32)
        bits = np.zeros((1, words), np.uint32)
        bits[0, 0] = 0b1010
        driver.turn(*[Feed(row) for row in range(len(samplings))], masks=Masks((0,), bits))
        driver.read()
        runs.append([driver.tokens(row) for row in range(len(samplings))])
        backend.close()
    assert runs[0] == runs[1]
    assert runs[0][0][-1] in (1, 3)


def test_on_metal_rows_of_one_pool_are_one_call_however_unequal() -> None:
    """A launch costs more there than keys that are masked; on a CPU the same rows are several calls."""
    calls: Counter[str] = Counter()
    for profile in (CPU, METAL):
        backend = MlxBackend.from_model(llama, device_profile=profile)
        backend.load()
        driver = Driver(backend)
        lengths = (600, 520, 1000)
        for row in range(3):
            driver.open(row)
        driver.turn(*[Feed(row, (5,) * length) for row, length in enumerate(lengths)])
        driver.turn(*[Feed(row) for row in range(3)])
        driver.read()
        backend.forward(ForwardPlan(tuple([Feed(row) for row in range(3)])))
        store = backend.store
        assert isinstance(store, PackedStore)
        calls[profile.name] = len(store._layout.calls)
        backend.sample()
        backend.read()
        backend.close()
    assert calls["metal"] == 1
    assert calls["cpu"] > 1


def quantized(*, is_tied: bool) -> tuple[Any, Any]:
    """A Llama in four bits; tied, its head is the embedding."""
    from mlx.nn.layers.quantized import quantize

    model, tokenizer = llama(tie_word_embeddings=is_tied)
    quantize(model, group_size=32, bits=4)
    mx.eval(model.parameters())
    return model, tokenizer


@pytest.mark.parametrize("is_tied", [True, False])
def test_on_cuda_the_entries_of_a_pass_are_one_product_in_each_quantized_layer(
    is_tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are the entries, those of a chunk beside decoding rows too; tokens are as on any device."""
    product = mx.quantized_matmul
    shapes: list[tuple[int, ...]] = []

    def record(x: Any, *arguments: Any, **options: Any) -> Any:
        shapes.append(tuple(x.shape))
        return product(x, *arguments, **options)

    found = {}
    for flattens in (True, False):
        backend = MlxBackend.from_model(
            partial(quantized, is_tied=is_tied), device_profile=replace(CPU, flattens_entries=flattens)
        )
        backend.load()
        assert isinstance(backend.store, PackedStore)
        driver = Driver(backend)
        for row in range(3):
            driver.open(row)
            driver.turn(Feed(row, (5, 6, 7 + row)), *[Feed(other) for other in range(row)])
        driver.open(3)
        with monkeypatch.context() as patch:
            patch.setattr(mx, "quantized_matmul", record)
            driver.turn(*[Feed(row) for row in range(3)], Feed(3, (1, 2, 3, 4, 5)))
        driver.read()
        found[flattens] = [driver.tokens(row) for row in range(4)], shapes[:-1], shapes[-1]
        shapes.clear()
        if flattens:
            with monkeypatch.context() as patch:
                patch.setattr(mx, "quantized_matmul", record)
                mx.eval(backend._model(mx.array([[1], [2]])))
            assert {shape[:-1] for shape in shapes} == {(2, 1)}, "mlx-lm's own passes are as they were"
            shapes.clear()
        backend.close()
    tokens, body, head = found[True]
    assert tokens == found[False][0]
    assert len(body) == 7 * 3
    assert {shape[:-1] for shape in body} == {(8,)}
    assert head[:-1] == (4,)
    assert {shape[:-1] for shape in found[False][1]} == {(8, 1)}


@pytest.mark.parametrize(
    "asked",
    [
        {"top_p": 0.95},
        {"top_p": 0.95, "min_p": 0.01},
        {"top_k": 20},
        {"top_k": 20, "top_p": 0.9, "min_p": 0.01},
        {"top_k": 900},
        {"top_k": 900, "top_p": 0.97},
        {"min_p": 0.02},
        {},
    ],
    ids=lambda asked: "-".join(asked) or "temperature",
)
def test_draws_laid_out_for_few_launches_are_the_same_draws(asked: dict[str, Any]) -> None:
    """Narrow and wide nuclei, ties, both zeros and forbidden ids: chains fused and sorts, or bisection and a wait."""
    rng = np.random.default_rng(4)
    width, rows = 3000, 24
    logits = rng.normal(size=(rows, width)).astype(np.float32)
    logits[::2] *= 6  # a narrow nucleus; in the others it is wider than the candidates
    logits[1, : width // 2] = 1.0
    logits[3, 5:500:2], logits[3, 6:500:2] = 0.0, -0.0
    logits[5:9, ::3] = -np.inf
    samplings = [Sampling(temperature=1.0 + row / 40, **asked, seed=row) for row in range(rows)]
    method = methods.method_of(samplings[0], width)
    found = []
    for profile in (METAL, replace(METAL, fuses_sampling=False)):
        group = methods.Group([*range(rows)], samplings, width, profile)
        draws = np.random.default_rng(5).random((20, rows, 1), np.float32)
        found.append([methods.METHODS[method](mx.array(logits), group, uniform).tolist() for uniform in draws])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.8),
        Sampling(temperature=0.8, top_p=0.9),
        Sampling(temperature=0.8, top_k=20, top_p=0.95),
        Sampling(temperature=0.8, top_k=1000, top_p=0.95),
        Sampling(temperature=0.8, min_p=0.05),
        Sampling(temperature=0.8, repetition_penalty=1.2),
        Sampling(temperature=0.8, logit_bias=((3, 1.0),)),
        Sampling(logprobs=5),
    ],
    ids=lambda sampling: "-".join(name for name in sampling.__struct_fields__ if getattr(sampling, name)) or "greedy",
)
def test_on_metal_nothing_waits_between_forward_and_dispatch(
    sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the sampling: no number is asked for, and nothing is evaluated, before the pass is handed over."""
    backend = MlxBackend.from_model(partial(llama, vocab_size=2000), device_profile=METAL)
    backend.load()
    driver = Driver(backend)
    for row in range(3):
        driver.open(row, sampling)
    driver.turn(*[Feed(row, (1, 2, 3 + row)) for row in range(3)])
    driver.read()
    waits: list[str] = []

    def noted(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            waits.append(name)
            return plain(*given)

        return call

    for owner, name in ((mx.array, "tolist"), (mx.array, "item"), (mx, "eval"), (mx, "synchronize")):
        monkeypatch.setattr(owner, name, noted(name, getattr(owner, name)))
    backend.forward(ForwardPlan(tuple([Feed(row) for row in range(3)])))
    backend.sample()
    assert waits == []
    monkeypatch.undo()
    backend.read()
    backend.close()
