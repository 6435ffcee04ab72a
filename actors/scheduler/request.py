"""One request as the engine sees it: its tokens, its row, its credit, and its state.

The states and the legal moves between them are the table `MOVES`; an illegal move raises and changes nothing.

    waiting -> prefill -> decode -> ending -> settled
       ^          |       |   ^
       |          |       v   |
       +----------+---- paused

A request that lost its KV (a paused one under pressure, or the youngest when rows outgrow the budget) waits again and
is run from its recorded tokens: `replay`. `ending` means that no pass will hold the row again, though one may be in
flight.
"""

from __future__ import annotations

from enum import Enum

from greenroom.actors.drafter import Drafter
from greenroom.actors.messages import Submit
from greenroom.actors.scheduler.shares import Account
from greenroom.constraints.state import ConstraintState
from greenroom.events import Finish, Info, StopDetail

__all__ = [
    "CREDIT",
    "MOVES",
    "Constrained",
    "DraftState",
    "Endings",
    "Failure",
    "Output",
    "Progress",
    "Request",
    "RequestState",
    "Timing",
]

CREDIT = 256
"""Tokens a stream may be ahead of its reader: about ten seconds of text at reading speed, some tens of kilobytes.

"""
_REPLAY_CREDIT = 4
"""How far ahead one that lost its KV may be, in lengths of what is run again: else that is more than what it gains.

Its events take about a hundredth of what its KV does.
"""
_ALIKE = 64
"""Tokens that prompts have to have in common for it to matter: a block of what is kept of prompts that are over."""
_CAUGHT_UP = CREDIT // 4
"""Unread tokens behind which a request is run again: its reader gives credit back in lumps of as many."""


class RequestState(Enum):
    """Of a request."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    PAUSED = "paused"
    ENDING = "ending"
    SETTLED = "settled"


MOVES: dict[RequestState, frozenset[RequestState]] = {
    RequestState.WAITING: frozenset({RequestState.PREFILL, RequestState.ENDING}),
    RequestState.PREFILL: frozenset({RequestState.DECODE, RequestState.WAITING, RequestState.ENDING}),
    RequestState.DECODE: frozenset({RequestState.PAUSED, RequestState.WAITING, RequestState.ENDING}),
    RequestState.PAUSED: frozenset({RequestState.DECODE, RequestState.WAITING, RequestState.ENDING}),
    RequestState.ENDING: frozenset({RequestState.SETTLED}),
    RequestState.SETTLED: frozenset(),
}


class Failure(Finish, frozen=True, kw_only=True):
    """The end of a request that failed."""

    error: Exception

    @staticmethod
    def of(error: Exception) -> Failure:
        """Told as a cancellation, beside the error."""
        return Failure("cancelled", "scope", error=error)


class DraftState:
    """A request's draft tokens: who makes them, those in the pass in flight, and how many were right."""

    __slots__ = ("dead_end", "drafter", "given", "in_flight", "needs_rewind", "num_accepted", "num_drafted")

    def __init__(self, drafter: Drafter | None, given: tuple[int, ...]) -> None:
        self.drafter = drafter
        self.given = given
        """Made by the caller, for the first step."""
        self.in_flight: tuple[int, ...] = ()
        self.dead_end: tuple[int, Finish] | None = None
        """Behind so many of them nothing is legal: what is drawn there counts for nothing, and the request ends."""
        self.num_drafted = 0
        self.num_accepted = 0
        self.needs_rewind = False
        """The backend's row holds wrong ones, behind the tokens that count as computed."""

    def update(self, drafted: int, accepted: int) -> None:
        """Count the tokens of a pass that came back, the first `accepted` of them right, and tell the drafter."""
        self.num_drafted += drafted
        self.num_accepted += accepted
        self.needs_rewind = accepted < drafted
        if self.drafter is not None:
            self.drafter.update(drafted, accepted)


