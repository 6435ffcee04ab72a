"""The sharing of a pass's budget among prompts."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from greenroom.actors.scheduler.prefill_budget import chunk, chunks


def cost(size: int, start: int, span: float) -> float:
    """What the tokens cost, one by one."""
    return sum(1 + (start + i + 0.5) / span for i in range(size))


@given(st.floats(1, 2000), st.integers(0, 100_000), st.floats(50, 1e6))
def test_a_chunk_fills_its_cost_and_no_more(budget: float, start: int, span: float) -> None:
    """One token more would cost too much, wherever in the prompt it stands."""
    size = chunk(budget, start, span)
    assert size == 1 or cost(size, start, span) <= budget * 1.0001
    assert cost(size + 1, start, span) > budget * 0.9999


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 5000)), max_size=12), st.integers(1, 600))
def test_shares_stay_within_the_budget_and_the_oldest_always_goes_on(
    prompts: list[tuple[int, int]], budget: int
) -> None:
    """Without a span tokens are counted: nothing is lost, nothing is given twice."""
    sizes = list(chunks(prompts, budget, math.inf))
    assert len(sizes) == len(prompts)
    assert all(0 <= size <= left for size, (_, left) in zip(sizes, prompts, strict=True))
    assert sum(sizes) <= budget
    if prompts:
        assert sizes[0] >= min(prompts[0][1], budget // 2, 1)
    if sum(left for _, left in prompts) >= budget and prompts:
        assert sizes[-1] == prompts[-1][1] or sum(sizes) >= budget - len(prompts)


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    """The long one came first and gets the most; the short ones behind it are run at once."""
    assert list(chunks([(0, 4000), (0, 30), (0, 40)], 512, math.inf)) == [256, 30, 40]
    assert list(chunks([(0, 10), (0, 4000)], 512, math.inf)) == [10, 502]
