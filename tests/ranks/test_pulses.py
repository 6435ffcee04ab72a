"""Messages between ranks, and the thread that misses one that is gone, stopped or stuck."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator

import msgspec
import pytest

from greenroom.backends.protocol import Close, Feed, KvOptions, LimitPrefixes, Open, Pack, Rewind, Sampling
from greenroom.backends.ranks.channel import PulseWatch, RankChannel
from greenroom.backends.ranks.messages import (
    RankEdits,
    RankEnd,
    RankFailed,
    RankForward,
    RankMessage,
    RankPulse,
    RankRead,
    edit_for_rank,
    feed_for_rank,
)
from greenroom.errors import NotSupported, RankLost

SECONDS = 20.0
"""Longer than anything here takes."""


@pytest.fixture
def pair() -> Iterator[tuple[RankChannel, RankChannel]]:
    """Two ends."""
    one, other = socket.socketpair()
    ends = RankChannel(one, "rank 1"), RankChannel(other, "rank 0")
    yield ends
    for end in ends:
        end.close()


def test_messages_come_as_they_were_sent(pair: tuple[RankChannel, RankChannel]) -> None:
    """However the bytes are cut."""
    ours, theirs = pair
    edits = tuple(
        edit_for_rank(edit)
        for edit in (
            Open(1, Sampling(seed=7, temperature=0.5), 20, prompt=(5, 6, 7), start=2),
            Rewind(1, 3, Sampling(), 1),
            Pack(tight=True),
            LimitPrefixes(1 << 40),
            Close(1),
        )
    )
    sent: list[RankMessage] = [
        RankEdits(edits),
        RankForward((feed_for_rank(Feed(1, tuple(range(1000)), drafts=3)),), ((1, 2),), 0),
        RankRead(),
    ]
    data = b"".join(len(part).to_bytes(4, "little") + part for part in map(msgspec.msgpack.encode, sent))
    for start in range(0, len(data), 97):
        ours.socket.sendall(data[start : start + 97])
    assert [theirs.receive() for _ in sent] == sent
    assert [edit.edit() for edit in edits] == [
        Open(1, Sampling(), 20, prompt=(5, 6, 7), start=2),
        Rewind(1, 3, None, 1),
        Pack(tight=True),
        LimitPrefixes(1 << 40),
        Close(1),
    ]


def test_a_step_is_told_in_few_bytes() -> None:
    """Sixteen rows that decode; how they draw is no part of it."""
    feeds = tuple(feed_for_rank(Feed(row)) for row in range(1000, 1016))
    assert len(msgspec.msgpack.encode(RankForward(feeds, (), 0))) <= 16 * 8 + 8
    assert len(msgspec.msgpack.encode(RankRead())) == 2
    opened = edit_for_rank(Open(1, Sampling(seed=2**63, logit_bias=((5, 1.0),), banned=tuple(range(500)))))
    assert len(msgspec.msgpack.encode(RankEdits((opened,)))) < 20


@pytest.mark.parametrize("edit", [Open(1, Sampling(), kv=KvOptions(bits=4)), Open(1, Sampling(), adapter=3)])
def test_what_ranks_do_not_do_is_refused(edit: Open) -> None:
    """Before anybody is told."""
    with pytest.raises(NotSupported, match="no adapters and options of KV"):
        edit_for_rank(edit)


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x02\x00\x00\x00\xc1\xc1", b"\x02\x00\x00\x00\x91\x63"])
def test_what_is_no_message_is_a_loss(pair: tuple[RankChannel, RankChannel], data: bytes) -> None:
    """Too long, no msgpack, of no kind."""
    ours, theirs = pair
    ours.socket.sendall(data)
    with pytest.raises(RankLost, match="rank 0 is lost: the other end says"):
        theirs.receive()


def test_who_waits_for_a_message_hears_of_the_end(pair: tuple[RankChannel, RankChannel]) -> None:
    """By the other end, or by a close on another thread."""
    ours, theirs = pair
    threading.Timer(0.01, ours.close).start()
    with pytest.raises(RankLost, match="rank 0 is lost"):
        theirs.receive()


def lost(watch: PulseWatch, told: queue.SimpleQueue[str]) -> str:
    """Why the watch lost somebody."""
    try:
        return told.get(timeout=SECONDS)
    finally:
        watch.stop(RankEnd())


def test_pulses_keep_both_ends_content(pair: tuple[RankChannel, RankChannel]) -> None:
    """Nobody is lost while both give pulses, nor by an end that was announced."""
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    watches = [PulseWatch([end], told.put, patience=1.5) for end in pair]
    for watch in watches:
        watch.start()
    with pytest.raises(queue.Empty):
        told.get(timeout=2.0)
    for watch in watches:
        watch.stop(RankEnd())
    assert told.empty()


def test_who_falls_silent_is_lost(pair: tuple[RankChannel, RankChannel]) -> None:
    """As a process that was stopped does."""
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    watch = PulseWatch([pair[0]], told.put, patience=0.3)
    watch.start()
    assert "rank 1 has been silent" in lost(watch, told)


def test_who_is_gone_is_lost_at_once(pair: tuple[RankChannel, RankChannel]) -> None:
    """However long one would have waited."""
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    watch = PulseWatch([pair[0]], told.put, patience=1000.0)
    watch.start()
    pair[1].close()
    assert "rank 1" in lost(watch, told)


def test_a_rank_says_why_it_fails(pair: tuple[RankChannel, RankChannel]) -> None:
    """And what it says is handed on."""
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    watch = PulseWatch([pair[0]], told.put)
    watch.start()
    pair[1].send(RankPulse())
    pair[1].send(RankFailed("no memory"))
    assert lost(watch, told) == "rank 1 failed: no memory"


def test_a_pass_that_does_not_end_is_a_loss(pair: tuple[RankChannel, RankChannel]) -> None:
    """Though both ends give pulses."""
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    other = PulseWatch([pair[1]], told.put)
    other.start()
    watch = PulseWatch([pair[0]], told.put, stalled=lambda: 11.0, deadline=10.0)
    watch.start()
    assert "has not ended a pass for 11 s" in told.get(timeout=SECONDS)
    other.stop(RankEnd())
    watch.stop(RankEnd())
