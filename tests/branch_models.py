"""Runtimes for tests of contexts and generators: the double, the understudy, and a small model of each cache kind."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import models
import sniffio
from anyio import fail_after
from model_files import build
from models import ByteTokenizer as Bytes

from greenroom import Runtime, Scripted
from greenroom.backends.mlx import MlxBackend
from greenroom.backends.protocol import Backend
from greenroom.backends.scripted import ByteTokenizer, Reply
from greenroom.backends.scripted.tokenizer import STOP

__all__ = ["KINDS", "OTHERS", "PLAIN", "REPLY", "backend_of", "freed", "halved", "idle", "opened"]

T = TypeVar("T")
REPLY = "The quick brown fox jumps over the lazy dog, and over the quick brown fox, again and again."
KINDS = ("scripted", "understudy", *models.MODELS)
"""Everything a generator may run on."""
OTHERS = ("gemma2", "llama4", "jamba", "recurrent_gemma", "longcat_flash", "deepseek_v41", "baichuan_m1")
"""Kinds of caches that those do not have.

KV that rows do not share passes over, chunks, recurrent state beside attention and beside windows, several pairs a
layer, a cache class of a model's own, and windows, state and KV in one.
"""
PLAIN = ("scripted", "understudy", "llama", "qwen3")
"""Those whose KV can be cut, so that guesses can be checked."""


class Spoken(ByteTokenizer):
    """Bytes of text and the double's special ids, for models that have 320."""

    stop_tokens = tuple(sorted(STOP))


def _spoken(builder: Callable[[], tuple[Any, Bytes]]) -> Callable[[], tuple[Any, Spoken]]:
    """With a tokenizer that streams text and takes constraints."""
    return lambda: (builder()[0], Spoken())


def backend_of(kind: str, **options: Any) -> Backend | None:
    """A backend that was not loaded; None is the understudy. `options` are those of `MlxBackend`."""
    if kind == "scripted":
        return Scripted({"*": Reply(REPLY, bends=True)})
    if kind == "understudy":
        return None
    builder = models.MODELS.get(kind) or (models.gemma2 if kind == "gemma2" else lambda: build(kind, models.VOCAB))
    return MlxBackend.from_model(_spoken(builder), name=kind, **options)


@asynccontextmanager
async def opened(kind: str, **options: Any) -> AsyncIterator[Runtime]:
    """A runtime over it."""
    async with Runtime(backend=backend_of(kind), **options) as runtime:
        yield runtime


def halved(kind: str, cases: Sequence[T]) -> Sequence[T]:
    """Of `cases`, every other one on asyncio and the rest on trio; for the double, which is fast, all on both."""
    if kind == "scripted":
        return cases
    return cases[sniffio.current_async_library() == "trio" :: 2]


async def freed(runtime: Runtime, base: int = 0) -> None:
    """Until the KV that open rows hold is down to `base` bytes again: what nobody holds any more goes by itself."""
    gc.collect()
    with fail_after(10):
        while runtime.statistics().kv_bytes != base:
            await (await runtime.generate_task("x", max_tokens=1, template=False))[1]


async def idle(runtime: Runtime) -> None:
    """Until the engine has done everything that was asked before this."""
    for _ in range(2):  # what waits for the end of a turn of the loop is sent during the first of them
        await (await runtime.generate_task("x", max_tokens=0, template=False))[1]
