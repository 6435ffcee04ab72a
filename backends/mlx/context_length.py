"""How many tokens a model's positions reach: by its configuration, else by what its class stands for without one.

A configuration leaves out what equals the default of its class in transformers, so that is asked before mlx-lm's own
class, which has defaults of its own. Where nobody says, there is no number, and KV's budget is the only limit.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from mlx_lm.models import cache as caches

from greenroom.backends.mlx.model_folder import TEXT_CONFIGS
from greenroom.errors import InvalidParameter

__all__ = ["find_context_length"]

_LENGTH_KEYS = (
    "max_position_embeddings",
    "max_seq_len",
    "max_sequence_length",
    "max_context_length",
    "model_max_length",
    "n_positions",
    "n_ctx",
    "seq_length",
    "block_size",
)
_YARN = ("yarn", "deepseek_yarn", "telechat3-yarn")
_NO_LIMIT = 10**12
"""From here on a length is transformers' way of saying that there is none."""


def find_context_length(
    config: Mapping[str, Any], model: Any, cache: Sequence[Any], *, asked: int | None = None
) -> int | None:
    """The most tokens that a row may hold; None where nothing bounds them but memory. `asked` takes its place.

    `cache` are the model's own caches. Raises `InvalidParameter` where `asked` is over the model's table of positions.
    """
    table = _position_table(model)
    if asked is not None:
        if table is not None and asked > table:
            raise InvalidParameter("context_length", asked, f"at most {table}: the model has a table of positions")
        return asked
    if all(type(layer) is caches.ArraysCache for layer in cache):
        return table  # recurrent state alone: there are no positions
    parts = [part for part in (config, *map(config.get, TEXT_CONFIGS)) if isinstance(part, Mapping)]
    stated = next(filter(None, map(_stated, parts)), None) or _class_default(parts) or _stated(_arguments(model))
    stretched = max((length for part in parts for length in _stretched(part)), default=0)
    known = max(stated or 0, stretched) or None
    return min(filter(None, (known, table)), default=None)


def _stated(config: Mapping[str, Any]) -> int | None:
    lengths = (config.get(key) for key in _LENGTH_KEYS)
    return next((length for length in lengths if _is_length(length)), None)


def _is_length(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < _NO_LIMIT


def _stretched(config: Mapping[str, Any]) -> Iterator[int]:
    """Lengths to which YaRN stretches positions: of all layers, or of a kind of them."""
    for scaling in (config.get("rope_scaling"), config.get("rope_parameters")):
        if not isinstance(scaling, Mapping):
            continue
        for part in (scaling, *scaling.values()):
            if not isinstance(part, Mapping) or (part.get("type") or part.get("rope_type")) not in _YARN:
                continue
            factor, original = part.get("factor"), part.get("original_max_position_embeddings")
            if isinstance(factor, int | float) and math.isfinite(factor) and _is_length(original):
                yield int(factor * original)


def _class_default(parts: Sequence[Mapping[str, Any]]) -> int | None:
    """Of transformers' configuration class: the text part's own kind before the whole model's."""
    kinds = [kind for part in reversed(parts) if isinstance(kind := part.get("model_type"), str)]
    known = importlib.import_module("transformers").CONFIG_MAPPING if kinds else {}
    for kind in kinds:
        try:
            length = known[kind]().get_text_config().max_position_embeddings
        except Exception:  # noqa: BLE001, S112 - a kind that is unknown there, or has no positions: classes of others
            continue
        if _is_length(length):
            return length
    return None


def _arguments(model: Any) -> dict[str, Any]:
    """What mlx-lm's class was made with, its text part's before the whole model's; None is no argument."""
    found: dict[str, Any] = {}
    for part in (model, getattr(model, "language_model", None)):
        arguments = getattr(getattr(part, "args", None), "__dict__", {})
        found |= {name: value for name, value in arguments.items() if value is not None}
    return found


def _position_table(model: Any) -> int | None:
    """The rows of a learned table of positions: reading behind its end gives what happens to be in memory."""
    tables = [module for name, module in model.named_modules() if name.rsplit(".", 1)[-1] == "wpe"]
    return min((int(table.weight.shape[0]) for table in tables), default=None)
