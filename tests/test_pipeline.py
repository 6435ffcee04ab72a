"""The order of a step by device: what is submitted before what is read, and that nobody can tell from what is told.

Steps are taken by hand, on one thread, so that every interleaving is the same each time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from passlog import PassLog

from greenroom.actors.engine import Engine, EngineLoop
from greenroom.actors.inbox import Inbox
from greenroom.actors.messages import Awaited, Cancel, Credit, Delivery, Ended, Inbound, Outbound, Shutdown, Submit
from greenroom.actors.scheduler.admission import Limits
from greenroom.actors.scheduler.request import CREDIT
from greenroom.actors.scheduler.scheduler import Scheduler
from greenroom.actors.scheduler.statistics import Statistics, StepTimes
from greenroom.backends.protocol import Close, Edit, EditResult, FillMasks, ForwardPlan, Masks, Sampled, Sampling
from greenroom.backends.protocol import StepResult as Result
from greenroom.backends.scripted import ByteTokenizer, Reply, Scripted
from greenroom.backends.scripted.tokenizer import STOP
from greenroom.constraints import Regex, Vocabulary
from greenroom.constraints.compiler import ConstraintCompiler
from greenroom.events import Chunk
from greenroom.request.decoders import TextDecoder

ORDERS: dict[str, dict[str, Any]] = {
    "submission blocks": {"dispatch_blocks": True},
    "reads, then submits": {},
    "pipelines": {"pipelines": True},
}
TOKENIZER = ByteTokenizer()
CONSTRAINTS = ConstraintCompiler(Vocabulary.of(TOKENIZER, 320, sorted(STOP)))


class OrderLog(PassLog):
    """Writes every call down in `calls`, where a function that fills masks and the decoders of a `Bench` write too."""

    def __init__(self, backend: Scripted) -> None:
        super().__init__(backend)
        self.calls: list[str] = []

    def edit(self, edits: Sequence[Edit]) -> EditResult:
        """See `Backend.edit`. A row that is closed is in no pass in flight."""
        closed = {edit.row for edit in edits if isinstance(edit, Close)}
        assert not closed & {row for rows in self.passes[self.num_read :] for row in rows}
        return super().edit(edits)

    def forward(self, plan: ForwardPlan) -> None:
        """See `Backend.forward`."""
        self.calls.append("forward")
        super().forward(plan)

    def sample(self, masks: Masks | FillMasks | None = None) -> None:
        """See `Backend.sample`."""
        self.calls.append("sample")
        super().sample(partial(self._fill, masks) if callable(masks) else masks)
        self.calls.append("submitted")

    def _fill(self, masks: FillMasks) -> Masks | None:
        filled = masks()
        self.calls.append("masks")
        return filled

    def read(self) -> Result:
        """See `Backend.read`."""
        self.calls.append("read")
        return super().read()


class NotingDecoder(TextDecoder):
    """Notes each time that it decodes."""

    def __init__(self, calls: list[str], **options: Any) -> None:
        super().__init__(TOKENIZER.stream(), stop_ids=STOP, eos=STOP, **options)
        self._calls = calls

    def feed(self, tokens: Sequence[Sampled]) -> Any:
        """See `Decoder.feed`."""
        self._calls.append("decode")
        return super().feed(tokens)


class Bench:
    """An engine's loop over the double, a step at a time, and what each step told."""

    def __init__(self, order: str, replies: Any = None, **limits: int) -> None:
        self.backend = Scripted(replies, **ORDERS[order])
        self.log = OrderLog(self.backend)
        bounds = Limits(**{"rows": 6, "step_tokens": 40, "kv_bytes": 1 << 20, **limits})
        self.scheduler = Scheduler(self.log.load(), bounds)
        self._inbox = Inbox()
        loop = Engine(lambda: self.log, lambda _: bounds)
        self._loop = EngineLoop(loop, self.log, self.scheduler, self._inbox, self._take)
        self._told: list[Outbound] = []

    def _take(self, messages: tuple[Any, ...]) -> bool:
        self._told += messages
        return True

    def request(self, number: int, text: str, **options: Any) -> Submit:
        """A request for what the double says to `text`."""
        stops = options.pop("stop_strings", ())
        return Submit(
            request=number,
            prompt=tuple(TOKENIZER.encode(text)),
            sampling=Sampling(),
            max_tokens=options.pop("max_tokens", None),
            submitted=0.0,
            decoder=NotingDecoder(self.log.calls, stop_strings=stops),
            **options,
        )

    def step(self, *messages: Inbound) -> list[tuple[Any, ...]]:
        """Take a step; what it told, without the times in it."""
        for message in messages:
            self._inbox.put(message)
        self._told.clear()
        self._loop.is_idle = False
        self._loop.step()
        assert len(self.log.passes) - self.log.num_read <= 1  # between steps; the double checks it within them
        return [_plain(message) for message in self._told]

    def finish(self, most: int = 2000) -> list[tuple[Any, ...]]:
        """Steps until nobody is left, and one more: all that they told."""
        told: list[tuple[Any, ...]] = []
        for _ in range(most):
            told += self.step()
            if not self.scheduler.num_requests and not self.log.passes[self.log.num_read :]:
                return told
        raise AssertionError(f"{self.scheduler!r} is not done after {most} steps")

    @property
    def statistics(self) -> Statistics:
        """The scheduler's."""
        return self.scheduler.statistics(StepTimes())


