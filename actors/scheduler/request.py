"""One request as the engine sees it: its tokens, its row, its credit, and where it stands.

The states and the legal moves between them are the table `MOVES`; an illegal move raises and changes nothing.

    waiting -> prefill -> decode -> ending -> settled
       ^          |       |   ^
       |          |       v   |
       +----------+---- paused

A request that lost its KV (a paused one under pressure, or the youngest when rows outgrow the budget) waits again and
is run from its recorded tokens: `replay`. `ending` means that no pass will hold the row again, though one may be under
way.
"""

from __future__ import annotations

from enum import Enum

from greenroom.actors.drafter import Drafter
from greenroom.actors.messages import Submit
from greenroom.events import Info, StopDetail, StopReason

__all__ = ["CREDIT", "MOVES", "DraftState", "End", "Request", "RequestState"]

CREDIT = 256
"""Tokens a stream may be ahead of its reader: about ten seconds of text at reading speed, some tens of kilobytes."""


class RequestState(Enum):
    """Where a request stands."""

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


class End:
    """Why a request ends: a reason and its detail, or an error."""

    __slots__ = ("detail", "error", "reason", "sequence")

    def __init__(
        self,
        reason: StopReason,
        detail: StopDetail,
        *,
        sequence: str | int | None = None,
        error: Exception | None = None,
    ) -> None:
        self.reason: StopReason = reason
        self.detail: StopDetail = detail
        self.sequence = sequence
        self.error = error


class DraftState:
    """A request's draft tokens: who makes them, those in the pass in flight, and how many were right."""

    __slots__ = ("dead_end", "drafter", "given", "in_flight", "needs_rewind", "num_accepted", "num_drafted")

    def __init__(self, drafter: Drafter | None, given: tuple[int, ...]) -> None:
        self.drafter = drafter
        self.given = given
        """Made by the caller, for the first step."""
        self.in_flight: tuple[int, ...] = ()
        self.dead_end: tuple[int, End] | None = None
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


