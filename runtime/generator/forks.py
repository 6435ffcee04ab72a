"""Copies of a generation that go on by themselves, the tree that they make, and the way back in one's own output."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Generator as Coroutine
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from anyio import to_thread

from greenroom.errors import InvalidParameter
from greenroom.generator.cursor import Cursor, EventQueue
from greenroom.inputs import samplers
from greenroom.inputs.parameters import GenerateParameters
from greenroom.inputs.samplers import Sampler
from greenroom.lifetimes import Closing
from greenroom.request.config import GenerationConfig
from greenroom.request.context_buffer import ContextBuffer
from greenroom.request.generation import Generation
from greenroom.request.session import ContextRecord
from greenroom.values import integer, sequence

__all__ = ["Forks", "copy", "derive_seed", "descendants", "fork", "retain_only", "rewind"]

G = TypeVar("G", bound=Closing)

_LARGEST_SEED = 2**64 - 1
_LONG = 1024
"""Tokens: to decode more again takes longer than a wake-up, and is done on another thread."""
_OF_THE_GENERATION = (
    "seed",
    "max_tokens",
    "stop",
    "stop_in_thinking",
    "default_stops",
    "timeout",
    "max_kv_size",
    "kv_bits",
    "kv_group_size",
    "quantized_kv_start",
    "reasoning",
    "thinking_tokens",
    "adapter",
    "zo_seed",
    "horizon",
    "priority",
    "client",
    "user",
    "weight",
)
"""Parameters that say nothing of how a token is drawn: another sampler does not change them."""


class Forks(Generic[G]):
    """Several forks of one generator: await it for the list, or use it in `async with`, which closes all of them."""

    def __init__(
        self, cursor: Cursor, make: Callable[[Cursor], G], count: int, seeds: Sequence[int] | None, *, owner: object
    ) -> None:
        """`make` makes the handle of a fork; `owner`, the generator's own, is kept alive."""
        integer("count", count, 1, None, "an integer of at least 1")
        if seeds is not None:
            sequence("seeds", seeds, f"None or {count} of them", count)
        for seed in () if seeds is None else seeds:
            _check_seed(seed)
        self._cursor = cursor
        self._make = make
        self._owner = owner
        self._count = count
        self._seeds = seeds
        self._made: list[G] = []

    def __repr__(self) -> str:
        return f"<Forks {self._count} of {self._owner!r}>"

    def __await__(self) -> Coroutine[Any, Any, list[G]]:
        return self._fork().__await__()

    async def __aenter__(self) -> list[G]:
        self._made = await self._fork()
        return self._made

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        interruption: BaseException | None = None
        for each in self._made:
            try:
                await each.aclose()
            except BaseException as error:  # noqa: BLE001 - the others are closed first
                interruption = error
        if interruption is not None:
            raise interruption

    async def _fork(self) -> list[G]:
        with self._cursor.exclusive():
            generation = await self._cursor.settle()
            seeds = self._seeds
            if seeds is None:
                seeds = [derive_seed(generation.seed, generation.forks + index) for index in range(self._count)]
                self._cursor.generation = replace(generation, forks=generation.forks + self._count)
            return [self._make(_branch(self._cursor, generation, seed=seed)) for seed in seeds]


async def fork(cursor: Cursor, *, seed: int | None, max_tokens: int | None, sampler: Sampler | None) -> Cursor:
    """See `Generator.fork`."""
    with cursor.exclusive():
        generation = await cursor.settle()
        return _branch(cursor, generation, seed=seed, max_tokens=max_tokens, sampler=sampler)


async def copy(cursor: Cursor) -> Cursor:
    """A fork that has no parent."""
    with cursor.exclusive():
        return _branch(cursor, await cursor.settle(), is_child=False)


async def rewind(cursor: Cursor, count: int, seed: int | None) -> None:
    """See `Generator.rewind`."""
    with cursor.exclusive():
        generation = await cursor.settle()
        most = generation.num_generated
        integer("count", count, 0, most, f"an integer from 0 to the {most} tokens that were generated")
        if seed is not None:
            _check_seed(seed)
        if count or seed is not None:
            work = partial(generation.rewind, count, seed)
            shorter = await to_thread.run_sync(work) if most > _LONG else work()
            cursor.recommit(shorter.conclude())
        cursor.step = None


def derive_seed(seed: int, index: int) -> int:
    """The seed of the fork of that index: the same in every process, and unlike any other."""
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _check_seed(seed: object) -> None:
    integer("seed", seed, 0, _LARGEST_SEED, "an integer from 0 to 2**64 - 1")


def _branch(
    parent: Cursor,
    generation: Generation,
    *,
    seed: int | None = None,
    max_tokens: int | None = None,
    sampler: Sampler | None = None,
    is_child: bool = True,
) -> Cursor:
    """A cursor at `generation`, in a buffer of its own."""
    # 1. What it goes on with: the parent's, but for what is asked otherwise.
    config, seed = _change(generation.config, seed, max_tokens, sampler)
    branch = replace(generation, config=config)
    if seed is not None:
        branch = replace(branch, seed=seed, forks=0)
        if config.calling is not None and config.calling.has_tools:  # calls of branches that differ have other ids
            branch = branch.decode()
    # 2. Whether it is over: a copy has its own time, and may go on where its parent had drawn all it may.
    if branch.ending is not None and branch.ending.detail in ("max_tokens", "timeout"):
        branch = replace(branch, ending=None)
    branch = branch.conclude()
    is_longer = generation.ending is not None and branch.ending is None
    # 3. Its place.
    child = Cursor(
        ContextBuffer(parent.buffer.session, ContextRecord(branch.tokens, parent.buffer.record.checkpoints)),
        branch,
        parent.speculation.fork(),
        events=EventQueue() if is_longer else parent.events.copy(),
        owns_buffer=True,
    )
    if is_child:
        parent.family.add(parent, child)
    return child


def _change(
    config: GenerationConfig, seed: int | None, max_tokens: int | None, sampler: Sampler | None
) -> tuple[GenerationConfig, int | None]:
    """The parent's with these in place, checked; and the seed, which a sampler may bring."""
    changes: dict[str, Any] = {}
    if sampler is not None:
        samplers.check(sampler, config.model.vocab_size)
        drawing = [name for name in GenerateParameters.__struct_fields__ if name not in _OF_THE_GENERATION]
        changes = {name: getattr(sampler.parameters, name) for name in drawing}
        seed = sampler.parameters.seed if seed is None else seed
    if max_tokens is not None:
        integer("max_tokens", max_tokens, 0, None, "None or an integer of at least 0")
        changes["max_tokens"] = max_tokens
    if seed is not None:
        _check_seed(seed)
    return config.with_parameters(**changes) if changes else config, seed


def descendants(cursor: Cursor) -> Iterator[Cursor]:
    """What was forked from it and still exists, the youngest first."""
    for child in cursor.family.children:
        yield from descendants(child)
        yield child


async def retain_only(cursor: Cursor, child: Cursor) -> None:
    """Close `cursor` and all that was forked from it, but `child` and what was forked from that."""
    family = list(descendants(cursor))
    if not any(each is child for each in family):
        expected = f"a fork of {cursor.family.handle()!r}, or of one of its forks"
        raise InvalidParameter("child", child.family.handle(), expected)
    kept = {id(child), *(id(each) for each in descendants(child))}
    for each in [*family, cursor]:
        if id(each) not in kept:
            await each.aclose()
    child.family.leave()
