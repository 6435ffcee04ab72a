"""By hand: `Step`, one turn of a generator before it runs; `StepOutput`, what it gave; and tokens of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from greenroom.backends.protocol import Sampled
from greenroom.constraints.masks import masked_logits
from greenroom.constraints.state import ConstraintState
from greenroom.errors import InvalidParameter, StepPending, StepUsed, TokenRefused
from greenroom.events import Finish
from greenroom.generator.cursor import Cursor, PendingStep
from greenroom.inputs import samplers
from greenroom.inputs.parameters import stop_ids
from greenroom.inputs.samplers import Sampler
from greenroom.request.generation import Generation, fork_state
from greenroom.request.probes import Distribution, Entropy, Handle, Likeliest, Logits, Logprob, Logprobs, Probe
from greenroom.request.recorder import RecordedToken
from greenroom.request.run import RunOptions, RunResult, compute_logits
from greenroom.values import sequence

__all__ = ["Step", "StepOutput", "accept", "next_step"]

Row = npt.NDArray[np.float32]


class StepOutput:
    """What a step gave: its tokens, and answers to its probes by their handles.

    `tokens` are those that were recorded: what was drawn, right guesses, and what the constraint forced; not a token
    that only ended the turn. A step without a sampler has none until they are accepted, and then they are not here.
    """

    def __init__(
        self,
        result: RunResult,
        handles: Sequence[Handle],
        *,
        constraint: ConstraintState | None,
        drafts: tuple[int, ...],
    ) -> None:
        self._result = result
        self._handles = tuple(handles)
        self._constraint = constraint
        self.tokens: tuple[int, ...] = result.tokens
        self.text = "".join([each.text for each in result.recorded])
        self.drafted = result.drafted
        self.accepted = result.accepted
        self.drafts = drafts[: result.drafted]
        """The guesses that were checked, where a speculator of the user's made them."""

    def __repr__(self) -> str:
        return f"<StepOutput tokens={self.tokens} probes={len(self._handles)}>"

    def has(self, handle: Handle) -> bool:
        """Whether the step ran the row that `handle` asks about: there is one more than guesses that were right."""
        return self._known(handle) and handle.index < len(self._result.rows)

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
        if handle.index >= len(self._result.rows):
            raise InvalidParameter(
                "handle", handle, f"of a row that was run: this step has {len(self._result.rows)} (ask `has` first)"
            )
        row: Row = self._result.rows[handle.index]
        return self._mask(row, handle.index) if handle.probe.masked else row.copy()

    def _mask(self, row: Row, index: int) -> Row:
        if self._constraint is None:
            return row.copy()
        state = self._constraint.fork()
        state.consume([*self._result.before, *self._between[:index]])
        bits = np.empty(-(-len(row) // 32), np.uint32)
        state.fill_mask(bits)
        return masked_logits(row, bits)

    @property
    def _between(self) -> tuple[int, ...]:
        """What stands between the first row and the others: the guesses, as far as they are known to be right."""
        return self.drafts or self.tokens[len(self._result.before) :]


class Step:
    """One turn: look at it, change how it draws, then `execute` it, once.

    `sampler` draws this step alone in place of the generator's. Without any (`clear_sampler`) nothing is drawn, and
    `Generator.accept` says how it goes on.
    """

    def __init__(self, cursor: Cursor, pending: PendingStep, owner: object) -> None:
        """`owner`, the generator's handle, is kept alive."""
        self._cursor = cursor
        self._pending = pending
        self._owner = owner
        self._handles: list[Handle] = list(cursor.step_probes)
        self._sampler: Sampler | None = None
        self._drafts: tuple[int, ...] | None = None
        """The guesses that a speculator made for it; kept, so that a repeated step has the same."""
        self._output: StepOutput | None = None

    def __repr__(self) -> str:
        return f"<Step {'executed' if self._output is not None else 'pending'} of {self._owner!r}>"

    @property
    def position(self) -> int:
        """Of the token that it decides: how many stand before it, prompt and output."""
        return len(self._cursor.tokens)

    @property
    def output(self) -> StepOutput | None:
        """What it gave, once it is executed."""
        return self._output

    @property
    def draws(self) -> bool:
        """Whether it has a sampler."""
        return self._pending.draws

    @property
    def sampler(self) -> Sampler | None:
        """What draws this step; None where nothing does."""
        return (self._sampler or Sampler(self._cursor.config.parameters)) if self._pending.draws else None

    @sampler.setter
    def sampler(self, sampler: Sampler) -> None:
        self._require_fresh()
        samplers.check(sampler, self._cursor.config.model.vocab_size)
        self._sampler, self._pending.draws = sampler, True

    def clear_sampler(self) -> None:
        """Draw nothing: the pass runs, the probes answer, and `accept` says which token it is."""
        self._require_fresh()
        self._pending.draws = False

    def probe(self, index: int, probe: Probe) -> Handle:
        """Ask about a row of this step: 0 is the one that decides the next token, k the one behind k guesses."""
        self._require_fresh()
        handle = Handle(index, probe)
        self._handles.append(handle)
        return handle

    async def execute(self) -> StepOutput:
        """Run it, in one pass with whatever else runs.

        Cancelled or failed, the generator is as it was before, and this may be called again. Raises what a generation
        raises, and `StepUsed` the second time.
        """
        self._require_fresh()
        with self._cursor.exclusive():
            output = await self._run()
        self._output = output
        return output

    async def _run(self) -> StepOutput:
        # 1. Where it stands, and what a speculator of the user's guesses behind that.
        cursor, pending = self._cursor, self._pending
        generation = await cursor.settle()
        if self._drafts is None:
            self._drafts = await cursor.speculation.draft(generation)
        num_rows = max((handle.index + 1 for handle in self._handles), default=0)
        # 2. One pass, which draws or only looks.
        if pending.draws:
            own = cursor.config.parameters
            drawn = own if self._sampler is None else self._sampler.parameters
            options = RunOptions(
                steps=1,
                logits=num_rows,
                drafts=self._drafts,
                drafter=cursor.speculation.engine,
                draw_with=None if drawn == own else drawn,
            )
            result = await cursor.draw(generation, options)
        else:
            result = await compute_logits(generation, cursor.buffer.context_id, logits=num_rows, drafts=self._drafts)
        # 3. What came of it. Without a sampler, `accept` commits.
        output = StepOutput(result, self._handles, constraint=generation.constraint, drafts=self._drafts)
        if pending.draws:
            cursor.step = None
            cursor.commit(result.generation)
            cursor.report(result)
        pending.is_executed, pending.drafts = True, output.drafts
        return output

    def _require_fresh(self) -> None:
        """Raise `StepUsed` for a step that is not the one at hand, `ContextClosed` where there is none any more."""
        if self._output is not None:
            raise StepUsed(f"{self!r} was executed: ask the generator for the next")
        self._cursor.require_open()
        if self._cursor.step is not self._pending:
            raise StepUsed(f"{self!r} was given up: the generator went on without it")


async def next_step(cursor: Cursor, owner: object) -> Step | None:
    """See `Generator.__anext__`; None where nothing follows."""
    with cursor.exclusive():
        cursor.require_no_step()
        generation = await cursor.begin_step()
        if generation.ending is not None:
            return None
        cursor.step = PendingStep()
        return Step(cursor, cursor.step, owner)


def accept(cursor: Cursor, tokens: Sequence[int]) -> tuple[int, ...]:
    """See `Generator.accept`."""
    step, generation = cursor.step, cursor.generation
    cursor.require_open()
    if step is None or step.draws or not step.is_executed or generation is None:
        raise StepPending("accept() follows a step without a sampler that was executed, and there is none")
    after = _append(generation, tokens)
    kept = after.tokens[len(generation.tokens) :]
    cursor.step = None
    cursor.commit(after)
    right = next((place for place, (a, b) in enumerate(zip(step.drafts, kept, strict=False)) if a != b), len(kept))
    cursor.speculation.report(kept, max(0, len(step.drafts) - right))
    return kept


def _append(generation: Generation, tokens: Sequence[int]) -> Generation:
    """`generation` behind `tokens`, up to the first that ends it. Raises, changing nothing, `TokenRefused`."""
    given: object = tokens
    if not isinstance(given, np.ndarray) or given.ndim != 1:
        sequence("tokens", given, "a sequence of tokens")
    if len(tokens) == 0:
        raise InvalidParameter("tokens", tokens, "at least one token")
    config = generation.config
    decoder = generation.decoder.fork()
    constraint = fork_state(generation.constraint)
    stops, most = stop_ids(config.parameters, config.model), config.parameters.max_tokens
    recorded: list[RecordedToken] = []
    ending: Finish | None = None
    for token in tokens:
        _check_token(token, config.model.vocab_size, constraint, stops)
        sampled = Sampled(0, int(token))
        decoded = decoder.feed((sampled,))
        recorded.append(RecordedToken(sampled, decoded.events, decoded.stop))
        if constraint is not None and recorded[-1].is_kept:
            constraint.consume((int(token),))
        if decoded.stop is not None:
            ending = Finish(decoded.stop.reason, decoded.stop.detail, decoded.stop.sequence)
        elif constraint is not None and constraint.is_stopped:
            ending = Finish("stop", "constraint")
        elif most is not None and generation.num_generated + len(recorded) >= most:
            ending = Finish("length", "max_tokens")
        if ending is not None:
            break
    after = generation.append(recorded, decoder=decoder, constraint=constraint, ending=ending)
    is_complete = constraint is not None and ending is not None and ending.reason == "stop" and constraint.is_accepting
    problem = after.check_output() if is_complete else None
    if problem is not None:
        raise problem
    return after


def _check_token(token: object, vocab_size: int, constraint: ConstraintState | None, stops: frozenset[int]) -> None:
    number = int(token) if isinstance(token, int | np.integer) and not isinstance(token, bool) else -1
    if not 0 <= number < vocab_size:
        raise TokenRefused(token, f"ids are integers from 0 to {vocab_size - 1}")
    if constraint is None:
        return
    is_stop = number in stops
    if is_stop and not constraint.is_accepting:
        raise TokenRefused(token, "it ends the turn, and what was written is not complete")
    if not is_stop and constraint.validate((number,)) != 1:
        raise TokenRefused(token, "the constraint does not allow it here")
