"""Every model file of mlx-lm: rows together get the tokens that mlx-lm gives each alone, or loading says why not.

What mlx-lm gives is its model called with its own caches, as its generator does it: the prompt but for its last token,
then one token at a time. A token may differ only where the two best logits lie within 1e-4 of each other: there float32
decides by the order of its additions, and the row is compared no further. The number of such ties is printed.

A file that mlx-lm adds is found by itself. It fails here until it runs, or until a table has it with the reason: one
here, or one of `forecast`.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from model_files import VOCAB, build, model_files
from models import Driver, driven, mx  # before mlx_lm: behind the BLAS

# isort: split
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import quantize_model

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.forecast import METAL_ALONE, REFUSED, ROW_BY_ROW
from greenroom.backends.protocol import Feed, ModelInfo
from greenroom.errors import ModelLoadFailed

TIE = 1e-4
HALF_TIE = 2**-5
"""Of logits of some units, whose bfloat16 has steps of that size."""
COUNT = 12
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")

OWN_MASK = "makes a mask of its own, which slots without padding do not take"
ALL_KEPT = "keeps all keys of its windows, which slots without padding do not cut"
PADDED = {
    **dict.fromkeys(("deepseek_v3", "glm4_moe_lite", "kimi_k25", "kimi_vl", "mistral4"), OWN_MASK),
    **dict.fromkeys(("mistral3", "pixtral", "smollm3"), ALL_KEPT),
    "plamo": "gives each group of heads all keys, in another order than attention does",
}
"""Files with plain keys and values whose rows are padded, and why."""

KINDS = {
    ("KVCache",): "Keys and values of all tokens",
    ("KVCache", "RotatingKVCache"): "Sliding windows",
    ("ChunkedKVCache", "KVCache"): "Chunks",
    ("ArraysCache",): "Recurrent state",
    ("ArraysCache", "KVCache"): "Recurrent state and attention",
    ("ArraysCache", "RotatingKVCache"): "Recurrent state and sliding windows",
    ("ArraysCache", "KVCache", "RotatingKVCache"): "Recurrent state and sliding windows",
    ("LayerCache",): "A class of its own",
}
"""Classes of a model's caches, and what `docs/models.md` calls them."""
SEVERAL = "Keys and values of all tokens, several pairs a layer"

UNQUANTIZED = {"afm7": "its layers cannot be quantized by this version of MLX"}
"""Files that are tested in float32 alone, and why."""

FILES = model_files()
RUNNING = [name for name in FILES if name not in REFUSED]


def prompts() -> list[list[int]]:
    """Of 5 to 20 tokens: shorter and longer than a window."""
    rng = random.Random(5)  # noqa: S311 - a prompt is no secret
    return [[rng.randrange(VOCAB) for _ in range(length)] for length in (5, 20, 9, 13)]


def alone(model: Any, prompt: Sequence[int], count: int = COUNT) -> tuple[list[int], list[float]]:
    """The tokens that mlx-lm draws greedily, and by how much each was the best."""
    cache = make_prompt_cache(model)
    model(mx.array([prompt[:-1]]), cache=cache)
    last = mx.array([prompt[-1]])
    tokens, best = [], []
    for _ in range(count):
        logits = model(last[:, None], cache=cache)[:, -1].astype(mx.float32)
        last = mx.argmax(logits, axis=-1)
        tokens.append(last)
        best.append(mx.topk(logits, 2, axis=-1))
    margins = mx.concatenate(best)
    return mx.concatenate(tokens).tolist(), mx.abs(margins[:, 0] - margins[:, 1]).tolist()  # type: ignore[return-value]


def counted(model: Any) -> list[int]:
    """From now on, how many tokens go into each forward of `model`."""
    sizes: list[int] = []
    plain = type(model)

    def call(self: Any, inputs: mx.array, *arguments: Any, **options: Any) -> mx.array:
        sizes.append(inputs.size)
        logits: mx.array = plain.__call__(self, inputs, *arguments, **options)
        return logits

    model.__class__ = type(plain.__name__, (plain,), {"__call__": call, "__module__": plain.__module__})
    return sizes


def play(driver: Driver, given: list[list[int]], sizes: list[int]) -> list[int]:
    """Draw `COUNT` tokens for each row; the last row comes two steps later. The forwards of a step of all rows."""
    *early, late = range(len(given))
    for row in early:
        driver.open(row)
    driver.turn(*(Feed(row, tuple(given[row])) for row in early))
    driver.turn(*(Feed(row) for row in early))
    driver.open(late)
    driver.turn(*(Feed(row) for row in early), Feed(late, tuple(given[late])))
    for _ in range(COUNT - 3):
        sizes.clear()
        driver.turn(*(Feed(row) for row in (*early, late)))
    step = list(sizes)
    for _ in range(2):
        driver.turn(Feed(late))
    driver.read()
    return step


def ties_of(ours: Sequence[int], theirs: Sequence[int], margins: Sequence[float]) -> int:
    """How often the lists differ for a tie, 0 or 1; fails where they differ otherwise."""
    for at, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        if our != their:
            assert margins[at] < TIE, f"token {at} is {our}, not {their}: {ours} against {theirs}"
            return 1
    return 0


def info_of(backend: MlxBackend) -> ModelInfo:
    """What was found at load."""
    assert backend._profile is not None
    return backend._profile.info


def kind_of(model: Any) -> str:
    """What `docs/models.md` calls the model's caches."""
    cache = make_prompt_cache(model)
    parts = [type(part).__name__ for layer in cache for part in getattr(layer, "caches", (layer,))]
    kind = KINDS[tuple(sorted(set(parts)))]
    return SEVERAL if kind == KINDS["KVCache",] and len(parts) > len(cache) else kind


