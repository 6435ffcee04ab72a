"""Start weights that already copy: a previous-token head in the first layer, an induction head in the second.

A small transformer learns slowly that "the token after the last occurrence of this one" is often the next, and fast
everything else; a run of half an hour does not reach it by chance. The circuit is well understood (Olsson et al.,
"In-context Learning and Induction Heads", 2022), so training begins with it instead of waiting for it. All weights are
trained from there on.

The residual stream is laid out as: dimension 0 holds a constant, the next ones the token, and the last 64 two slots
that the first layer fills with the previous token and the one before.
"""

from typing import Any, Final

import mlx.core as mx

__all__ = ["prepare"]

_SLOT: Final = 32
_HEAD: Final = 64
_PAIRS: Final = _HEAD // 2
_SHARPNESS: Final = 6.0
_MATCH: Final = 1.6
_COPY_GAIN: Final = 6.0
_SLOW_PAIRS: Final = range(14, 32)
"""Rotary pairs that turn so slowly that a match survives a few hundred tokens of distance."""


def prepare(model: Any, key: mx.array) -> None:
    """Overwrite the start weights of `model` (head_dim 64, two key-value heads of two query heads each)."""
    keys = mx.random.split(key, 3)
    layers, embedding = model.model.layers, model.model.embed_tokens
    vocabulary, width = embedding.weight.shape
    room = width - 2 * _SLOT - 1
    words = slice(1, 1 + room)
    table = 0.01 * mx.random.normal((vocabulary, width), key=keys[0])
    table[:, words] = mx.random.normal((vocabulary, room), key=keys[1]) / room**0.5
    table[:, 0] = 1.0
    embedding.weight = table
    for layer in layers:
        shrink = (2 * len(layers)) ** -0.5
        layer.self_attn.o_proj.weight = layer.self_attn.o_proj.weight * shrink
        layer.mlp.down_proj.weight = layer.mlp.down_proj.weight * shrink
    reader = _orthonormal(_SLOT, room, keys[2])
    read = mx.zeros((_SLOT, width))
    read[:, words] = reader
    _look_back(layers[0].self_attn, read, model.args.rope_theta)
    _look_up(layers[1].self_attn, read)


def _orthonormal(rows: int, columns: int, key: mx.array) -> mx.array:
    with mx.stream(mx.cpu):
        q, _ = mx.linalg.qr(mx.random.normal((columns, rows), key=key))
        return q.T


def _look_back(attention: Any, read: mx.array, theta: float) -> None:
    """Query heads 0 and 1 attend one and two tokens back and write what stands there into the two slots."""
    width = read.shape[1]
    rms = (2.0 / width) ** 0.5  # of an embedding: the constant and a token of norm one
    angles = theta ** (-mx.arange(_PAIRS) / _PAIRS)
    query, keys, values, output = _weights(attention)
    keys[:_HEAD] = 0
    keys[:_PAIRS, 0] = _SHARPNESS * rms
    values[:_HEAD] = 0
    values[:_SLOT] = read
    for head in (0, 1):
        rows = slice(_HEAD * head, _HEAD * (head + 1))
        back = (head + 1) * angles
        query[rows] = 0
        query[rows, 0] = _SHARPNESS * rms * mx.concatenate([mx.cos(back), -mx.sin(back)])
        output[:, rows] = 0
        output[_slot(head, width), rows] = 2.0 * rms * mx.eye(_SLOT, _HEAD)
    _set_weights(attention, query, keys, values, output)


def _look_up(attention: Any, read: mx.array) -> None:
    """In each key-value group one head finds where the last two tokens stood before, and copies what came next."""
    width = read.shape[1]
    query, keys, values, output = _weights(attention)
    slow = [*_SLOW_PAIRS, *(_PAIRS + pair for pair in _SLOW_PAIRS)]
    half = len(slow) // 2
    for group in (0, 1):
        rows, queries = slice(_HEAD * group, _HEAD * (group + 1)), slice(2 * _HEAD * group, 2 * _HEAD * group + _HEAD)
        new_query, new_keys = mx.zeros((_HEAD, width)), mx.zeros((_HEAD, width))
        for place, row in enumerate(slow):
            source = (place % half + group * (_SLOT - half)) % _SLOT
            slots = [slot.start + source for slot in (_slot(0, width), _slot(1, width))]
            if place < half:
                new_query[row] = 2.0 * _MATCH * read[source]
                new_keys[row, slots[0]] = _MATCH
            else:
                new_query[row, slots[0]] = _MATCH
                new_keys[row, slots[1]] = _MATCH
        keys[rows], query[queries] = new_keys, new_query
        taken = slice(1 + 63 * group, 1 + 63 * group + _HEAD)
        values[rows] = 0
        values[rows, taken] = mx.eye(_HEAD)
        output[:, queries] = 0
        output[taken, queries] = _COPY_GAIN * (4.0 / width) ** 0.5 * mx.eye(_HEAD)
    _set_weights(attention, query, keys, values, output)


def _slot(index: int, width: int) -> slice:
    start = width - (2 - index) * _SLOT
    return slice(start, start + _SLOT)


def _weights(attention: Any) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    return (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight, attention.o_proj.weight)


def _set_weights(attention: Any, *weights: mx.array) -> None:
    for name, weight in zip(("q_proj", "k_proj", "v_proj", "o_proj"), weights, strict=True):
        getattr(attention, name).weight = weight