class Request:
    """Mutable, touched by the engine thread alone."""

    def __init__(self, submit: Submit, *, limit: int, vocab_size: int) -> None:
        """`limit`: the most tokens, prompt and output, that its row may hold."""
        self.vocab_size = vocab_size
        self.submit = submit
        self.id = submit.request
        self.decoder = submit.decoder
        self.constraint = submit.constraint
        self.forces = submit.force_tokens and submit.sampling.logprobs is None
        """Whether forced tokens are fed without being drawn; log-probabilities are only of what is drawn."""
        self.limit = limit
        self.state = RequestState.WAITING
        self.row: int | None = None
        self.tokens: list[int] = list(submit.prompt)
        """Prompt and every token read or forced so far: what a replay runs."""
        self.fed = 0
        """How many tokens the submitted passes have run; one more than `tokens` while one is drawn but unread.

        Fewer than `tokens` while forced ones are still to be run.
        """
        self.under_way = 0
        """Submitted passes that hold the row and were not read."""
        self.unread = 0
        """Tokens drawn by submitted passes and not read."""
        self.drafts = DraftState(submit.drafter, submit.drafts)
        self.drawn = 0
        """Steps in which a token was drawn."""
        self.stale = 0
        """Draws of submitted passes that do not count: what they draw was forced to be known before."""
        self.is_redirected = False
        """The backend's pending token is such a draw: what is known must be fed in its place."""
        self.untold: list[int] = []
        """Forced tokens behind the prompt that the decoder has not seen."""
        self.forced_tokens = 0
        self.forced_runs = 0
        self.constraint_failure: str | None = None
        self.has_end_token = False
        """The last of `tokens` is a stop token."""
        self.reused = 0
        """Tokens of the prompt that were not run, because their KV was there."""
        self.emitted = 0
        self.counted = 0
        """Of `emitted`, how many are in the scheduler's totals."""
        self.ahead = 0
        """Tokens' worth of events that the consumer has not read."""
        self.held_back = 0
        """Tokens whose events the decoder still holds. They cost no credit: nobody can read what is held back."""
        self.awaited = 0
        self.is_yielding = False
        """Chosen to give its KV back as soon as no pass holds its row."""
        self.end: End | None = None
        self.first_chunk: float | None = None
        self.first_token: float | None = None
        self.last_token: float | None = None

    def __repr__(self) -> str:
        return f"<Request {self.id} {self.state.value} row={self.row} tokens={len(self.tokens)} ahead={self.ahead}>"

    def move(self, state: RequestState) -> None:
        """Go to `state`, if that is legal."""
        if state not in MOVES[self.state]:
            raise ValueError(f"{self!r} cannot go to {state.value}")
        self.state = state

    @property
    def has_credit(self) -> bool:
        """Whether one more token may be drawn before the consumer reads."""
        return self.awaited > 0 or self.ahead + self.unread < CREDIT

    @property
    def wants_token(self) -> bool:
        """Whether its counts allow one more token, those drawn but unread included."""
        max_tokens = self.submit.max_tokens
        steps = self.submit.steps
        if max_tokens is not None and self.emitted + self.unread >= max_tokens:
            return False
        if steps is not None and self.drawn + self.unread >= steps:
            return False
        return len(self.tokens) + self.unread < self.limit

    @property
    def can_decode(self) -> bool:
        """Whether a decoding row may go on now. Behind guesses that were not judged nobody knows where it stands."""
        return self.wants_token and self.has_credit and not self.is_yielding and not self.drafts.in_flight

    @property
    def is_full(self) -> bool:
        """Whether the tokens that were read are all that it may have."""
        max_tokens = self.submit.max_tokens
        return (max_tokens is not None and self.emitted >= max_tokens) or len(self.tokens) >= self.limit

    @property
    def room(self) -> int:
        """How many more tokens it may have, behind those that are recorded."""
        max_tokens = self.submit.max_tokens
        room = self.limit - len(self.tokens)
        return room if max_tokens is None else min(room, max_tokens - self.emitted - len(self.untold))

    @property
    def start(self) -> int | None:
        """Where the output of its line begins; None without a line: behind the prompt."""
        return None if self.submit.context_id is None else self.prompt_end

    @property
    def prompt_end(self) -> int:
        """How many tokens stand before the output, that of its line's requests before it included."""
        return len(self.submit.prompt) - self.submit.num_generated_before

    @property
    def is_penalised(self) -> bool:
        """Whether what it draws depends on the tokens before, other than through the model: such rows do not draft."""
        sampling = self.submit.sampling
        return bool(sampling.repetition_penalty or sampling.presence_penalty or sampling.frequency_penalty)

    @property
    def unrun(self) -> int:
        """How many recorded tokens no pass has run."""
        return len(self.tokens) - self.fed

    def length_detail(self) -> StopDetail:
        """Which length it is that ended it."""
        max_tokens = self.submit.max_tokens
        return "max_tokens" if max_tokens is not None and self.emitted >= max_tokens else "context"

    def expected(self, horizon: int) -> int:
        """Tokens that its row is expected to hold in the end, where an open-ended output counts `horizon`."""
        max_tokens = self.submit.max_tokens
        output = horizon if max_tokens is None else min(max_tokens, horizon)
        return min(max(len(self.submit.prompt) + output, len(self.tokens) + 1), self.limit)

    def forget_row(self) -> None:
        """Its KV is gone; the tokens stay, to be run again."""
        self.row = None
        self.fed = 0
        self.is_yielding = False
        self.is_redirected = False
        self.drafts.needs_rewind = False

    def info(self, now: float) -> Info:
        """The closing event; call it once `end` is set."""
        end = self.end or End("cancelled", "shutdown")
        begun = self.first_chunk if self.first_chunk is not None else now
        first = self.first_token if self.first_token is not None else begun
        last = self.last_token if self.last_token is not None else first
        return Info(
            stop_reason=end.reason,
            stop_detail=end.detail,
            stop_sequence=end.sequence,
            prompt_tokens=len(self.submit.prompt),
            cached_prompt_tokens=self.reused,
            generation_tokens=self.emitted,
            forced_tokens=self.forced_tokens,
            forced_runs=self.forced_runs,
            drafted_tokens=self.drafts.num_drafted,
            accepted_tokens=self.drafts.num_accepted,
            constraint_complete=self.is_complete,
            queue_time=begun - self.submit.submitted,
            prompt_time=first - begun,
            generate_time=last - first,
            seed=self.submit.reported_seed,
        )

    @property
    def output(self) -> tuple[int, ...]:
        """The tokens behind the prompt, without one that only ended the turn."""
        stop = len(self.tokens) - 1 if self.has_end_token else len(self.tokens)
        return tuple(self.tokens[len(self.submit.prompt) : stop])

    @property
    def is_complete(self) -> bool | None:
        """Whether the constraint accepts what was written; None without one."""
        if self.constraint is None:
            return None
        try:
            return self.constraint_failure is None and self.constraint.is_accepting
        except Exception:  # noqa: BLE001 - a constraint may be the user's own
            return False
