"""The closed set of messages between event loop and engine, both ways.

All fields are plain values that could cross a process boundary, except those documented as in-process only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from greenroom.actors.decoding import Decoder, Payload
from greenroom.actors.drafting import Speculator
from greenroom.backends.protocol import KvOptions, Sampling
from greenroom.constraints.state import ConstraintState
from greenroom.events import Info, StopDetail

__all__ = [
    "Awaited",
    "Cancel",
    "Credit",
    "Delivery",
    "Ended",
    "Inbound",
    "Outbound",
    "Reject",
    "Release",
    "Shutdown",
    "Started",
    "Submit",
]


class Submit(msgspec.Struct, frozen=True, kw_only=True):
    """A request, ready to run. Answered by `Started`, any number of `Delivery`, and exactly one `Ended`.

    `submitted` and `deadline` are monotonic seconds. `decoder`, `progress`, `constraint` and `check` are in-process
    only; `progress` is called on the engine thread with (prompt tokens run, prompt tokens in all) after each chunk of
    the prompt. `constraint` is a `ConstraintState` that nobody else holds; with `force_tokens`, what it forces is not
    drawn. `check` says what is wrong with a complete output, where masks could not prevent it.

    On a `line` the row stays open when the request is over, and the line's next one goes on from what it holds. It ends
    after `steps` draws. `logits` asks for copies of the raw logits of some of each step's draws, which the decoder gets
    with the token; without `draws` the request ends with them, and no token is recorded. `drafts` are guesses at what
    follows the prompt, `speculator` (in-process too) makes them at each step.
    """

    request: int
    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int | None
    submitted: float
    decoder: Any
    deadline: float | None = None
    reported_seed: int | None = None
    progress: Callable[[int, int], object] | None = None
    kv: KvOptions | None = None
    constraint: Any = None
    check: Callable[[tuple[int, ...]], str | None] | None = None
    force_tokens: bool = True
    line: int | None = None
    steps: int | None = None
    draws: bool = True
    logits: tuple[int, ...] = ()
    drafts: tuple[int, ...] = ()
    speculator: Any = None

    def decoding(self) -> Decoder:
        """The decoder, typed (msgspec cannot name a protocol)."""
        decoder: Decoder = self.decoder
        return decoder

    def speculating(self) -> Speculator | None:
        """The speculator, typed."""
        speculator: Speculator | None = self.speculator
        return speculator

    def constrained(self) -> ConstraintState | None:
        """The constraint, typed."""
        constraint: ConstraintState | None = self.constraint
        return constraint


class Reject(msgspec.Struct, frozen=True):
    """A request that was announced and will not be submitted: its preparation failed. Answered by `Ended`."""

    request: int
    error: Exception


class Cancel(msgspec.Struct, frozen=True):
    """End the request as cancelled; of no effect where it has ended. May overtake the request's `Submit`."""

    request: int
    detail: StopDetail


class Credit(msgspec.Struct, frozen=True):
    """The consumer has read events worth this many tokens."""

    request: int
    tokens: int


class Awaited(msgspec.Struct, frozen=True):
    """Somebody began or ceased to await the request's end: while one does, it is not paused for its stream."""

    request: int
    on: bool


class Shutdown(msgspec.Struct, frozen=True):
    """Cancel all, settle all, close the backend, end the thread."""


class Release(msgspec.Struct, frozen=True):
    """Nobody will ask for this line again: its row is closed, now or when its request is over."""

    line: int


Inbound = Submit | Reject | Cancel | Credit | Awaited | Release | Shutdown


class Started(msgspec.Struct, frozen=True):
    """The request has left the queue: its row is open."""

    request: int


class Delivery(msgspec.Struct, frozen=True):
    """Events of one step, worth `tokens` of credit."""

    request: int
    events: tuple[Payload, ...]
    tokens: int


class Ended(msgspec.Struct, frozen=True):
    """The request is settled: no pass holds its row, its KV is given back. With `error`, it failed."""

    request: int
    info: Info
    error: Exception | None = None


Outbound = Started | Delivery | Ended
