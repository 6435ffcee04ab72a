"""Folders of adapters: what is read of them, and that all which does not fit is listed before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_folders import steady, write_mlx_lm, write_peft
from model_files import build
from models import llama
from safetensors import numpy as tensors

from greenroom import InvalidAdapter
from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.adapters.reader import FolderReader
from greenroom.backends.mlx.adapters.targets import targets_of

BUILDER = steady(partial(llama, 2))


@pytest.fixture(scope="module")
def reader() -> FolderReader:
    """For a small llama."""
    return FolderReader(targets_of(BUILDER()[0]))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A good folder of each format."""
    root = tmp_path_factory.mktemp("sources")
    plain = write_mlx_lm(root / "mlx", BUILDER, 1, keys=["self_attn.q_proj"], num_layers=1)
    return {"mlx": plain, "peft": write_peft(root / "peft", plain)}


Change = Callable[[dict[str, Any], dict[str, Any]], object]


def added(name: str, shape: tuple[int, ...]) -> Change:
    """One more tensor."""
    return lambda _, found: found.update({name: np.ones(shape, np.float32)})


Q1 = "model.layers.1.self_attn.q_proj"


def wide(found: dict[str, Any], rank: int) -> dict[str, Any]:
    """The factors of one module, of another rank."""
    del found
    return {f"{Q1}.lora_a": np.ones((64, rank), np.float32), f"{Q1}.lora_b": np.ones((rank, 64), np.float32)}


def embedding_with_dora(config: dict[str, Any], found: dict[str, Any]) -> None:
    """DoRA on what is no linear module."""
    config["fine_tune_type"] = "dora"
    path = "model.embed_tokens"
    found[f"{path}.lora_a"] = np.ones((320, 2), np.float32)
    found[f"{path}.lora_b"] = np.ones((2, 64), np.float32)
    found[f"{path}.m"] = np.ones(320, np.float32)


CASES: list[tuple[str, str, Change]] = [
    ("mlx", "fuse it", lambda config, _: config.update(fine_tune_type="full")),
    ("mlx", "must be 'lora' or 'dora'", lambda config, _: config.update(fine_tune_type="ia3")),
    ("mlx", "'alpha' is PEFT's", lambda config, _: config.update(lora_parameters={"rank": 4, "alpha": 8})),
    ("mlx", "scale must be a finite number", lambda config, _: config["lora_parameters"].update(scale="20")),
    (
        "mlx",
        "no module 'model.layers.9",
        added("model.layers.9.q.lora_a", (64, 4)),
    ),
    ("mlx", "no tensor of an adapter", lambda _, found: found.update({f"{Q1}.weight": found[f"{Q1}.lora_a"]})),
    ("mlx", "there is only one", lambda _, found: found.pop(f"{Q1}.lora_b")),
    ("mlx", "takes the shape (64, 4)", lambda _, found: found.update({f"{Q1}.lora_a": np.ones((63, 4), np.float32)})),
    ("mlx", "not finite", lambda _, found: found.update({f"{Q1}.lora_a": np.full((64, 4), np.nan, np.float32)})),
    ("mlx", "from 1 to 256", lambda _, found: found.update(wide(found, 257))),
    ("mlx", "must be F32, F16 or BF16", lambda _, found: found.update({f"{Q1}.lora_a": np.ones((64, 4), np.int32)})),
    ("mlx", "has no tensors", lambda _, found: found.clear()),
    ("mlx", "for linear modules alone", embedding_with_dora),
    ("peft", "modules_to_save", lambda config, _: config.update(modules_to_save=["lm_head"])),
    ("peft", "peft_type must be 'LORA'", lambda config, _: config.update(peft_type="IA3")),
    ("peft", "bias must be 'none'", lambda config, _: config.update(bias="all")),
    ("peft", "lora_alpha must be a number above 0", lambda config, _: config.update(lora_alpha=None)),
    ("peft", "says 16", lambda config, _: config.update(rank_pattern={"q_proj": 16})),
    ("peft", "numbers above 0 by names", lambda config, _: config.update(alpha_pattern={"(a+)+$": 16})),
    (
        "peft",
        "whole modules",
        added("base_model.model.lm_head.weight", (2, 2)),
    ),
    (
        "peft",
        "no module 'x.y'",
        added("base_model.model.x.y.lora_A.weight", (4, 64)),
    ),
]


def changed(source: Path, folder: Path, change: Change) -> Path:
    """A copy of a good folder with one thing changed."""
    name = next(source.glob("*.safetensors")).name
    config, found = json.loads((source / "adapter_config.json").read_text()), dict(tensors.load_file(source / name))
    change(config, found)
    folder.mkdir()
    tensors.save_file(found, folder / name)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_what_does_not_fit_is_named(reader: FolderReader, sources: dict[str, Path], tmp_path: Path) -> None:
    """One fault at a time, in the configuration and in the tensors."""
    for number, (kind, expected, change) in enumerate(CASES):
        folder = changed(sources[kind], tmp_path / str(number), change)
        with pytest.raises(InvalidAdapter) as caught:
            reader.read(folder)
        assert expected in str(caught.value), (expected, str(caught.value))
        assert len(caught.value.problems) <= 2, caught.value.problems  # what it leads to, beside it


