"""One request that carries a generation on, and the generation behind any of the tokens that it recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from anyio import EndOfStream, get_cancelled_exc_class

from greenroom.actors.decoder import Decoder
from greenroom.actors.mailbox import Mailbox
from greenroom.errors import RuntimeClosed
from greenroom.events import Info
from greenroom.request.generation import Ending, Generation
from greenroom.request.recorder import LogitsCollector, RecordedToken, RecordingDecoder
from greenroom.request.submit import TO_THE_END, RunOptions, submit

__all__ = ["Run", "RunResult", "compute_logits", "draw"]


class Run:
    """Nothing of `base` is changed: the request has copies, and `fold` makes a new generation of them.

    With a `decoder`, a stream reads the request, decoded by that. With `tells`, each `RecordedToken` can be received.
    """

    def __init__(
        self,
        base: Generation,
        context_id: int,
        options: RunOptions = TO_THE_END,
        *,
        decoder: Decoder | None = None,
        tells: bool = False,
    ) -> None:
        self._base = base
        self._is_own = decoder is None
        inner = base.decoder.fork() if decoder is None else decoder
        self._recorder = RecordingDecoder(inner, tells=tells, passes_on=not self._is_own)
        self._constraint = None if base.constraint is None else base.constraint.fork()
        self.mailbox: Mailbox = submit(
            base, context_id, decoder=self._recorder, constraint=self._constraint, options=options
        )

    def __repr__(self) -> str:
        return f"<Run recorded={len(self._recorder.recorded)} {self.mailbox!r}>"

    @property
    def recorded(self) -> list[RecordedToken]:
        """What was recorded so far; grows on the engine thread."""
        return self._recorder.recorded

    async def receive(self) -> RecordedToken | None:
        """The next recorded token; None behind the last. Raises the request's error. Cancelled, it ends the request."""
        try:
            message: Any = await self.mailbox.receive()
        except EndOfStream:
            return None
        if isinstance(message, Info):
            _check_open(message)
            return None
        return cast("RecordedToken", message)

    def fold(self, upto: int | None = None) -> Generation:
        """The generation behind the first `upto` recorded tokens; None: behind all. The request has settled."""
        info = self.mailbox.info
        if info is None:
            raise RuntimeError(f"{self!r} is not settled")
        recorded = self.recorded if upto is None else self.recorded[:upto]
        is_whole = len(recorded) == len(self.recorded) and self.mailbox.error is None
        ending = _ending_of(info) if is_whole else None
        # One that was cancelled stopped between two tokens: its constraint may be further than what was recorded.
        if is_whole and self._is_own and info.stop_reason != "cancelled":
            after = self._base.append(
                recorded, decoder=self._recorder.decoder, constraint=self._constraint, ending=ending
            )
        else:
            after = replace(self._base.replay(recorded, self._constraint), ending=ending)
        return after.count(info).conclude()


def _ending_of(info: Info) -> Ending | None:
    """What a request's end says of the generation: one that ran out of steps says nothing. Raises `RuntimeClosed`."""
    _check_open(info)
    if info.stop_reason == "stop" or info.stop_detail in ("context", "timeout"):
        return Ending(info.stop_reason, info.stop_detail, info.stop_sequence)
    return None


def _check_open(info: Info) -> None:
    if info.stop_detail == "shutdown":
        raise RuntimeClosed("the runtime was left while this generation ran")


@dataclass(frozen=True, slots=True)
class RunResult:
    """`rows` are the raw logits by number of the draw, `before` what was recorded in front of the first of them."""

    generation: Generation
    recorded: tuple[RecordedToken, ...] = ()
    rows: tuple[Any, ...] = ()
    before: tuple[int, ...] = ()
    drafted: int = 0
    accepted: int = 0

    @property
    def tokens(self) -> tuple[int, ...]:
        """What was recorded and stays."""
        return tuple([each.token for each in self.recorded if each.is_kept])


async def draw(generation: Generation, context_id: int, options: RunOptions) -> RunResult:
    """Carry `generation` on in one request, to its end. Cancelled or failed, nothing has changed: draw again."""
    run = Run(generation, context_id, options)
    info = await _settle(run.mailbox)
    recorded = tuple(run.recorded)
    first = next((place for place, each in enumerate(recorded) if each.logits is not None), 0)
    return RunResult(
        run.fold(),
        recorded,
        tuple([each.logits for each in recorded if each.logits is not None]),
        tuple([each.token for each in recorded[:first]]),
        info.drafted_tokens,
        info.accepted_tokens,
    )


async def compute_logits(
    generation: Generation, context_id: int, *, logits: int = 1, drafts: Sequence[int] = ()
) -> RunResult:
    """Run what `generation` holds, and `drafts` behind it, and draw nothing; the first `logits` rows are copied."""
    collector = LogitsCollector()
    constraint = None if generation.constraint is None else generation.constraint.fork()
    options = RunOptions(steps=1, draws=False, logits=logits, drafts=drafts)
    mailbox = submit(generation, context_id, decoder=collector, constraint=constraint, options=options)
    _check_open(await _settle(mailbox))
    rows = tuple([drawn.logits for drawn in collector.draws if drawn.logits is not None])
    return RunResult(generation, rows=rows, drafted=len(collector.draws) - 1)


async def _settle(mailbox: Mailbox) -> Info:
    """A request's end, or its error. Cancelled, it ends the request first: nothing runs on."""
    try:
        return await mailbox.wait()
    except get_cancelled_exc_class():
        await mailbox.close("scope")
        raise