class Progress:
    """How far the passes of a request have come."""

    __slots__ = (
        "doubted_at",
        "is_redirected",
        "is_yielding",
        "must_run_again",
        "num_cached",
        "num_computed",
        "num_in_flight",
        "num_steps",
        "num_to_discard",
        "passes_in_flight",
    )

    def __init__(self) -> None:
        self.num_computed = 0
        """Tokens that the submitted passes have run; one more than are recorded while one is drawn and not read.

        Fewer than are recorded while forced ones are still to be run.
        """
        self.passes_in_flight = 0
        """Submitted passes that hold the row and were not read."""
        self.num_in_flight = 0
        """Tokens drawn by passes in flight."""
        self.num_to_discard = 0
        """Draws of passes in flight that do not count: what they draw was forced, and so known before."""
        self.is_redirected = False
        """The backend's pending token is such a draw: what is known must be fed in its place."""
        self.is_yielding = False
        """Chosen to give its KV back as soon as no pass holds its row."""
        self.must_run_again = False
        """Its row is in doubt: it is given back as soon as no pass holds it, and its tokens are run again."""
        self.doubted_at = -1
        """How many tokens were recorded when that happened last."""
        self.num_steps = 0
        """Steps in which a token was drawn."""
        self.num_cached = 0
        """Tokens of the prompt that were not run, because their KV was there."""


class Output:
    """What a request has generated, and what of it its consumer has."""

    __slots__ = (
        "credit",
        "has_end_token",
        "num_awaiting",
        "num_buffered",
        "num_counted",
        "num_forced",
        "num_forced_runs",
        "num_tokens",
        "num_undelivered",
        "undecoded",
    )

    def __init__(self) -> None:
        self.num_tokens = 0
        self.num_counted = 0
        """Of them, how many are in the scheduler's totals."""
        self.num_forced = 0
        self.num_forced_runs = 0
        self.undecoded: list[int] = []
        """Forced tokens, the last of the recorded ones, that the decoder has not seen."""
        self.has_end_token = False
        """The last recorded token is a stop token."""
        self.num_buffered = 0
        """Tokens whose events the decoder still holds. They cost no credit: nobody can read what is held back."""
        self.num_undelivered = 0
        """Tokens' worth of events that the consumer has not read."""
        self.credit = CREDIT
        """How many that may be."""
        self.num_awaiting = 0
        """Who awaits the request's end: while somebody does, it needs no credit."""


class Timing:
    """The moments of a request, in monotonic seconds."""

    __slots__ = ("first_chunk", "first_token", "is_counted", "last_token")

    def __init__(self) -> None:
        self.first_chunk: float | None = None
        self.first_token: float | None = None
        self.last_token: float | None = None
        self.is_counted = False
        """Its `first_chunk` is in the totals."""


class Constrained:
    """A request's constraint. It may be the user's own: what it raises is kept as its `failure`."""

    __slots__ = ("cause", "failure", "forces", "state")

    def __init__(self, state: ConstraintState, *, forces: bool) -> None:
        self.state = state
        self.forces = forces
        """Whether forced tokens are fed without being drawn."""
        self.failure: str | None = None
        self.cause: BaseException | None = None
        """What it raised, where that is no `Exception`: an interrupt, an exit, a cancellation of its own making."""

    def forced_tokens(self, most: int) -> tuple[int, ...]:
        """Up to `most` tokens that must come next, where they need not be drawn."""
        if not self.forces:
            return ()
        try:
            return tuple(self.state.forced_tokens()[:most])
        except BaseException as cause:  # noqa: BLE001 - a constraint may be the user's own
            self._fail(cause)
            return ()

    def consume(self, tokens: tuple[int, ...]) -> bool:
        """Go on by `tokens`; whether nothing may follow them."""
        state = self.state
        try:
            state.consume(tokens)
            if state.error is None:
                return state.is_stopped
            self.failure = state.error
        except BaseException as cause:  # noqa: BLE001 - likewise
            self._fail(cause)
        return False

    def rollback(self, count: int) -> None:
        """Take the last `count` tokens back."""
        try:
            self.state.rollback(count)
        except BaseException as cause:  # noqa: BLE001 - likewise
            self._fail(cause)

    @property
    def is_complete(self) -> bool:
        """Whether it accepts what was written."""
        try:
            return self.failure is None and self.state.is_accepting
        except BaseException:  # noqa: BLE001 - likewise
            return False

    def _fail(self, cause: BaseException) -> None:
        self.failure = f"{type(cause).__name__}: {cause}"
        self.cause = None if isinstance(cause, Exception) else cause


