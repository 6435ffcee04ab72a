"""Training arithmetic: mlx-lm's Llama with a cheaper exponential, and the loss.

MLX's float32 `exp` on CPU runs one element at a time (about 24 ns). Attention, SwiGLU and the loss are full of it, so
training replaces it by a polynomial raised to a power of two, with hand-written gradients. Inference uses mlx-lm's own
code on the same weights; the two agree to about 1e-4.
"""

from typing import Any, cast

import mlx.core as mx

__all__ = ["loss"]

_MASKED = -60.0


@mx.compile
def _exp(x: mx.array) -> mx.array:
    """exp(x) for x ≤ 0: the cubic Taylor polynomial of x/256, squared eight times."""
    y = mx.maximum(x, _MASKED - 20.0) * (1.0 / 256.0)
    p = 1.0 + y * (1.0 + y * (0.5 + y * (1.0 / 6.0)))
    for _ in range(8):
        p = p * p
    return p


def _probabilities(scores: mx.array) -> mx.array:
    weights = _exp(scores - mx.max(scores, axis=-1, keepdims=True))
    return weights / mx.sum(weights, axis=-1, keepdims=True)


@mx.custom_function
def _softmax(scores: mx.array) -> mx.array:
    return _probabilities(scores)


@_softmax.vjp
def _softmax_vjp(_primal: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return output * (cotangent - mx.sum(output * cotangent, axis=-1, keepdims=True))


def _sigmoid(x: mx.array) -> mx.array:
    small = _exp(-mx.abs(x))
    return mx.where(x >= 0, 1.0, small) / (1.0 + small)


@mx.custom_function
def _silu(x: mx.array) -> mx.array:
    return x * _sigmoid(x)


@_silu.vjp
def _silu_vjp(primal: mx.array, cotangent: mx.array, _output: mx.array) -> mx.array:
    gate = _sigmoid(primal)
    return cotangent * gate * (1.0 + primal * (1.0 - gate))


@mx.custom_function
def _cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    top = mx.max(logits, axis=-1, keepdims=True)
    total = mx.log(mx.sum(_exp(logits - top), axis=-1)) + top[:, 0]
    return total - mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]


@_cross_entropy.vjp
def _cross_entropy_vjp(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, _output: mx.array
) -> tuple[mx.array, mx.array]:
    logits, targets = primals
    hit = mx.arange(logits.shape[-1])[None] == targets[:, None]
    return (_probabilities(logits) - hit) * cotangent[:, None], mx.zeros_like(targets)


def _attend(attention: Any, x: mx.array, mask: mx.array) -> mx.array:
    batch, length, _ = x.shape
    heads, kv_heads = attention.n_heads, attention.n_kv_heads

    def split(y: mx.array, count: int) -> mx.array:
        return y.reshape(batch, length, count, -1).transpose(0, 2, 1, 3)

    queries = attention.rope(split(attention.q_proj(x), heads)) * attention.scale
    keys = mx.repeat(attention.rope(split(attention.k_proj(x), kv_heads)), heads // kv_heads, axis=1)
    values = mx.repeat(split(attention.v_proj(x), kv_heads), heads // kv_heads, axis=1)
    weights = cast("mx.array", _softmax(queries @ keys.swapaxes(-1, -2) + mask))
    mixed = weights @ values
    return cast("mx.array", attention.o_proj(mixed.transpose(0, 2, 1, 3).reshape(batch, length, -1)))


def loss(model: Any, tokens: mx.array, positions: mx.array, targets: mx.array) -> mx.array:
    """Mean cross-entropy in nats of `targets` [N], predicted at flat `positions` [N] of `tokens` [batch, length]."""
    x = model.model.embed_tokens(tokens)
    length = tokens.shape[1]
    mask = mx.where(mx.arange(length)[None] <= mx.arange(length)[:, None], 0.0, _MASKED)
    for layer in model.model.layers:
        x = x + _attend(layer.self_attn, layer.input_layernorm(x), mask)
        hidden = layer.post_attention_layernorm(x)
        x = x + layer.mlp.down_proj(_silu(layer.mlp.gate_proj(hidden)) * layer.mlp.up_proj(hidden))
    chosen = x.reshape(-1, x.shape[-1])[positions]
    logits = model.model.embed_tokens.as_linear(model.model.norm(chosen))
    return mx.mean(cast("mx.array", _cross_entropy(logits, targets)))
