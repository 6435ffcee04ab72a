"""A model and its tokenizer from a folder or from the hub, and what their files say about stopping and tools.

mlx-lm does the loading; this module finds the folder, turns weights to float32 where the CPU computes, and maps what
goes wrong to errors that name the file. It knows no rows and no caches.
"""

from __future__ import annotations

import importlib
import json
import reprlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from greenroom.backends.mlx.device_profile import DeviceProfile
from greenroom.backends.mlx.parsers import LibraryParser
from greenroom.backends.mlx.tensor_header import MAX_HEADER_BYTES, parse_header
from greenroom.errors import ModelLoadFailed, ModelNotFound
from greenroom.files.json_depth import check_json_depth
from greenroom.files.regular import read_file

__all__ = ["Loaded", "chat_template", "find_folder", "load_folder", "stop_tokens", "thinking", "tool_parser", "wrap"]

_SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
)
_LARGE = ("tokenizer.json", "vocab.json")
"""Of tens of megabytes: their readers find all that is wrong but depth."""
_END_MARKERS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|end_of_turn|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end_of_sentence|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<|eos|>",
    "</s>",
)


class Loaded(NamedTuple):
    """A model on the device, its tokenizer (ours, and mlx-lm's where there is one) and its configuration."""

    model: Any
    tokenizer: Any
    wrapper: Any
    config: Mapping[str, Any]


def load_folder(model: str | Path, device: DeviceProfile) -> Loaded:
    """Load from a folder, or by a name on the hub (from its cache where `HF_HUB_OFFLINE` is set).

    Raises `ModelNotFound` where there is no such folder or name, `ModelLoadFailed` where what is there is no model.
    """
    folder = find_folder(model)
    _check(folder)
    utils = importlib.import_module("mlx_lm.utils")
    try:
        network, wrapper, config = utils.load(str(folder), lazy=True, return_config=True)
        if device.computes_float32:
            _compute_in_float32(network)
        mx.eval(network.parameters())
    except SystemExit as error:  # what mlx-lm's file for OLMo answers to a missing import
        raise ModelLoadFailed(f"{folder} needs a package for its kind of model that is not installed") from error
    except Exception as error:
        raise ModelLoadFailed(f"{folder} does not hold a model that mlx-lm can load: {error}") from error
    return Loaded(network, _tokenizer(wrapper), wrapper, config)


def wrap(model: Any, tokenizer: Any) -> Loaded:
    """What `MlxBackend.from_model`'s factory built."""
    mx.eval(model.parameters())
    config = _plain(vars(model.args)) if hasattr(model, "args") else {}
    ours = hasattr(tokenizer, "stream") and hasattr(tokenizer, "render")
    return Loaded(model, tokenizer if ours else _tokenizer(tokenizer), tokenizer, config)


def stop_tokens(loaded: Loaded) -> Iterator[int]:
    """Ids that end a turn: the tokenizer's, the configuration's, and end markers that the chat template writes."""
    wrapper = loaded.wrapper
    yield from getattr(wrapper, "eos_token_ids", None) or ()
    yield from getattr(wrapper, "stop_tokens", None) or ()
    eos = getattr(wrapper, "eos_token_id", None)
    for found in (eos, loaded.config.get("eos_token_id"), (loaded.config.get("text_config") or {}).get("eos_token_id")):
        yield from found if isinstance(found, list | tuple) else () if found is None else (found,)
    template = getattr(wrapper, "chat_template", None)
    if not template:
        return
    special = set(getattr(wrapper, "all_special_ids", ()))
    vocabulary = wrapper.get_vocab()
    # In Harmony `<|end|>` ends one message of several: the thought before the answer.
    others = {"<|end|>"} if "<|channel|>" in str(template) else set()
    for marker in _END_MARKERS:
        if marker in others:
            continue
        token = vocabulary.get(marker)
        if token is not None and token in special and marker in str(template):
            yield token


