"""One request that carries a generation on: how it is built, and the generation behind any token that it recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from anyio import EndOfStream, get_cancelled_exc_class

from greenroom.actors.decoder import Decoder
from greenroom.actors.drafter import Drafter
from greenroom.actors.mailbox import Mailbox
from greenroom.actors.messages import Submit
from greenroom.constraints.constraint import CompiledConstraint
from greenroom.constraints.lengths import longest_output
from greenroom.constraints.state import ConstraintState
from greenroom.errors import RuntimeClosed
from greenroom.events import Finish, Info
from greenroom.inputs.parameters import GenerateParameters, sampling, stop_ids
from greenroom.request.generation import Generation, fork_state
from greenroom.request.recorder import LogitsCollector, RecordedToken, RecordingDecoder

__all__ = ["TO_THE_END", "Progress", "Run", "RunOptions", "RunResult", "build_submit", "compute_logits", "draw"]

Progress = Callable[[int, int], object]
"""Called on the engine thread with prompt tokens run, and all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How far one request carries a generation, and what it looks at on the way."""

    steps: int | None = None
    """Draws; None: to the end."""
    draws: bool = True
    """Off, the pass runs, and nothing is recorded."""
    logits: int = 0
    """The raw logits of so many draws are copied."""
    drafts: Sequence[int] = ()
    drafter: Drafter | None = None
    draw_with: GenerateParameters | None = None
    """Draws in place of the generation's own parameters."""
    submitted: float | None = None
    """Monotonic seconds; None: now."""
    deadline: float | None = None
    """The same; None: never."""
    progress: Progress | None = None


TO_THE_END = RunOptions()


def _submit(
    generation: Generation,
    context_id: int,
    *,
    decoder: Decoder,
    constraint: ConstraintState | None,
    options: RunOptions = TO_THE_END,
) -> Mailbox:
    """Go on from `generation` in the row of `context_id`; `decoder` and `constraint` are the request's own.

    Raises `TooBusy`, `RuntimeClosed`, `EngineFailed`.
    """

    def make(request: int) -> Submit:
        return build_submit(generation, request, options, decoder=decoder, constraint=constraint, context_id=context_id)

    config = generation.config
    return config.client.submit(make, client=config.parameters.client)


def build_submit(
    generation: Generation,
    request: int,
    options: RunOptions,
    *,
    decoder: Decoder,
    constraint: ConstraintState | None,
    context_id: int | None,
) -> Submit:
    """The one place where a request is built; `decoder` and `constraint` are its own."""
    config, parameters = generation.config, generation.config.parameters
    drawn = options.draw_with or parameters
    seed = generation.seed if options.draw_with is None or drawn.seed is None else drawn.seed
    stops, most = stop_ids(parameters, config.model), parameters.max_tokens
    return Submit(
        request=request,
        prompt=generation.tokens,
        sampling=sampling(drawn, seed=seed, stop_ids=stops, prompt_tokens=generation.start),
        max_tokens=None if most is None or not options.draws else most - generation.num_generated,
        submitted=time.monotonic() if options.submitted is None else options.submitted,
        deadline=options.deadline,
        decoder=decoder,
        reported_seed=seed,
        progress=options.progress,
        kv=config.kv,
        constraint=constraint,
        check=None if config.compiled is None or not options.draws else _check(config.compiled, generation.output),
        force_tokens=parameters.force_tokens and options.draws,
        context_id=context_id,
        num_generated_before=generation.num_generated,
        steps=options.steps,
        draws=options.draws,
        logits=tuple(range(options.logits)),
        drafts=tuple(options.drafts),
        drafter=options.drafter,
        adapter=0 if config.adapter is None else config.adapter.number,
        horizon=horizon_of(generation),
        priority=parameters.priority,
        client=parameters.client,
        user=parameters.user,
        weight=float(parameters.weight),
    )


def horizon_of(generation: Generation) -> int | None:
    """How many more tokens its caller expects of it, or its constraint allows; None where nothing is said, or more."""
    horizon, constraint = generation.config.parameters.horizon, generation.config.whole_constraint
    longest = None if horizon is not None or constraint is None else longest_output(constraint)
    if longest is not None:
        horizon = longest + 1  # a token has a character or more, but for the one that ends the text
    left = 0 if horizon is None else horizon - generation.num_generated
    return left if left > 0 else None


def _check(compiled: CompiledConstraint, before: tuple[int, ...]) -> Callable[[tuple[int, ...]], str | None]:
    """The check of a whole output, where a request brings the last part of it."""
    return (lambda tokens: compiled.check((*before, *tokens))) if before else compiled.check


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
        self._constraint = fork_state(base.constraint)
        self.mailbox: Mailbox = _submit(
            base, context_id, decoder=self._recorder, constraint=self._constraint, options=options
        )

    def __repr__(self) -> str:
        return f"<Run recorded={len(self._recorder.recorded)} {self.mailbox!r}>"

    @property
    def recorded(self) -> list[RecordedToken]:
        """What was recorded so far; grows on the engine thread."""
        return self._recorder.recorded

    def expect(self, horizon: int | None) -> None:
        """Expect so many tokens of the generation in all, here and in what goes on from it."""
        self._base = self._base.expecting(horizon)
        self._base.config.client.expect(self.mailbox.request, horizon_of(self._base))

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
        ending = _finish_of(info) if is_whole else None
        # One that was cancelled stopped between two tokens: its constraint may be further than what was recorded.
        if is_whole and self._is_own and info.stop_reason != "cancelled":
            after = self._base.append(
                recorded, decoder=self._recorder.decoder, constraint=self._constraint, ending=ending
            )
        else:
            after = replace(self._base.replay(recorded, self._constraint), ending=ending)
        return after.count(info).conclude()


def _finish_of(info: Info) -> Finish | None:
    """What a request's end says of the generation: one that ran out of steps says nothing. Raises `RuntimeClosed`."""
    _check_open(info)
    if info.stop_reason == "stop" or info.stop_detail in ("context", "timeout"):
        return info.finish
    return None


def _check_open(info: Info) -> None:
    if info.stop_detail == "shutdown":
        raise RuntimeClosed("the runtime was left, or had drained for as long as it might, while this generation ran")


@dataclass(frozen=True, slots=True)
class RunResult:
    """`rows` are the raw logits by number of the draw, `before` what was recorded in front of the first of them."""

    generation: Generation
    recorded: tuple[RecordedToken, ...] = ()
    rows: tuple[Any, ...] = ()
    before: tuple[int, ...] = ()
    drafted: int = 0
    accepted: int = 0
    num_cached: int = 0
    """Tokens of its prompt whose KV was there."""

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
    constraint = fork_state(generation.constraint)
    options = RunOptions(steps=1, draws=False, logits=logits, drafts=drafts)
    mailbox = _submit(generation, context_id, decoder=collector, constraint=constraint, options=options)
    info = await _settle(mailbox)
    _check_open(info)
    rows = tuple([drawn.logits for drawn in collector.draws if drawn.logits is not None])
    drafted = len(collector.draws) - 1
    return RunResult(generation, rows=rows, drafted=drafted, num_cached=info.cached_prompt_tokens)


async def _settle(mailbox: Mailbox) -> Info:
    """A request's end, or its error. Cancelled, it ends the request first: nothing runs on."""
    try:
        return await mailbox.wait()
    except get_cancelled_exc_class():
        await mailbox.close("scope")
        raise
