"""The folder of an adapter, mlx-lm's or PEFT's, read and checked against a model's modules, into typed values.

The tensors' names are the truth: which modules are adapted, and with what rank, is read off them, and the configuration
gives type and scale alone. All that is wrong is collected, and raised as one `InvalidAdapter` that lists it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from greenroom.backends.mlx.adapters.factors import Factors, Numbers
from greenroom.backends.mlx.adapters.targets import Target
from greenroom.backends.mlx.adapters.weights import LoraWeights, Precision
from greenroom.backends.mlx.tensor_header import TensorEntry, parse_header
from greenroom.errors import InvalidAdapter, InvalidSnapshot, UnusablePath
from greenroom.files.json_depth import check_json_depth
from greenroom.files.regular import read_file
from greenroom.files.tensor_file import read_tensor_file

__all__ = ["MAX_RANK", "read_adapter_folder"]

MAX_RANK = 256
"""Of a module: tables of all adapters in memory are as wide as the widest."""
_MAX_CONFIG_BYTES = 1 << 20
_MAX_BYTES = 8 << 30
_CONFIG = "adapter_config.json"
_MLX_LM, _PEFT = "adapters.safetensors", "adapter_model.safetensors"
_UNREADABLE = ("adapters.npz", "adapter_model.bin", "adapter_model.pt")
_LEAVES = {"lora_a": "a", "lora_b": "b", "m": "m"}
_PEFT_LEAVES = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_embedding_A": "a",
    "lora_embedding_B": "b",
    "lora_magnitude_vector.weight": "m",
    "lora_magnitude_vector": "m",
}
_PEFT_HEADS = ("base_model.model.", "base_model.")
_EXPERT = re.compile(r"(?P<block>.+)\.experts\.(?P<number>\d+)\.(?P<part>\w+)")
_PLAIN_PATTERN = re.compile(r"[\w.^$\\]+")
Leaf = Literal["a", "b", "m"]


class _Tensor(NamedTuple):
    """One tensor of the file, `[inputs, rank]` or `[rank, outputs]` as mlx-lm has them."""

    name: str
    numbers: Numbers


@dataclass(slots=True)
class _Reading:
    """What was found so far; `problems` are said all at once."""

    folder: Path
    targets: Mapping[str, Target]
    parts: dict[str, dict[Leaf, _Tensor]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    precisions: set[str] = field(default_factory=set)


def read_adapter_folder(folder: Path, targets: Mapping[str, Target]) -> LoraWeights:
    """The adapter in `folder`, for a model with these modules. Raises `InvalidAdapter`."""
    config = _read_config(folder)
    reading = _Reading(folder, targets)
    if (folder / _PEFT).exists():
        scale_of = _read_peft(config, reading)
    elif (folder / _MLX_LM).exists():
        scale_of = _read_mlx_lm(config, reading)
    else:
        found = next((name for name in _UNREADABLE if (folder / name).exists()), None)
        hint = "" if found is None else f"; {found} is not read: save it as safetensors"
        raise InvalidAdapter(folder, [f"it has neither {_MLX_LM} nor {_PEFT}{hint}"])
    factors = dict(_check_parts(reading, scale_of))
    if not reading.parts and not reading.problems:
        reading.problems.append("its file has no tensors")
    if reading.problems:
        raise InvalidAdapter(folder, reading.problems)
    precision: Precision = "F32" if len(reading.precisions) > 1 else reading.precisions.pop()  # type: ignore[assignment]
    return LoraWeights(folder.name, factors, precision)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    if not path.exists():
        raise InvalidAdapter(folder, [f"it has no {_CONFIG}"])
    try:
        data = read_file(path, _MAX_CONFIG_BYTES)
        check_json_depth(data)
        found = json.loads(data.decode())
    except (OSError, UnusablePath, ValueError) as error:
        raise InvalidAdapter(folder, [f"{_CONFIG} cannot be read: {error}"]) from error
    if not isinstance(found, dict):
        raise InvalidAdapter(folder, [f"{_CONFIG} should hold an object, it holds a {type(found).__name__}"])
    return found


# mlx-lm's own.


class _ScaleOf:
    """The scale of a module's product, by its path and rank. Here one for all."""

    def __init__(self, scale: float) -> None:
        self._scale = scale

    def __call__(self, path: str, rank: int) -> float:
        del path, rank
        return self._scale


