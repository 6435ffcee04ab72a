"""Copies of a generation that go on by themselves, and the tree that they make."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Generator as Coroutine
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from greenroom.errors import InvalidParameter
from greenroom.generator.cursor import Cursor
from greenroom.inputs import samplers
from greenroom.inputs.parameters import GenerateParameters, integer
from greenroom.inputs.samplers import Sampler
from greenroom.request.config import GenerationConfig
from greenroom.request.generation import Generation, redecoded, rewound

if TYPE_CHECKING:
    from greenroom.generator.api import Generator

__all__ = ["Forks", "copy", "derived", "descendants", "fork", "retain_only", "rewind"]

_LARGEST_SEED = 2**64 - 1
_LONG = 1024
"""Tokens: to decode more again takes longer than a wake-up, and is done on another thread."""
_OF_THE_GENERATION = (
    "seed",
    "max_tokens",
    "stop",
    "default_stops",
    "timeout",
    "max_kv_size",
    "kv_bits",
    "reasoning",
    "thinking_tokens",
)
"""Parameters that say nothing of how a token is drawn: another sampler does not change them."""


class Forks:
    """Several forks of one generator: await it for the list, or use it in `async with`, which closes all of them."""

    def __init__(self, generator: Generator, count: int, seeds: Sequence[int] | None) -> None:
        integer("count", count, 1, None, "an integer of at least 1")
        if seeds is not None and len(seeds) != count:
            raise InvalidParameter("seeds", seeds, f"None or {count} of them")
        for seed in seeds or ():
            check_seed(seed)
        self._generator = generator
        self._count = count
        self._seeds = seeds
        self._made: list[Generator] = []

    def __repr__(self) -> str:
        return f"<Forks {self._count} of {self._generator!r}>"

    def __await__(self) -> Coroutine[Any, Any, list[Generator]]:
        return self._make().__await__()

    async def __aenter__(self) -> list[Generator]:
        self._made = await self._make()
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

    async def _make(self) -> list[Generator]:
        at = self._generator.standing
        with at.alone():
            state = await at.here()
            seeds = self._seeds
            if seeds is None:
                seeds = [derived(state.seed, state.forks + index) for index in range(self._count)]
                at.state = replace(state, forks=state.forks + self._count)
            return [_branch(self._generator, state, seed=seed) for seed in seeds]


async def fork(generator: Generator, *, seed: int | None, max_tokens: int | None, sampler: Sampler | None) -> Generator:
    """See `Generator.fork`."""
    with generator.standing.alone():
        state = await generator.standing.here()
        return _branch(generator, state, seed=seed, max_tokens=max_tokens, sampler=sampler)


async def copy(generator: Generator) -> Generator:
    """A fork that has no parent."""
    with generator.standing.alone():
        return _branch(generator, await generator.standing.here(), is_child=False)


async def rewind(generator: Generator, count: int, seed: int | None) -> None:
    """See `Generator.rewind`."""
    at = generator.standing
    with at.alone():
        state = await at.here()
        expected = f"an integer from 0 to the {state.generated} tokens that were generated"
        integer("count", count, 0, state.generated, expected)
        if count or seed is not None:
            work = partial(rewound, state, count, at.course.decoder, seed)
            after = await to_thread.run_sync(work) if state.generated > _LONG else work()
            if not at.is_live:
                at.context.reoccupy(generator)
            at.is_done = at.has_told_end = False
            at.unread.clear()
            if at.speculation.user is not None:
                at.speculation.user.reset()
            at.commit(replace(after, ending=at.course.ending(after)))
            at.context.house.trim(at.context.line, len(after.tokens))
        at.step = None


def derived(seed: int, index: int) -> int:
    """The seed of the fork of that index: the same in every process, and unlike any other."""
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def check_seed(seed: object) -> None:
    """Raise `InvalidParameter` for what is no seed."""
    integer("seed", seed, 0, _LARGEST_SEED, "an integer from 0 to 2**64 - 1")


def _branch(
    parent: Generator,
    state: Generation,
    *,
    seed: int | None = None,
    max_tokens: int | None = None,
    sampler: Sampler | None = None,
    is_child: bool = True,
) -> Generator:
    """A generator at `state`, in a context of its own."""
    from greenroom.generator.context import Context

    at = parent.standing
    course, seed = _course(at.course, seed, max_tokens, sampler)
    if seed is not None:
        state = replace(state, seed=seed, forks=0)
        if course.calling.parsed is not None:  # calls of branches that differ have other ids
            state = redecoded(state, course.decoder)
    was_over = state.ending is not None
    if state.ending is not None and state.ending.detail in ("max_tokens", "timeout"):  # a copy has its own time
        state = replace(state, ending=None)
    state = replace(state, ending=course.ending(state))
    is_longer = was_over and state.ending is None
    standing = Cursor(
        Context(at.context.house, state.tokens, at.context.marks),
        course,
        at.speculation.fork(),
        seed=state.seed,
        state=state,
        unread=() if is_longer else tuple(at.unread),
        has_told_end=at.has_told_end and not is_longer,
    )
    child = type(parent)(standing, owns_context=True)
    if is_child:
        child.parent = weakref.ref(parent)
        parent.children.append(weakref.ref(child))
    return child


def _course(
    course: GenerationConfig, seed: int | None, max_tokens: int | None, sampler: Sampler | None
) -> tuple[GenerationConfig, int | None]:
    """The parent's with these in place, checked; and the seed, which a sampler may bring."""
    changes: dict[str, Any] = {}
    if sampler is not None:
        samplers.check(sampler, course.model.vocab_size)
        drawing = [name for name in GenerateParameters.__struct_fields__ if name not in _OF_THE_GENERATION]
        changes = {name: getattr(sampler.parameters, name) for name in drawing}
        seed = sampler.parameters.seed if seed is None else seed
    if max_tokens is not None:
        integer("max_tokens", max_tokens, 0, None, "None or an integer of at least 0")
        changes["max_tokens"] = max_tokens
    if seed is not None:
        check_seed(seed)
    return course.with_parameters(**changes) if changes else course, seed


def descendants(generator: Generator) -> Iterator[Generator]:
    """What was forked from it and still exists, the youngest first."""
    for reference in generator.children:
        child = reference()
        if child is not None:
            yield from descendants(child)
            yield child


async def retain_only(generator: Generator, child: Generator) -> None:
    """See `Generator.retain_only`."""
    family = list(descendants(generator))
    if not any(each is child for each in family):
        raise InvalidParameter("child", child, f"a fork of {generator!r}, or of one of its forks")
    kept = {id(child), *(id(each) for each in descendants(child))}
    for each in [*family, generator]:
        if id(each) not in kept:
            await each.aclose()
    child.parent = None
