"""Three loops whose single steps can be looked at: greenroom's backend, mlx-lm's batches and its sequential loop.

Models are narrow and random, of 28 layers, and one object serves all. Who counts launches wraps what is here in
`fused`: then prompts cost next to nothing, and numbers mean nothing.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

from subjects import BatchGenerator, generate_step, make_prompt_cache, mx, nn

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.device_profile import METAL
from greenroom.backends.mlx.kv.packed import PackedStore
from greenroom.backends.protocol import Close, Feed, ForwardPlan, Open, Sampling
from greenroom.backends.scripted import ByteTokenizer

__all__ = ["LAYERS", "MODELS", "SIDES", "Rows", "Side", "batch_generator", "greenroom", "model_of", "ragged"]

LAYERS = 28
MODELS = ("llama", "qwen3", "qwen3-4bit")
_STILL = 8
"""Steps without a row that moves: then none will before it outgrows its slot."""
_MOST_SETTLING = 100
_THEIR_SETTLING = 3
_OPEN_END = 100_000


class Rows(NamedTuple):
    """Prompts' lengths, and how their rows come to be.

    Rows that come one by one are as long as the others have become, so that all end equal. A `chunk` of a prompt, its
    first half, runs beside them in each step. Of rows with `shared` tokens, these are the first of each prompt and held
    once.
    """

    lengths: tuple[int, ...]
    one_by_one: bool = False
    chunk: int = 0
    shared: int = 0


class Side(NamedTuple):
    """A loop at rest: its next step, and the buffers of keys and values that it holds."""

    step: Callable[[], None]
    buffers: Callable[[], list[Any]]


def ragged(count: int) -> tuple[int, ...]:
    """Lengths from 16 to 1,000, the same each time."""
    return tuple([16 + (1000 - 16) * place // (count - 1) for place in range(count)])


@cache
def model_of(name: str) -> tuple[Any, Any]:
    """A model of `MODELS`, and a tokenizer for it."""
    kind, _, bits = name.partition("-")
    module = importlib.import_module(f"mlx_lm.models.{kind}")
    arguments = {
        "model_type": kind,
        "hidden_size": 32,
        "num_hidden_layers": LAYERS,
        "intermediate_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": 320,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    }
    mx.random.seed(1)
    made = module.Model(module.ModelArgs.from_dict(arguments))
    if bits:
        made.set_dtype(mx.bfloat16)
        nn.quantize(made, group_size=32, bits=4)
    mx.eval(made.parameters())
    return made, ByteTokenizer()


def _prompts(rows: Rows) -> list[tuple[int, ...]]:
    own = [length - rows.shared + row * rows.one_by_one for row, length in enumerate(rows.lengths)]
    return [(7,) * rows.shared + (row + 8,) * length for row, length in enumerate(own)]


@cache
def _backend(name: str) -> MlxBackend:
    """With Metal's choices, but that a beginning of several rows is held once however little it saves."""
    profile = replace(METAL, shared_least=1)
    backend = MlxBackend.from_model(lambda: model_of(name), name=name, device_profile=profile, prefix_bytes=0)
    backend.load()
    return backend


_ids = itertools.count()
"""Of rows: none is used twice."""


@contextmanager
def greenroom(name: str, rows: Rows) -> Iterator[Side]:
    """Steps of `MlxBackend`, once its rows have found the places where they stay."""
    backend = _backend(name)
    ids = [next(_ids) for _ in rows.lengths]
    live = [Feed(row) for row in ids]

    def turn(feeds: list[Feed]) -> None:
        backend.forward(ForwardPlan(tuple(feeds)))
        backend.sample()
        backend.read()

    def step() -> None:
        if not rows.chunk:
            turn(live)
            return
        row = next(_ids)
        backend.edit([Open(row, Sampling(), expects=2 * rows.chunk)])
        turn([*live, Feed(row, (7,) * rows.chunk)])
        backend.edit([Close(row)])

    try:
        _open_rows(backend, rows, ids, turn)
        _settle(_store(backend), partial(turn, live))
        yield Side(step, lambda: _store(backend).state())
    finally:
        backend.edit([Close(row) for row in ids])


def _store(backend: MlxBackend) -> PackedStore:
    store = backend.store
    if not isinstance(store, PackedStore):
        raise TypeError(f"the rows are in {store!r}, which has no pools")
    return store


def _settle(store: PackedStore, step: Callable[[], None]) -> None:
    """Run until rows stay where they are."""
    places: list[tuple[int, int | None]] = []
    still = 0
    for _ in range(_MOST_SETTLING):
        step()
        before, places = places, [(id(row.pool), row.slot) for row in store.rows()]
        still = still + 1 if places == before else 0
        if still == _STILL:
            return
    raise RuntimeError(f"after {_MOST_SETTLING} steps rows still move in {store!r}")


def _open_rows(backend: MlxBackend, rows: Rows, ids: list[int], turn: Callable[[list[Feed]], None]) -> None:
    """Run the prompts: all at once, one by one, or the first before those that fork it."""
    waiting: list[Feed] = []
    for place, (row, prompt) in enumerate(zip(ids, _prompts(rows), strict=True)):
        begins = prompt if rows.shared and place else ()
        reused = dict(backend.edit([Open(row, Sampling(), prompt=begins)]).reused)
        waiting.append(Feed(row, prompt[reused.get(row, 0) :]))
        if rows.one_by_one or (rows.shared and not place):
            turn([*waiting, *[Feed(other) for other in ids[:place]]])
            waiting = []
    if waiting:
        turn([*waiting, *[Feed(row) for row in ids[: bool(rows.shared)]]])


@contextmanager
def batch_generator(name: str, rows: Rows) -> Iterator[Side]:
    """Steps of mlx-lm's `BatchGenerator`, which has a forward of its own for a chunk, and shares no beginnings."""
    many = len(rows.lengths) + bool(rows.chunk)
    made, _ = model_of(name)
    generator = BatchGenerator(made, completion_batch_size=many, prefill_batch_size=many, prefill_step_size=2048)

    def step() -> None:
        inserted = generator.insert([[7] * rows.chunk], max_tokens=[_OPEN_END]) if rows.chunk else []
        generator.next()
        if inserted:
            generator.remove(inserted)

    def buffers() -> list[Any]:
        return [array for layer in generator._generation_batch.prompt_cache for array in (layer.keys, layer.values)]  # noqa: SLF001 - nobody else tells

    try:
        for prompt in _prompts(rows):
            generator.insert([list(prompt)], max_tokens=[_OPEN_END])
            if rows.one_by_one:
                generator.next()
        while len(generator.next()[1]) < len(rows.lengths):
            pass
        for _ in range(_THEIR_SETTLING):
            generator.next()
        yield Side(step, buffers)
    finally:
        generator.close()


@contextmanager
def sequential(name: str, rows: Rows) -> Iterator[Side]:
    """Steps of mlx-lm's `generate_step`, which has one row."""
    made, _ = model_of(name)
    caches = make_prompt_cache(made)
    (prompt,) = _prompts(rows)
    steps = generate_step(mx.array(prompt), made, max_tokens=_OPEN_END, prompt_cache=caches)
    for _ in range(1 + _THEIR_SETTLING):
        next(steps)
    try:
        yield Side(lambda: next(steps), lambda: [array for layer in caches for array in (layer.keys, layer.values)])
    finally:
        steps.close()


SIDES = {"greenroom": greenroom, "BatchGenerator": batch_generator, "generate_step": sequential}
