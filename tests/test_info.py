"""How `Info`s add up: over the requests of one generation, and over the rounds of a turn."""

from __future__ import annotations

from functools import reduce
from typing import get_args

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from greenroom import ChatSession, Info, Runtime, Scripted
from greenroom.events import _COUNTERS, StopDetail, StopReason
from greenroom.request.generation import NOT_RUN

NOT_SUMMED = {
    "stop_reason": "of the last",
    "stop_detail": "of the last",
    "stop_sequence": "of the last",
    "constraint_complete": "of the last",
    "seed": "of the first: it is what a caller repeats the whole with",
}
COUNTS = st.integers(0, 1000)
TIMES = st.integers(0, 1 << 20).map(lambda count: count / 1024)  # sums of these are exact
INFOS = st.builds(
    Info,
    stop_reason=st.sampled_from(get_args(StopReason)),
    stop_detail=st.sampled_from(get_args(StopDetail)),
    stop_sequence=st.sampled_from([None, "x", 3]),
    constraint_complete=st.sampled_from([None, False, True]),
    seed=st.none() | COUNTS,
    rounds=st.integers(1, 4),
    **{name: COUNTS for name in _COUNTERS if name != "rounds" and not name.endswith("_time")},
    **{name: TIMES for name in _COUNTERS if name.endswith("_time")},
)
ENDS = ("stop_reason", "stop_detail", "stop_sequence", "constraint_complete")


def test_every_field_adds_up_or_has_a_reason() -> None:
    """A field that is new stands in the list of counters, or here."""
    assert {*_COUNTERS, *NOT_SUMMED} == set(Info.__struct_fields__)
    assert not {*_COUNTERS} & {*NOT_SUMMED}
    assert len(set(_COUNTERS)) == len(_COUNTERS)


@given(st.lists(INFOS, min_size=1, max_size=4))
def test_rounds_add_up(infos: list[Info]) -> None:
    """Nothing is lost; the end is the last one's, the seed the first one's."""
    whole = reduce(Info.plus, infos)
    for name in _COUNTERS:
        assert getattr(whole, name) == sum(getattr(info, name) for info in infos)
    for name in ENDS:
        assert getattr(whole, name) == getattr(infos[-1], name)
    assert whole.seed == infos[0].seed


@given(st.lists(INFOS, min_size=1, max_size=4))
def test_a_generation_that_goes_on_adds_up(infos: list[Info]) -> None:
    """The prompt's numbers are the first one's that ran one; no time but that of waiting is lost."""
    whole = reduce(Info.then, infos)
    first = next((info for info in infos if info.prompt_time), infos[-1])
    for name in ("prompt_tokens", "cached_prompt_tokens", "queue_time", "prompt_time", "seed", "rounds"):
        assert getattr(whole, name) == getattr(first, name)
    for name in ("generation_tokens", "forced_tokens", "forced_runs", "drafted_tokens", "accepted_tokens"):
        assert getattr(whole, name) == sum(getattr(info, name) for info in infos)
    assert whole.prompt_time + whole.generate_time == sum(info.prompt_time + info.generate_time for info in infos)
    for name in ENDS:
        assert getattr(whole, name) == getattr(infos[-1], name)


@given(INFOS, INFOS, INFOS)
def test_neither_depends_on_what_is_added_first(a: Info, b: Info, c: Info) -> None:
    """And nothing that has run changes nothing."""
    assert a.plus(b).plus(c) == a.plus(b.plus(c))
    assert a.then(b).then(c) == a.then(b.then(c))
    assert NOT_RUN.then(a) == a


def test_a_sum_goes_over_the_wire_as_any_info_does() -> None:
    """It is one."""
    whole = NOT_RUN.plus(NOT_RUN)
    assert msgspec.json.decode(msgspec.json.encode(whole), type=Info) == whole
    assert whole.rounds == 2


async def test_a_turn_counts_what_was_forced_in_any_round() -> None:
    """The call is written by the constraint, the answer behind it freely."""
    replies = iter(['<tool_call>\n{"name": "get_sky", "arguments": {}}\n</tool_call>', "It is clear."])

    def get_sky() -> str:
        """What the sky looks like."""
        return "clear"

    async with Runtime(backend=Scripted(lambda _last, _seed: next(replies))) as runtime:
        session = ChatSession(runtime, tools=[get_sky])
        async with session.stream_events("And the sky?", tool_choice="get_sky", max_tokens=200) as turn:
            info = [event async for event in turn][-1]
    assert isinstance(info, Info)
    assert info.rounds == 2
    assert info.forced_tokens > 0
    assert info.forced_runs > 0
