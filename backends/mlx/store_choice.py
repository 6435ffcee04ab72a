"""Which store a model's rows are in, and why: the first of which rows are given what mlx-lm gives each by itself.

Two rows of unequal length, prompts and single tokens in one pass, are run there and compared with mlx-lm's own logits.
Where numbers round by how many rows are multiplied together, as they do on a GPU in half precision, a store that is
right differs from mlx-lm about as much as mlx-lm does from itself, with the same prompts cut otherwise; one that is
wrong differs by much more.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import mlx.core as mx
from mlx.utils import tree_flatten

from greenroom.backends.mlx.adapters.selection import Selection
from greenroom.backends.mlx.device_profile import DeviceProfile
from greenroom.backends.mlx.kv.batch_cache import BatchCacheStore
from greenroom.backends.mlx.kv.packed import PackedStore
from greenroom.backends.mlx.kv.padded import PaddedStore
from greenroom.backends.mlx.kv.stores import Store
from greenroom.backends.mlx.kv.two_phase import SequentialStore
from greenroom.backends.mlx.layer_shape import LayerShape
from greenroom.backends.mlx.prefix_cache.store import PrefixNamespace
from greenroom.backends.mlx.rows import Row, RowWork
from greenroom.backends.protocol import Sampling

__all__ = ["StoreChoice", "choose_store"]

_log = logging.getLogger("greenroom")

MakeStore = Callable[[PrefixNamespace | None], Store]
_PROBES = ((1, 2, 3, 4, 5), (2, 1))
_EXACT = 0.02
"""Of the logits' spread: nearer than that is equal."""
_OWN = 2.0
"""A store may differ by so many times what mlx-lm differs from itself.

Measured on a CPU, with noise of bfloat16's size on every product, other noise for each number of rows: 14 models of 28
layers in 4 bits came to 1.7 at most in a store that is right, and to 3.9 at least in one that is wrong.
"""
_MOST = 0.75
"""Deviations of the logits beyond which a right store is not told from a wrong one: there to 0.71, and from 0.86 on."""


class StoreChoice(NamedTuple):
    """The store, by its name and as a function that makes it; and why it is that."""

    name: str
    reason: str
    make: MakeStore


def choose_store(
    name: str,
    model: Any,
    make_cache: Callable[[], list[Any]],
    shapes: list[LayerShape],
    device: DeviceProfile,
    *,
    selection: Selection | None = None,
    agree: Callable[[bool], bool] = bool,
) -> StoreChoice:
    """Try the kinds of store that the caches allow, the best first; `shapes` is empty where they are not plain KV.

    The store is told of adapters by `selection`. Of several ranks, each of which tries, `agree` gives all one answer.

    Leaves no KV behind, and one line in the log. Raises what the model raises where it cannot run a prompt.
    """
    # 1. What comes into question, and why the rest does not.
    kinds: dict[str, MakeStore] = {}
    against: list[str] = []
    if shapes:
        kinds["packed"] = partial(PackedStore, model, shapes, device, selection=selection)
        kinds["padded"] = partial(PaddedStore, model, make_cache, shapes, selection=selection)
    else:
        against.append(f"its caches are {_classes(make_cache())}, not plain keys and values")
    obstacle = _obstacle_to_batches(model, make_cache)
    if obstacle is None:
        kinds["batch"] = partial(BatchCacheStore, model, make_cache, selection=selection)
    else:
        against.append(obstacle)
    # 2. The first one that agrees; or none, and then rows run one by one, which is mlx-lm's own way.
    model_runs = _ModelRuns(model, make_cache)
    for kind, make in kinds.items():
        difference = _difference(make, model_runs, agree)
        if difference is None:
            return _tell(name, StoreChoice(kind, "; ".join([*against, f"{kind}: rows get mlx-lm's logits"]), make))
        against.append(f"{kind}: {difference}")
    make = partial(SequentialStore, model, make_cache, selection=selection)
    return _tell(name, StoreChoice("sequential", "; ".join(against), make))


def _tell(name: str, choice: StoreChoice) -> StoreChoice:
    """Put it into the log: as a warning where a step costs a forward for each row."""
    level = logging.WARNING if choice.name == "sequential" else logging.INFO
    _log.log(level, "%s: rows are in the store %r: %s", name, choice.name, choice.reason)
    return choice


def _classes(made: list[Any]) -> str:
    return " and ".join(sorted({type(cache).__name__ for cache in made}))


