"""Small models with random weights, of mlx-lm's own classes, and the plainest tokenizer: for tests of what computes.

The weights are scaled so that greedy output wanders instead of repeating one token. Build them on the thread that will
run them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from greenroom.backends.mlx import blas

blas.prepare()

import mlx.core as mx  # noqa: E402 - after the BLAS
from mlx import nn  # noqa: E402
from mlx.utils import tree_flatten, tree_map_with_path  # noqa: E402
from mlx_lm.generate import generate_step  # noqa: E402

from greenroom.backends.mlx import MlxBackend  # noqa: E402
from greenroom.backends.mlx.device_profile import CPU, DeviceProfile  # noqa: E402
from greenroom.backends.mlx.kv.packed import PackedStore  # noqa: E402
from greenroom.backends.protocol import (  # noqa: E402
    Backend,
    Close,
    Edit,
    Feed,
    FillMasks,
    ForwardPlan,
    KvOptions,
    Masks,
    Open,
    Sampled,
    Sampling,
    StepResult,
)

__all__ = [
    "MODELS",
    "VOCAB",
    "WINDOW",
    "ByteTokenizer",
    "Driver",
    "blas",
    "build",
    "driven",
    "gemma2",
    "llama",
    "mx",
    "nn",
    "sequential",
    "swap_kv",
    "tree_flatten",
]

VOCAB = 320
WINDOW = 16
"""Of the models with a sliding window: small enough that it is full, and turns over, within a test."""


class ByteTokenizer:
    """Ids are the bytes of the text; 256 ends a turn. Enough of `Tokenizer` for a backend's tests."""

    vocab_size = 257
    has_chat_template = False
    stop_tokens = (256,)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:  # noqa: ARG002 - it has none
        """See `Tokenizer.encode`."""
        return list(text.encode())

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:  # noqa: ARG002 - always
        """See `Tokenizer.decode`."""
        return bytes(token for token in ids if token < 256).decode(errors="replace")

    def render(self, messages: Sequence[Mapping[str, Any]], **options: object) -> list[int]:
        """There is no template."""
        raise NotImplementedError

    def stream(self) -> Any:
        """Backends need none."""
        raise NotImplementedError


def build(kind: str, **arguments: Any) -> tuple[Any, ByteTokenizer]:
    """A model of mlx-lm's module `kind`, with these arguments of its configuration."""
    module = importlib.import_module(f"mlx_lm.models.{kind}")
    model = module.Model(module.ModelArgs.from_dict({"model_type": kind, "vocab_size": VOCAB, **arguments}))
    mx.random.seed(7)

    def scaled(path: str, weight: mx.array) -> mx.array:
        if weight.ndim < 2 or not mx.issubdtype(weight.dtype, mx.floating) or "conv" in path:
            return weight
        spread = 1.0 if "embed" in path else 1.6 / weight.shape[-1] ** 0.5
        return mx.random.normal(weight.shape) * spread

    model.update(tree_map_with_path(scaled, model.parameters()))
    model.eval()
    mx.eval(model.parameters())
    return model, ByteTokenizer()


def llama(layers: int = 3, hidden: int = 64, **more: Any) -> tuple[Any, ByteTokenizer]:
    """Grouped-query attention, plain KV."""
    return build(
        "llama",
        **{
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "intermediate_size": 2 * hidden,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            **more,
        },
    )


def qwen3() -> tuple[Any, ByteTokenizer]:
    """Plain KV, with norms on queries and keys."""
    return build(
        "qwen3",
        hidden_size=64,
        num_hidden_layers=3,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rms_norm_eps=1e-5,
        max_position_embeddings=2048,
        rope_theta=10000.0,
        tie_word_embeddings=False,
    )


def gemma2() -> tuple[Any, ByteTokenizer]:
    """Plain KV, but attention with capped scores that mlx-lm cannot batch."""
    return build(
        "gemma2",
        hidden_size=64,
        num_hidden_layers=3,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rms_norm_eps=1e-5,
        query_pre_attn_scalar=16,
    )


def gemma3() -> tuple[Any, ByteTokenizer]:
    """Rotating caches in two layers of three."""
    return build(
        "gemma3_text",
        hidden_size=64,
        num_hidden_layers=3,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rms_norm_eps=1e-5,
        sliding_window=WINDOW,
        sliding_window_pattern=3,
        query_pre_attn_scalar=16,
    )


def mamba2() -> tuple[Any, ByteTokenizer]:
    """Recurrent state, no KV."""
    return build(
        "mamba2",
        num_heads=4,
        head_dim=32,
        hidden_size=64,
        intermediate_size=128,
        state_size=16,
        num_hidden_layers=3,
        layer_norm_epsilon=1e-5,
        conv_kernel=4,
        n_groups=1,
        use_bias=False,
        use_conv_bias=True,
        tie_word_embeddings=False,
        time_step_limit=(0.001, 0.1),
        time_step_rank="auto",
    )


