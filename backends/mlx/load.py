"""A model and its tokenizer from a folder or from the hub, and what their files say about stopping and tools.

mlx-lm does the loading; this module finds the folder, turns weights to float32 where the CPU computes, and maps what
goes wrong to errors that name the file. It knows no rows and no caches.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from greenroom.backends.mlx.device_profile import DeviceProfile
from greenroom.backends.mlx.distributed.parts import take_part
from greenroom.backends.mlx.distributed.ranks import Ranks
from greenroom.backends.mlx.model_folder import ModelFiles, read_folder
from greenroom.backends.mlx.parsers import LibraryParser
from greenroom.errors import CannotDistribute, InvalidParameter, ModelLoadFailed, ModelNotFound

__all__ = [
    "Loaded",
    "chat_template",
    "find_folder",
    "load_folder",
    "load_tokenizer",
    "stop_tokens",
    "thinking",
    "tool_parser",
    "wrap",
]

_log = logging.getLogger("greenroom")

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
    """A model on the device, its tokenizer (ours, and mlx-lm's where there is one) and its configuration.

    `files` is what its folder says beside that, where it was loaded from one.
    """

    model: Any
    tokenizer: Any
    wrapper: Any
    config: Mapping[str, Any]
    files: ModelFiles = ModelFiles(frozenset(), (), None, "")


def load_folder(
    model: str | Path,
    device: DeviceProfile,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    ranks: Ranks | None = None,
) -> Loaded:
    """Load from a folder, or by a name on the hub (from its cache where `HF_HUB_OFFLINE` is set).

    `trust_remote_code` runs code that the model brings. With `ranks` the part of this one is loaded alone. Raises
    `ModelNotFound` where there is no such folder or name, `ModelLoadFailed` where what is there is no model,
    `CannotDistribute` where ranks cannot hold it.
    """
    folder = find_folder(model, revision=revision)
    files = read_folder(folder, trust_remote_code=trust_remote_code)
    utils = importlib.import_module("mlx_lm.utils")
    try:
        network, wrapper, config = utils.load(
            str(folder),
            tokenizer_config=_settings(files, trust_remote_code=trust_remote_code),
            lazy=True,
            return_config=True,
            trust_remote_code=trust_remote_code,
        )
        if ranks is not None:
            ranks.join()
            take_part(network, ranks)
            ranks.order.install(network)
        if device.computes_float32:
            _compute_in_float32(network)
        mx.eval(network.parameters())
    except SystemExit as error:  # what mlx-lm's file for OLMo answers to a missing import
        raise ModelLoadFailed(f"{folder} needs a package for its kind of model that is not installed") from error
    except CannotDistribute:
        raise
    except Exception as error:
        raise ModelLoadFailed(
            f"{folder} does not hold a model that mlx-lm can load: {type(error).__name__}: {error}"
        ) from error
    _log_template(folder, files, wrapper)
    return Loaded(network, _tokenizer(wrapper), wrapper, config, files)


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Loaded:
    """The same without the model, for a process whose model another one runs. Raises likewise."""
    files = read_folder(folder, trust_remote_code=trust_remote_code)
    utils = importlib.import_module("mlx_lm.utils")
    try:
        config = dict(utils.load_config(folder))
        wrapper = utils.load_tokenizer(
            folder, _settings(files, trust_remote_code=trust_remote_code), eos_token_ids=config.get("eos_token_id")
        )
    except Exception as error:
        raise ModelLoadFailed(
            f"{folder} does not hold a tokenizer that can be loaded: {type(error).__name__}: {error}"
        ) from error
    return Loaded(None, _tokenizer(wrapper), wrapper, config, files)


def _settings(files: ModelFiles, *, trust_remote_code: bool) -> dict[str, Any]:
    """Of the tokenizer. Told nothing of trust, transformers asks on the terminal."""
    settings: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if files.template is not None:
        settings["chat_template"] = files.template
    return settings


def _log_template(folder: Path, files: ModelFiles, wrapper: Any) -> None:
    if files.template_source or getattr(wrapper, "has_chat_template", False):
        source = files.template_source or "mlx-lm's own for this kind of model"
        _log.info("%s: the chat template is that of %s", folder, source)
    else:
        _log.warning(
            "%s has no chat template: a str prompt is run as raw text, and messages are refused; where the model is "
            "one for chats, put its chat_template.jinja into the folder",
            folder,
        )


def wrap(model: Any, tokenizer: Any) -> Loaded:
    """What `MlxBackend.from_model`'s factory built."""
    mx.eval(model.parameters())
    config = _plain(vars(model.args)) if hasattr(model, "args") else {}
    ours = hasattr(tokenizer, "stream") and hasattr(tokenizer, "render")
    return Loaded(model, tokenizer if ours else _tokenizer(tokenizer), tokenizer, config)


def stop_tokens(loaded: Loaded) -> Iterator[int]:
    """Ids that end a turn: the tokenizer's, the configuration's, and end markers that the chat template writes."""
    wrapper = loaded.wrapper
    yield from loaded.files.eos_tokens  # mlx-lm takes those of one file alone
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


def find_folder(
    model: str | Path,
    *,
    revision: str | None = None,
    is_local: bool = False,
    patterns: Sequence[str] | None = None,
    bar_class: type | None = None,
) -> Path:
    """The folder, or that of a name on the hub; with `is_local` only what is here already, and no network is asked.

    `revision` is a branch, a tag or a commit on the hub, `patterns` are the names of the files that are fetched (None:
    a model's), `bar_class` what the hub's library shows its bars by, in tqdm's place. Raises `ModelNotFound`, and
    `InvalidParameter` for a revision of a folder, which has none.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if revision is not None:
            raise InvalidParameter(
                "revision", revision, f"None: {model} is a folder, and only hub names have revisions"
            )
        return path
    text = str(model)
    if isinstance(model, Path) or path.is_absolute() or text.startswith((".", "~")) or text.count("/") != 1:
        raise ModelNotFound(f"{text} is no folder, and no hub name of the form owner/name")
    hub = importlib.import_module("huggingface_hub")
    names = importlib.import_module("mlx_lm.utils").DEFAULT_ALLOW_PATTERNS if patterns is None else list(patterns)
    try:
        found = hub.snapshot_download(
            text, revision=revision, allow_patterns=names, local_files_only=is_local, tqdm_class=bar_class
        )
        return Path(found)
    except Exception as error:
        text = text if revision is None else f"{text} at revision {revision!r}"
        where = "is not in the hub's cache" if is_local else "could not be had from the hub"
        raise ModelNotFound(f"{text} is no folder, and {where}: {error}") from error


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
