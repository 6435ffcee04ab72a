"""Copies of a generation that go on by themselves, and the tree that they make."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Generator as Coroutine
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from greenroom.errors import InvalidParameter
from greenroom.parameters import integer
from greenroom.samplers import Sampler
from greenroom.states import State, reseeded

if TYPE_CHECKING:
    from greenroom.generator import Generator

__all__ = ["Forks", "branch", "derived", "descendants", "retain_only"]

_LARGEST_SEED = 2**64 - 1
_OF_THE_GENERATION = (
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
        return await self._generator.fork_with(self._count, self._seeds)


def derived(seed: int, index: int) -> int:
    """The seed of the fork of that index: the same in every process, and unlike any other."""
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def check_seed(seed: object) -> None:
    """Raise `InvalidParameter` for what is no seed."""
    integer("seed", seed, 0, _LARGEST_SEED, "an integer from 0 to 2**64 - 1")


def branch(
    parent: Generator,
    state: State,
    *,
    seed: int | None = None,
    max_tokens: int | None = None,
    sampler: Sampler | None = None,
    is_child: bool = True,
) -> Generator:
    """A generator at `state`, in a context of its own."""
    from greenroom.context import Context

    changes: dict[str, Any] = {}
    if sampler is not None:
        parent.check_sampler(sampler)
        kept = _OF_THE_GENERATION
        old = parent.course.parameters
        changes = {
            name: getattr(sampler.parameters, name) for name in sampler.parameters.__struct_fields__ if name not in kept
        }
        seed = sampler.parameters.seed if seed is None else seed
        changes["seed"] = old.seed
    if max_tokens is not None:
        integer("max_tokens", max_tokens, 0, None, "None or an integer of at least 0")
        changes["max_tokens"] = max_tokens
    if seed is not None:
        check_seed(seed)
    course = parent.course.with_parameters(**changes) if changes else parent.course
    if seed is not None and course.calling.parsed is not None:  # calls of branches that differ have other ids
        state = reseeded(state, seed, course.decoder)
    elif seed is not None:
        state = replace(state, seed=seed, forks=0)
    was_over = state.ending is not None
    if state.ending is not None and state.ending.detail in ("max_tokens", "timeout"):  # a copy has its own time
        state = replace(state, ending=None)
    state = replace(state, ending=course.ending(state))
    is_longer = was_over and state.ending is None
    context = Context(parent.context.house, state.tokens, parent.context.marks)
    kind = type(parent)
    child = kind(
        context,
        course,
        parent.speculation.fork(),
        seed=state.seed,
        state=state,
        owns_context=True,
        unread=() if is_longer else parent.unread,
        has_told_end=parent.has_told_end and not is_longer,
    )
    if is_child:
        child.parent = weakref.ref(parent)
        parent.children.append(weakref.ref(child))
    return child


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
