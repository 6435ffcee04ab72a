"""Rank 0's calls and what another rank makes of them, over real connections, by backends that write calls down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from rank_groups import write_hostfile

from greenroom.backends.protocol import (
    Close,
    Edit,
    EditResult,
    Feed,
    ForwardPlan,
    LimitPrefixes,
    Masks,
    ModelInfo,
    Open,
    Sampling,
    StepResult,
)
from greenroom.backends.ranks.connections import listen, wait_for_leader
from greenroom.backends.ranks.follower import follow
from greenroom.backends.ranks.hostfile import read_hostfile
from greenroom.backends.ranks.leader import LeaderBackend
from greenroom.backends.ranks.messages import RankHello, RankWelcome
from greenroom.backends.scripted import Scripted
from greenroom.errors import CannotDistribute, RankLost, RanksDiffer

SECONDS = 20.0
VERSIONS = {"mlx": "1"}


class Notes:
    """A backend that writes its calls down. `fails` names a call that raises; `reuses` is what rows begin with."""

    def __init__(self, gather: Callable[[int], list[int]], number: int, fails: str = "", reuses: int = 0) -> None:
        self.calls: list[Any] = []
        self.numbers: list[int] = []
        self.num_run = 0
        self._gather = gather
        self._number = number
        self._fails = fails
        self._reuses = reuses

    def _note(self, name: str, *what: Any) -> None:
        self.calls.append((name, *what))
        if name == self._fails:
            raise ValueError(f"{name} is broken")

    def load(self) -> ModelInfo:
        """Compares a number."""
        self._note("load")
        self.numbers = self._gather(self._number)
        return Scripted().load()

    def edit(self, edits: Sequence[Edit]) -> EditResult:
        """Rows begin with something."""
        self._note("edit", tuple(edits))
        opened = [(edit.row, self._reuses) for edit in edits if isinstance(edit, Open) and self._reuses]
        return EditResult(kv_bytes=0, reused=tuple(opened))

    def forward(self, plan: ForwardPlan) -> None:
        """Counts tokens."""
        self._note("forward", plan)
        self.num_run += sum(len(feed.ids) or 1 for feed in plan.feeds)

    def sample(self, masks: Any = None) -> None:
        """Fills the masks."""
        self._note("sample", masks() if callable(masks) else masks)

    def read(self) -> StepResult:
        """Nothing was drawn."""
        self._note("read")
        return StepResult(())

    def close(self) -> None:
        """Is noted."""
        self._note("close")


class Group:
    """Two ranks of this process: `leader`, and what became of the other one."""

    def __init__(self, folder: Path, *, there: dict[str, Any], here: dict[str, Any], welcome: RankWelcome) -> None:
        self.hostfile = read_hostfile(write_hostfile(folder))
        self.notes: list[Notes | None] = [None, None]
        self.error: BaseException | None = None
        self.lost: list[str] = []
        self.is_lost = threading.Event()
        hello = RankHello(VERSIONS, "abc", "tensor", {"name": "cpu"}, {"prefix_bytes": 5})
        self.leader = LeaderBackend(
            self.hostfile,
            lambda: hello,
            lambda gather: self._make(0, gather, here),
            self._lose,
            connect_seconds=SECONDS,
        )
        self._there = there
        self._welcome = welcome
        self._server = listen(self.hostfile, 1)
        self.thread = threading.Thread(target=self._follow)
        self.thread.start()

    def _make(self, rank: int, gather: Callable[[int], list[int]], options: dict[str, Any]) -> Notes:
        made = self.notes[rank] = Notes(gather, 10 + rank, **options)
        return made

    def _lose(self, why: str) -> None:
        self.lost.append(why)
        self.is_lost.set()

    def _follow(self) -> None:
        try:
            connection = wait_for_leader(self._server, self.hostfile, 1)
            follow(connection, self._welcome, lambda _, gather: self._make(1, gather, self._there))
        except BaseException as error:  # noqa: BLE001 - what the test is about
            self.error = error

    def calls(self, rank: int) -> list[Any]:
        """What the backend of that rank was called."""
        notes = self.notes[rank]
        assert notes is not None
        return notes.calls


@contextmanager
def grouped(
    folder: Path,
    *,
    there: dict[str, Any] | None = None,
    here: dict[str, Any] | None = None,
    welcome: RankWelcome | None = None,
) -> Iterator[Group]:
    """Two ranks, of which the other one ends with the block."""
    group = Group(folder, there=there or {}, here=here or {}, welcome=welcome or RankWelcome(VERSIONS, "abc"))
    try:
        yield group
    finally:
        group.leader.close()
        group.thread.join(SECONDS)
        assert not group.thread.is_alive()


def test_a_rank_makes_the_calls_of_rank_0_without_what_draws(tmp_path: Path) -> None:
    """In their order, a nested read included; seeds, masks and asked-for logits stay where they are."""
    with grouped(tmp_path) as group:
        leader = group.leader
        leader.load()
        opened = Open(1, Sampling(seed=3, temperature=0.7), 9, prompt=(4, 5), start=1)
        leader.edit((opened, LimitPrefixes(7)))
        leader.edit(())
        leader.forward(ForwardPlan((Feed(1, (4, 5), logits=(0,)),)))
        leader.sample()
        leader.forward(ForwardPlan((Feed(1),)))

        def fill() -> Masks | None:
            leader.read()
            return None

        leader.sample(fill)
        leader.read()
        leader.edit((Close(1),))
        leader.close()
        group.thread.join(SECONDS)
        assert group.error is None
        assert group.lost == []
        assert group.notes[1] is not None
        assert group.notes[1].numbers == [10, 11]
        assert group.calls(1) == [
            ("load",),
            ("edit", (Open(1, Sampling(), 9, prompt=(4, 5), start=1), LimitPrefixes(7))),
            ("forward", ForwardPlan((Feed(1, (4, 5)),))),
            ("sample", None),
            ("forward", ForwardPlan((Feed(1),))),
            ("sample", None),
            ("read",),
            ("read",),
            ("edit", (Close(1),)),
            ("close",),
        ]


@pytest.mark.parametrize(
    ("welcome", "why"),
    [
        (RankWelcome({"mlx": "2"}, "abc"), "mlx is 2 there and 1 on rank 0"),
        (RankWelcome({}, "abc"), "mlx is not installed there"),
        (RankWelcome(VERSIONS, "xyz"), "the files of its model have other contents"),
    ],
)
def test_who_is_not_like_rank_0_is_refused_on_both_sides(tmp_path: Path, welcome: RankWelcome, why: str) -> None:
    """Before anything is loaded."""
    with grouped(tmp_path, welcome=welcome) as group:
        with pytest.raises(RanksDiffer, match=why) as caught:
            group.leader.load()
        assert len(caught.value.differences) == 1
        group.thread.join(SECONDS)
        assert isinstance(group.error, RanksDiffer)
        assert group.notes == [None, None]


def test_a_rank_that_cannot_load_is_named(tmp_path: Path) -> None:
    """With why, where rank 0 waits for it."""
    with grouped(tmp_path, there={"fails": "load"}) as group:
        with pytest.raises(RankLost, match="rank 1 at"):
            group.leader.load()
        group.thread.join(SECONDS)
        assert isinstance(group.error, ValueError)


def test_nobody_there_is_said_with_what_to_start(tmp_path: Path) -> None:
    """Within the time that was given."""
    hostfile = read_hostfile(write_hostfile(tmp_path))
    hello = RankHello(VERSIONS, "abc", "tensor", {}, {})
    leader = LeaderBackend(hostfile, lambda: hello, lambda gather: Notes(gather, 0), print, connect_seconds=0.2)
    with pytest.raises(CannotDistribute, match=r"greenroom.worker MODEL --hostfile hosts.json --rank 1"):
        leader.load()
    leader.close()


STEP = ForwardPlan((Feed(1, (4, 5)),))


def test_a_pass_that_fails_everywhere_fails_alone(tmp_path: Path) -> None:
    """As in one process: what its rows are is on both ranks the same."""
    with grouped(tmp_path, there={"fails": "forward"}, here={"fails": "forward"}) as group:
        group.leader.load()
        for _ in range(2):
            with pytest.raises(ValueError, match="forward is broken"):
                group.leader.forward(STEP)
        group.leader.close()
        group.thread.join(SECONDS)
        assert group.error is None


@pytest.mark.parametrize(
    ("there", "why"),
    [
        ({"fails": "forward"}, "a pass that rank 0 has built fails here: forward is broken"),
        ({"fails": "sample"}, "sample is broken"),
        ({"fails": "read"}, "read is broken"),
        ({"fails": "edit"}, "edits failed 0 on rank 0 and 1 here"),
        ({"reuses": 3}, r"rows begin with \(\) on rank 0 and \(\(1, 3\),\) here"),
    ],
)
def test_a_rank_that_is_out_of_step_ends_the_group(tmp_path: Path, there: dict[str, Any], why: str) -> None:
    """It says so, and rank 0 is told on another thread, whatever it waits for."""
    with grouped(tmp_path, there=there) as group:
        group.leader.load()
        group.leader.edit((Open(1, Sampling()),))
        with suppress(RankLost):  # where rank 0 has heard of it by then
            group.leader.forward(STEP)
            group.leader.sample()
            group.leader.read()
        assert group.is_lost.wait(SECONDS)
        group.thread.join(SECONDS)
        assert isinstance(group.error, RankLost)
        assert pytest.approx(1) == len(group.lost)
        assert why.replace("\\", "") in group.lost[0]


def _sample_and_read(leader: LeaderBackend) -> None:
    leader.sample()
    leader.read()


@pytest.mark.parametrize("call", ["sample", "read"])
def test_what_fails_on_rank_0_alone_ends_the_group(tmp_path: Path, call: str) -> None:
    """The others do not know of it, and wait."""
    with grouped(tmp_path, here={"fails": call}) as group:
        group.leader.load()
        group.leader.forward(STEP)
        with pytest.raises(RankLost, match=f"rank 0 failed in a pass: ValueError: {call} is broken"):
            _sample_and_read(group.leader)
        assert len(group.lost) == 1
        group.thread.join(SECONDS)
        assert isinstance(group.error, RankLost)


def test_strangers_are_sent_away(tmp_path: Path) -> None:
    """Who begins otherwise, or comes for another rank, does not keep rank 0 out."""
    import socket

    from greenroom.backends.ranks.channel import RankChannel
    from greenroom.backends.ranks.messages import MAGIC, RankGreeting

    with grouped(tmp_path) as group:
        place = group.hostfile.ranks[1].plans
        for data in (b"GET / HTTP/1.1\r\n\r\n", b""):
            with socket.create_connection(place) as stranger:
                stranger.sendall(data)
                stranger.shutdown(socket.SHUT_WR)
                assert stranger.recv(1) == b""
        with socket.create_connection(place) as other:
            RankChannel(other, "rank 1").send(RankGreeting(MAGIC, 2, 3, is_pulse=False))
            assert other.recv(1) == b""
        group.leader.load()
