"""What a loaded model turns out to be: its logits, its caches, what a row costs, and which store its rows are in.

Facts are measured on passes of a few tokens rather than read from configuration files, which are wrong now and then. A
fingerprint tells one set of weights from another, for tokens and KV that outlive the process.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models import cache as caches

from greenroom.backends.mlx.adapters.library import MAX_ADAPTERS, AdapterLibrary
from greenroom.backends.mlx.adapters.reader import FolderReader
from greenroom.backends.mlx.adapters.selection import Selection
from greenroom.backends.mlx.adapters.targets import targets_of
from greenroom.backends.mlx.context_length import find_context_length
from greenroom.backends.mlx.depth_cost import context_span, count_experts
from greenroom.backends.mlx.device import device_info, uses_cpu
from greenroom.backends.mlx.device_profile import DeviceProfile
from greenroom.backends.mlx.distributed.ranks import Ranks
from greenroom.backends.mlx.kv.cache_snapshots import can_snapshot
from greenroom.backends.mlx.kv.grouping import round_up
from greenroom.backends.mlx.kv.optioned import quantize
from greenroom.backends.mlx.kv.packed import PackedStore
from greenroom.backends.mlx.kv.row_cost import RowCost
from greenroom.backends.mlx.kv.stores import Stores
from greenroom.backends.mlx.layer_shape import LayerShape
from greenroom.backends.mlx.load import Loaded, chat_template, stop_tokens, thinking, tool_parser
from greenroom.backends.mlx.pipeline_probe import stays_in_place
from greenroom.backends.mlx.prefix_cache.files import PrefixFiles
from greenroom.backends.mlx.prefix_cache.store import BLOCK, PrefixNamespace, PrefixStore
from greenroom.backends.mlx.store_choice import choose_store
from greenroom.backends.mlx.warm_up import ROWS, TOKENS, warm_up
from greenroom.backends.protocol import KvOptions, ModelInfo
from greenroom.errors import ModelLoadFailed

__all__ = ["ModelProfile", "inspect"]

_QUANTIZED_GROUPS = (32, 64, 128)
_PREFIX_SHARE = 8
"""Of the memory for KV, this part may be kept prefixes."""
_SNAPSHOT_CHUNK = 512
"""Tokens: of caches that cannot be cut a snapshot is kept after each chunk, and prompts reuse one or nothing."""
_SAMPLES = 64
"""Numbers of a parameter that its fingerprint looks at."""


class ModelProfile(NamedTuple):
    """What was found: the plain facts, and the stores for rows of this model."""

    info: ModelInfo
    stores: Stores
    adapters: AdapterLibrary


def inspect(
    loaded: Loaded,
    name: str,
    device: DeviceProfile,
    memory: int,
    *,
    prefix_bytes: int | None,
    context_length: int | None = None,
    files: PrefixFiles | None = None,
    max_adapters: int = MAX_ADAPTERS,
    ranks: Ranks | None = None,
) -> ModelProfile:
    """Probe the model. Costs a few passes over a handful of tokens, on a GPU some more, and leaves no KV behind.

    With `ranks` all probe it together, and what is found is what rank 0 found: how its rows are held, and that there is
    nothing of what they do not do alike (adapters, KV with options).

    Raises `ModelLoadFailed` where the model cannot run (some need a device that is not here), `InvalidParameter` for a
    `context_length` that it cannot have.
    """
    # 1. Run a token on the model's own caches: what the logits and the caches are.
    model = loaded.model
    agree: Callable[[bool], bool] = bool if ranks is None else ranks.agree

    def make_cache() -> list[Any]:
        made: list[Any] = caches.make_prompt_cache(model)
        return made

    try:
        probe = make_cache()
        with count_experts(model) as used:
            logits = model(mx.array([[0]]), cache=probe)
        mx.eval(logits)
    except Exception as error:
        raise ModelLoadFailed(f"{name} cannot run a token here: {error}") from error
    cost = RowCost(probe)
    length = find_context_length(loaded.config, model, probe, asked=context_length)
    plain = all(type(cache) is caches.KVCache for cache in probe)
    shapes = [_shape(cache) for cache in probe] if plain else []
    vocab_size = logits.shape[-1]
    groups = _group_sizes(shapes)
    if groups and (ranks is not None or not _takes_quantized(model, probe, groups[0])):
        groups = ()
    del probe, logits
    # 2. Find the best store whose rows are given what mlx-lm gives each of them by itself.
    try:
        selection = Selection()
        store = choose_store(name, model, make_cache, shapes, device, selection=selection, agree=agree)
    except Exception as error:
        raise ModelLoadFailed(f"{name} cannot run a prompt here: {error}") from error
    is_ordered = ranks is not None and store.name != "packed"
    if ranks is not None:
        ranks.order.is_kept = is_ordered
    if device.compiles_late and agree(ROWS * cost.per_row + TOKENS * cost.per_token <= memory):
        eager = replace(device, shared_least=BLOCK)  # rows share what they begin with, however few they are
        trial = PackedStore(model, shapes, eager) if store.name == "packed" else store.make(None)
        warm_up(trial, vocab_size, device)
    # 3. Make room for what is kept of prompts that are over, where it can hold anything.
    weights = _fingerprint(model, loaded.config)
    budget = prefix_bytes if prefix_bytes is not None else memory // _PREFIX_SHARE
    if ranks is not None and not ranks.are_equal(cost.per_token):
        budget = 0  # of layers that were handed out unequally, each rank would keep something else
    kept = None
    if budget >= BLOCK * cost.per_token + cost.per_row and (plain or can_snapshot(make_cache())):
        namespace = f"mlx {version('mlx')} {weights}"  # two versions may round differently
        kept = PrefixNamespace(PrefixStore(budget, shapes, files), namespace)
    # 4. Say what was found.
    info = ModelInfo(
        name=name,
        vocab_size=vocab_size,
        context_length=length,
        stop_tokens=frozenset(token for token in stop_tokens(loaded) if 0 <= token < vocab_size),
        kv_bytes_per_token=cost.per_token,
        kv_bytes_per_row=cost.per_row,
        context_span=context_span(model, loaded.config, used, cost.layers, device) if cost.per_token else math.inf,
        prompt_chunk=device.prompt_chunk if plain else min(device.prompt_chunk, _SNAPSHOT_CHUNK),
        kv_numbers_per_token=cost.numbers,
        kv_step=round_up(1) if store.name == "packed" else caches.KVCache.step,
        kv_group_sizes=groups,
        can_rotate=plain and ranks is None and not hasattr(model, "make_cache"),
        reuses_prefixes=store.name == "packed",
        dispatch_blocks=device.dispatch_blocks,
        pipelines=not device.dispatch_blocks and not is_ordered and stays_in_place(store.make(None), agree),
        can_rewind=plain or all(_is_plain(cache) for cache in make_cache()),
        can_fork=True,
        can_draft=store.name == "packed",
        store=store.name,
        store_reason=store.reason,
        fingerprint=weights,
        device=_device_name(),
        memory_bytes=memory,
        tokenizer=loaded.tokenizer,
        tool_parser=tool_parser(loaded),
        chat_template=chat_template(loaded),
        thinking=thinking(loaded),
        adapters=FolderReader(targets_of(model)) if ranks is None else None,
        max_adapters=max_adapters if ranks is None else 0,
        suggested_sampling=loaded.files.suggested_sampling,
    )
    stores = Stores(model, make_cache, store.make, cost, kept, selection=selection)
    return ModelProfile(info, stores, AdapterLibrary(model, selection, max_adapters))


def _shape(cache: Any) -> LayerShape:
    keys, values = cache.keys, cache.values
    if keys is None:  # a layer without attention
        return LayerShape(0, 0, 0, mx.float32, mx.float32)
    return LayerShape(keys.shape[1], keys.shape[3], values.shape[3], keys.dtype, values.dtype)


def _is_plain(cache: Any) -> bool:
    return all(type(part) is caches.KVCache for part in getattr(cache, "caches", None) or (cache,))


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
