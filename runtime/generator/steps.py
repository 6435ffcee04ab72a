"""`Step`: one turn of a generator, before it runs; and `StepOutput`, what it gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from greenroom.constraints.masks import masked_logits
from greenroom.constraints.state import ConstraintState
from greenroom.errors import InvalidParameter, StepUsed
from greenroom.inputs.parameters import integer
from greenroom.inputs.samplers import Sampler
from greenroom.request.probes import Distribution, Entropy, Likeliest, Logits, Logprob, Logprobs, Probe
from greenroom.request.run import Turn

if TYPE_CHECKING:
    from greenroom.generator.api import Generator

__all__ = ["Handle", "Step", "StepOutput"]

Row = npt.NDArray[np.float32]


class Handle:
    """Stands for a probe's answer; known by what it is, not by its place among others."""

    __slots__ = ("index", "probe")

    def __init__(self, index: int, probe: Probe) -> None:
        integer("index", index, 0, None, "0 for the deciding row, k for the row behind k guesses")
        if not isinstance(probe, Probe):
            raise InvalidParameter("probe", probe, "a probe, such as Logits()")
        self.index = index
        self.probe = probe

    def __repr__(self) -> str:
        return f"<Handle of {self.probe!r} at {self.index}>"


class StepOutput:
    """What a step gave: its tokens, and answers to its probes by their handles.

    `tokens` are those that were recorded: what was drawn, right guesses, and what the constraint forced; not a token
    that only ended the turn. A step without a sampler has none until they are accepted, and then they are not here.
    """

    def __init__(
        self, turn: Turn, handles: Sequence[Handle], *, constraint: ConstraintState | None, drafts: tuple[int, ...]
    ) -> None:
        self._turn = turn
        self._handles = tuple(handles)
        self._constraint = constraint
        self.tokens: tuple[int, ...] = turn.tokens
        self.text = "".join([said.text for said in turn.said])
        self.drafted = turn.drafted
        self.accepted = turn.accepted
        self.drafts = drafts[: turn.drafted]
        """The guesses that were checked, where a speculator of the user's made them."""

    def __repr__(self) -> str:
        return f"<StepOutput tokens={self.tokens} probes={len(self._handles)}>"

    def has(self, handle: Handle) -> bool:
        """Whether the step ran the row that `handle` asks about: there is one more than guesses that were right."""
        return self._known(handle) and handle.index < len(self._turn.rows)

    def logits(self, handle: Handle) -> Row:
        """The answer to `Logits`: the caller's own."""
        self._probe(handle, Logits)
        return self._row(handle)

    def distribution(self, handle: Handle) -> Likeliest:
        """The answer to `Distribution`."""
        found: Likeliest = self._probe(handle, Distribution).of(self._row(handle))
        return found

    def logprobs(self, handle: Handle) -> list[float]:
        """The answer to `Logprobs`, or to `Logprob`, which is a list of one."""
        found: list[float] = self._probe(handle, Logprobs, Logprob).of(self._row(handle))
        return found

    def entropy(self, handle: Handle) -> float:
        """The answer to `Entropy`."""
        found: float = self._probe(handle, Entropy).of(self._row(handle))
        return found

    def _known(self, handle: Handle) -> bool:
        return any(known is handle for known in self._handles)

    def _probe(self, handle: Handle, *kinds: type[Any]) -> Any:
        if not self._known(handle):
            raise InvalidParameter("handle", handle, "one that this step was given")
        if not isinstance(handle.probe, kinds):
            raise InvalidParameter("handle", handle, f"one of {' or '.join(kind.__name__ for kind in kinds)}")
        return handle.probe

    def _row(self, handle: Handle) -> Row:
        if handle.index >= len(self._turn.rows):
            raise InvalidParameter(
                "handle", handle, f"of a row that was run: this step has {len(self._turn.rows)} (ask `has` first)"
            )
        row: Row = self._turn.rows[handle.index]
        return self._masked(row, handle.index) if handle.probe.masked else row.copy()

    def _masked(self, row: Row, index: int) -> Row:
        if self._constraint is None:
            return row.copy()
        state = self._constraint.fork()
        state.consume([*self._turn.before, *self._behind[:index]])
        bits = np.empty(-(-len(row) // 32), np.uint32)
        state.fill_mask(bits)
        return masked_logits(row, bits)

    @property
    def _behind(self) -> tuple[int, ...]:
        """What stands between the first row and the others: the guesses, as far as they are known to be right."""
        return self.drafts or self.tokens[len(self._turn.before) :]


class Step:
    """One turn: look at it, change how it draws, then `execute` it, once.

    `sampler` draws this step alone in place of the generator's. Without any (`clear_sampler`) nothing is drawn, and
    `Generator.accept` says how it goes on.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._handles: list[Handle] = list(generator.standing_probes)
        self._sampler: Sampler | None = None
        self._draws = True
        self._drafts: tuple[int, ...] | None = None
        self._output: StepOutput | None = None

    def __repr__(self) -> str:
        return f"<Step {'executed' if self._output is not None else 'pending'} of {self._generator!r}>"

    @property
    def position(self) -> int:
        """Of the token that it decides: how many stand before it, prompt and output."""
        return len(self._generator.all_tokens)

    @property
    def output(self) -> StepOutput | None:
        """What it gave, once it is executed."""
        return self._output

    @property
    def draws(self) -> bool:
        """Whether it has a sampler."""
        return self._draws

    @property
    def sampler(self) -> Sampler | None:
        """What draws this step; None where nothing does."""
        return (self._sampler or self._generator.sampler) if self._draws else None

    @sampler.setter
    def sampler(self, sampler: Sampler) -> None:
        self._fresh()
        self._generator.check_sampler(sampler)
        self._sampler, self._draws = sampler, True

    def clear_sampler(self) -> None:
        """Draw nothing: the pass runs, the probes answer, and `accept` says which token it is."""
        self._fresh()
        self._draws = False

    def probe(self, index: int, probe: Probe) -> Handle:
        """Ask about a row of this step: 0 is the one that decides the next token, k the one behind k guesses."""
        self._fresh()
        handle = Handle(index, probe)
        self._handles.append(handle)
        return handle

    async def execute(self) -> StepOutput:
        """Run it, in one pass with whatever else runs.

        Cancelled or failed, the generator is as it was before, and this may be called again. Raises what a generation
        raises, and `StepUsed` the second time.
        """
        self._fresh()
        self._output = await self._generator.run_step(self)
        return self._output

    @property
    def handles(self) -> tuple[Handle, ...]:
        """Its probes."""
        return tuple(self._handles)

    @property
    def num_rows(self) -> int:
        """How many rows of logits its probes need."""
        return max((handle.index + 1 for handle in self._handles), default=0)

    @property
    def drafts(self) -> tuple[int, ...] | None:
        """The guesses that a speculator made for it; kept, so that a repeated step has the same."""
        return self._drafts

    @drafts.setter
    def drafts(self, drafts: tuple[int, ...]) -> None:
        self._drafts = drafts

    def _fresh(self) -> None:
        if self._output is not None:
            raise StepUsed(f"{self!r} was executed: ask the generator for the next")
        self._generator.check_step(self)