def _plain(message: Outbound) -> tuple[Any, ...]:
    if isinstance(message, Ended):
        info = message.info
        end = info.stop_reason, info.stop_detail, info.generation_tokens, info.forced_tokens
        return "ended", message.request, *end, repr(message.error)
    if isinstance(message, Delivery):
        return "text", message.request, "".join([event.text for event in message.events if isinstance(event, Chunk)])
    return type(message).__name__, getattr(message, "request", None)


def texts(told: list[tuple[Any, ...]]) -> dict[int, str]:
    """What each request was given."""
    found: dict[int, str] = {}
    for kind, request, *rest in told:
        if kind == "text":
            found[request] = found.get(request, "") + rest[0]
    return found


def ends(told: list[tuple[Any, ...]]) -> dict[int, tuple[Any, ...]]:
    """How each request ended: reason, detail, tokens, forced ones, error. Each does once."""
    found = [(request, tuple(rest)) for kind, request, *rest in told if kind == "ended"]
    assert len(dict(found)) == len(found)
    return dict(found)


@contextmanager
def bench(order: str, replies: Any = None, **limits: int) -> Iterator[Bench]:
    """A `Bench`, closed at the end; nothing is held by then."""
    made = Bench(order, replies, **limits)
    try:
        yield made
        assert made.statistics.kv_bytes == 0
    finally:
        made.log.close()


def regex(pattern: str) -> Any:
    """A constraint's state."""
    return CONSTRAINTS.compile(Regex(pattern)).start()


ENDLESS = Reply("abcdefghij", end=False, repeat=True)
SHUTDOWN = Shutdown()


@pytest.mark.parametrize(
    ("order", "calls"),
    [
        ("submission blocks", "forward read decode decode sample submitted"),
        ("reads, then submits", "forward read sample submitted decode decode"),
        ("pipelines", "forward sample submitted read decode decode"),
    ],
)
def test_free_rows_are_submitted_in_their_devices_order(order: str, calls: str) -> None:
    """Before the last pass is read where that is of use, and nothing is decoded between a read and a submission."""
    with bench(order, ENDLESS) as b:
        b.step(b.request(0, "a"), b.request(1, "b"))
        b.step()
        b.log.calls.clear()
        b.step()
        assert b.log.calls == calls.split()
        b.step(SHUTDOWN)
        b.finish()


@pytest.mark.parametrize(
    ("order", "calls"),
    [
        ("submission blocks", "forward read decode decode decode sample masks submitted"),
        ("reads, then submits", "forward read sample decode decode decode masks submitted"),
        ("pipelines", "forward sample read decode decode decode masks submitted"),
    ],
)
def test_masks_wait_for_what_the_last_pass_drew_while_the_pass_runs(order: str, calls: str) -> None:
    """A constrained row holds up the draws of its neighbours, never the pass itself."""
    with bench(order, ENDLESS) as b:
        constrained = b.request(0, "a", constraint=regex("[a-z]*"), force_tokens=False)
        b.step(constrained, b.request(1, "b"), b.request(2, "c"))
        b.step()
        b.log.calls.clear()
        b.step()
        assert b.log.calls == calls.split()
        b.step(SHUTDOWN)
        b.finish()


def test_the_first_mask_of_a_row_waits_for_nobody() -> None:
    """Nothing was drawn before it: the pass is submitted whole before the last one is read."""
    with bench("pipelines", ENDLESS) as b:
        b.step(b.request(0, "a"))
        b.step()
        b.log.calls.clear()
        b.step(b.request(1, "b", constraint=regex("[a-z]*"), force_tokens=False))
        assert b.log.calls == ["forward", "sample", "masks", "submitted", "read", "decode"]
        b.step(SHUTDOWN)
        b.finish()


def _reply(said: str, _: int) -> Reply:
    if said.startswith("endless"):
        return ENDLESS
    return Reply(f"{said} is what was said, and answered" * (1 + len(said) % 3) if said != "so" else "so it is")


