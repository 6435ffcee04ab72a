"""The part of a model that a rank holds: by mlx-lm's own `shard()`, or its pipeline of layers.

What cannot be divided is refused before weights are read. mlx-lm's `shard()` itself refuses a matrix that cannot be
cut, and lets heads be divided by more ranks than there are, down to none: so heads are counted before and after.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from greenroom.backends.mlx.distributed.ranks import Ranks
from greenroom.errors import CannotDistribute

__all__ = ["take_part"]

_HEADS = (
    "n_heads",
    "num_heads",
    "num_attention_heads",
    "n_kv_heads",
    "num_key_value_heads",
    "num_k_heads",
    "num_v_heads",
)
"""What mlx-lm's classes call them."""


def take_part(model: Any, ranks: Ranks) -> None:
    """Leave of `model`, whose weights are not read yet, what is this rank's. Raises `CannotDistribute`."""
    if ranks.split == "pipeline":
        _take_layers(model, ranks)
    else:
        _take_shards(model, ranks)


def _take_shards(model: Any, ranks: Ranks) -> None:
    kind = type(model).__module__.rpartition(".")[2]
    if not callable(getattr(model, "shard", None)):
        other = ": it can be run as a pipeline" if _pipelined(model) is not None else ""
        raise CannotDistribute(f"mlx-lm cannot divide the layers of a model of the kind {kind} among ranks{other}")
    before = dict(_heads(model))
    try:
        model.shard(ranks.group)
    except Exception as error:
        raise CannotDistribute(f"a model of the kind {kind} is not to be divided by {ranks.size}: {error}") from error
    after = dict(_heads(model))
    for place, count in before.items():
        left = after.get(place, count)
        is_repeated = left == 1 and ranks.size % count == 0  # some classes give one head to several ranks
        if left != count and left * ranks.size != count and not is_repeated:
            raise CannotDistribute(
                f"{count} heads ({place}) are not to be divided by {ranks.size} ranks: take a number of ranks that "
                "divides them, or the pipeline"
            )


def _heads(model: Any) -> Iterator[tuple[str, int]]:
    """Every count of heads in the model's modules, by where it stands."""
    for path, module in model.named_modules():
        for name in _HEADS:
            count = vars(module).get(name)
            if isinstance(count, int):
                yield f"{path}.{name}", count


def _take_layers(model: Any, ranks: Ranks) -> None:
    body = _pipelined(model)
    kind = type(model).__module__.rpartition(".")[2]
    if body is None:
        raise CannotDistribute(f"mlx-lm has no pipeline for a model of the kind {kind}: take its shards")
    layers = len(body.layers)
    if layers < ranks.size:
        raise CannotDistribute(f"{layers} layers are not enough for {ranks.size} ranks")
    try:
        body.pipeline(ranks.group)
    except Exception as error:
        raise CannotDistribute(f"a model of the kind {kind} is no pipeline of {ranks.size}: {error}") from error


def _pipelined(model: Any) -> Any:
    """The part of a model that hands its layers out."""
    for part in (model, getattr(model, "language_model", None)):
        body = getattr(part, "model", None)
        if callable(getattr(body, "pipeline", None)):
            return body
    return None
