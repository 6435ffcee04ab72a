"""The policy that others are measured against: what greenroom did before it learned anything, and no word of it new.

Who came first goes first. A row is expected to write `min(max_tokens, 1024)` tokens, whoever asks; who does not fit
beside what is expected of the others waits, and everybody behind it. Where rows outgrow the memory after all, the
youngest gives its KV back and goes to the front of the queue; nobody is admitted until another row is over.

It is a copy of its own on plain values, not the scheduler with a fixed number put in: so nothing that changes in the
scheduler can change what it is compared with. As long as nobody has anything to learn from, both decide alike, but for
a step in which the scheduler packs rows; the case `baseline` compares them. How prompts share a pass is no part of it,
and is the scheduler's code.
"""

from __future__ import annotations

from collections import deque

from greenroom.actors.messages import Awaited, Ended, Outbound, Submit
from greenroom.actors.scheduler.admission import Limits
from greenroom.actors.scheduler.prefill_budget import chunks
from greenroom.actors.scheduler.scheduler import Plan
from greenroom.backends.protocol import Close, Edit, EditResult, Feed, ModelInfo, Open, StepResult
from greenroom.events import Info

__all__ = ["FrozenPolicy"]

_EXPECTED = 1024
"""Tokens of an output, whatever it was asked for; fewer where `max_tokens` says so."""


class FrozenPolicy:
    """Decides what runs, for requests without constraints, contexts, guesses and readers that lag."""

    def __init__(self, model: ModelInfo, limits: Limits) -> None:
        self._span = model.context_span
        self._limits = limits
        self._waiting: deque[_Request] = deque()
        self._rows: dict[int, _Request] = {}
        self._over: list[int] = []
        self._held = 0
        """Tokens in rows, as last reported, and less what was given back since."""
        self._is_full = False
        """A row had to go: nobody gets one until another is over."""
        self._next_row = 0

    def __repr__(self) -> str:
        return f"<FrozenPolicy rows={len(self._rows)} waiting={len(self._waiting)}>"

    def submit(self, message: Submit) -> None:
        """Put a request behind all others."""
        self._waiting.append(_Request(message))

    def count_awaiting(self, message: Awaited) -> None:
        """Nobody is paused here."""

    def plan(self, now: float) -> Plan:  # noqa: ARG002 - as a scheduler is asked
        """Settle who is over, give back what has outgrown the memory, admit."""
        edits: list[Edit] = []
        messages: list[Outbound] = []
        for row in self._over:
            request = self._rows.pop(row)
            edits.append(Close(row))
            messages.append(Ended(request.submit.request, request.info()))
            self._held -= request.computed
            self._is_full = False
        self._over = []
        self._evict(edits)
        self._admit(edits)
        return Plan(tuple(edits), tuple(messages))

    def _evict(self, edits: list[Edit]) -> None:
        """The next step adds a token to every row: the youngest go until there is room, but for the oldest."""
        youngest_last = sorted(self._rows, key=lambda row: self._rows[row].submit.request)
        while self._held + len(youngest_last) > self._limits.kv_bytes and len(youngest_last) > 1:
            row = youngest_last.pop()
            request = self._rows.pop(row)
            edits.append(Close(row))
            self._held -= request.computed
            request.computed, request.is_decoding = 0, False
            self._waiting.appendleft(request)
            self._is_full = True

    def _admit(self, edits: list[Edit]) -> None:
        most = self._limits.kv_bytes
        reserved = sum(request.expected(most) for request in self._rows.values())
        while self._waiting and len(self._rows) < self._limits.rows:
            request = self._waiting[0]
            reserved += request.expected(most)
            if self._rows and (self._is_full or reserved > most):
                break
            self._waiting.popleft()
            self._rows[self._next_row] = request
            edits.append(Open(self._next_row, request.submit.sampling, prompt=tuple(request.tokens)))
            self._next_row += 1

    def record_edits(self, result: EditResult) -> None:
        """Take what is held."""
        self._held = result.kv_bytes

    def build_batch(self, now: float) -> tuple[Feed, ...]:
        """A token for each row that decodes, and of prompts what a step has room for beside."""
        prompts = [(row, request) for row, request in self._rows.items() if not request.is_decoding]
        feeds = [Feed(row) for row, request in self._rows.items() if request.is_decoding]
        most = self._limits.step_tokens
        for request in self._rows.values():
            request.computed += request.is_decoding
        lengths = [(request.computed, len(request.tokens) - request.computed) for _, request in prompts]
        for (row, request), size in zip(prompts, chunks(lengths, most, most - len(feeds), self._span), strict=True):
            if size:
                start, request.computed = request.computed, request.computed + size
                if request.first_chunk is None:
                    request.first_chunk = now
                request.is_decoding = request.computed == len(request.tokens)
                feeds.append(Feed(row, tuple(request.tokens[start : start + size]), request.is_decoding))
        return tuple(feeds)

    def mark_submitted(self, feeds: tuple[Feed, ...]) -> None:
        """One pass at a time: nothing is in flight while anything is decided."""

    def apply(self, rows: tuple[int, ...], result: StepResult, now: float) -> None:  # noqa: ARG002 - likewise
        """Give the tokens to their requests, some of which are over then."""
        self._held = result.kv_bytes
        for sampled in result.sampled:
            request = self._rows[sampled.row]
            request.tokens.append(sampled.token)
            request.times = (request.times[0] if request.times else now, now)
            if request.submit.decoder.feed((sampled,)).stop is not None:
                self._over.append(sampled.row)


class _Request:
    __slots__ = ("computed", "first_chunk", "is_decoding", "submit", "times", "tokens")

    def __init__(self, submit: Submit) -> None:
        self.submit = submit
        self.tokens = list(submit.prompt)
        self.computed = 0
        """Tokens that passes have run; the last one that was drawn is not among them."""
        self.is_decoding = False
        self.first_chunk: float | None = None
        self.times: tuple[float, float] | tuple[()] = ()
        """Of the first token and of the last one."""

    def expected(self, most: int) -> int:
        """Tokens that its row is expected to hold in the end."""
        max_tokens = self.submit.max_tokens
        output = _EXPECTED if max_tokens is None else min(max_tokens, _EXPECTED)
        return min(max(len(self.submit.prompt) + output, len(self.tokens) + 1), most)

    def info(self) -> Info:
        """How it went."""
        first, last = self.times or (0.0, 0.0)
        began = self.first_chunk or 0.0
        return Info(
            stop_reason="stop",
            stop_detail="eos",
            prompt_tokens=len(self.submit.prompt),
            generation_tokens=len(self.tokens) - len(self.submit.prompt),
            queue_time=began - self.submit.submitted,
            prompt_time=first - began,
            generate_time=last - first,
        )
