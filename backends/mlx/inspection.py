"""What a loaded model turns out to be: its logits, its caches, what a row costs, and which store its rows can use.

Facts are measured on passes of a few tokens rather than read from configuration files, which are wrong now and then.
Rows share passes only where two rows of unequal length, run there together, give what mlx-lm gives for each alone. A
fingerprint tells one set of weights from another, for tokens and KV that outlive the process.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models import cache as caches

from greenroom.backends.mlx.device import device_info, uses_cpu
from greenroom.backends.mlx.device_profile import DeviceProfile
from greenroom.backends.mlx.kv.batch_cache import BatchCacheStore
from greenroom.backends.mlx.kv.cache_snapshots import can_snapshot
from greenroom.backends.mlx.kv.grouping import round_up
from greenroom.backends.mlx.kv.packed import PackedStore
from greenroom.backends.mlx.kv.padded import PaddedStore
from greenroom.backends.mlx.kv.row_cost import RowCost
from greenroom.backends.mlx.kv.stores import Store, Stores
from greenroom.backends.mlx.kv.two_phase import SequentialStore, quantize
from greenroom.backends.mlx.layer_shape import LayerShape
from greenroom.backends.mlx.load import Loaded, chat_template, stop_tokens, thinking, tool_parser
from greenroom.backends.mlx.prefix_cache.files import PrefixFiles
from greenroom.backends.mlx.prefix_cache.store import BLOCK, PrefixNamespace, PrefixStore
from greenroom.backends.mlx.rows import Row, RowWork
from greenroom.backends.protocol import KvOptions, ModelInfo, Sampling
from greenroom.errors import ModelLoadFailed

__all__ = ["ModelProfile", "inspect"]

_LENGTH_KEYS = (
    "max_position_embeddings",
    "max_seq_len",
    "max_sequence_length",
    "model_max_length",
    "n_positions",
    "n_ctx",
)
_DEFAULT_CONTEXT = 4096
_QUANTIZED_GROUPS = (32, 64, 128)
_PREFIX_SHARE = 8
"""Of the memory for KV, this part may be kept prefixes."""
_SAMPLES = 64
"""Numbers of a parameter that its fingerprint looks at."""
_PROBES = ((1, 2, 3, 4, 5), (2, 1))


class ModelProfile(NamedTuple):
    """What was found: the plain facts, and the stores for rows of this model."""

    info: ModelInfo
    stores: Stores


def inspect(
    loaded: Loaded,
    name: str,
    device: DeviceProfile,
    memory: int,
    *,
    prefix_bytes: int | None,
    files: PrefixFiles | None = None,
) -> ModelProfile:
    """Probe the model. Costs a few passes over a handful of tokens, and leaves no KV behind.

    Raises `ModelLoadFailed` where the model cannot run: some need a device that is not here.
    """
    # 1. Run a token on the model's own caches: what the logits and the caches are.
    model = loaded.model

    def make_cache() -> list[Any]:
        made: list[Any] = caches.make_prompt_cache(model)
        return made

    try:
        probe = make_cache()
        logits = model(mx.array([[0]]), cache=probe)
        mx.eval(logits)
    except Exception as error:
        raise ModelLoadFailed(f"{name} cannot run a token here: {error}") from error
    cost = RowCost(probe)
    plain = all(type(cache) is caches.KVCache for cache in probe)
    shapes = [_shape(cache) for cache in probe] if plain else []
    vocab_size = logits.shape[-1]
    groups = _group_sizes(shapes)
    if groups and not _takes_quantized(model, probe, groups[0]):
        groups = ()
    del probe, logits
    # 2. Find the best store whose rows are given what mlx-lm gives each of them by itself.
    kinds: tuple[Callable[[PrefixNamespace | None], Store], ...] = (
        *(_plain_stores(model, make_cache, shapes, device) if plain else ()),
        *(() if _cuts_blocks(model) else (partial(BatchCacheStore, model, make_cache),)),
        partial(SequentialStore, model, make_cache, None),
    )
    store = next(kind for kind in kinds if kind is kinds[-1] or _agrees(kind, model, make_cache, vocab_size))
    # 3. Make room for what is kept of prompts that are over, where it can hold anything.
    weights = _fingerprint(model, loaded.config)
    budget = prefix_bytes if prefix_bytes is not None else memory // _PREFIX_SHARE
    kept = None
    if budget >= BLOCK * cost.per_token + cost.per_row and (plain or can_snapshot(make_cache())):
        namespace = f"mlx {version('mlx')} {weights}"  # two versions may round differently
        kept = PrefixNamespace(PrefixStore(budget, shapes, files), namespace)
    # 4. Say what was found.
    info = ModelInfo(
        name=name,
        vocab_size=vocab_size,
        context_length=_context_length(loaded.config),
        stop_tokens=frozenset(token for token in stop_tokens(loaded) if 0 <= token < vocab_size),
        kv_bytes_per_token=cost.per_token,
        kv_bytes_per_row=cost.per_row,
        kv_numbers_per_token=cost.numbers,
        kv_step=round_up(1) if plain and store is kinds[0] else caches.KVCache.step,
        context_span=_context_span(model, loaded.config, cost, device) if cost.per_token else math.inf,
        kv_group_sizes=groups,
        can_rotate=plain and not hasattr(model, "make_cache"),
        reuses_prefixes=plain and store is kinds[0],
        dispatch_blocks=device.dispatch_blocks,
        can_rewind=plain or all(_is_plain(cache) for cache in make_cache()),
        can_fork=True,
        can_draft=plain and store is kinds[0],
        fingerprint=weights,
        device=_device_name(),
        memory_bytes=memory,
        tokenizer=loaded.tokenizer,
        tool_parser=tool_parser(loaded),
        chat_template=chat_template(loaded),
        thinking=thinking(loaded),
    )
    return ModelProfile(info, Stores(model, make_cache, store, cost, kept))


def _shape(cache: Any) -> LayerShape:
    keys, values = cache.keys, cache.values
    if keys is None:  # a layer without attention
        return LayerShape(0, 0, 0, mx.float32, mx.float32)
    return LayerShape(keys.shape[1], keys.shape[3], values.shape[3], keys.dtype, values.dtype)


def _is_plain(cache: Any) -> bool:
    return all(type(part) is caches.KVCache for part in getattr(cache, "caches", None) or (cache,))


def _plain_stores(
    model: Any, make_cache: Callable[[], list[Any]], shapes: list[LayerShape], device: DeviceProfile
) -> tuple[Callable[[PrefixNamespace | None], Store], ...]:
    """Stores for plain KV caches, the best one first."""
    return (partial(PackedStore, model, shapes, device), partial(PaddedStore, model, make_cache, shapes))


def _cuts_blocks(model: Any) -> bool:
    """Whether attention picks blocks of keys, cut by their place in the cache: padding before a row would move them.

    The probe cannot find out: blocks are picked only once there are more of them than are attended to.
    """
    return any(hasattr(part, "index_block_size") for part in model.modules())


def _agrees(
    make: Callable[[PrefixNamespace | None], Store], model: Any, make_cache: Callable[[], list[Any]], vocab_size: int
) -> bool:
    """Whether unequal rows in that store, prompts and single tokens in one pass, give mlx-lm's own logits."""
    first, second = [tuple(token % vocab_size for token in probe) for probe in _PROBES]
    expected = [_logits_behind(ids, model, make_cache()) for ids in (first, second)]
    rows = Row(0, Sampling()), Row(1, Sampling())
    try:
        store = make(None)
        mx.eval(store.run([_work(rows[0], first[:-1], sample=False)]).asked)
        found = store.run([_work(rows[0], first[-1:]), _work(rows[1], second)])
        if found.logits is None or found.failures:
            return False
        wanted = mx.concatenate([expected[site.row.id] for site in found.order])
        spread = wanted.max() - wanted.min()
        return bool((mx.abs(found.logits - wanted).max() <= 0.02 * spread + 1e-4).item())
    except Exception:  # noqa: BLE001 - a model class that cannot take such a cache may fail in any way
        return False


