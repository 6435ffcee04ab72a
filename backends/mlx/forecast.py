"""How the model in a folder would run, by what its files say: nothing is loaded, and no weight is read.

What decides is a run, when the model is loaded (see `store_choice`). Before it, this is what each of mlx-lm's files
came to when all of them were tested with small random weights: a configuration of its own may come to something else.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from greenroom.backends.mlx import imports

imports.prepare()

import mlx.core as mx  # noqa: E402 - once what its import does is arranged

from greenroom.backends.mlx.device_profile import DeviceProfile, choose_profile  # noqa: E402
from greenroom.backends.mlx.memory_plan import DeviceMemory, device_memory, plan_memory  # noqa: E402
from greenroom.backends.mlx.model_folder import TEXT_CONFIGS, read_folder  # noqa: E402
from greenroom.errors import GreenroomError, ModelLoadFailed, ModelNotFound  # noqa: E402

__all__ = ["METAL_ALONE", "REFUSED", "ROW_BY_ROW", "Forecast", "forecast_folder"]

Way = Literal["batched", "row by row", "refused"]

ROW_BY_ROW = {
    "afm7": "layers that reuse keys and values take their positions from the width of the batch",
    "deepseek_v41": "its cache is a class of its own, and mlx-lm has no batch of it",
    "gemma2": "caps scores by hand, and its grouped heads take no mask for several rows",
    "gpt_bigcode": "counts positions in one number for the whole batch",
    "llama4": "mlx-lm has no batch of chunked caches",
    "longcat_flash_ngram": "remembers the last tokens, and mlx-lm's batch cannot hold rows that have fewer",
    "minimax_m3_vl": "attends to blocks of keys, cut by their place in the batch",
    "phi3small": "adds its mask to the scores, which hides nothing",
}
"""mlx-lm's files whose rows run one by one, and why."""

METAL_ALONE = ("bitnet", "muse_spark")
REFUSED = {
    **dict.fromkeys(METAL_ALONE, "computes in Metal kernels, which run on Apple's GPUs alone"),
    "olmo": "needs the package ai2-olmo, without which mlx-lm's file ends the program",
}
"""mlx-lm's files that do not load, and why."""
_OLMO_PACKAGE = "hf_olmo"

_LEAST_TOKENS = 512
"""Of KV: a model that has no room for so many does not load."""


_MOST = 1 << 20
"""Layers, heads, numbers of a head: more is a mistake."""


class Forecast(NamedTuple):
    """What is to be expected. `needed_bytes` are those of the weights, as they are held, and of a short row's KV.

    `fits` says whether this machine has them now; both are None where the model is refused.
    """

    way: Way
    reason: str
    needed_bytes: int | None = None
    fits: bool | None = None


def forecast_folder(folder: Path) -> Forecast:
    """By the configuration, the names of the weights' files and their headers. Raises nothing for what they hold."""
    try:
        config = _read(folder)
        refusal = _refusal(config)
        if refusal is not None:
            return Forecast("refused", refusal)
        needed, row = _sizes(folder, config, choose_profile())
        fits = _fits(device_memory(), needed - row, row)
    except GreenroomError as error:
        return Forecast("refused", str(error))
    except Exception as error:  # noqa: BLE001 - whatever a file of somebody else's brings up
        return Forecast("refused", f"its files cannot be read: {type(error).__name__}: {error}")
    reason = ROW_BY_ROW.get(_file_of(config))
    return Forecast("row by row" if reason else "batched", reason or "", needed, fits)


def _read(folder: Path) -> Mapping[str, Any]:
    """The configuration, once all files are checked as a load checks them. Raises as that does."""
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise ModelNotFound("an adapter and no model: --adapter takes it")
    read_folder(folder, trust_remote_code=False)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(json.loads(index.read_bytes())["weight_map"].values())
        missing = sorted(name for name in names if not (folder / name).is_file())
        if missing:
            raise ModelLoadFailed(f"{len(missing)} of {len(names)} files of weights are not here, {missing[0]} first")
    config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    return config


def _file_of(config: Mapping[str, Any]) -> str:
    """mlx-lm's file for a configuration, by its own tables."""
    utils = importlib.import_module("mlx_lm.utils")
    kind: str = config["model_type"]
    architectures = config.get("architectures") or ()
    by_architecture = getattr(utils, "MODEL_ARCHITECTURE_REMAPPING", {})
    for each in [architectures] if isinstance(architectures, str) else architectures:
        if (kind, each) in by_architecture:
            return str(by_architecture[kind, each])
    return str(utils.MODEL_REMAPPING.get(kind, kind))


def _refusal(config: Mapping[str, Any]) -> str | None:
    """Why the kind of model is not run here; None where it is."""
    file = _file_of(config)
    if not file.replace("-", "_").isidentifier() or importlib.util.find_spec(f"mlx_lm.models.{file}") is None:
        return f"mlx-lm has no file for its model_type {config['model_type']!r}"
    may_run = (file in METAL_ALONE and mx.metal.is_available()) or (
        file == "olmo" and importlib.util.find_spec(_OLMO_PACKAGE) is not None
    )
    return None if may_run else REFUSED.get(file)


def _sizes(folder: Path, config: Mapping[str, Any], device: DeviceProfile) -> tuple[int, int]:
    """Bytes of weights and a short row together, and of the row."""
    weights = sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
    is_quantized = bool(config.get("quantization") or config.get("quantization_config"))
    halves = str(config.get("torch_dtype") or config.get("dtype") or "bfloat16") in {"bfloat16", "float16"}
    is_widened = device.computes_float32 and halves and not is_quantized
    if is_widened:
        weights *= 2
    row = _LEAST_TOKENS * _numbers_per_token(config) * (4 if is_widened else 2)
    return weights + row, row


def _numbers_per_token(config: Mapping[str, Any]) -> int:
    """Keys and values of plain attention: other kinds hold less. 0 where the configuration does not say."""
    inner: Mapping[str, Any] = next(
        (config[name] for name in TEXT_CONFIGS if isinstance(config.get(name), Mapping)), {}
    )
    found = {**config, **inner}
    heads = _count(found, "num_attention_heads")
    size = _count(found, "head_dim") or (_count(found, "hidden_size") // heads if heads else 0)
    return 2 * _count(found, "num_hidden_layers") * (_count(found, "num_key_value_heads") or heads) * size


def _count(config: Mapping[str, Any], name: str) -> int:
    """A number of the configuration; 0 for what is none."""
    value = config.get(name)
    return value if isinstance(value, int) and 0 < value < _MOST else 0


def _fits(device: DeviceMemory, weights: int, row: int) -> bool:
    """Whether a plan of the memory that weights leave has room for a row. Elsewhere than on a Mac they take of it."""
    if device.kind != "metal":
        device = device._replace(usable=max(0, device.usable - weights))
    return plan_memory(device, weights).kv >= max(row, 1)