def deepseek_v3() -> tuple[Any, ByteTokenizer]:
    """Latent attention: one head of keys and values of different sizes, and experts."""
    return build(
        "deepseek_v3",
        hidden_size=64,
        intermediate_size=128,
        moe_intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_shared_experts=1,
        n_routed_experts=4,
        routed_scaling_factor=1.0,
        kv_lora_rank=16,
        q_lora_rank=24,
        qk_rope_head_dim=8,
        v_head_dim=16,
        qk_nope_head_dim=16,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=2,
        moe_layer_freq=1,
        first_k_dense_replace=1,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
    )


def gpt_oss() -> tuple[Any, ByteTokenizer]:
    """Attention sinks, sliding and full layers in turn, and experts."""
    return build(
        "gpt_oss",
        num_hidden_layers=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        rms_norm_eps=1e-5,
        hidden_size=64,
        intermediate_size=64,
        head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=WINDOW,
        rope_theta=10000,
        rope_scaling={"rope_type": "default"},
        layer_types=["sliding_attention", "full_attention"],
    )


MODELS: dict[str, Callable[[], tuple[Any, ByteTokenizer]]] = {
    "llama": llama,
    "qwen3": qwen3,
    "gemma3": gemma3,
    "mamba2": mamba2,
    "deepseek_v3": deepseek_v3,
    "gpt_oss": gpt_oss,
}
"""Every builder, by the name of what it builds."""


class Driver:
    """Takes a backend's turns in the contract's order, and collects what each row was given."""

    def __init__(self, backend: Backend, *, pipelines: bool = False) -> None:
        """With `pipelines`, a pass is submitted before the one before it is read."""
        self.backend = backend
        self._pipelines = pipelines
        self.sampled: dict[int, list[Sampled]] = {}
        self.results: list[StepResult] = []
        self._under_way = 0

    def open(
        self,
        row: int,
        sampling: Sampling | None = None,
        *,
        expects: int = 0,
        kv: KvOptions | None = None,
        start: int | None = None,
    ) -> None:
        """Open a row."""
        self.backend.edit([Open(row, sampling or Sampling(), expects, kv, start=start)])
        self.sampled[row] = []

    def branch(
        self, row: int, tokens: Sequence[int], *, start: int | None = None, kv: KvOptions | None = None
    ) -> tuple[int, ...]:
        """Open a row that goes on behind `tokens`, some of them another row's; those that it is still to be fed."""
        held = self.backend.edit([Open(row, Sampling(), kv=kv, prompt=tuple(tokens), start=start)])
        self.sampled[row] = []
        return tuple(tokens[dict(held.reused).get(row, 0) :])

    def edit(self, *edits: Edit) -> int:
        """Apply edits; the KV bytes held."""
        return self.backend.edit(edits).kv_bytes

    def turn(self, *feeds: Feed, masks: Masks | FillMasks | None = None) -> None:
        """One pass; the one before it is read between forward and sample, or behind both."""
        self.backend.forward(ForwardPlan(feeds))
        if not self._pipelines:
            self.read()
        self.backend.sample(masks)
        self._under_way += 1
        self.read(but=1)

    def read(self, but: int = 0) -> None:
        """Read every step under way, but for the last few."""
        while self._under_way > but:
            self._under_way -= 1
            result = self.backend.read()
            self.results.append(result)
            for sampled in result.sampled:
                self.sampled[sampled.row].append(sampled)

    def run(self, row: int, prompt: Sequence[int], count: int, sampling: Sampling | None = None) -> list[int]:
        """Open `row`, give it `prompt`, draw `count` tokens by itself, and close it."""
        self.open(row, sampling)
        self.turn(Feed(row, tuple(prompt)))
        for _ in range(count - 1):
            self.turn(Feed(row))
        self.read()
        self.edit(Close(row))
        return self.tokens(row)

    def tokens(self, row: int) -> list[int]:
        """What the row was given so far."""
        return [sampled.token for sampled in self.sampled[row]]


ONE_CALL = replace(CPU, name="one call", attention_call_cost=1 << 16, expands_masks=True)
"""A CPU that has rows in as few pools as Metal has, in float32."""


@contextmanager
def driven(
    builder: Callable[[], tuple[Any, Any]], name: str = "test", device: DeviceProfile | None = None
) -> Iterator[tuple[Driver, MlxBackend]]:
    """A driver over a loaded backend for what `builder` builds, closed at the end."""
    backend = MlxBackend.from_model(builder, name=name, device_profile=device)
    backend.load()
    try:
        yield Driver(backend), backend
    finally:
        backend.close()


def swap_kv(backend: MlxBackend) -> None:
    """Reverse the slots of every pool, in every layer: every row gets the keys and values of another."""
    store = backend.store
    assert isinstance(store, PackedStore)
    for pool in store.pools:
        for buffers in (pool.keys, pool.values):
            buffers[:] = [buffer[::-1] for buffer in buffers]


def sequential(model: Any, prompt: Sequence[int], count: int, **options: Any) -> tuple[list[int], list[mx.array]]:
    """What mlx-lm itself generates for one prompt, greedily, and its log-probabilities at each step."""
    tokens, logprobs = [], []
    for token, probabilities in generate_step(mx.array(list(prompt)), model, max_tokens=count, **options):
        tokens.append(int(token))
        logprobs.append(probabilities)
    return tokens, logprobs
