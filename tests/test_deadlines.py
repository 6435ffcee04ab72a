"""The nearest deadline, compared with a plain search."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from greenroom.actors.scheduler.deadlines import Deadlines

MOVES = st.lists(st.tuples(st.sampled_from(["add", "discard", "pop"]), st.integers(0, 60)), max_size=400)


@given(MOVES)
def test_deadlines_come_in_their_order_and_those_that_are_over_leave_nothing(moves: list[tuple[str, int]]) -> None:
    """What is kept is bounded by what has a deadline."""
    deadlines, plain, now = Deadlines(), dict[int, float](), 0.0
    for number, (move, value) in enumerate(moves):
        if move == "add":
            deadlines.add(number, now + value)
            plain[number] = now + value
        elif move == "discard":
            deadlines.discard(number - value)
            plain.pop(number - value, None)
        else:
            now += value / 4
            overdue = [each for each, deadline in plain.items() if deadline <= now]
            assert deadlines.pop_overdue(now) == overdue
            for each in overdue:
                del plain[each]
        assert deadlines.nearest() == min(plain.values(), default=None)
        assert len(deadlines) == len(plain)
        assert len(deadlines._heap) <= 65 + 2 * len(plain)
