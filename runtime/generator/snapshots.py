"""Frozen copies of contexts and generations: opened or restored as often as one likes, here or from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

from anyio import to_thread

from greenroom.actors.client import EngineClient
from greenroom.errors import NotSupported
from greenroom.generator import forks, snapshot_files
from greenroom.generator.cursor import Cursor
from greenroom.generator.snapshot_files import Found, Going
from greenroom.generator.speculation import Speculation
from greenroom.inputs.segments import Checkpoint

if TYPE_CHECKING:
    from greenroom.generator.api import Generator
    from greenroom.generator.context import Context
    from greenroom.runtime import Runtime

__all__ = ["Snapshot"]


class Snapshot:
    """A frozen copy: of a context, or of a generation, which can go on from it as often as one likes."""

    def __init__(
        self,
        house: EngineClient,
        tokens: tuple[int, ...],
        marks: tuple[Checkpoint, ...],
        *,
        generator: Generator | None = None,
    ) -> None:
        """`generator` is one that nobody else holds, to be copied."""
        self._house = house
        self._marks = marks
        self._generator = generator
        self.tokens = tokens

    def __repr__(self) -> str:
        kind = "context" if self._generator is None else "generation"
        return f"<Snapshot of a {kind} tokens={len(self.tokens)}>"

    @classmethod
    def of(cls, generator: Generator) -> Self:
        """A frozen copy of one that nobody else holds, and that stands."""
        context = generator.context
        return cls(context.house, generator.all_tokens, context.marks, generator=generator)

    async def restore(self) -> Generator:
        """A new generator, in a context of its own, that stands where the snapshot was taken.

        Raises `NotSupported` for the snapshot of a context: `open` that.
        """
        if self._generator is None:
            raise NotSupported("restore() of a context's snapshot", "open() it, and generate")
        return await forks.copy(self._generator)

    def open(self) -> Context:
        """A new context with these tokens."""
        from greenroom.generator.context import Context

        return Context(self._house, self.tokens, self._marks)

    async def save(self, path: str | Path) -> None:
        """Write it into a file; an older one is replaced once all is written.

        Of a generation that is everything that `restore` gives, except a `speculator` of the user's and a draft model:
        they change no token, and the generation goes on without them. Raises `NotSupported` for a constraint that is
        code, which it names; and `OSError` as writing does.
        """
        await to_thread.run_sync(snapshot_files.write, Path(path), self._house, self._found())

    def _found(self) -> Found:
        at = None if self._generator is None else self._generator.standing
        if at is None or at.state is None:
            return Found(self.tokens, self._marks, None)
        guesses = at.speculation.engine is not None
        going = Going(at.course, at.state, tuple(at.unread), at.has_told_end, guesses)
        return Found(self.tokens, self._marks, going)

    @classmethod
    async def load(cls, path: str | Path, runtime: Runtime | None = None) -> Self:
        """Read a file for `runtime`, or the one that a module-level `generate` would use.

        Raises `InvalidSnapshot` for a file that is truncated or something else, `SnapshotMismatch` where another model
        or tokenizer wrote it, and `OSError` as reading does.
        """
        from greenroom.generator.api import Generator
        from greenroom.generator.context import Context
        from greenroom.request import current

        house = current.find(runtime).opened()
        tokens, marks, going = await to_thread.run_sync(snapshot_files.read, Path(path), house)
        if going is None:
            return cls(house, tokens, marks)
        standing = Cursor(
            Context(house, tokens, marks),
            going.course,
            Speculation.of(house.model, None, system_speculation=going.guesses, draft_model=None),
            seed=going.state.seed,
            state=going.state,
            unread=going.unread,
            has_told_end=going.has_told_end,
        )
        return cls.of(Generator(standing, owns_context=True))