def test_all_faults_are_listed_at_once(reader: FolderReader, sources: dict[str, Path], tmp_path: Path) -> None:
    """So that a folder is mended in one go."""

    def change(config: dict[str, Any], found: dict[str, Any]) -> None:
        for _, _, each in CASES[4:8]:
            each(config, found)

    with pytest.raises(InvalidAdapter) as caught:
        reader.read(changed(sources["mlx"], tmp_path / "all", change))
    assert len(caught.value.problems) >= 3


def test_files_that_are_none_are_told_from_those_that_are_missing(
    reader: FolderReader, sources: dict[str, Path], tmp_path: Path
) -> None:
    """Cut off, of another format, or not there at all."""
    folder = changed(sources["mlx"], tmp_path / "cut", lambda *_: None)
    weights = folder / "adapters.safetensors"
    whole = weights.read_bytes()
    for data, expected in ((whole[:-8], "its header tells"), (b"\x80\x02}", "no safetensors"), (None, "has neither")):
        weights.unlink()
        if data is not None:
            weights.write_bytes(data)
        else:
            (folder / "adapter_model.bin").write_bytes(b"pickle")
        with pytest.raises(InvalidAdapter, match=expected):
            reader.read(folder)
        weights.write_bytes(whole)
    for text, expected in (("[]", "should hold an object"), ("{", "cannot be read"), ("[" * 9999, "cannot be read")):
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(InvalidAdapter, match=expected):
            reader.read(folder)


def test_ranks_alphas_and_experts_of_peft_are_those_of_each_module(tmp_path: Path) -> None:
    """One expert after the other, by Hugging Face's names; patterns give some modules another rank and alpha."""
    reader = FolderReader(targets_of(build("qwen3_moe")[0]))
    rng = np.random.default_rng(1)
    found = {}
    block = "base_model.model.model.layers.1"
    for number in (0, 3):
        for leaf, shape in (("A", (2, 64)), ("B", (32, 2))):
            name = f"{block}.mlp.experts.{number}.up_proj.lora_{leaf}.weight"
            found[name] = rng.standard_normal(shape).astype(np.float32)
    for leaf, shape in (("A", (4, 64)), ("B", (64, 4))):
        found[f"{block}.self_attn.q_proj.lora_{leaf}.weight"] = rng.standard_normal(shape).astype(np.float16)
    tensors.save_file(found, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "rank_pattern": {"q_proj": 4}, "alpha_pattern": {".*": 1}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidAdapter, match="by names"):
        reader.read(tmp_path)
    config["alpha_pattern"] = {"self_attn.q_proj": 2}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    weights = reader.read(tmp_path)
    assert weights.precision == "F32"  # the wider of two
    experts = weights.factors["model.layers.1.mlp.switch_mlp.up_proj"]
    target = reader.targets["model.layers.1.mlp.switch_mlp.up_proj"]
    assert experts.a.shape == (target.experts, 64, 2)
    assert not experts.a[1].any()
    assert np.array_equal(experts.b[3], 3 * found[f"{block}.mlp.experts.3.up_proj.lora_B.weight"].T)
    query = weights.factors["model.layers.1.self_attn.q_proj"]
    assert np.array_equal(query.b, 0.5 * found[f"{block}.self_attn.q_proj.lora_B.weight"].T.astype(np.float32))


def test_experts_that_are_given_tokens_of_whatever_rows_are_no_targets() -> None:
    """In a list of modules, or called by a class of the model's own, nobody can tell whose tokens they have."""
    listed = targets_of(build("dbrx")[0])
    assert any(path.endswith("Wqkv") for path in listed)
    assert not any(".experts." in path for path in listed)
    routed = targets_of(build("qwen3_moe")[0])
    assert sum(target.kind == "experts" for target in routed.values()) >= 3


def test_a_module_that_the_model_passes_by_is_refused_where_it_is_opened() -> None:
    """Gemma 3n reads the weights of some of its linear modules: what is added behind them would be without effect."""
    backend = MlxBackend.from_model(partial(build, "gemma3n"))
    reader: Any = backend.load().adapters
    try:
        backend.open_adapter(1, reader.create(("self_attn.q_proj",), 2, 1))
        every = [path for path, target in reader.targets.items() if target.kind == "linear" and ".layers." in path]
        with pytest.raises(InvalidAdapter, match="rather than calling it") as caught:
            backend.open_adapter(2, reader.create(every, 2, 1))
        assert 0 < len(caught.value.problems) < len(every)
    finally:
        backend.close()