class Request:
    """Mutable, touched by the engine thread alone."""

    __slots__ = (
        "account",
        "beginning",
        "constraint",
        "drafts",
        "end",
        "horizon",
        "id",
        "is_first",
        "limit",
        "output",
        "progress",
        "queued",
        "row",
        "state",
        "submit",
        "timing",
        "tokens",
    )

    def __init__(self, submit: Submit, account: Account, *, limit: int) -> None:
        """`account`: its user's. `limit`: the most tokens, prompt and output, that its row may hold."""
        self.submit = submit
        self.id = submit.request
        self.account = account
        self.limit = limit
        self.queued = submit.submitted
        """Since when it waits, in monotonic seconds."""
        self.beginning = _beginning(submit)
        """What prompts have in common whose first tokens are the same; None where it says nothing."""
        self.is_first = False
        """It has lost a row, and waits before all others: see `waiting`."""
        self.horizon = submit.horizon
        """Tokens that are expected of it in all; None where nobody has said."""
        self.state = RequestState.WAITING
        self.row: int | None = None
        self.tokens: list[int] = list(submit.prompt)
        """Prompt and every token read or forced so far: what a replay runs."""
        self.constraint: Constrained | None = None
        if submit.constraint is not None:
            # Log-probabilities are only of what is drawn.
            forces = submit.force_tokens and submit.sampling.logprobs is None
            self.constraint = Constrained(submit.constraint, forces=forces)
        self.progress = Progress()
        self.drafts = DraftState(submit.drafter, submit.drafts)
        self.output = Output()
        self.timing = Timing()
        self.end: Finish | None = None

    def __repr__(self) -> str:
        state, ahead = self.state.value, self.output.num_undelivered
        return f"<Request {self.id} {state} row={self.row} tokens={len(self.tokens)} undelivered={ahead}>"

    def move(self, state: RequestState) -> None:
        """Go to `state`, if that is legal."""
        if state not in MOVES[self.state]:
            raise ValueError(f"{self!r} cannot go to {state.value}")
        self.state = state

    @property
    def is_step(self) -> bool:
        """Whether it was made for so many draws, as a step of a generator by hand is."""
        return self.submit.steps is not None

    @property
    def has_credit(self) -> bool:
        """Whether one more token may be drawn before the consumer reads."""
        output = self.output
        return output.num_awaiting > 0 or output.num_undelivered + self.progress.num_in_flight < output.credit

    @property
    def is_due(self) -> bool:
        """Whether it is worth a row, while it waits: to run one again for a few tokens is not, before they are read."""
        output = self.output
        is_replay = self.timing.first_token is not None
        return not is_replay or output.num_awaiting > 0 or output.num_undelivered <= _CAUGHT_UP

    @property
    def can_decode(self) -> bool:
        """Whether a decoding row may draw one more token now, those in flight included.

        With draft tokens in flight it may not: which tokens it goes on from is known once they are checked.
        """
        progress, steps = self.progress, self.submit.steps
        if progress.is_yielding or progress.must_run_again or self.drafts.in_flight:
            return False
        if steps is not None and progress.num_steps + progress.num_in_flight >= steps:
            return False
        return self.room > progress.num_in_flight and self.has_credit

    @property
    def room(self) -> int:
        """How many more tokens it may have, behind those that are recorded."""
        room, max_tokens = self.limit - len(self.tokens), self.submit.max_tokens
        if max_tokens is None:
            return room
        output = self.output
        return min(room, max_tokens - output.num_tokens - len(output.undecoded))

    @property
    def num_uncomputed(self) -> int:
        """How many recorded tokens no pass has run."""
        return len(self.tokens) - self.progress.num_computed

    @property
    def prompt_end(self) -> int:
        """How many tokens come before what is generated, by it and by its context in the requests before it."""
        return len(self.submit.prompt) - self.submit.num_generated_before

    @property
    def start(self) -> int | None:
        """The same, for a backend; None for a plain row without a context, which holds no prompt otherwise."""
        return None if self.submit.context_id is None and self.submit.kv is None else self.prompt_end

    @property
    def output_tokens(self) -> tuple[int, ...]:
        """The tokens behind the prompt, without one that only ended the turn."""
        stop = len(self.tokens) - self.output.has_end_token
        return tuple(self.tokens[len(self.submit.prompt) : stop])

    def length_detail(self) -> StopDetail:
        """Which length it is that ended it."""
        max_tokens = self.submit.max_tokens
        return "max_tokens" if max_tokens is not None and self.output.num_tokens >= max_tokens else "context"

    @property
    def num_recorded(self) -> int:
        """How many tokens it has recorded itself."""
        return len(self.tokens) - len(self.submit.prompt)

    @property
    def num_generated(self) -> int:
        """How many recorded tokens were generated, by it and by its context in the requests before it."""
        return len(self.tokens) - self.prompt_end

    def expected_length(self, output: int) -> int:
        """Tokens that its row is expected to hold in the end, where an open-ended output counts `output` tokens."""
        max_tokens, first = self.submit.max_tokens, len(self.submit.prompt)
        output = output if max_tokens is None else min(max_tokens, output)
        return min(max(first + output, len(self.tokens) + 1), self.limit)

    @property
    def is_whole(self) -> bool:
        """Whether its output is over, and not only this request of it; one that was cancelled is by that."""
        end = self.end
        if end is None or isinstance(end, Failure) or self.timing.first_token is None or not self.submit.draws:
            return False
        if end.reason == "cancelled":
            return self.submit.context_id is None  # else its context may go on
        return not self.is_step or end.reason == "stop" or self.room <= 0

    def begin_row(self, num_computed: int) -> None:
        """Begin with the KV of that many tokens, which no pass has to run."""
        self.progress.num_computed = num_computed
        self.progress.num_cached = self.progress.num_cached or min(num_computed, len(self.submit.prompt))

    def doubt_draw(self) -> bool:
        """Drop a draw that failed and may pass, and those behind it: its tokens are run again, in another row.

        False where they were already, and failed at the same place.
        """
        progress = self.progress
        if progress.num_to_discard:  # it counts for nothing anyway
            progress.num_to_discard -= 1
            return True
        if progress.doubted_at == len(self.tokens):
            return False
        progress.doubted_at, progress.must_run_again = len(self.tokens), True
        progress.num_to_discard, progress.num_in_flight = progress.num_in_flight - 1, 0
        self.drafts.in_flight, self.drafts.dead_end = (), None
        return True

    def lose_passes(self, now: float) -> None:
        """The passes in flight that hold it will never be read: what they draw is drawn again. `now` as elsewhere."""
        progress, drafts = self.progress, self.drafts
        progress.passes_in_flight = progress.num_in_flight = progress.num_to_discard = 0
        if drafts.drafter is None:
            drafts.given = drafts.in_flight or drafts.given
        drafts.in_flight, drafts.dead_end = (), None
        if self.timing.first_chunk is None:  # it has left the queue, and that was told
            self.timing.first_chunk = now

    def forget_row(self) -> None:
        """Its KV is gone; the tokens stay, to be run again."""
        self.output.credit = max(CREDIT, _REPLAY_CREDIT * len(self.tokens))
        self.row = None
        self.progress.num_computed = 0
        self.progress.is_yielding = False
        self.progress.must_run_again = False
        self.progress.is_redirected = False
        self.drafts.needs_rewind = False

    def info(self, now: float) -> Info:
        """The closing event; of a shutdown where no `end` is set."""
        end = self.end or Finish("cancelled", "shutdown")
        timing, output = self.timing, self.output
        first_chunk = timing.first_chunk if timing.first_chunk is not None else now
        first_token = timing.first_token if timing.first_token is not None else first_chunk
        last_token = timing.last_token if timing.last_token is not None else first_token
        return Info(
            stop_reason=end.reason,
            stop_detail=end.detail,
            stop_sequence=end.sequence,
            prompt_tokens=len(self.submit.prompt),
            cached_prompt_tokens=self.progress.num_cached,
            generation_tokens=output.num_tokens,
            forced_tokens=output.num_forced,
            forced_runs=output.num_forced_runs,
            drafted_tokens=self.drafts.num_drafted,
            accepted_tokens=self.drafts.num_accepted,
            constraint_complete=None if self.constraint is None else self.constraint.is_complete,
            queue_time=first_chunk - self.submit.submitted,
            prompt_time=first_token - first_chunk,
            generate_time=last_token - first_token,
            seed=self.submit.reported_seed,
        )


def _beginning(submit: Submit) -> int | None:
    """A number for the prompt's first tokens; None of a short prompt, and of a row that shares nothing."""
    is_shared = submit.kv is None and len(submit.prompt) > _ALIKE
    return hash((submit.adapter, submit.prompt[:_ALIKE])) if is_shared else None


Endings = list[tuple[Request, Finish]]
"""Requests that something other than their tokens has brought to an end, and why."""
