"""The files of a model's folder, checked once, before mlx-lm and native code read them, into typed values.

Whatever is wrong raises `ModelLoadFailed` with the file, the place in it, and what was expected there. This module
knows no arrays.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from greenroom.backends.mlx.tensor_header import MAX_HEADER_BYTES, parse_header
from greenroom.errors import ModelLoadFailed, ModelNotFound, shown
from greenroom.files.json_depth import check_json_depth
from greenroom.files.regular import read_file

__all__ = ["TEXT_CONFIGS", "ModelFiles", "read_folder"]

TEXT_CONFIGS = ("text_config", "llm_config")
"""Where models that take pictures too have the configuration of their text part."""

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Of `generation_config.json`; the names are ours too."""
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json")
"""Objects that others read."""
_LARGE = ("tokenizer.json", "vocab.json")
"""Of tens of megabytes: their readers find all that is wrong but depth, over which they recurse."""
_POINTER = b"version https://git-lfs.github.com/spec/"
_READ = {".safetensors", ".json", ".jinja", ".model", ".tiktoken", ".txt"}
"""Endings of files that loading reads."""


class ModelFiles(NamedTuple):
    """What a folder's files say, beyond what mlx-lm takes from them.

    `eos_tokens` are those of `config.json` and `generation_config.json` together. `template` is a chat template that
    transformers would not find by itself, `template_source` the file that has the one which is used: empty for none.
    """

    eos_tokens: frozenset[int]
    suggested_sampling: tuple[tuple[str, object], ...]
    template: Any
    template_source: str


def read_folder(folder: Path, *, trust_remote_code: bool) -> ModelFiles:
    """Check every file of which loading depends. Raises `ModelNotFound`, `ModelLoadFailed`."""
    path = folder / "config.json"
    if not path.exists():
        raise ModelNotFound(f"{folder} holds no model: config.json is missing")
    _refuse_others(folder)
    for name in (*_SETTINGS, *_LARGE):
        if (folder / name).exists():
            _check_depth(folder / name) if name in _LARGE else _read_object(folder / name)
    config = _read_object(path)
    _check_config(config, path, trust_remote_code=trust_remote_code)
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        raise ModelLoadFailed(f"{folder} holds no weights: no model*.safetensors")
    for file in weights:
        _check_weights(file)
    drawing_path = folder / "generation_config.json"
    drawing = _read_object(drawing_path) if drawing_path.is_file() else {}
    stops = [*_eos_tokens(config, f"{path}: "), *_eos_tokens(drawing, f"{drawing_path}: ")]
    for name in TEXT_CONFIGS:
        stops += _eos_tokens(config.get(name) or {}, f"{path}: {name}.")
    template, source = _find_template(folder)
    return ModelFiles(frozenset(stops), tuple(_suggested(drawing)), template, source)


def _refuse_others(folder: Path) -> None:
    """Refuse pipes and devices, and the pointers that Git leaves where it did not fetch a file of Git LFS."""
    for path in sorted(folder.iterdir()):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ModelLoadFailed(f"{path} is no regular file: who reads it would wait")
        if path.suffix not in _READ or not path.is_file():
            continue
        try:
            with path.open("rb") as file:
                is_pointer = file.read(len(_POINTER)) == _POINTER
        except OSError as error:
            raise ModelLoadFailed(f"{path} cannot be read: {error}") from error
        if is_pointer:
            raise ModelLoadFailed(
                f"{path} is a Git LFS pointer in place of the file: run `git lfs pull` in {folder}, or load the model "
                "by its name on the hub"
            )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_check_depth(path).decode())
    except ValueError as error:
        raise ModelLoadFailed(f"{path} cannot be read: {error}") from error
    _expect(found, dict, f"{path}", "hold a JSON object")
    return dict(found)


def _check_depth(path: Path) -> bytes:
    """What is in a file of JSON, nested no deeper than those who read it bear."""
    try:
        data = read_file(path)
        check_json_depth(data)
    except (OSError, ValueError) as error:
        raise ModelLoadFailed(f"{path} cannot be read: {error}") from error
    return data


def _expect(value: object, kind: type, place: str, expected: str) -> None:
    if not isinstance(value, kind):
        raise ModelLoadFailed(f"{place} must {expected}, got {shown(value)}")


def _check_config(config: Mapping[str, Any], path: Path, *, trust_remote_code: bool) -> None:
    if "model_type" not in config:
        raise ModelLoadFailed(f"{path} has no model_type, which names the kind of model: is it a model's config.json?")
    _expect(config["model_type"], str, f"{path}: model_type", "be a string")
    for name in (*TEXT_CONFIGS, "quantization", "quantization_config"):
        if config.get(name) is not None:
            _expect(config[name], dict, f"{path}: {name}", "be an object")
    file = config.get("model_file")
    if file is None:
        return
    _expect(file, str, f"{path}: model_file", "be the name of a file")
    if not trust_remote_code:
        raise ModelLoadFailed(
            f"{path}: model_file: the model brings code of its own ({file!r}), which loading would run: "
            "trust_remote_code=True allows that, where you trust its authors"
        )
    if not (path.parent / file).is_file():
        raise ModelLoadFailed(f"{path}: model_file: there is no {file!r} in {path.parent}")


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


def _eos_tokens(config: Mapping[str, Any], place: str) -> list[int]:
    found = config.get("eos_token_id")
    ids = [] if found is None else found if isinstance(found, list) else [found]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise ModelLoadFailed(f"{place}eos_token_id must be an integer, a list of integers or null, got {shown(found)}")
    return ids


def _suggested(drawing: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """How the model's authors draw from it; argmax where they say that it is not to be sampled."""
    if drawing.get("do_sample") is False:
        yield "temperature", 0.0
        return
    for name in _SAMPLING:
        if drawing.get(name) is not None:
            yield name, drawing[name]


def _find_template(folder: Path) -> tuple[Any, str]:
    """A chat template that has to be given to transformers, if any, and the file whose template holds."""
    # 1. What transformers finds, in its order.
    path = folder / "tokenizer_config.json"
    own = _read_object(path).get("chat_template") if path.is_file() else None
    if own is not None:
        _check_template(own, f"{path}: chat_template")
    for name in ("chat_template.jinja", "additional_chat_templates"):
        if (folder / name).exists():
            return None, name
    if own is not None:
        return None, path.name
    # 2. What it reads for models that take pictures alone, and their text parts have been cut from them.
    path = folder / "chat_template.json"
    if not path.is_file():
        return None, ""
    template = _read_object(path).get("chat_template")
    _check_template(template, f"{path}: chat_template")
    return template, path.name


def _check_template(template: object, place: str) -> None:
    """One text, or several by name, as transformers takes them."""
    named = template if isinstance(template, list) else []
    pairs = [(each.get("name"), each.get("template")) if isinstance(each, Mapping) else (None, None) for each in named]
    if isinstance(template, Mapping):
        pairs = list(template.items())
    texts = [text for pair in pairs for text in pair]
    if isinstance(template, str) or (pairs and all(isinstance(text, str) for text in texts)):
        return
    raise ModelLoadFailed(f"{place} must be a string, or a list of names with theirs, got {shown(template)}")