def store_of(name: str, kind: str) -> str:
    """The store of a model of that file, whose caches are of that kind."""
    if name in ROW_BY_ROW or name in PADDED:
        return "sequential" if name in ROW_BY_ROW else "padded"
    return "packed" if kind == KINDS["KVCache",] else "batch"


def names_of_kind(kind: str) -> set[str]:
    """The files that `docs/models.md` has in the row of that kind of cache."""
    row = re.search(rf"^\| {kind} \| (.*) \|$", PAGE, re.MULTILINE)
    assert row is not None, f"docs/models.md has no row {kind!r}"
    return set(re.findall(r"`([^`]+)`", row[1]))


@pytest.mark.parametrize("name", RUNNING)
def test_rows_together_get_what_mlx_lm_gives_each_alone(name: str) -> None:
    """Four rows of unequal length, one of them late, in one forward a step unless `ROW_BY_ROW` says why not."""
    assert FILES[name] is None, f"mlx-lm's {name} cannot be imported, and REFUSED does not have it: {FILES[name]}"
    sizes: list[int] = []

    def builder() -> tuple[Any, Any]:
        nonlocal sizes
        try:
            model, tokenizer = build(name)
        except Exception as error:  # noqa: BLE001 - every file has its own way to miss an argument
            pytest.fail(f"{name} cannot be built: give it sizes in model_files.OWN, or list it in REFUSED: {error!r}")
        sizes = counted(model)
        return model, tokenizer

    given = prompts()
    with driven(builder, name) as (driver, backend):
        info = info_of(backend)
        model: Any = backend._model
        step = play(driver, given, sizes)
        expected = [alone(model, prompt) for prompt in given]
        ties = sum(ties_of(driver.tokens(row), *expected[row]) for row in range(len(given)))
        kind = kind_of(model)
        other, _ = alone(model, [*(token ^ 1 for token in given[0][:-1]), given[0][-1]], 6)
    print(f"{name}: {ties} ties")  # noqa: T201 - ties are to be seen
    assert ties <= 1
    assert step == ([1] * len(given) if name in ROW_BY_ROW else [len(given)])
    assert info.store == store_of(name, kind)
    assert info.store_reason
    tokens = [tokens for tokens, _ in expected]
    assert len({token for row in tokens for token in row}) >= 8, "a model that repeats itself shows nothing"
    assert other != tokens[0][:6], "a model that does not look back shows nothing"
    assert name in names_of_kind(kind)


@pytest.mark.parametrize("name", [name for name in RUNNING if name not in UNQUANTIZED])
def test_a_quantized_model_runs_in_the_store_that_it_has_in_float32(name: str) -> None:
    """In 4 bits and bfloat16 the probe at load must not take another rounding for another result.

    mlx-lm runs a prompt but for its last token, and then that: a pass over the whole of it rounds otherwise. Logits of
    bfloat16 tie often, so a token may differ where the two best lie within its rounding.
    """
    sizes: list[int] = []

    def builder() -> tuple[Any, Any]:
        nonlocal sizes
        model, tokenizer = build(name)
        quantize_model(model, {}, 32, 4)
        model.set_dtype(mx.bfloat16)
        sizes = counted(model)
        return model, tokenizer

    given = prompts()[1:3]
    with driven(builder, name) as (driver, backend):
        assert info_of(backend).store == store_of(name, kind_of(backend._model))
        step = play(driver, given, sizes)
        expected = [alone(backend._model, prompt) for prompt in given]
        for row, (tokens, margins) in enumerate(expected):
            differing = [at for at, pair in enumerate(zip(driver.tokens(row), tokens, strict=True)) if len({*pair}) > 1]
            assert not differing or margins[differing[0]] < HALF_TIE
    assert step == ([1] * len(given) if name in ROW_BY_ROW else [len(given)])


def test_the_comparison_notices_another_rows_tokens() -> None:
    """A test that cannot fail proves nothing: one row's tokens are not another's, and ties are no excuse."""
    model, _ = build("llama")
    (ours, _), (theirs, margins) = [alone(model, prompt) for prompt in prompts()[:2]]
    with pytest.raises(AssertionError, match="token 0 is"):
        ties_of(ours, theirs, margins)
    assert ties_of(ours, theirs, [TIE / 2] * COUNT) == 1
    assert ties_of(ours, ours, margins) == 0


@pytest.mark.skipif(mx.metal.is_available(), reason="they may run here")
@pytest.mark.parametrize("name", METAL_ALONE)
def test_a_model_of_metal_kernels_is_refused_elsewhere(name: str) -> None:
    """At load, by a typed error that says what is missing."""
    with pytest.raises(ModelLoadFailed, match=rf"^{name} cannot run a token here: .*No Metal back-end"):
        MlxBackend.from_model(partial(build, name), name=name).load()


@pytest.mark.skipif(FILES["olmo"] is None, reason="its package is installed")
def test_a_model_whose_file_ends_the_program_is_refused(tmp_path: Path) -> None:
    """The `SystemExit` of mlx-lm's file for OLMo must not end whoever loads it."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "olmo"}), encoding="utf-8")
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {"weight": mx.zeros((1,))})
    with pytest.raises(ModelLoadFailed, match="needs a package for its kind of model that is not installed"):
        MlxBackend(tmp_path).load()


def test_the_page_on_models_names_each_file_once_with_its_reasons() -> None:
    """Every file stands in one row of caches or among the refusals; reasons are those of the tables here."""
    named = [name for kind in {SEVERAL, *KINDS.values()} for name in sorted(names_of_kind(kind))]
    assert sorted([*named, *REFUSED]) == sorted(FILES)
    for table in (ROW_BY_ROW, PADDED, UNQUANTIZED, REFUSED):
        for name, reason in table.items():
            assert f"| `{name}` | {reason} |" in PAGE