def _read_mlx_lm(config: Mapping[str, Any], reading: _Reading) -> _ScaleOf:
    kind = config.get("fine_tune_type", "lora")
    if kind == "full":
        problem = "it is a full fine-tune, which is a model of its own: fuse it (`mlx_lm.fuse`), and open that"
        raise InvalidAdapter(reading.folder, [problem])
    if kind not in {"lora", "dora"}:
        raise InvalidAdapter(reading.folder, [f"fine_tune_type must be 'lora' or 'dora', it is {kind!r}"])
    settings = config.get("lora_parameters")
    scale = settings.get("scale") if isinstance(settings, dict) else None
    if not _is_number(scale):
        hint = ": 'alpha' is PEFT's" if isinstance(settings, dict) and "alpha" in settings else ""
        reading.problems.append(f"{_CONFIG}: lora_parameters.scale must be a finite number, it is {scale!r}{hint}")
        scale = 1.0
    for name, numbers in _tensors(reading, _MLX_LM):
        path, _, leaf = name.rpartition(".")
        if leaf not in _LEAVES or (leaf == "m" and kind != "dora"):
            reading.problems.append(f"{name}: no tensor of an adapter of the kind {kind!r}")
        elif path not in reading.targets:
            reading.problems.append(f"{name}: the model has no module {path!r} that can be adapted")
        else:
            swapped = reading.targets[path].kind == "experts" and numbers.ndim == 3
            _put(reading, path, _LEAVES[leaf], _Tensor(name, numbers.swapaxes(1, 2) if swapped else numbers))
    return _ScaleOf(float(scale))  # type: ignore[arg-type]


# PEFT's.


class _PeftScale(_ScaleOf):
    """PEFT's: alpha over the rank, or over its root; both may be others for some modules."""

    def __init__(self, config: Mapping[str, Any], reading: _Reading) -> None:
        super().__init__(1.0)
        self._alpha = _positive(config, "lora_alpha", reading)
        self._rank = _positive(config, "r", reading)
        self._is_stable = bool(config.get("use_rslora"))
        self._alphas = _pattern(config, "alpha_pattern", reading)
        self._ranks = _pattern(config, "rank_pattern", reading)
        self._reading = reading

    def __call__(self, path: str, rank: int) -> float:
        told = _of_pattern(self._ranks, path, self._rank)
        if told != rank:
            self._reading.problems.append(f"{path}: its tensors have the rank {rank}, {_CONFIG} says {told:g}")
        alpha = _of_pattern(self._alphas, path, self._alpha)
        return alpha / (math.sqrt(rank) if self._is_stable else rank)


def _read_peft(config: Mapping[str, Any], reading: _Reading) -> _ScaleOf:
    reading.problems += _refused(config)
    scale = _PeftScale(config, reading)
    for name, numbers in _tensors(reading, _PEFT):
        found = next(((name[: -len(leaf) - 1], leaf) for leaf in _PEFT_LEAVES if name.endswith(f".{leaf}")), None)
        if found is None:
            reading.problems.append(f"{name}: no tensor of a LoRA; whole modules (modules_to_save) cannot be adapted")
            continue
        path, leaf = found
        head = next((head for head in _PEFT_HEADS if path.startswith(head)), "")
        _put_peft(reading, path.removeprefix(head), leaf, _Tensor(name, numbers))
    return scale


def _refused(config: Mapping[str, Any]) -> Iterator[str]:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        yield f"{_CONFIG}: peft_type must be 'LORA', it is {kind!r}"
    for name in ("modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication", "lora_bias"):
        if config.get(name):
            yield f"{_CONFIG}: {name} is not supported: merge the adapter into its model, and open that"
    if config.get("bias", "none") != "none":
        yield f"{_CONFIG}: bias must be 'none', it is {config['bias']!r}: merge the adapter into its model"
    if config.get("fan_in_fan_out"):
        yield f"{_CONFIG}: fan_in_fan_out is not supported"


def _put_peft(reading: _Reading, named: str, leaf: str, tensor: _Tensor) -> None:
    path = _find(reading.targets, named)
    expert = _EXPERT.fullmatch(named)
    if path is not None:
        is_factor = _PEFT_LEAVES[leaf] != "m"
        _put(reading, path, _PEFT_LEAVES[leaf], tensor._replace(numbers=tensor.numbers.T) if is_factor else tensor)
    elif expert is not None and (path := _find(reading.targets, f"{expert['block']}.switch_mlp.{expert['part']}")):
        _put_expert(reading, path, int(expert["number"]), _PEFT_LEAVES[leaf], tensor)
    else:
        reading.problems.append(f"{tensor.name}: the model has no module {named!r} that can be adapted")


def _put_expert(reading: _Reading, path: str, number: int, leaf: str, tensor: _Tensor) -> None:
    """One expert's tensor, among those of all; who has none has zeros."""
    count = reading.targets[path].experts
    if number >= count or leaf == "m" or tensor.numbers.ndim != 2:
        reading.problems.append(f"{tensor.name}: no tensor for one of the {count} experts of {path}")
        return
    parts = reading.parts.setdefault(path, {})
    key: Any = leaf
    if key not in parts:
        parts[key] = _Tensor(tensor.name, np.zeros((count, *tensor.numbers.T.shape), np.float32))
    whole = parts[key].numbers
    if whole.shape[1:] != tensor.numbers.T.shape:
        reading.problems.append(f"{tensor.name}: another shape than that of {parts[key].name}")
        return
    whole[number] = tensor.numbers.T


