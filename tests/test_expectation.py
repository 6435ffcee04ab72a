"""What rows are expected to write: learned from outputs that are over, by anybody and by each client."""

from __future__ import annotations

from statistics import median_high

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loose import GRAIN, Loose
from test_kv_budget import ROWS, Course

from greenroom import Reply, Runtime, Scripted
from greenroom.actors.scheduler.expectation import UNKNOWN, Expectation

ENOUGH, NEWEST = 20, 200


@given(st.lists(st.integers(1, 3000), max_size=450), st.integers(0, 3000))
def test_the_median_of_what_was_longer_among_the_newest(lengths: list[int], generated: int) -> None:
    """Compared with the same, counted anew; where nothing was longer, as long again."""
    expectation = Expectation()
    for length in lengths:
        expectation.record(None, length)
    found = expectation.total(None, generated)
    if len(lengths) < ENOUGH:
        assert found is None
        assert expectation.typical == UNKNOWN
        return
    longer = [length for length in lengths[-NEWEST:] if length > generated]
    assert found == (median_high(longer) if longer else generated + min(generated, 1024))
    assert expectation.typical == median_high(lengths[-NEWEST:])


def test_a_client_is_known_by_its_own_outputs_once_there_are_enough() -> None:
    """Before that, by everybody's; and of clients without number, those of late are remembered."""
    expectation = Expectation()
    for _ in range(ENOUGH):
        expectation.record("short", 10)
        expectation.record(None, 500)
    for _ in range(ENOUGH - 1):
        expectation.record("new", 90)
    assert expectation.total("short", 0) == 10
    assert expectation.total("new", 0) == expectation.total(None, 0) == 90
    expectation.record("new", 90)
    expectation.record("short", 10)
    assert expectation.total("new", 0) == 90
    for number in range(300):
        expectation.record(f"client {number}", 7)
    assert expectation.total("short", 0) == expectation.total(None, 0) == 7
    assert "clients=256" in repr(expectation)


@pytest.mark.parametrize("learned", [False, True], ids=["unknown", "learned"])
def test_more_rows_fit_where_outputs_are_known_to_be_short(learned: bool) -> None:
    """Forty tokens each of 400: four run where 1,024 are expected of each, all six once twenty were seen to end."""
    backend = Loose(slack=0.0)
    course = Course(backend, 5000)
    for _ in range(20 if learned else 0):
        course.submit(10, 40)
    course.finish()
    before = backend.crowd
    backend.crowd = 0
    for _ in range(6):
        course.submit(10, 2000)
    course.turn()
    assert before in {0, 6}
    assert backend.crowd == (6 if learned else 4)


def test_rows_that_outgrow_what_is_expected_are_run_again_and_none_fails() -> None:
    """Twenty short ones, then six that write ten times as much where three fit: all of it is written."""
    backend = Loose(slack=0.0)
    course = Course(backend, 900)
    for _ in range(20):
        course.submit(10, 20)
    course.finish()
    long = [course.submit(10, 250) for _ in range(6)]
    statistics = course.finish()
    assert [course.ended[request] for request in long] == [250] * 6
    assert statistics.replays > 0
    assert backend.peak <= 900 + ROWS * GRAIN


async def test_outputs_that_are_over_are_learned_from() -> None:
    """Whatever ended them; not steps by hand, each of which is a request, but the generation that they come to."""
    replies = {"short": Reply("abcdefg"), "endless": Reply("ab", end=False, repeat=True)}
    async with Runtime(backend=Scripted(replies)) as runtime:
        assert runtime.statistics().expected_tokens == UNKNOWN
        for _ in range(19):
            await runtime.generate("short").text()
        assert runtime.statistics().expected_tokens == UNKNOWN
        async with runtime.context() as ctx:
            g = ctx.fill("endless").generate(max_tokens=30)
            for _ in range(29):
                await (await anext(g)).execute()
            assert runtime.statistics().expected_tokens == UNKNOWN
            await (await anext(g)).execute()
        counts = runtime.statistics()
        assert counts.expected_tokens == 8  # the stop token is drawn too
