"""What prompts may cost of a pass: how it is shared among them, and how it is learned from the times of passes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from silent import Silent

from greenroom.actors.messages import Submit
from greenroom.actors.scheduler.admission import Limits
from greenroom.actors.scheduler.prefill_budget import UNIT, chunk, chunks, cost_of
from greenroom.actors.scheduler.scheduler import Scheduler
from greenroom.actors.scheduler.statistics import StepTimes
from greenroom.backends.protocol import Feed, ForwardPlan, Sampling
from greenroom.backends.scripted import Reply, Scripted
from greenroom.errors import InvalidParameter
from greenroom.runtime import Runtime

TARGET = 0.12
CAP = 2048
SPANS = st.one_of(st.just(math.inf), st.floats(50, 1e6))
PROMPTS = st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 5000)), max_size=12)


# Sharing.


def one_by_one(size: int, start: int, span: float) -> float:
    """What the tokens cost."""
    return sum(1 + (start + i + 0.5) / span for i in range(size))


@given(st.floats(1, 2000), st.integers(0, 100_000), st.floats(50, 1e6))
def test_a_chunk_fills_its_cost_and_no_more(budget: float, start: int, span: float) -> None:
    """One token more would cost too much, wherever in the prompt it stands."""
    size = chunk(budget, start, span)
    assert cost_of(size, start, span) == pytest.approx(one_by_one(size, start, span))
    assert size == 1 or one_by_one(size, start, span) <= budget * 1.0001
    assert one_by_one(size + 1, start, span) > budget * 0.9999


@given(PROMPTS, st.floats(0, 5000), st.integers(0, 3000), SPANS)
def test_chunks_fit_the_room_come_in_units_and_the_oldest_always_goes_on(
    prompts: list[tuple[int, int]], cost: float, room: int, span: float
) -> None:
    """Whatever may be spent. Together they cost no more than that, but for rounding and the oldest one's unit."""
    sizes = chunks(prompts, cost, room, span)
    assert len(sizes) == len(prompts)
    assert sum(sizes) <= room
    unit = UNIT if room >= UNIT else 1
    for size, (_, left) in zip(sizes, prompts, strict=True):
        assert 0 <= size <= left
        assert size == left or size % unit == 0
    if prompts and room:
        assert sizes[0] >= min(prompts[0][1], unit)
    rounding = sum(cost_of(UNIT, start + size, span) for size, (start, _) in zip(sizes, prompts, strict=True) if size)
    assert sum(cost_of(n, start, span) for n, (start, _) in zip(sizes, prompts, strict=True)) <= cost + rounding + 1


@given(PROMPTS.filter(bool), st.integers(UNIT, 3000))
def test_nothing_is_left_over_while_a_prompt_could_take_it(prompts: list[tuple[int, int]], budget: int) -> None:
    """Without a span tokens are counted."""
    sizes = chunks(prompts, budget, budget, math.inf)
    assert sum(sizes) > budget - UNIT or sizes[0] == prompts[0][1]


def test_a_short_prompt_does_not_wait_for_long_ones() -> None:
    """They came first, and the oldest gets the most; the short ones behind them are run at once."""
    assert chunks([(0, 4000), (0, 30), (0, 40)], 512, 512, math.inf) == [384, 30, 40]
    assert chunks([(0, 4000), (0, 4000), (0, 4000), (0, 64)], 512, 512, math.inf) == [256, 192, 0, 64]
    assert chunks([(0, 10), (0, 4000)], 512, 512, math.inf) == [10, 448]


# Learning, on a double whose clock goes on by what each pass takes.