def _obstacle_to_batches(model: Any, make_cache: Callable[[], list[Any]]) -> str | None:
    """Why the model's caches can be no batch of mlx-lm's, as far as that can be seen without trying."""
    lonely = [cache for cache in make_cache() if not hasattr(cache, "merge")]
    if lonely:
        return f"batch: mlx-lm has none of {_classes(lonely)}"
    # Padding before a row would move the blocks. The probe cannot find out: blocks are picked only once there are more
    # of them than are attended to.
    if any(hasattr(part, "index_block_size") for part in model.modules()):
        return "batch: attention picks blocks of keys, cut by their place in the cache"
    return None


class _ModelRuns:
    """What mlx-lm itself draws from behind the prompts that are probed."""

    def __init__(self, model: Any, make_cache: Callable[[], list[Any]]) -> None:
        self._model = model
        self._make_cache = make_cache
        vocab_size = model(mx.array([[0]]), cache=make_cache()).shape[-1]
        self.prompts = [tuple(token % vocab_size for token in probe) for probe in _PROBES]
        self.logits = self._run(lambda ids: [ids[:-1], ids[-1:]])
        """`[prompts, vocabulary]`. mlx-lm runs all of a prompt but its last token, and then that."""

    @cached_property
    def rounding(self) -> float:
        """How far these are from what the same prompts give as a whole, or token by token; 0 in single precision.

        There a difference is none of rounding: the model's tokens depend on how they are cut.
        """
        leaves: Any = tree_flatten(self._model.parameters())
        if not any(part.dtype in {mx.bfloat16, mx.float16} for _, part in leaves):
            return 0.0
        others = [self._run(lambda ids: [ids]), self._run(lambda ids: [(token,) for token in ids])]
        return max(self.distance(other) for other in others)

    def distance(self, found: mx.array) -> float:
        """How far `found` is from these, the largest distance of any prompt, in deviations of these."""
        squares: Any = mx.square(found - self.logits).mean(axis=-1).max().item()
        variance: Any = mx.var(self.logits).item()
        return math.sqrt(squares / variance) if variance else math.inf

    def are_equal(self, found: mx.array) -> bool:
        """Whether `found` is nearer to these than any rounding of float32 could be."""
        spread = self.logits.max() - self.logits.min()
        return bool((mx.abs(found - self.logits).max() <= _EXACT * spread + 1e-4).item())

    def _run(self, cut: Callable[[tuple[int, ...]], Sequence[tuple[int, ...]]]) -> mx.array:
        ends = []
        for prompt in self.prompts:
            cache = self._make_cache()
            for ids in cut(prompt):
                logits = self._model(mx.array([ids]), cache=cache)[:, -1]
                mx.eval(logits)  # one by one: ranks that build several forwards may run them in different orders
            ends.append(logits.astype(mx.float32))
        return mx.concatenate(ends)


def _difference(make: MakeStore, expected: _ModelRuns, agree: Callable[[bool], bool]) -> str | None:
    """How unequal rows in that store differ from mlx-lm's own; None where they do not."""
    first, second = expected.prompts
    try:
        store = make(None)
        rows = Row(0, Sampling()), Row(1, Sampling())
        mx.eval(store.run([_work(rows[0], first[:-1], sample=False)]).asked)
        run = store.run([_work(rows[0], first[-1:]), _work(rows[1], second)])
        if run.logits is None or run.failures:
            return str(run.failures[0].error) if run.failures else "it draws nothing"
        places = {site.row.id: place for place, site in enumerate(run.order)}
        found = run.logits[mx.array([places[row.id] for row in rows])].astype(mx.float32)
        mx.eval(found)
    except Exception as error:  # noqa: BLE001 - a model class that cannot take such a cache may fail in any way
        return f"{type(error).__name__}: {error}"
    if agree(expected.are_equal(found)):
        return None
    distance, rounding = expected.distance(found), expected.rounding
    if math.isnan(distance):
        return "logits are not finite, and so not comparable"
    if agree(distance <= min(_OWN * rounding, _MOST)):
        return None
    return f"logits are {distance:.2g} deviations off mlx-lm's, whose own rounding is {rounding:.2g}"


def _work(row: Row, ids: tuple[int, ...], *, sample: bool = True) -> RowWork:
    row.extend(ids)
    return RowWork(row, ids, sample)