def _mix(seed: int, b: Bench) -> Iterator[list[Inbound]]:
    """The messages of each step: requests of every kind, cancels, credit; then everybody leaves."""
    rng = random.Random(seed)  # noqa: S311 - a mix is no secret
    kinds: list[dict[str, Any]] = [
        {},
        {"max_tokens": 7},
        {"max_tokens": 1},
        {"max_tokens": 0},
        {"stop_strings": ("what", "answered")},
        {"constraint": "[a-z ]{3,9}", "force_tokens": False},
        {"constraint": "[a-z]+ [a-z]+, yes", "force_tokens": False},
        {"steps": 3},
    ]
    number = 0
    for _ in range(150):
        messages: list[Inbound] = []
        if rng.random() < 0.3:
            options = dict(rng.choice(kinds))
            if "constraint" in options:
                options["constraint"] = regex(options["constraint"])
            text = rng.choice(["endless", "short", "so", "a longer one " * rng.randint(1, 8)])
            messages.append(b.request(number, text, **{"max_tokens": rng.randint(40, 90), **options}))
            number += 1
        if number and rng.random() < 0.15:
            messages.append(Cancel(rng.randrange(number), "handle"))
        if number and rng.random() < 0.3:
            messages.append(Credit(rng.randrange(number), rng.randint(1, 40)))
        if number and rng.random() < 0.1:
            messages.append(Awaited(rng.randrange(number), on=True))
        yield messages
    yield [SHUTDOWN]


@pytest.mark.parametrize("kv_bytes", [1 << 20, 5000])
@pytest.mark.parametrize("seed", range(4))
def test_no_order_can_be_told_from_what_is_told(seed: int, kv_bytes: int) -> None:
    """Step by step the same messages, under each order, with KV for all rows and for few; and the same waste."""
    found = []
    for order in ORDERS:
        with bench(order, _reply, kv_bytes=kv_bytes) as b:
            told = [b.step(*messages) for messages in _mix(seed, b)]
            told.append(b.finish())
            found.append((told, b.statistics.generated_tokens, b.statistics.discarded_draws))
    assert found[0] == found[1] == found[2]
    everything = [message for step in found[0][0] for message in step]
    assert len(ends(everything)) > 20
    assert len({end[:2] for end in ends(everything).values()}) >= 4


@pytest.mark.parametrize("order", ORDERS)
def test_an_end_that_is_seen_late_costs_one_draw_and_a_known_one_none(order: str) -> None:
    """A row whose text ends was in the next pass already; one with all its tokens was not."""
    with bench(order, {"a": Reply("abc"), "b": ENDLESS, "c": Reply("xyz")}) as b:
        told = b.step(b.request(0, "a"), b.request(1, "b", max_tokens=20), b.request(2, "c", stop_strings=("y",)))
        told += b.finish()
        assert ends(told)[0][:3] == ("stop", "eos", 3)
        assert ends(told)[1][:3] == ("length", "max_tokens", 20)
        assert ends(told)[2][:3] == ("stop", "stop_string", 2)
        assert b.statistics.discarded_draws == 2
        assert b.log.num_passes(1) == 20
        assert (b.log.num_passes(0), b.log.num_passes(2)) == (3 + 1 + 1, 2 + 1)


def _by_cancel(monkeypatch: pytest.MonkeyPatch) -> list[Inbound]:
    del monkeypatch
    return [Cancel(1, "handle")]


def _by_timeout(monkeypatch: pytest.MonkeyPatch) -> list[Inbound]:
    monkeypatch.setattr(time, "monotonic", lambda: 1e12)
    return []


def _by_shutdown(monkeypatch: pytest.MonkeyPatch) -> list[Inbound]:
    del monkeypatch
    return [SHUTDOWN]


