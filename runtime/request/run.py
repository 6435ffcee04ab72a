"""One step of a generation as a request: what it drew, what it was drawn from, and the state behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from greenroom.actors.scheduler.draft_tokens import Speculator as EngineSpeculator
from greenroom.inputs.parameters import GenerateParameters
from greenroom.request.config import GenerationConfig, settled
from greenroom.request.generation import Generation, advanced
from greenroom.request.recorder import LogitsCollector, RecordedToken, RecordingDecoder

__all__ = ["Turn", "look", "take"]


@dataclass(frozen=True)
class Turn:
    """`rows` are the raw logits by number of the draw, `before` what was recorded in front of the first of them."""

    state: Generation
    said: tuple[RecordedToken, ...] = ()
    rows: tuple[Any, ...] = ()
    before: tuple[int, ...] = ()
    drafted: int = 0
    accepted: int = 0

    @property
    def tokens(self) -> tuple[int, ...]:
        """What was recorded and stays."""
        return tuple([each.token for each in self.said if each.is_kept])


async def take(
    course: GenerationConfig,
    state: Generation,
    line: int,
    *,
    steps: int | None = 1,
    logits: int = 0,
    drafts: Sequence[int] = (),
    speculator: EngineSpeculator | None = None,
    draw_with: GenerateParameters | None = None,
    deadline: float | None = None,
) -> Turn:
    """Draw `steps` times from `state` (None: to the end), behind guesses perhaps; `logits` rows are copied.

    At `deadline`, in monotonic seconds, it ends where it is.

    Cancelled or failed, it has changed nothing, and may be taken again.
    """
    recorder = RecordingDecoder(state.decoder.fork())
    constraint = None if state.constraint is None else state.constraint.fork()
    mailbox = course.request(
        state,
        line,
        recorder,
        constraint,
        steps=steps,
        logits=tuple(range(logits)),
        drafts=tuple(drafts),
        speculator=speculator,
        draw_with=draw_with,
        deadline=deadline,
    )
    info = await settled(mailbox)
    said = tuple(recorder.said)
    ending = course.ended(info)
    if info.stop_reason == "cancelled":  # by its deadline, between two tokens: its constraint may be further
        after = replace(course.cut(state, said, constraint), ending=ending)
    else:
        after = advanced(state, said, decoder=recorder.decoder, constraint=constraint, ending=ending)
    after = replace(after, counts=state.counts.then(info))
    first = next((place for place, each in enumerate(said) if each.logits is not None), 0)
    return Turn(
        replace(after, ending=course.ending(after)),
        said,
        tuple([each.logits for each in said if each.logits is not None]),
        tuple([each.token for each in said[:first]]),
        info.drafted_tokens,
        info.accepted_tokens,
    )


async def look(
    course: GenerationConfig, state: Generation, line: int, *, logits: int = 1, drafts: Sequence[int] = ()
) -> Turn:
    """Run what `state` holds, and `drafts` behind it, and draw nothing; the first `logits` rows are copied."""
    looking = LogitsCollector()
    constraint = None if state.constraint is None else state.constraint.fork()
    mailbox = course.request(
        state, line, looking, constraint, steps=1, draws=False, logits=tuple(range(logits)), drafts=tuple(drafts)
    )
    info = await settled(mailbox)
    course.ended(info)
    rows = tuple([drawn.logits for drawn in looking.draws if drawn.logits is not None])
    return Turn(state, rows=rows, drafted=len(looking.draws) - 1)
