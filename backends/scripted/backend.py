"""The `Backend` that computes nothing: it says what it was told to say, and minds how it is called."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from greenroom.backends.protocol import (
    Edit,
    EditResult,
    FillMasks,
    ForwardPlan,
    Masks,
    ModelInfo,
    RowFailure,
    Sampled,
    StepResult,
)
from greenroom.backends.scripted.draw import check_masks, draw
from greenroom.backends.scripted.failures import Failures, Method, ProtocolViolation
from greenroom.backends.scripted.gate import Holding
from greenroom.backends.scripted.replies import Answers, Replies, ScriptedRequest
from greenroom.backends.scripted.rows import Rows
from greenroom.backends.scripted.tokenizer import STOP, ByteTokenizer

__all__ = ["Scripted"]

_UNDER_WAY = 2


class _Step(NamedTuple):
    given: tuple[Sampled | RowFailure, ...]
    delay: int


class Scripted(Holding):
    """Says `replies`: by the prompt's whole text, by its last user message, or by `"*"`; else it repeats that message.

    A list is said in order, a reply a request, in the order of their first draws. A callable is asked with the last
    user message (or the whole text) and the seed; a plain reply is that to every prompt. Raises `InvalidParameter` for
    anything else. What was asked is in `requests`.

    Tokens depend on the row's own tokens, mask and banned ids alone; every other field of `Sampling` but `seed` and
    `logprobs` is without effect. Under a mask a row says the first legal id of its script from where it stands, and the
    only legal id where there is one. Where there are several and the script has none of them, it does not fit its
    constraint, and the row fails alone with `ScriptFailed`; so does one for which a list has no reply left. A row that
    replays a closed one goes on where that stood.

    `steps` counts steps read, delays included; `passes` those submitted. Each step read sleeps for `step_seconds`, for
    demonstrations. Calls against the protocol raise `ProtocolViolation`.
    """

    def __init__(
        self,
        replies: Answers = None,
        *,
        vocab_size: int = 320,
        context_length: int | None = 4096,
        kv_bytes_per_token: int = 16,
        kv_bytes_per_row: int = 0,
        memory_bytes: int = 1 << 30,
        chat_template: bool = True,
        step_seconds: float = 0.0,
        dispatch_blocks: bool = False,
        pipelines: bool = False,
        name: str = "scripted",
    ) -> None:
        super().__init__()
        tokenizer = ByteTokenizer(chat_template=chat_template)
        if vocab_size < tokenizer.vocab_size:
            raise ValueError(f"vocab_size must be at least {tokenizer.vocab_size}, got {vocab_size}")
        self._info = ModelInfo(
            name=name,
            vocab_size=vocab_size,
            context_length=context_length,
            stop_tokens=STOP,
            kv_bytes_per_token=kv_bytes_per_token,
            kv_bytes_per_row=kv_bytes_per_row,
            dispatch_blocks=dispatch_blocks,
            pipelines=pipelines,
            can_rewind=True,
            can_fork=True,
            can_draft=True,
            device="scripted",
            memory_bytes=memory_bytes,
            tokenizer=tokenizer,
        )
        self._replies = Replies(replies, tokenizer, vocab_size)
        self._step_seconds = step_seconds
        self._failures = Failures()
        self._thread: int | None = None
        self._reset()
        self.steps = self.passes = 0

    def _reset(self) -> None:
        self._rows = Rows(self._info, self._replies)
        self._plan: ForwardPlan | None = None
        self._under_way: deque[_Step] = deque()

    def __repr__(self) -> str:
        state = f"rows={len(self._rows)} under_way={len(self._under_way)}" if self._thread else "not loaded"
        return f"<Scripted {self._info.name!r} {state} steps={self.steps} passes={self.passes} {self._gate!r}>"

    @property
    def requests(self) -> tuple[ScriptedRequest, ...]:
        """What was asked since it was loaded, in the order of the first draws; of more than 1024 the newest.

        They are still there once the runtime is left. Any thread.
        """
        return tuple(self._replies.requests)

    def fail_next(self, method: Method, error: Exception) -> None:
        """The next call of `method` raises `error` before it does anything; `read` loses the step. Several queue up."""
        self._failures.add(method, error)

    def load(self) -> ModelInfo:
        """See `Backend.load`. Forgets everything that was there before it, counters too."""
        if self._thread is not None:
            raise ProtocolViolation(f"{self!r} is loaded already")
        self._failures.raise_next("load")
        self._reset()
        self._replies.reset()
        self.steps = self.passes = 0
        self._thread = threading.get_ident()
        return self._info

    def edit(self, edits: Sequence[Edit]) -> EditResult:
        """See `Backend.edit`."""
        self._check("edit")
        for edit in edits:
            self._rows.edit(edit)
        return EditResult(kv_bytes=self._rows.kv_bytes)

    def forward(self, plan: ForwardPlan) -> None:
        """See `Backend.forward`. A plan that is refused changes nothing."""
        self._check("forward")
        if self._plan is not None:
            raise ProtocolViolation("forward() after forward(), without a sample() between them")
        self._rows.run(plan)
        self._plan = plan

    def sample(self, masks: Masks | FillMasks | None = None) -> None:
        """See `Backend.sample`. The tokens are known from here on, and told in `read`."""
        plan, self._plan = self._plan, None
        self._check("sample")
        if plan is None:
            raise ProtocolViolation("sample() without a forward()")
        if len(self._under_way) == _UNDER_WAY:
            raise ProtocolViolation(f"{_UNDER_WAY} steps are under way, none of them read")
        masks = masks() if callable(masks) else masks
        masked = check_masks(masks, plan.feeds, self._info.vocab_size)
        delay = 0
        given: list[Sampled | RowFailure] = []
        for feed in plan.feeds:
            if feed.row not in self._rows:  # closed since its forward
                continue
            row = self._rows[feed.row]
            if row.error is not None:
                given.append(RowFailure(row.id, row.error))
            elif feed.sample:
                delay = max(delay, self._rows.begin(row))
                given += draw(row, feed, masked.get(row.id), self._info.vocab_size)
        self._under_way.append(_Step(tuple(given), delay))
        self.passes += 1

    def read(self) -> StepResult:
        """See `Backend.read`. Blocks at the gate while held."""
        self._check(None)
        if not self._under_way:
            raise ProtocolViolation("read() with nothing under way")
        for _ in range(1 + self._under_way[0].delay):
            self._gate.pass_through()
            if self._step_seconds:
                time.sleep(self._step_seconds)
            self.steps += 1
        given = [each for each in self._under_way.popleft().given if each.row in self._rows]
        self._failures.raise_next("read")
        sampled = tuple([each for each in given if isinstance(each, Sampled)])
        for each in sampled:
            self._rows[each.row].was_read = True
            self._rows[each.row].has_ended |= each.token in STOP
        failures = tuple([each for each in given if isinstance(each, RowFailure)])
        return StepResult(sampled, failures, self._rows.kv_bytes)

    def close(self) -> None:
        """See `Backend.close`. Waits for nothing, held or not."""
        if self._thread is None:
            return
        self._check(None)
        self._thread = None
        self._reset()

    def _check(self, method: Method | None) -> None:
        if self._thread is None:
            raise ProtocolViolation(f"{self!r} is not loaded")
        if self._thread != threading.get_ident():
            raise ProtocolViolation(f"{self!r} was called on another thread than the one that loaded it")
        if method is not None:
            self._failures.raise_next(method)
