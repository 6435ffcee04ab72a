"""A scheduler in simulated time: its own code decides, a modelled device takes the time that passes would take.

Nothing runs and nothing is waited for. A turn is the engine's, one pass at a time: what has come is submitted, `plan`
decides, its edits are done, `build_batch` builds a pass, the clock goes on by what the model says that it takes, and
`apply` takes what it drew. So a simulated hour is some seconds, and two runs of the same load are the same.

What the device draws depends on all tokens that the row holds, in their order: a row that lost a token, or has one
twice, after it was run again, writes something else from there on. Each request ends after as many tokens as its load
says, by the token that ends a turn.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from loads import Arrival

from greenroom.actors.decoder import Decoded, Payload, Stop
from greenroom.actors.messages import Awaited, Ended, Submit
from greenroom.actors.scheduler.admission import Limits
from greenroom.actors.scheduler.scheduler import Plan
from greenroom.backends.protocol import (
    Close,
    Edit,
    EditResult,
    Feed,
    LimitPrefixes,
    ModelInfo,
    Open,
    Rewind,
    Sampled,
    Sampling,
    StepResult,
    Tokenizer,
)
from greenroom.events import StopReason

__all__ = ["Decides", "Device", "Outcome", "Served", "Simulation", "limits", "model", "simulate", "written_alone"]

VOCABULARY = 32_000
_DOCUMENTS = 1_000_000
"""The token that a document consists of is above this; below are the numbers of requests, and what is drawn."""
_PRIME = (1 << 61) - 1


class Device(NamedTuple):
    """What a pass takes, in seconds: something in any case, something a row, something a token of a prompt.

    It keeps the beginnings of documents that rows are closed with, `prefixes` tokens at most, the last used ones.
    """

    step: float = 0.012
    row: float = 0.0005
    token: float = 0.0008
    prefixes: int = 0


class Served(NamedTuple):
    """One request, when it is over: in seconds of the run, and a number that stands for the tokens it wrote."""

    arrival: Arrival
    first_token: float
    last_token: float
    written: int

    @property
    def wait(self) -> float:
        """Seconds to the first token."""
        return self.first_token - self.arrival.seconds

    @property
    def time(self) -> float:
        """Seconds to the last one."""
        return self.last_token - self.arrival.seconds


class Outcome(NamedTuple):
    """One run. `closed` are the requests that lost their row before they were over, in that order."""

    served: tuple[Served, ...]
    seconds: float
    closed: tuple[int, ...]
    prompt_tokens: int
    """Those that passes ran."""

    def waits(self) -> list[float]:
        """Seconds to the first token, a request each."""
        return [each.wait for each in self.served]

    @property
    def replays(self) -> float:
        """Rows that gave their KV back, a request."""
        return len(self.closed) / len(self.served)


class Decides(Protocol):
    """What of a scheduler is driven here."""

    def submit(self, message: Submit) -> None:
        """Put a request into the queue."""

    def count_awaiting(self, message: Awaited) -> None:
        """Somebody awaits the end: no reader lags."""

    def plan(self, now: float) -> Plan:
        """Decide the next step."""

    def record_edits(self, result: EditResult) -> None:
        """Take what is held after the plan's edits."""

    def build_batch(self, now: float) -> tuple[Feed, ...]:
        """Build its pass."""

    def mark_submitted(self, feeds: tuple[Feed, ...]) -> None:
        """It is in flight."""

    def apply(self, rows: tuple[int, ...], result: StepResult, now: float) -> object:
        """Take what it drew."""


def model(**changes: object) -> ModelInfo:
    """A model of which a token's KV is one byte: bytes are tokens."""
    values: dict[str, object] = {
        "name": "a modelled device",
        "vocab_size": VOCABULARY,
        "context_length": None,
        "stop_tokens": frozenset(),
        "kv_bytes_per_token": 1,
        "kv_bytes_per_row": 0,
        "dispatch_blocks": False,
        "can_rewind": True,
        "can_fork": True,
        "device": "modelled",
        "memory_bytes": 0,
        "tokenizer": _NoTokenizer(),
    }
    return ModelInfo(**{**values, **changes})  # type: ignore[arg-type]


def limits(kv_tokens: int, *, rows: int = 16, step_tokens: int = 512) -> Limits:
    """Those of the simulated runtime; a step is not measured, so its length is fixed."""
    return Limits(rows=rows, step_tokens=step_tokens, kv_bytes=kv_tokens)