def _logits_behind(ids: tuple[int, ...], model: Any, cache: list[Any]) -> mx.array:
    """What mlx-lm draws from behind a prompt `[1, vocabulary]`: it runs all but the last token, and then that one.

    In half precision one pass over the whole prompt rounds otherwise, more than a store that is right.
    """
    model(mx.array([ids[:-1]]), cache=cache)
    found: mx.array = model(mx.array([ids[-1:]]), cache=cache)[:, -1]
    return found


def _work(row: Row, ids: tuple[int, ...], *, sample: bool = True) -> RowWork:
    row.extend(ids)
    return RowWork(row, ids, sample)


def _context_length(config: Mapping[str, Any]) -> int:
    for part in (config, config.get("text_config") or {}, config.get("llm_config") or {}):
        for key in _LENGTH_KEYS:
            value = part.get(key)
            if isinstance(value, int) and value > 0:
                return value
    return _DEFAULT_CONTEXT


def _group_sizes(shapes: Sequence[LayerShape]) -> tuple[int, ...]:
    """Groups into which every key and value can be cut; none for models without plain KV."""
    sizes = {size for shape in shapes for size in (shape.key_size, shape.value_size)}
    return tuple(group for group in _QUANTIZED_GROUPS if sizes and all(size % group == 0 for size in sizes))


