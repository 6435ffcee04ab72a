"""Who has a row, who waits for one, and whose KV goes where memory is short.

Rows that outgrow what was expected of them never fail for it: the youngest row of the lowest priority gives its KV back
and is replayed. Paused rows go before others, and rows that are only retained for a context before those that a request
uses.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from greenroom.actors.messages import Release, Submit, Trim
from greenroom.actors.scheduler.expectation import UNKNOWN, Expectation
from greenroom.actors.scheduler.kv_budget import KvBudget
from greenroom.actors.scheduler.overlaps import Overlaps
from greenroom.actors.scheduler.request import Request, RequestState
from greenroom.actors.scheduler.retained_rows import RetainedRows, Sharing
from greenroom.actors.scheduler.suspects import Suspects
from greenroom.actors.scheduler.waiting import Waiting
from greenroom.backends.protocol import (
    Close,
    Edit,
    EditResult,
    KvOptions,
    ModelInfo,
    Open,
    Rewind,
)

__all__ = ["Admission", "Limits"]

_MOST_PASSED_OVER = 32
"""Requests that a step passes over, because another prompt runs what they begin with: who is behind them waits too."""
_SOON = 256
"""Output tokens of a request for which a row is given room from the start."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The scheduler's bounds: `rows` decode or prefill at once, a step runs `step_tokens`, `kv_bytes` are held.

    The last with all that the backend holds for KV: places of rows, and prefixes of prompts that are over.
    With `step_target` a step that others wait for runs as much of prompts as is done in so many seconds, as learned;
    without it, as much as `step_tokens` allows, on every machine alike.
    """

    rows: int
    step_tokens: int
    kv_bytes: int
    step_target: float | None = None

    def row_tokens(self, model: ModelInfo, kv: KvOptions | None = None) -> int:
        """The most tokens whose KV the budget holds in one row."""
        return model.kv_tokens(self.kv_bytes, kv)


class Admission:
    """The rows of all requests, and the queue before them; a part of the scheduler."""

    def __init__(self, model: ModelInfo, limits: Limits) -> None:
        self._model = model
        self._limits = limits
        self.waiting = Waiting()
        """Not admitted yet, or to be replayed."""
        self.by_row: dict[int, Request] = {}
        self._sharing = Sharing()
        self._overlaps = Overlaps()
        self._retained = RetainedRows(model, self._sharing)
        self.faults: list[tuple[Request, BaseException]] = []
        """Requests that a plan could not give a row, by a defect of ours."""
        self._pending_edits: list[Edit] = []
        """Of rows that were given back between two plans."""
        self._next_row = 0
        self.num_replays = 0
        """Rows that gave their KV back, to be run again."""
        self.suspects = Suspects()
        """Over whom the backend may have been lost."""
        self.budget = KvBudget(limits.kv_bytes)
        """What is held, against what may be."""
        self.expectation = Expectation()
        """Of how much rows will write."""

    def __repr__(self) -> str:
        return f"<Admission rows={len(self.by_row)} waiting={len(self.waiting)} {self._retained!r}>"

    def enqueue(self, message: Submit) -> Request:
        """Put a new request into the queue: see `waiting`."""
        limit = self._limits.row_tokens(self._model, message.kv)
        request = Request(message, self.waiting.shares.join(message.client, message.user), limit=limit)
        self.waiting.add(request)
        return request

    def remove(self, request: Request, edits: list[Edit]) -> None:
        """Close the row of a request that is over and in no pass, or retain it for its context."""
        self._overlaps.forget(request)
        self.suspects.forget(request)
        request.account.leave()
        if request.is_whole:
            self.expectation.record(request.submit.client, request.num_generated)
        if request.row is not None:
            nbytes, found = self._held_bytes(request), self._retained.retain(request, request.row)
            self.budget.end_row(nbytes if any(isinstance(edit, Close) for edit in found) else 0)
            edits += found
            del self.by_row[request.row]
        elif request.submit.context_id is not None:
            self._retained.discard(request.submit.context_id)

    def give_back(self, message: Release | Trim) -> None:
        """Close or cut the row that is retained for a context."""
        if isinstance(message, Release):
            edit: Edit | None = self._retained.release(message.context_id)
        else:
            edit = self._retained.trim(message.context_id, message.length)
        if edit is not None:
            self._pending_edits.append(edit)

    def take_edits(self) -> list[Edit]:
        """The edits of `give_back`, once."""
        edits, self._pending_edits = self._pending_edits, []
        if edits:
            self.budget.end_row(0)
        return edits

    def arrange(self, edits: list[Edit], now: float) -> list[Request]:
        """Pause, resume, evict and admit at `now`, in monotonic seconds; returns who has a row now and had none."""
        self._rewind(edits)
        self._run_again(edits)
        self._pause_and_resume()
        self._shrink(edits)
        admitted = self._admit(edits, now) if self.waiting or edits else []
        self.budget.adjust(edits)
        return admitted

    def record_edits(self, result: EditResult) -> None:
        """Take what the backend holds after the edits, and which rows began with part of their prompt."""
        self.budget.record(result)
        self._sharing.update(result)
        for row, num_tokens in result.reused:
            request = self.by_row[row]
            request.begin_row(num_tokens)
            if request.timing.first_chunk is None:
                self.waiting.refund(request, num_tokens)

    def lose_row(self, row: int) -> Request | None:
        """The backend has no such row, though it was asked for one: whose it should have been."""
        request = self.by_row.pop(row, None)
        if request is not None:
            self._overlaps.forget(request)
            request.row = None
        return request

    def forget_rows(self, now: float) -> None:
        """The backend has lost every row: the requests that had one are run again, before all others."""
        for request in self.by_row.values():
            request.lose_passes(now)
            request.row, is_over = None, request.end is not None
            if not is_over:
                self.num_replays += 1
                request.forget_row()
                request.move(RequestState.WAITING)
                self.waiting.add_again(request, first=True)
        self.by_row.clear()
        self._retained.forget_rows()
        self._pending_edits.clear()
        self._overlaps.clear()
        self._sharing.update(EditResult(kv_bytes=0))
        self.budget = KvBudget(self._limits.kv_bytes)

    def clear(self) -> None:
        """Forget everybody: the engine is dying."""
        self.waiting = Waiting()
        self.by_row.clear()
        self._overlaps.clear()

    def _rewind(self, edits: list[Edit]) -> None:
        """Take wrong draft tokens out of rows that go on."""
        for row, request in self.by_row.items():
            if request.drafts.needs_rewind and request.end is None and not request.progress.passes_in_flight:
                request.drafts.needs_rewind = False
                edits.append(Rewind(row, request.progress.num_computed))

    def _run_again(self, edits: list[Edit]) -> None:
        """Give rows back that are in doubt; their requests are first in the queue."""
        for request in [*self.by_row.values()]:
            if request.progress.must_run_again and request.end is None and not request.progress.passes_in_flight:
                self._evict(request, edits)

    def _num_free(self) -> int:
        """How many more rows may prefill or decode."""
        active = [r for r in self.by_row.values() if r.state in (RequestState.PREFILL, RequestState.DECODE)]
        return self._limits.rows - len(active)

    def _pause_and_resume(self) -> None:
        num_free = self._num_free()
        for request in self.by_row.values():
            state = request.state
            if state is RequestState.DECODE and not request.has_credit and request.progress.num_in_flight == 0:
                request.move(RequestState.PAUSED)
                num_free += 1
            elif state is RequestState.PAUSED and request.has_credit and num_free > 0:
                request.move(RequestState.DECODE)
                num_free -= 1

    def _bytes_of(self, request: Request, num_tokens: int) -> int:
        """What its row takes for itself with so many tokens, without what it shares: places grow in steps."""
        own, step = self._sharing.num_unshared(num_tokens, request.row), self._model.kv_step
        return self._model.kv_bytes(-(-own // step) * step, request.submit.kv)

    def _held_bytes(self, request: Request) -> int:
        return self._bytes_of(request, request.progress.num_computed)

    def _expected_bytes(self, request: Request) -> int:
        """The same in the end, as far as can be told: who writes more than is expected is covered by replay."""
        horizon = request.horizon
        if horizon is None or horizon <= request.num_recorded:  # it was wrong, and says nothing any more
            total = self.expectation.total(request.submit.client, request.num_generated)
            horizon = UNKNOWN if total is None else total - request.submit.num_generated_before
        else:  # whoever says too much keeps no more from others than one of whom nothing is known
            horizon = min(horizon, request.num_recorded + UNKNOWN)
        return self._bytes_of(request, request.expected_length(horizon))

    def _shrink(self, edits: list[Edit]) -> None:
        """Give memory back where what is held has outgrown the budget; at least one row goes on."""
        # 1. The next step adds a token to every row. First goes what is kept of prompts that are over.
        budget = self.budget
        rows = [r for r in self.by_row.values() if r.state is not RequestState.ENDING]
        going = sum(self._held_bytes(r) for r in self.by_row.values() if r.state is RequestState.ENDING)
        coming = len(rows) * self._model.kv_bytes_per_token - going
        excess = budget.excess(coming)
        excess -= budget.drop_prefixes(excess, edits)
        # 2. Then what rows leave empty: how much that is, shows in the next plan.
        if excess > 0 and not budget.is_tight:
            budget.pack(edits)
            excess = budget.token_excess(coming)
        if budget.owes_row:
            excess = max(excess, 1)
        # 3. Then what no request uses.
        if excess > 0:
            excess -= self._close_retained(self._retained.nbytes - excess, edits)
        if not rows or (excess <= 0 and not any(request.progress.is_yielding for request in rows)):
            return
        # 4. Then paused rows, then the youngest of the lowest priority, each once no pass holds it. Who was chosen and
        # is not needed goes on.
        *others, oldest = sorted(rows, key=_eviction_order, reverse=True)
        oldest.progress.is_yielding = False
        for victim in others:
            progress = victim.progress
            progress.is_yielding = excess > 0
            if excess > 0:
                excess -= self._held_bytes(victim)
                if progress.passes_in_flight == 0:
                    self._evict(victim, edits)
                    budget.is_full = True

    def _close_retained(self, most: int, edits: list[Edit], *, kept: int | None = None) -> int:
        """Close retained rows until they take at most `most` bytes; how many they give."""
        before = self._retained.nbytes
        edits += self._retained.shrink(most, kept=kept)
        given = before - self._retained.nbytes
        if given:
            self.budget.end_row(given)
        return given

    def _admit(self, edits: list[Edit], now: float) -> list[Request]:
        """Give rows to those who wait, in their order, while rows are free and what they need fits the budget."""
        suspects = [each for each in self.suspects.find(self.waiting) if each.is_due]
        if suspects or self.suspects.find(self.by_row.values()):
            return self._admit_alone(suspects, edits)
        admitted: list[Request] = []
        budget, num_free = self.budget, self._num_free()
        rows = self.by_row.values()
        budget.reserved_bytes = self._sharing.nbytes + sum(self._expected_bytes(r) for r in rows)
        budget.placed_bytes = self._sharing.nbytes + sum(self._held_bytes(r) for r in rows)
        known: set[int] = set()
        if num_free > 0 and (self._model.reuses_prefixes or budget.prefix_bytes > 0):
            known = self.waiting.known(rows, budget.kept_bytes // max(1, self._model.kv_bytes_per_token))
        num_passed_over = 0
        while num_free > 0 and num_passed_over < _MOST_PASSED_OVER:
            request = self.waiting.first(now, known)
            if request is None:
                break
            if self._model.reuses_prefixes and self._overlaps.is_being_run(request, rows):
                self.waiting.set_aside(request)
                num_passed_over += 1
                continue
            if not self._make_adapter_room(request.submit.adapter, edits):
                break
            # 1. What does not fit takes the place of what nobody uses, and of slack.
            need, own = self._expected_bytes(request), self._retained.nbytes_of(request.submit.context_id)
            self._make_room(request, need, own, edits)
            # 2. Who is alone is admitted in any case; else nobody overtakes one that does not fit.
            if self.by_row and not budget.fits(need, self._retained.nbytes, own):
                budget.is_blocked = True
                break
            if not self._try_open(request, edits):
                self.waiting.set_aside(request)
                continue
            admitted.append(request)
            num_free -= 1
            budget.open_row(need, own)
        self.waiting.put_back()
        return admitted

    def _admit_alone(self, suspects: list[Request], edits: list[Edit]) -> list[Request]:
        """Give a row to the first of `suspects` once nobody else has one; whoever has one gives it up for that."""
        if self.suspects.find(self.by_row.values()):
            return []
        if self.by_row:
            for request in self.by_row.values():
                request.progress.must_run_again = True
            return []
        suspect = min(suspects, key=lambda each: each.id)
        return [suspect] if self._try_open(suspect, edits) else []

    def _make_room(self, request: Request, need: int, own: int, edits: list[Edit]) -> None:
        """Have others give way to a request: kept prefixes, slack, retained rows and paused ones, as far as need be."""
        budget = self.budget
        budget.drop_prefixes(budget.excess(need - own), edits)
        if not budget.is_tight and budget.is_near(need - own):
            budget.pack(edits)  # how much that gives, shows in the next plan
        missing = budget.shortage(need - own, self._retained.nbytes)
        if missing > 0:
            self._close_retained(self._retained.nbytes - missing, edits, kept=request.submit.context_id)
        for paused in sorted(self._paused(), key=_eviction_order, reverse=True):
            if budget.fits(need, self._retained.nbytes, own):
                break
            budget.reserved_bytes -= self._expected_bytes(paused)
            self._evict(paused, edits, to_front=False)

    def _make_adapter_room(self, adapter: int, edits: list[Edit]) -> bool:
        """Whether a row may come with that adapter; rows that only others need it for give way, and paused ones."""
        rows: dict[int, list[Request]] = {}
        for other in self.by_row.values():
            rows.setdefault(other.submit.adapter, []).append(other)
        idle = [each for each in self._retained.adapters if each not in rows]
        most = self._model.max_adapters
        if adapter == 0 or adapter in rows or adapter in idle or len(rows.keys() - {0}) + len(idle) < most:
            return True
        if idle:
            before = self._retained.nbytes
            edits += self._retained.close_adapter(idle[0])
            self.budget.end_row(before - self._retained.nbytes)
            return True
        paused = {request.id for request in self._paused()}
        victims = next((group for each, group in rows.items() if each and paused.issuperset(r.id for r in group)), [])
        for victim in victims:
            self._evict(victim, edits, to_front=False)
        return bool(victims)

    def close_adapter(self, adapter: int) -> None:
        """Close the rows that are only retained with it: nobody will go on from them."""
        self._pending_edits += self._retained.close_adapter(adapter)

    def _paused(self) -> Iterator[Request]:
        return (r for r in self.by_row.values() if r.state is RequestState.PAUSED and r.progress.passes_in_flight == 0)

    def _try_open(self, request: Request, edits: list[Edit]) -> bool:
        """Give it a row; False where our own code fails over that, which leaves it where it was."""
        count = len(edits)
        try:
            self._open(request, edits)
        except BaseException as fault:  # noqa: BLE001 - of this request alone
            del edits[count:]
            if request.row is not None:
                self.by_row.pop(request.row, None)
                request.row = None
            self.faults.append((request, fault))
            return False
        return True

    def _open(self, request: Request, edits: list[Edit]) -> None:
        submit = request.submit
        request.row = self._retained.resume(request, edits)
        if request.row is None:
            request.row = self._next_row
            self._next_row += 1
            first, start = submit.prompt, request.start
            if request.timing.first_token is not None:  # a replay: what stands behind the prompt was drawn
                first, start = tuple(request.tokens), request.prompt_end
            expected = request.expected_length(_SOON)
            edits.append(Open(request.row, submit.sampling, expected, submit.kv, first, start, submit.adapter))
        self.by_row[request.row] = request
        self._overlaps.forget(request)
        request.move(RequestState.PREFILL)
        if request.timing.first_chunk is None:
            request.account.charge(request.num_uncomputed, submit.weight)
        self.waiting.take(request)

    def _evict(self, request: Request, edits: list[Edit], *, to_front: bool = True) -> None:
        if request.row is None:
            return
        self.num_replays += 1
        edits.append(Close(request.row))
        self.budget.end_row(self._held_bytes(request))
        del self.by_row[request.row]
        request.forget_row()
        request.move(RequestState.WAITING)
        self.waiting.add_again(request, first=to_front)


def _eviction_order(request: Request) -> tuple[bool, int, int]:
    """Paused rows go before others, then the lowest priority, then the youngest: the last in this order is first."""
    return (request.state is RequestState.PAUSED, -request.submit.priority, request.id)
