"""Folders of adapters with random numbers, written as mlx-lm and PEFT write them, and mlx-lm on the same model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from models import ByteTokenizer, llama, mx, nn  # before MLX is imported by anybody else

# isort: split
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters

__all__ = ["Builder", "adapted", "quantized", "steady", "tied_llama", "write_mlx_lm", "write_peft"]

Builder = Callable[[], tuple[Any, ByteTokenizer]]
SCALE = 2.0


def steady(builder: Builder) -> Builder:
    """The same model each time, what its builder leaves to chance included."""

    def build() -> tuple[Any, ByteTokenizer]:
        mx.random.seed(3)
        return builder()

    return build


def quantized(builder: Builder, bits: int) -> Builder:
    """The same model in so many bits."""

    def build() -> tuple[Any, ByteTokenizer]:
        model, tokenizer = builder()
        nn.quantize(  # type: ignore[attr-defined]
            model, group_size=32, bits=bits, class_predicate=_is_quantizable
        )
        mx.eval(model.parameters())
        return model, tokenizer

    return build


def _is_quantizable(path: str, module: Any) -> bool:
    del path
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0


def tied_llama() -> tuple[Any, ByteTokenizer]:
    """Its embedding is its head too."""
    return llama(tie_word_embeddings=True)


def adapted(builder: Builder, folder: Path | None) -> Any:
    """The model with the adapter as mlx-lm has it; None: without."""
    model, _ = builder()
    if folder is not None:
        load_adapters(model, str(folder))
        model.eval()
    mx.eval(model.parameters())
    return model


def write_mlx_lm(
    folder: Path,
    builder: Builder,
    seed: int,
    *,
    kind: str = "lora",
    rank: int = 4,
    num_layers: int = -1,
    keys: Sequence[str] | None = None,
) -> Path:
    """What `mlx_lm.lora` leaves, with numbers that change every token; `keys` None: all linears of the layers."""
    settings = {"rank": rank, "scale": SCALE, "dropout": 0.0}
    if keys is not None:
        settings["keys"] = list(keys)  # type: ignore[assignment]
    model, _ = builder()
    linear_to_lora_layers(model, num_layers, settings, use_dora=kind == "dora")
    mx.random.seed(seed)
    leaves: Any = tree_flatten(model.parameters())
    tensors: dict[str, mx.array] = {}
    for name, leaf in leaves:
        last = name.rpartition(".")[2]
        if last in {"lora_a", "lora_b"}:
            tensors[name] = mx.random.normal(leaf.shape) * 0.15
        elif last == "m" and kind == "dora":
            tensors[name] = leaf * (1 + 0.3 * mx.random.normal(leaf.shape))
    config = {"fine_tune_type": kind, "num_layers": num_layers, "lora_parameters": settings}
    return _write(folder, "adapters.safetensors", tensors, config)


def write_peft(folder: Path, source: Path, *, stable: bool = False) -> Path:
    """The adapter that mlx-lm wrote at `source`, as PEFT writes it: without experts."""
    tensors: dict[str, mx.array] = {}
    names = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}
    found: Any = mx.load(str(source / "adapters.safetensors"))
    for name, array in found.items():
        path, _, leaf = name.rpartition(".")
        tensors[f"base_model.model.{path}.{names[leaf]}"] = mx.contiguous(array.T)
    settings = json.loads((source / "adapter_config.json").read_text())
    rank = settings["lora_parameters"]["rank"]
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": SCALE * (rank**0.5 if stable else rank),
        "use_rslora": stable,
        "use_dora": settings["fine_tune_type"] == "dora",
        "bias": "none",
        "modules_to_save": None,
    }
    return _write(folder, "adapter_model.safetensors", tensors, config)


def _write(folder: Path, name: str, tensors: Mapping[str, mx.array], config: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / name), dict(tensors))
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