class Clocked:
    """The scheduler's steps on a double, in the engine's order, with a clock of their own.

    `seconds` of a pass depend on its decoding rows and its prompts' tokens, and its number. With `ahead` the next pass
    is submitted before the last one is read, as on a device that does not block.
    """

    def __init__(
        self,
        seconds: Callable[[int, int, int], float],
        *,
        target: float | None = TARGET,
        cap: int = CAP,
        rows: int = 16,
        ahead: bool = False,
    ) -> None:
        self.backend = Scripted({"*": Reply("abc", repeat=True)}, context_length=1 << 22, memory_bytes=1 << 40)
        limits = Limits(rows=rows, step_tokens=cap, kv_bytes=1 << 40, step_target=target)
        self.scheduler = Scheduler(self.backend.load(), limits)
        self.seconds = seconds
        self.now = 1000.0
        self.passes: list[tuple[Feed, ...]] = []
        self.times: list[float] = []
        """How long each pass had the streams wait."""
        self._ahead = ahead
        self._in_flight: deque[tuple[tuple[Feed, ...], float]] = deque()
        self._num_requests = 0

    def submit(self, prompt: int, output: int, **more: Any) -> None:
        """A request of so many tokens."""
        plain: dict[str, Any] = {"sampling": Sampling(), "submitted": 0.0, "decoder": Silent()}
        ids = (97,) * prompt
        self.scheduler.submit(Submit(request=self._num_requests, prompt=ids, max_tokens=output, **plain, **more))
        self._num_requests += 1

    def step(self) -> bool:
        """Whether there was anything to run or to read."""
        plan = self.scheduler.plan(self.now)
        if plan.edits:
            self.scheduler.record_edits(self.backend.edit(plan.edits))
        feeds = self.scheduler.build_batch(self.now)
        if feeds:
            self.backend.forward(ForwardPlan(feeds))
            self.backend.sample()
            self.scheduler.mark_submitted(feeds)
            begins = max(self.now, self._in_flight[-1][1]) if self._in_flight else self.now
            self._in_flight.append((feeds, begins + self.seconds(*measure(feeds), len(self.passes))))
            self.passes.append(feeds)
        if self._in_flight and (len(self._in_flight) == 2 or not feeds or not self._ahead):
            feeds, ready = self._in_flight.popleft()
            self.times.append(ready - self.now)
            self.now = ready
            self.scheduler.apply(tuple([feed.row for feed in feeds]), self.backend.read(), self.now)
            return True
        return bool(feeds)

    def chunks(self) -> list[list[int]]:
        """Of each pass, how many tokens of prompts its rows ran."""
        return [[len(feed.ids) for feed in feeds if feed.ids] for feeds in self.passes]

    @property
    def budget(self) -> int:
        """As users see it."""
        return self.scheduler.statistics(StepTimes()).prompt_budget


def measure(feeds: Sequence[Feed]) -> tuple[int, int]:
    """Decoding rows, and tokens of prompts."""
    return sum(not feed.ids for feed in feeds), sum(len(feed.ids) for feed in feeds)


def fast(rows: int, tokens: int, _: int) -> float:
    """A small model on a large GPU."""
    return 0.004 + 0.0002 * rows + 0.0001 * tokens


def slow(rows: int, tokens: int, _: int) -> float:
    """A larger model on a small one."""
    return 0.03 + 0.0005 * rows + 0.0003 * tokens


def roofed(rows: int, tokens: int, _: int) -> float:
    """Where weights are read in the time in which a hundred tokens are computed: a short chunk costs nothing."""
    return max(0.03, 0.0003 * (rows + tokens)) + 0.002


