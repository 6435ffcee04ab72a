"""What rows may hold, counted as it is held: nobody is refused for slack, and nothing exceeds the budget."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loose import GRAIN, Loose
from silent import Silent

from greenroom.actors.messages import Cancel, Ended, Started, Submit
from greenroom.actors.scheduler.admission import Limits
from greenroom.actors.scheduler.scheduler import Scheduler
from greenroom.actors.scheduler.statistics import Statistics, StepTimes
from greenroom.backends.protocol import ForwardPlan, KvOptions, ModelInfo, Sampling

ROWS = 6


class Course:
    """Requests of a scheduler over `Loose`, turn by turn, the next pass built before the last is read."""

    def __init__(self, backend: Loose, kv_bytes: int, *, rows: int = ROWS) -> None:
        self.backend = backend
        self.info = backend.load()
        self.scheduler = Scheduler(self.info, Limits(rows=rows, step_tokens=64, kv_bytes=kv_bytes))
        self.ended: dict[int, int] = {}
        """How many tokens each request that is over was given."""
        self.started: list[int] = []
        self.turns = 0
        self._in_flight: tuple[int, ...] | None = None
        self._ids = 0

    def submit(self, prompt: int, max_tokens: int, **more: Any) -> int:
        """A request whose prompt has so many tokens."""
        request, self._ids = self._ids, self._ids + 1
        self.scheduler.submit(
            Submit(
                request=request,
                prompt=tuple(range(1, 1 + prompt)),
                max_tokens=max_tokens,
                sampling=Sampling(),
                submitted=0.0,
                decoder=Silent(),
                **more,
            )
        )
        return request

    def turn(self) -> bool:
        """One step of the engine; whether there was anything to do."""
        scheduler, backend = self.scheduler, self.backend
        self.turns += 1
        plan = scheduler.plan(float(self.turns))
        for message in plan.messages:
            if isinstance(message, Ended):
                assert message.error is None, message.error
                self.ended[message.request] = message.info.generation_tokens
            elif isinstance(message, Started):
                self.started.append(message.request)
        if plan.edits:
            scheduler.record_edits(backend.edit(plan.edits))
        feeds = scheduler.build_batch(float(self.turns))
        if feeds:
            backend.forward(ForwardPlan(feeds))
        was_reading = self._in_flight is not None
        if self._in_flight is not None:
            scheduler.apply(self._in_flight, backend.read(), float(self.turns))
            self._in_flight = None
        if feeds:
            backend.sample()
            scheduler.mark_submitted(feeds)
            self._in_flight = tuple([feed.row for feed in feeds])
        return bool(feeds or plan.edits or plan.messages or was_reading or scheduler.has_news)

    def finish(self) -> Statistics:
        """Turns until nothing is left to do."""
        while self.turn():
            assert self.turns < 5_000, f"nobody comes to an end: {self.scheduler!r}"
        return self.statistics()

    def statistics(self) -> Statistics:
        """Of the scheduler."""
        return self.scheduler.statistics(StepTimes())


SHAPES = st.tuples(st.integers(1, 120), st.integers(1, 60), st.integers(0, 25))
"""Tokens of a prompt, tokens to be written, and turns before the next request comes."""


@settings(max_examples=150)
@given(
    st.lists(SHAPES, min_size=1, max_size=14),
    st.integers(190, 900),
    st.floats(0, 1.2),
    st.integers(0, 200),
)
def test_whatever_comes_all_of_it_ends_and_the_budget_holds(
    shapes: list[tuple[int, int, int]], budget: int, slack: float, prefix_budget: int
) -> None:
    """In any order, of any length that fits alone: every token is written, and what is held stays within bounds."""
    backend = Loose(slack=slack, prefix_budget=prefix_budget)
    course = Course(backend, budget)
    for prompt, max_tokens, pause in shapes:
        course.submit(prompt, max_tokens)
        for _ in range(pause):
            course.turn()
    statistics = course.finish()
    assert course.ended == {request: max_tokens for request, (_, max_tokens, _) in enumerate(shapes)}
    alone = max(prompt + max_tokens for prompt, max_tokens, _ in shapes) * (1 + slack)
    assert backend.peak <= max(1.05 * budget + ROWS * GRAIN, alone + GRAIN)
    assert (statistics.kv_bytes, statistics.running, statistics.waiting) == (0, 0, 0)
    assert statistics.allocated_bytes == statistics.prefix_bytes == backend.held_bytes() <= budget


def test_slack_keeps_nobody_out() -> None:
    """Six rows that fit, each in a place more than twice too long: rows are packed, and all six run together."""
    backend = Loose(slack=1.2)
    course = Course(backend, 6 * (60 + GRAIN))
    for _ in range(6):
        course.submit(20, 40)
        course.turn()
    course.finish()
    assert backend.crowd == 6
    assert backend.peak <= 1.05 * 6 * (60 + GRAIN) + 6 * GRAIN
    assert len(course.ended) == 6


def test_kept_prefixes_are_inside_the_budget_and_go_first() -> None:
    """A row that needs what they take is admitted at once, in the same plan; nobody is replayed for them."""
    backend = Loose(slack=0.0, prefix_budget=150)
    course = Course(backend, 200)
    for _ in range(4):
        course.submit(30, 10)
        course.finish()
    assert course.statistics().prefix_bytes == 150
    late = course.submit(100, 60)
    course.turn()
    course.turn()
    assert late in course.started
    assert course.statistics().prefix_bytes <= 200 - 160
    course.finish()
    assert backend.peak <= 1.05 * 200 + GRAIN


def test_rows_are_held_loosely_again_once_there_is_room() -> None:
    """Packing costs copies: it ends with the want of memory."""
    backend = Loose(slack=1.2)
    course = Course(backend, 200)
    for _ in range(5):
        course.submit(20, 20)
    while backend.crowd < 3:
        course.turn()
    course.finish()
    assert not backend.is_tight
    course.submit(10, 10)
    course.turn()
    assert backend.places
    assert not backend.is_tight
    course.finish()


def test_who_lost_its_row_comes_back_when_another_is_over() -> None:
    """Rows that wrote more than was expected: the youngest goes, once, not again and again."""
    backend = Loose(slack=1.0, context_length=6000)
    course = Course(backend, 3300)
    for _ in range(3):
        course.submit(10, 1500)
    course.finish()
    assert [course.ended[n] for n in range(3)] == [1500] * 3
    assert backend.peak <= 1.05 * 3300 + ROWS * GRAIN
    assert len(backend._rows._used) <= 4


def test_under_pressure_rows_go_one_a_look_and_the_last_one_stays() -> None:
    """Nobody is admitted meanwhile; when it is over, all go on and end."""
    backend = Loose(slack=1.0)
    course = Course(backend, 10_000)
    for _ in range(4):
        course.submit(10, 50)
    while backend.crowd < 4:
        course.turn()
    backend.pressure = 1
    for _ in range(3):
        course.turn()
    assert (len(backend.places), backend.is_tight) == (4, True)
    for look in range(2, 8):
        backend.pressure = look
        for _ in range(3):
            course.turn()
        assert len(backend.places) == max(1, 4 - (look - 1))
    late = course.submit(5, 5)
    course.turn()
    assert late not in course.started
    backend.pressure = 0
    course.finish()
    assert set(course.ended.values()) == {50, 5}


def model(**changes: Any) -> ModelInfo:
    """A model with 100 numbers of two bytes for each token."""
    backend = Loose()
    info = backend.load()
    backend.close()
    changes = {"kv_bytes_per_token": 200, "kv_numbers_per_token": 100, "context_length": 1000, **changes}
    return ModelInfo(**{name: getattr(info, name) for name in info.__struct_fields__} | changes)


@pytest.mark.parametrize(
    ("kv", "tokens", "nbytes", "most"),
    [
        (None, 50, 10_000, 100),
        (KvOptions(bits=4, group_size=50), 50, 50 * (50 + 8), 20_000 // 58),
        (KvOptions(bits=8, group_size=100), 50, 50 * (100 + 4), 20_000 // 104),
        (KvOptions(bits=4, group_size=50, start=51), 50, 10_000, 20_000 // 58),
        (KvOptions(bits=4, group_size=50, start=200), 50, 10_000, 100),  # it never comes so far
        (KvOptions(max_size=20), 50, 4000, 1000),
        (KvOptions(max_size=200), 50, 10_000, 100),
    ],
)
def test_bounded_and_quantized_rows_count_by_what_they_hold(
    kv: KvOptions | None, tokens: int, nbytes: int, most: int
) -> None:
    """Numbers in so many bits with their scales and biases; no more tokens than the bound."""
    assert model().kv_bytes(tokens, kv) == nbytes
    assert model().kv_tokens(20_000, kv) == most
    assert Limits(rows=1, step_tokens=8, kv_bytes=20_000).row_tokens(model(), kv) == most


def test_bounded_and_quantized_rows_buy_capacity() -> None:
    """Three times as many run together where each holds a third."""
    for kv, together in ((None, 2), (KvOptions(max_size=20), 6)):
        backend = Loose(slack=0.0)
        course = Course(backend, 130)
        for _ in range(6):
            course.submit(20, 40, kv=kv)
        course.turn()
        assert len(backend.places) == together
        if kv is None:
            course.finish()


def test_who_was_to_give_its_row_back_goes_on_where_that_is_not_needed_any_more() -> None:
    """Two of three were chosen while a pass held them; then memory is there, and the third one is cancelled."""
    backend = Loose(slack=0.0)
    course = Course(backend, 400)
    requests = [course.submit(10, 50) for _ in range(3)]
    while backend.crowd < 3:
        course.turn()
    backend.ballast = 395
    for _ in range(3):
        course.turn()
    chosen = [r.id for r in course.scheduler._admission.by_row.values() if r.progress.is_yielding]
    course.scheduler.cancel(Cancel(requests[0], "handle"))
    course.turn()
    backend.ballast = 0
    course.finish()
    assert chosen == requests[1:]
    assert [course.ended[n] for n in requests[1:]] == [50, 50]