def simulate(
    scheduler: Decides,
    load: Sequence[Arrival],
    *,
    device: Device | None = None,
    on_end: Callable[[], object] = lambda: None,
) -> Outcome:
    """Serve the whole load, in the order of its times. `on_end` is called once a request."""
    simulation = Simulation(scheduler, device)
    came = 0
    while len(simulation.served) < len(load):
        while came < len(load) and load[came].seconds <= simulation.now:
            simulation.add(load[came])
            came += 1
        before = len(simulation.served)
        if not simulation.step():
            if came == len(load):
                raise RuntimeError(f"{len(load) - before} requests wait, and nothing runs")
            simulation.now = max(simulation.now, load[came].seconds)
        for _ in range(len(simulation.served) - before):
            on_end()
    return simulation.outcome()


class Simulation:
    """A scheduler, a device and a clock."""

    def __init__(self, scheduler: Decides, device: Device | None = None) -> None:
        self._scheduler = scheduler
        self._device = device or Device()
        self._pool = _Pool(self._device.prefixes)
        self._prompt_tokens = 0
        self._arrivals: list[Arrival] = []
        self._decoders: list[_Counting] = []
        self._closed: list[int] = []
        self.now = 0.0
        """Seconds of the run."""
        self.served: dict[int, Served] = {}
        """Those that are over."""

    def __repr__(self) -> str:
        return f"<Simulation now={self.now:.3f} came={len(self._arrivals)} served={len(self.served)}>"

    def add(self, arrival: Arrival) -> None:
        """A request comes; it may have been asked for a moment ago."""
        number = len(self._arrivals)
        self._arrivals.append(arrival)
        self._decoders.append(_Counting(arrival.generated))
        self._scheduler.submit(_submit_of(number, arrival, self._decoders[-1]))
        self._scheduler.count_awaiting(Awaited(number, on=True))

    def step(self) -> bool:
        """One turn; False where there was nothing to run, and nothing to settle."""
        scheduler, device = self._scheduler, self._device
        # 1. Decide, and do the edits.
        plan = scheduler.plan(self.now)
        ended = [message for message in plan.messages if isinstance(message, Ended)]
        for message in ended:
            self._settle(message)
        self._closed += self._pool.edit(plan.edits, {message.request for message in ended})
        if plan.edits:
            reused = self._pool.take_reused()
            kept = self._pool.kept_tokens
            scheduler.record_edits(EditResult(kv_bytes=self._pool.tokens, prefix_bytes=kept, reused=reused))
        # 2. Build the pass, run it, and hand over what it drew.
        feeds = scheduler.build_batch(self.now)
        if feeds:
            drawn = self._pool.run(feeds)
            scheduler.mark_submitted(feeds)
            num_prompt = sum(len(feed.ids) for feed in feeds)
            self._prompt_tokens += num_prompt
            self.now += device.step + device.row * len(feeds) + device.token * num_prompt
            rows = tuple([feed.row for feed in feeds])
            result = StepResult(drawn, kv_bytes=self._pool.tokens, prefix_bytes=self._pool.kept_tokens)
            scheduler.apply(rows, result, self.now)
        return bool(feeds or plan.edits or ended)

    def outcome(self) -> Outcome:
        """What has come of all."""
        served = tuple([self.served[number] for number in range(len(self._arrivals))])
        return Outcome(served, self.now, tuple(self._closed), self._prompt_tokens)

    def _settle(self, ended: Ended) -> None:
        arrival, info = self._arrivals[ended.request], ended.info
        first = arrival.seconds + info.queue_time + info.prompt_time
        written = self._decoders[ended.request].written
        self.served[ended.request] = Served(arrival, first, first + info.generate_time, written)


def _submit_of(number: int, arrival: Arrival, decoder: _Counting) -> Submit:
    """The request as the engine gets it."""
    return Submit(
        request=number,
        prompt=_prompt_of(number, arrival),
        sampling=Sampling(),
        max_tokens=None,
        submitted=arrival.seconds,
        decoder=decoder,
        client=arrival.client,
        weight=arrival.weight,
        priority=arrival.priority,
        horizon=arrival.horizon,
    )


def _prompt_of(number: int, arrival: Arrival) -> tuple[int, ...]:
    """Its document's beginning, where it has one, and then nothing that any other prompt has."""
    shared = () if arrival.document is None else (_DOCUMENTS + arrival.document,) * arrival.shared
    return shared + (number,) * (arrival.context - len(shared))


def written_alone(number: int, arrival: Arrival) -> int:
    """What stands for the tokens that the request writes where it is alone, and nothing is ever run again."""
    decoder, pool = _Counting(arrival.generated), _Pool(0)
    prompt = _prompt_of(number, arrival)
    pool.edit([Open(0, Sampling(), prompt=prompt)], set())
    feed = Feed(0, prompt)
    while decoder.feed(pool.run([feed])).stop is None:
        feed = Feed(0)
    return decoder.written