def chat_template(loaded: Loaded) -> str | None:
    """The text of the model's chat template, where it has one as text."""
    template = getattr(loaded.wrapper, "chat_template", None)
    return template if isinstance(template, str) else None


def thinking(loaded: Loaded) -> tuple[str, str] | None:
    """The markers around the model's thinking, where mlx-lm knows them."""
    start, end = (getattr(loaded.wrapper, name, None) for name in ("think_start", "think_end"))
    return (start, end) if isinstance(start, str) and isinstance(end, str) else None


def tool_parser(loaded: Loaded) -> LibraryParser | None:
    """mlx-lm's parser for the model's tool calls, where it has one."""
    wrapper = loaded.wrapper
    if not getattr(wrapper, "has_tool_calling", False):
        return None
    return LibraryParser(wrapper.tool_call_start, wrapper.tool_call_end or "", wrapper.tool_parser)


def find_folder(model: str | Path, *, is_local: bool = False) -> Path:
    """The folder, or that of a name on the hub; with `is_local` only what is here already, and no network is asked.

    Raises `ModelNotFound`.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    text = str(model)
    if isinstance(model, Path) or path.is_absolute() or text.startswith((".", "~")) or text.count("/") != 1:
        raise ModelNotFound(f"{text} is no folder, and no hub name of the form owner/name")
    hub = importlib.import_module("huggingface_hub")
    patterns = importlib.import_module("mlx_lm.utils").DEFAULT_ALLOW_PATTERNS
    try:
        return Path(hub.snapshot_download(text, allow_patterns=patterns, local_files_only=is_local))
    except Exception as error:
        where = "is not in the hub's cache" if is_local else "could not be had from the hub"
        raise ModelNotFound(f"{text} is no folder, and {where}: {error}") from error


def _check(folder: Path) -> None:
    """Find what mlx-lm and transformers would report without naming the file, or would wait for, or recurse over."""
    config = folder / "config.json"
    if not config.exists():
        raise ModelNotFound(f"{folder} holds no model: config.json is missing")
    for path in folder.iterdir():
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ModelLoadFailed(f"{path} is no regular file: who reads it would wait")
    for name in (*_SETTINGS, *_LARGE):
        if (folder / name).exists():
            _check_settings(folder / name)
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        raise ModelLoadFailed(f"{folder} holds no weights: no model*.safetensors")
    for path in weights:
        _check_weights(path)


def _check_settings(path: Path) -> None:
    """How deep a file of JSON is; and of settings, that they are an object."""
    try:
        data = read_file(path)
        check_json_depth(data)
        content = {} if path.name in _LARGE else json.loads(data.decode())
    except (OSError, ValueError) as error:
        raise ModelLoadFailed(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelLoadFailed(f"{path} should be a JSON object, it is {reprlib.repr(content)}")


def _check_weights(path: Path) -> None:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            (length,) = struct.unpack("<Q", head)
            if length > size:
                raise ModelLoadFailed(f"{path} is truncated: its header alone has {length} bytes, the file {size}")
            if length > MAX_HEADER_BYTES:
                raise ModelLoadFailed(f"{path} is no safetensors file: its header has {length} bytes")
            parse_header(file.read(length), size - 8 - length)
    except (OSError, ValueError, struct.error) as error:
        raise ModelLoadFailed(f"{path} is no safetensors file, or not all of one: {error}") from error


def _compute_in_float32(network: Any) -> None:
    """Quantised models keep their types."""
    if not any(hasattr(module, "bits") for _, module in network.named_modules()):
        network.set_dtype(mx.float32)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a model as its configuration file would say them: some nest objects of their own."""
    return {name: vars(value) if is_dataclass(value) else value for name, value in config.items()}


def _tokenizer(wrapper: Any) -> Any:
    # transformers takes seconds to import: not before a tokenizer of its is there.
    return importlib.import_module("greenroom.backends.mlx.tokenizer").MlxTokenizer(wrapper)