def _takes_quantized(model: Any, probe: list[Any], group_size: int) -> bool:
    """Whether attention that is a model class's own can read quantized keys; `probe` holds a token and is used up."""
    try:
        quantize(probe, KvOptions(bits=8, group_size=group_size))
        mx.eval(model(mx.array([[0]]), cache=probe))
        RowCost(probe)
    except Exception:  # noqa: BLE001 - it may fail in any way
        return False
    return True


def _context_span(model: Any, config: Mapping[str, Any], cost: RowCost, device: DeviceProfile) -> float:
    """How many tokens back double a token's cost: weights that it is multiplied with, against scores and their sums.

    A score and its share in the sum are two multiplications a dimension; on CPU the exponential costs far more.
    """
    leaves: Any = tree_flatten(model.parameters())
    weights = sum(part.size * (8 if part.dtype == mx.uint32 else 1) for _, part in leaves)
    text = config.get("text_config") or config
    size = text.get("head_dim") or max(1, text.get("hidden_size", 0) // max(1, text.get("num_attention_heads", 1)))
    scores = cost.layers * max(1, text.get("num_attention_heads", 1))
    return float(weights / (scores * (2 * size + device.exponential_cost)))


def _device_name() -> str:
    name = device_info().get("device_name")
    kind = "cpu" if uses_cpu() else "gpu"
    return f"{kind} ({name})" if name else kind


def _fingerprint(model: Any, config: Mapping[str, Any]) -> str:
    """A digest of the configuration and of every parameter's name, shape, type and some of its numbers.

    Numbers are taken from all over each parameter, not all of them: reading tens of gigabytes would take longer than
    the prompts that a kept prefix saves.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(dict(config), sort_keys=True, default=repr).encode())
    leaves: Any = tree_flatten(model.parameters())
    for name, array in leaves:
        digest.update(f"{name}{array.shape}{array.dtype}".encode())
        if array.size:
            flat = array.reshape(-1)
            picked = flat[mx.array(np.linspace(0, array.size - 1, min(_SAMPLES, array.size)).astype(np.int64))]
            digest.update(bytes(np.asarray(mx.contiguous(picked).view(mx.uint8))))
    return digest.hexdigest()