def _find(targets: Mapping[str, Target], named: str) -> str | None:
    """The path of a module that another framework names: the same, or the only one with its ending."""
    if named in targets:
        return named
    _, layers, tail = named.partition("layers.")
    wanted = layers + tail if layers else named
    alike = [path for path in targets if path.endswith(f".{wanted}")]
    return alike[0] if len(alike) == 1 else None


def _pattern(config: Mapping[str, Any], name: str, reading: _Reading) -> dict[str, float]:
    """Numbers for modules by the ending of their names. Regular expressions that are more than that are refused."""
    found = config.get(name) or {}
    if not isinstance(found, dict):
        reading.problems.append(f"{_CONFIG}: {name} must be an object, it is {found!r}")
        return {}
    for key, value in found.items():
        if not _PLAIN_PATTERN.fullmatch(key) or not _is_number(value) or value <= 0:
            reading.problems.append(f"{_CONFIG}: {name} must have numbers above 0 by names, it has {key!r}: {value!r}")
    return {key.strip("^$").replace("\\", ""): value for key, value in found.items()}


def _of_pattern(pattern: Mapping[str, float], path: str, default: float) -> float:
    alike = (value for key, value in pattern.items() if path == key or path.endswith(f".{key}"))
    return next(alike, default)


def _positive(config: Mapping[str, Any], name: str, reading: _Reading) -> float:
    value = config.get(name)
    if _is_number(value) and value > 0:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    reading.problems.append(f"{_CONFIG}: {name} must be a number above 0, it is {value!r}")
    return 1.0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e6


# Both.


def _tensors(reading: _Reading, name: str) -> Iterator[tuple[str, Numbers]]:
    """The file's tensors, as float32."""
    path = reading.folder / name
    try:
        data = memoryview(read_tensor_file(path, _MAX_BYTES))
        start = 8 + int.from_bytes(data[:8], "little")
        entries, _ = parse_header(bytes(data[8:start]), len(data) - start)
    except (OSError, InvalidSnapshot, UnusablePath, ValueError) as error:
        raise InvalidAdapter(reading.folder, [str(error)]) from error
    for tensor, entry in entries.items():
        numbers = _float32(entry, data[start:])
        if numbers is None:
            reading.problems.append(f"{tensor}: its type must be F32, F16 or BF16, it is {entry.dtype}")
            continue
        reading.precisions.add(entry.dtype)
        if not np.isfinite(numbers).all():
            reading.problems.append(f"{tensor}: it has numbers that are not finite")
        yield tensor, numbers


def _float32(entry: TensorEntry, data: memoryview) -> Numbers | None:
    part = data[slice(*entry.data_offsets)]
    if entry.dtype == "BF16":  # the upper half of a float32
        numbers = (np.frombuffer(part, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif entry.dtype in {"F32", "F16"}:
        numbers = np.frombuffer(part, "<f4" if entry.dtype == "F32" else "<f2").astype(np.float32)
    else:
        return None
    return numbers.reshape(entry.shape)


def _put(reading: _Reading, path: str, leaf: str, tensor: _Tensor) -> None:
    key: Any = leaf
    reading.parts.setdefault(path, {})[key] = tensor


def _check_parts(reading: _Reading, scale_of: _ScaleOf) -> Iterator[tuple[str, Factors]]:
    for path, parts in reading.parts.items():
        target, missing = reading.targets[path], [leaf for leaf in ("a", "b") if leaf not in parts]
        if missing:
            reading.problems.append(f"{path}: of its two factors there is only one")
            continue
        a, b, magnitude = parts["a"], parts["b"], parts.get("m")
        rank = a.numbers.shape[-1] if a.numbers.ndim else 0
        before = len(reading.problems)
        reading.problems += _misfits(path, target, parts, rank)
        if len(reading.problems) == before:
            scaled = (b.numbers * np.float32(scale_of(path, rank))).astype(np.float32)
            yield (
                path,
                Factors(np.ascontiguousarray(a.numbers), scaled, None if magnitude is None else magnitude.numbers),
            )


def _misfits(path: str, target: Target, parts: Mapping[Leaf, _Tensor], rank: int) -> Iterator[str]:
    front = (target.experts,) if target.kind == "experts" else ()
    wanted: dict[Leaf, tuple[int, ...]] = {"a": (*front, target.inputs, rank), "b": (*front, rank, target.outputs)}
    if "m" in parts and target.kind != "linear":
        yield f"{parts['m'].name}: DoRA is for linear modules alone, {path} is none"
    elif "m" in parts:
        wanted["m"] = (target.outputs,)
    for leaf, shape in wanted.items():
        if parts[leaf].numbers.shape != shape:
            yield f"{parts[leaf].name}: {path} takes the shape {shape}, here as {parts[leaf].numbers.shape}"
    if not 1 <= rank <= MAX_RANK:
        yield f"{path}: its rank must be from 1 to {MAX_RANK}, it is {rank}"