@pytest.mark.parametrize("stop", [_by_cancel, _by_timeout, _by_shutdown])
@pytest.mark.parametrize("order", ORDERS)
def test_a_stop_at_every_step_settles_exactly(
    order: str, stop: Callable[[pytest.MonkeyPatch], list[Inbound]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting, between chunks, at the first token, later: no pass with the row behind it, and its text is a prefix."""
    for at in range(9):
        with bench(order, {"p" * 100: Reply("ab" * 40), "n": Reply("the neighbour speaks")}) as b:
            told: list[tuple[Any, ...]] = []
            messages: list[Inbound] = [b.request(0, "n"), b.request(1, "p" * 100, deadline=1e11)]
            with monkeypatch.context() as patch:
                for step in range(at + 2):
                    stops = stop(patch) if step == at else []
                    told += b.step(*messages, *stops)
                    messages = []
                    if step == at:
                        submitted = b.log.num_passes(1)
                told += b.finish()
            assert b.log.num_passes(1) == submitted
            assert ends(told)[1][0] == "cancelled"
            assert ("ab" * 40).startswith(texts(told).get(1, ""))
            if stop is not _by_shutdown:
                assert texts(told)[0] == "the neighbour speaks"


@pytest.mark.parametrize("order", ORDERS)
def test_a_stream_that_nobody_reads_is_paused_at_the_same_token(order: str) -> None:
    """What is in flight counts: not one token more than the credit is drawn, and reading lets the row go on."""
    with bench(order, Reply("0123456789" * 60)) as b:
        told = b.step(b.request(0, "a"))
        for _ in range(CREDIT + 20):
            told += b.step()
        assert len(texts(told)[0]) == CREDIT
        assert b.statistics.paused == 1
        told += b.step(Awaited(0, on=True))
        told += b.finish()
        assert texts(told)[0] == "0123456789" * 60


@pytest.mark.parametrize("method", ["forward", "sample", "read"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_pass_that_fails_at_any_step_fails_its_rows_and_no_later_ones(order: str, method: Any) -> None:
    """The rows of the pass, each once; a row that comes behind it is served."""
    for at in range(1, 7):
        with bench(order, {"a": Reply("abc"), "b": ENDLESS, "c": Reply("later")}) as b:
            told = b.step(b.request(0, "a"), b.request(1, "b"))
            for step in range(1, 8):
                if step == at:
                    b.backend.fail_next(method, OSError("the device is gone"))
                told += b.step()
            told += b.step(b.request(2, "c"))
            told += b.finish()
            assert "the device is gone" in ends(told)[1][-1]
            assert texts(told)[2] == "later"
            assert ends(told)[2][0] == "stop"


@pytest.mark.parametrize("order", ORDERS)
def test_a_row_that_ended_in_the_last_pass_does_not_fail_with_the_next(order: str) -> None:
    """Its end has been drawn, read or not, when the submission of the next pass fails."""
    with bench(order, {"a": Reply("ab"), "b": ENDLESS}) as b:
        told = b.step(b.request(0, "a"), b.request(1, "b"))
        told += b.step()
        told += b.step()
        b.backend.fail_next("sample", OSError("the device is gone"))
        told += b.step()
        told += b.finish()
        assert ends(told)[0] == ("stop", "eos", 2, 0, "None")
        assert texts(told)[0] == "ab"
        assert "the device is gone" in ends(told)[1][-1]


def test_forced_tokens_are_read_for_first_only_where_passes_are_not_pipelined() -> None:
    """The same text either way; in a pipeline each forced run is drawn once for nothing, and no pass is waited for."""
    found = {}
    for order in ORDERS:
        with bench(order, Reply("ab, cd; ", repeat=True)) as b:
            told = b.step(b.request(0, "a", constraint=regex("[a-b]{2}, then [c-d]{2}; at last [a-b]{2}")))
            b.log.calls.clear()
            told += b.finish()
            found[order] = texts(told)[0], ends(told)[0][3], b.statistics.discarded_draws, len(b.log.passes)
            is_early = b.log.calls.index("sample") < b.log.calls.index("read")
            assert is_early == (order == "pipelines")
    assert found["submission blocks"] == found["reads, then submits"]
    text, forced, wasted, passes = found["pipelines"]
    assert (text, forced) == found["submission blocks"][:2]
    assert wasted > found["submission blocks"][2]
    assert passes == found["submission blocks"][3] + wasted - found["submission blocks"][2]


def test_in_a_pipeline_forced_tokens_are_waited_for_where_that_costs_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes that take far longer than all else, and draws that all force something: fewer passes are best then."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    found = {}
    for seconds in (0.0, 1.0):
        with bench("pipelines", Reply("ab", repeat=True)) as b:
            read, build = b.backend.read, b.backend.forward

            def wait(read: Callable[[], Result] = read, seconds: float = seconds) -> Result:
                clock[0] += seconds
                return read()

            def work(plan: ForwardPlan, build: Callable[[ForwardPlan], None] = build) -> None:
                clock[0] += 0.1
                build(plan)

            monkeypatch.setattr(b.backend, "read", wait)
            monkeypatch.setattr(b.backend, "forward", work)
            told = b.step(b.request(0, "a", constraint=regex("([ab], and then ){40}!")), Awaited(0, on=True))
            told += b.finish()
            found[seconds] = texts(told)[0], len(b.log.passes)
    assert found[0.0][0] == found[1.0][0]
    assert found[1.0][1] < 0.8 * found[0.0][1]
