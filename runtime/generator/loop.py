"""The loop of a generator: submit one pass, draw, fold the result into the state, decide whether to stop.

It is driven in three ways. By hand: `next_step`, `run_step`, and `accept` where the user draws. By a reader: `pull`
runs ahead in one request and hands over token by token, with a speculator of the user's step by step. To the end:
`run_out`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from greenroom.actors.decoder import Decoder
from greenroom.actors.mailbox import Mailbox
from greenroom.backends.protocol import ModelInfo
from greenroom.errors import StepPending, StepUsed
from greenroom.events import Event
from greenroom.generator.accepting import accepted
from greenroom.generator.cursor import Cursor
from greenroom.generator.read_ahead import Lent, ReadAhead, Running, Stepping
from greenroom.generator.speculator import judged
from greenroom.generator.steps import Step, StepOutput
from greenroom.inputs.parameters import GenerateParameters
from greenroom.request.generation import Generation
from greenroom.request.recorder import RecordedToken
from greenroom.request.run import Turn, look, take

if TYPE_CHECKING:
    from greenroom.generator.api import Generator

__all__ = ["accept", "check_step", "lend", "next_step", "pull", "pull_event", "run_out", "run_step"]


# By hand.


async def next_step(at: Cursor, generator: Generator) -> Step | None:
    """See `Generator.__anext__`; None where nothing follows."""
    with at.alone():
        at.no_step()
        state = await at.on()
        if state.ending is not None:
            return None
        at.step = Step(generator)
        return at.step


def check_step(at: Cursor, step: Step) -> None:
    """Raise `StepUsed` for a step that is not the one at hand, `ContextClosed` where there is none any more."""
    at.open()
    if at.step is not step:
        raise StepUsed(f"{step!r} was given up: the generator went on without it")


async def run_step(at: Cursor, step: Step, own: GenerateParameters | None) -> StepOutput:
    """Run the step at hand, drawing as `own` says (None: as the generator does), if it draws."""
    with at.alone():
        state = await at.here()
        drafts = step.drafts if step.drafts is not None else await at.speculation.drafts(at.course, state)
        step.drafts = drafts
        if not step.draws:
            turn = await look(at.course, state, at.context.line, logits=step.num_rows, drafts=drafts)
        else:
            turn = await _taken(at, state, drafts, logits=step.num_rows, draw_with=own)
        output = StepOutput(turn, step.handles, constraint=state.constraint, drafts=drafts)
        if step.draws:
            at.step = None
            at.commit(turn.state)
            _judge(at, turn.tokens, turn.drafted - turn.accepted)
        return output


def accept(at: Cursor, tokens: Sequence[int]) -> tuple[int, ...]:
    """See `Generator.accept`."""
    step, state = at.step, at.state
    at.open()
    if step is None or step.draws or step.output is None or state is None:
        raise StepPending("accept() follows a step without a sampler that was executed, and there is none")
    after = accepted(at.course, state, tokens)
    kept = after.tokens[len(state.tokens) :]
    at.step = None
    at.commit(after)
    drafts = step.output.drafts
    right = next((place for place, (a, b) in enumerate(zip(drafts, kept, strict=False)) if a != b), len(kept))
    _judge(at, kept, max(0, len(drafts) - right))
    return kept


# By a reader.


async def pull(at: Cursor) -> RecordedToken | None:
    """The next token that stays; None behind the last."""
    with at.alone():
        at.no_step()
        return await _pulled(at)


async def pull_event(at: Cursor) -> Event | None:
    """The next event; None behind the last."""
    with at.alone():
        at.no_step()
        while True:
            if at.unread:
                return at.unread.popleft()
            said = await _pulled(at)
            if said is not None:
                at.unread.extend(said.events)  # type: ignore[arg-type]  # a text decoder gives no `Token`
            elif at.has_told_end:
                return None
            else:
                at.has_told_end = True
                at.unread.extend((*at.tail, at.info))  # type: ignore[arg-type]


async def _pulled(at: Cursor) -> RecordedToken | None:
    while True:
        lead = at.lead
        if lead is None:
            state = await at.on()
            if state.ending is not None:
                return None
            lead = at.lead = _ahead_of(at, state)
        try:
            said = await lead.next()
        except Exception:
            at.end_lead(lead)
            raise
        if said is None:
            at.end_lead(lead)
        elif said.is_kept:
            return said


def _ahead_of(at: Cursor, state: Generation) -> ReadAhead:
    if at.speculation.user is None:
        return Running(at.course, state, at.context.line, at.speculation.engine, at.deadline)

    async def step(state: Generation) -> Turn:
        state = at.course.overdue(state, at.deadline)
        if state.ending is not None:
            return Turn(state)
        turn = await _taken(at, state, await at.speculation.drafts(at.course, state))
        _judge(at, turn.tokens, turn.drafted - turn.accepted)
        return turn

    return Stepping(at.course, state, step)


async def lend(at: Cursor, decoder: Callable[[GenerateParameters, ModelInfo], Decoder]) -> Mailbox:
    """Go on in one request that a stream reads."""
    with at.alone():
        at.no_step()
        state = await at.on()
        made = decoder(at.course.parameters, at.course.model)
        at.lead = lead = Lent(at.course, state, at.context.line, made, at.deadline)
        return lead.mailbox


# To the end.


async def run_out(at: Cursor) -> None:
    """Run until nothing follows."""
    with at.alone():
        at.no_step()
        if at.lead is not None or at.speculation.user is not None:
            while await _pulled(at) is not None:
                pass
            return
        state = await at.on()
        while state.ending is None:
            turn = await take(
                at.course, state, at.context.line, steps=None, speculator=at.speculation.engine, deadline=at.deadline
            )
            state = turn.state
            at.commit(state)


async def _taken(
    at: Cursor,
    state: Generation,
    drafts: tuple[int, ...],
    *,
    logits: int = 0,
    draw_with: GenerateParameters | None = None,
) -> Turn:
    return await take(
        at.course,
        state,
        at.context.line,
        logits=logits,
        drafts=drafts,
        speculator=at.speculation.engine,
        draw_with=draw_with,
    )


def _judge(at: Cursor, tokens: Sequence[int], wrong: int) -> None:
    if at.speculation.user is not None:
        judged(at.speculation.user, tokens, wrong)