DEVICES = {"fast": fast, "slow": slow, "roofed": roofed}


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("is_first", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_after_twenty_steps_a_step_takes_about_the_target(device: str, *, is_first: bool, ahead: bool) -> None:
    """Within a quarter, on a fast device and a slow one; also where prompts came before anything had decoded alone."""
    clocked = Clocked(DEVICES[device], ahead=ahead)
    for _ in range(4):
        clocked.submit(5, 10_000)
    for _ in range(2 if is_first else 10):
        clocked.step()
    for _ in range(3):
        clocked.submit(100_000, 1)
    before = len(clocked.times)
    for _ in range(60):
        clocked.step()
    found = clocked.times[before + 20 :]
    assert all(0.75 * TARGET <= seconds <= 1.25 * TARGET for seconds in found), found
    assert max(clocked.times) <= 2 * TARGET


@pytest.mark.parametrize("device", DEVICES)
def test_a_prompt_that_nobody_waits_for_runs_in_the_largest_chunks(device: str) -> None:
    """However long that takes; from the first token that is drawn on, steps keep to their target."""
    clocked = Clocked(DEVICES[device])
    clocked.submit(5 * CAP + 100, 50)
    clocked.submit(3 * CAP, 50)
    while clocked.step():
        pass
    alone = [
        sum(sizes) for feeds, sizes in zip(clocked.passes, clocked.chunks(), strict=True) if all(f.ids for f in feeds)
    ]
    assert len(alone) >= 5
    assert all(size > CAP - UNIT for size in alone[:-1])
    beside = [t for feeds, t in zip(clocked.passes, clocked.times, strict=True) if any(not f.ids for f in feeds)]
    assert max(beside) <= 1.5 * TARGET


def steady(accidents: dict[int, float]) -> Clocked:
    """A stream, and a long prompt beside it from the fifth step on, where some passes take longer by accident."""
    clocked = Clocked(lambda rows, tokens, number: accidents.get(number, 0.0) + slow(rows, tokens, number))
    clocked.submit(5, 10_000)
    for _ in range(4):
        clocked.step()
    clocked.submit(100_000, 1)
    for _ in range(30):
        clocked.step()
    return clocked


def test_one_accident_changes_nothing() -> None:
    """A machine that slept for an hour in the middle of a pass, a kernel that was compiled."""
    assert steady({20: 3600.0}).chunks() == steady({}).chunks()
    assert steady({2: 1.0, 20: 0.5}).chunks() == steady({}).chunks()


def test_a_first_pass_that_took_for_ever_is_forgotten_in_twenty_steps() -> None:
    """Kernels are compiled at their first use, of decoding alone and of a chunk."""
    found = steady({0: 9.0, 1: 9.0, 4: 9.0, 5: 3.0}).times[24:]
    assert all(0.75 * TARGET <= seconds <= 1.25 * TARGET for seconds in found), found


def test_time_in_which_nothing_ran_is_nobodys() -> None:
    """Hours without requests, and a pass that failed, leave what was learned as it is."""
    clocked = steady({})
    learned = clocked.budget
    clocked.scheduler.cancel_all()
    while clocked.step():
        pass
    for _ in range(5):
        clocked.now += 3600.0
        clocked.submit(1000, 3)
        while clocked.step():
            pass
    assert learned / 1.2 <= clocked.budget <= learned * 1.2
    clocked.submit(1000, 10)
    clocked.step()
    failing = clocked.scheduler.build_batch(clocked.now)
    clocked.scheduler.mark_submitted(failing)
    before = clocked.budget
    clocked.scheduler.fail(tuple([feed.row for feed in failing]), RuntimeError("no memory"), was_submitted=True)
    assert clocked.budget == before


def test_a_device_that_becomes_slower_or_faster_is_followed() -> None:
    """Heat, another app, mains power: within twenty steps each way."""
    pace = [1.0]
    clocked = Clocked(lambda rows, tokens, _: pace[0] * fast(rows, tokens, 0))
    clocked.submit(5, 10_000)
    for _ in range(4):
        clocked.step()
    clocked.submit(200_000, 1)
    for factor in (1.0, 4.0, 1.0):
        pace[0] = factor
        for _ in range(20):
            clocked.step()
        for _ in range(5):
            clocked.step()
            assert 0.75 * TARGET <= clocked.times[-1] <= 1.25 * TARGET


def test_a_fixed_budget_cuts_prompts_the_same_way_on_every_device() -> None:
    """Decoding rows are counted in it."""
    found = []
    for device in (fast, slow):
        clocked = Clocked(device, target=None, cap=512)
        clocked.submit(5, 100)
        clocked.step()
        clocked.submit(2000, 5)
        while clocked.step():
            pass
        found.append(clocked.chunks())
    assert found[0] == found[1]
    assert found[0][:7] == [[5], [448], [448], [448], [448], [208], []]


def test_where_even_one_unit_takes_longer_than_the_target_a_short_prompt_still_goes_ahead() -> None:
    """Beside a stream, and behind a long prompt that is far from its end: the next step runs all of it."""
    clocked = Clocked(lambda rows, tokens, _: 0.05 + 0.01 * (rows + tokens))
    clocked.submit(5, 10_000)
    clocked.submit(50_000, 1)
    for _ in range(20):
        clocked.step()
    assert clocked.chunks()[-1] == [UNIT]
    clocked.submit(50, 10)
    clocked.step()
    assert clocked.chunks()[-1] == [UNIT, 50]


class Guesser:
    """Has as many guesses as are asked for."""

    def draft(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        """See `Drafter.draft`."""
        del tokens
        return (98,) * most

    def update(self, drafted: int, accepted: int) -> None:
        """See `Drafter.update`."""

    def fork(self) -> Guesser:
        """See `Drafter.fork`."""
        return Guesser()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 600), st.booleans()), min_size=1, max_size=8),
    st.integers(9, 300),
    st.lists(st.sampled_from([0.0, -1.0, -1e9, 1e-300, 1e-9, 0.01, 0.1, 5.0, 1e9, 1e300]), min_size=1, max_size=12),
    st.booleans(),
)
@example([(1, True), (1, True)], 9, [0.0], False)
def test_no_time_however_odd_keeps_a_prompt_from_its_end(
    requests: list[tuple[int, bool]], cap: int, times: list[float], ahead: bool
) -> None:
    """Chunks come in units, no pass is over the cap, guesses or not, and every prompt goes on."""
    clocked = Clocked(lambda _rows, _tokens, number: times[number % len(times)], cap=cap, rows=8, ahead=ahead)
    for prompt, guesses in requests:
        clocked.submit(prompt, 8, drafter=Guesser() if guesses else None)
    steps = 0
    while clocked.step():
        steps += 1
        assert steps < 5000
    left = {row: prompt for row, (prompt, _) in enumerate(requests)}
    for feeds in clocked.passes:
        assert sum(len(feed.ids) or 1 for feed in feeds) <= cap
        oldest = min((row for row, size in left.items() if size), default=None)
        assert oldest is None or any(feed.row == oldest for feed in feeds)
        for feed in feeds:
            if left[feed.row]:
                size = len(feed.ids) - feed.drafts
                assert size == left[feed.row] or size % UNIT == 0 or cap < 2 * UNIT + 8
                left[feed.row] -= size
    assert not any(left.values())


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan])
def test_a_target_that_is_none_is_refused(target: float) -> None:
    """With the name of the option."""
    with pytest.raises(InvalidParameter, match="step_target"):
        Runtime(backend=Scripted(), step_target=target)


@pytest.mark.parametrize(
    ("options", "size"),
    [({}, 2048), ({"max_step_tokens": 100}, 64), ({"max_step_tokens": 512, "step_target": None}, 512)],
)
async def test_how_prompts_are_cut_is_the_runtimes_to_say(options: dict[str, Any], size: int) -> None:
    """By default by the model's own chunk; what is learned is among its statistics."""
    cuts: list[int] = []
    async with Runtime(backend=Scripted(), **options) as runtime:
        await runtime.generate_tokens([97] * 3000, max_tokens=2, progress=lambda run, _: cuts.append(run)).collect()
        assert cuts[0] == size
        assert 0 < runtime.statistics().prompt_budget <= 2048