class _Counting:
    """A decoder without text: it ends its row after so many tokens, and keeps a number that stands for all of them."""

    __slots__ = ("_left", "written")

    def __init__(self, count: int) -> None:
        self._left = count
        self.written = 0

    def feed(self, tokens: Sequence[Sampled]) -> Decoded:
        """Take the next tokens."""
        for sampled in tokens:
            self.written = _mixed(self.written, sampled.token)
            self._left -= 1
            if self._left <= 0:
                return Decoded(stop=Stop("stop", "eos"))
        return Decoded()

    def finish(self, reason: StopReason) -> tuple[Payload, ...]:  # noqa: ARG002 - as a decoder is asked
        """Nothing is held back."""
        return ()

    def fork(self) -> _Counting:
        """A copy in the same state."""
        copy = _Counting(self._left)
        copy.written = self.written
        return copy


class _Row:
    __slots__ = ("contents", "document", "length", "pending", "request", "shared")

    def __init__(self, prompt: Sequence[int]) -> None:
        self.document = prompt[0] if prompt[0] >= _DOCUMENTS else None
        self.shared = 0
        """Tokens of the document that it begins with."""
        if self.document is not None:
            self.shared = next(place for place, token in enumerate(prompt) if token != self.document)
        self.request = prompt[self.shared]
        self.contents = 0
        self.length = 0
        self.pending: int | None = None

    def extend(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self.contents = _mixed(self.contents, token)
        self.length += len(tokens)


class _Pool:
    """Rows, how long they are, and what they draw; and the beginnings of documents, `most` tokens of them."""

    def __init__(self, most: int) -> None:
        self._rows: dict[int, _Row] = {}
        self.tokens = 0
        """Held by all rows."""
        self._most = self._limit = most
        self._kept: OrderedDict[int, int] = OrderedDict()
        """Tokens of each document, the last used one last."""
        self._reused: list[tuple[int, int]] = []

    @property
    def kept_tokens(self) -> int:
        """Of documents that no row is needed for."""
        return sum(self._kept.values())

    def take_reused(self) -> tuple[tuple[int, int], ...]:
        """The rows that began with part of their prompt since this was asked last, and with how much."""
        reused, self._reused = tuple(self._reused), []
        return reused

    def edit(self, edits: Sequence[Edit], over: set[int]) -> list[int]:
        """Open and close rows; the requests of rows that were closed and are not over."""
        closed = []
        for edit in edits:
            match edit:
                case Open(row=row, prompt=prompt):
                    self._open(row, prompt)
                case Close(row=row):
                    gone = self._rows.pop(row)
                    self.tokens -= gone.length
                    closed += [gone.request] if gone.request not in over else []
                    self._keep(gone)
                case LimitPrefixes(most=most):
                    self._limit = min(most, self._most)
                    self._drop()
                case Rewind():
                    raise NotImplementedError("no load here keeps a row, or guesses")
                case _:
                    pass
        return closed

    def _open(self, row: int, prompt: tuple[int, ...]) -> None:
        opened = _Row(prompt)
        if self._most and opened.document is not None:
            alike = [other.length for other in self._rows.values() if other.document == opened.document]
            found = min(opened.shared, max([*alike, self._kept.get(opened.document, 0)]))
            if found:
                opened.extend(prompt[:found])
                self.tokens += found
                self._reused.append((row, found))
            if opened.document in self._kept:
                self._kept.move_to_end(opened.document)
        self._rows[row] = opened

    def _keep(self, row: _Row) -> None:
        if row.document is not None:
            self._kept[row.document] = max(self._kept.get(row.document, 0), min(row.shared, row.length))
            self._kept.move_to_end(row.document)
            self._drop()

    def _drop(self) -> None:
        while self.kept_tokens > self._limit:
            self._kept.popitem(last=False)

    def run(self, feeds: Sequence[Feed]) -> tuple[Sampled, ...]:
        """Run a pass; what it drew."""
        drawn = []
        for feed in feeds:
            row = self._rows[feed.row]
            ids = feed.ids or ((row.pending,) if row.pending is not None else ())
            row.extend(ids)
            self.tokens += len(ids)
            if feed.sample:
                row.pending = row.contents % VOCABULARY
                drawn.append(Sampled(feed.row, row.pending))
        return tuple(drawn)


def _mixed(number: int, token: int) -> int:
    return (number * 1_000_003 + token + 1) % _PRIME


class _NoTokenizer(Tokenizer):
    """There is no text here."""
