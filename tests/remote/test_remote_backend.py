"""A backend elsewhere gives what it gives here, whatever fails, in either order; and nobody outlives the other."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import remote_doubles

from greenroom.backends.protocol import Backend, Close, Feed, ForwardPlan, Masks, Open, Rewind, Sampling
from greenroom.backends.remote import backend as remote_module
from greenroom.backends.remote.backend import RemoteBackend
from greenroom.backends.remote.budget import RestartBudget
from greenroom.backends.remote.channel import Channel, ChannelClosed, ChannelSilent
from greenroom.backends.remote.failures import as_failure, raised
from greenroom.backends.remote.follow import Follower
from greenroom.backends.remote.messages import (
    Answer,
    Call,
    EndChild,
    ModelThere,
    Read,
    RunPass,
    Start,
    pack_info,
)
from greenroom.backends.remote.shared_rows import SharedRows, new_shared_file
from greenroom.backends.scripted import Scripted
from greenroom.errors import (
    BackendLost,
    EngineFailed,
    InvalidAdapter,
    InvalidLogits,
    InvalidSnapshot,
    MissingExtra,
    ModelLoadFailed,
    ModelNotFound,
    NotSupported,
)

WORDS = 10


class ThreadChild:
    """Stands for a child: the other end is a thread of this process, over the same socket and files."""

    backend: Scripted

    def __init__(self, ended: Callable[[], object]) -> None:
        ours, theirs = socket.socketpair()
        files = [new_shared_file(), new_shared_file()]
        self.channel: Channel[Answer] = Channel(ours, Answer)
        self.masks, self.logits = map(SharedRows, files)
        self.pid, self.is_over, self.was_killed = os.getpid(), False, False
        self._ended = ended
        views = [SharedRows(os.dup(file)) for file in files]
        self._thread = threading.Thread(target=self._serve, args=(Channel(theirs, Call), *views), daemon=True)
        self._thread.start()

    def _serve(self, channel: Channel[Call], masks: SharedRows, logits: SharedRows) -> None:
        start = channel.receive()
        assert isinstance(start, Start)
        crossing = remote_doubles.Talking()
        backend = type(self).backend
        info = backend.load()
        channel.send(ModelThere(pack_info(info), crossing.describe(info)))
        try:
            Follower(backend, info, channel, masks=masks, logits=logits, adapters=crossing).run()
        except ChannelClosed:
            pass
        finally:
            backend.close()
            self.is_over = True
            for each in (channel, masks, logits):
                each.close()
        self._ended()

    def wait(self, seconds: float) -> bool:
        """For its end."""
        self._thread.join(seconds)
        return self.is_over

    def kill(self) -> None:
        """End it."""
        self.channel.close()
        self.masks.close()
        self.logits.close()
        self._thread.join(10.0)

    def describe_end(self) -> str:
        """What is said of it."""
        return "the thread is over"


@pytest.fixture(params=[False, True], ids=["blocking", "pipeline"])
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[RemoteBackend, Scripted]]:
    """A remote backend, loaded, and what performs its calls on a thread."""
    backend = Scripted(remote_doubles.said, kv_bytes_per_row=3, pipelines=request.param)
    child = type("Child", (ThreadChild,), {"backend": backend})
    monkeypatch.setattr(remote_module, "ChildProcess", child)
    remote = RemoteBackend(remote_doubles.factory())
    remote.load()
    yield remote, backend
    remote.close()


def turn(backend: Backend, *feeds: Feed, masks: Masks | None = None) -> None:
    """Submit a pass."""
    backend.forward(ForwardPlan(feeds, masks is not None))
    backend.sample(masks)


def allowing(rows: tuple[int, ...], token: int) -> Masks:
    """Only that one, in each of these rows."""
    bits = np.zeros((len(rows), WORDS), np.uint32)
    bits[:, token // 32] = np.uint32(1 << token % 32)
    return Masks(rows, bits)


# What is sent.


def test_a_step_is_a_small_message() -> None:
    """A row that goes on costs seven bytes, asking for a step nine in all."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel: Channel[Call] = Channel(ours, Call)
        assert channel.send(Read()) <= 9
        assert channel.send(RunPass((Feed(1),))) <= 20
        assert channel.send(RunPass(tuple([Feed(row) for row in range(16)]))) <= 16 * 7 + 12


def test_messages_come_whole_however_they_are_cut() -> None:
    """Large ones, small ones behind them, and one that was not ended."""
    ours, theirs = socket.socketpair()
    sender: Channel[Call] = Channel(ours, Call)
    receiver: Channel[Call] = Channel(theirs, Call)
    sent = [RunPass((Feed(1, tuple(range(count))),)) for count in (0, 300_000, 1, 20_000, 2)]

    def send() -> None:
        for message in sent:
            sender.send(message)
        ours.sendall(b"\xff\x00\x00\x00half")
        ours.close()

    thread = threading.Thread(target=send)
    thread.start()
    assert [receiver.receive() for _ in sent] == sent
    with pytest.raises(ChannelClosed, match="gone"):
        receiver.receive()
    thread.join()
    receiver.close()


def test_a_channel_says_what_is_wrong_with_the_other_end() -> None:
    """Silence, and what is no message."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel: Channel[Call] = Channel(ours, Call)
        channel.set_patience(0.001)
        with pytest.raises(ChannelSilent):
            channel.receive()
        theirs.sendall(b"\x02\x00\x00\x00{}")
        with pytest.raises(ChannelClosed, match="no message"):
            channel.receive()


@pytest.mark.parametrize(
    "error",
    [
        ModelNotFound("there is no such folder"),
        MissingExtra("mlx is not installed"),
        InvalidLogits("infinite", is_doubtful=True),
        InvalidAdapter("a folder", ["its rank is 3", "its keys are none"]),
        ValueError("7"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_crosses_as_what_it_is(error: Exception) -> None:
    """Its type, its text, and what it has beside them."""
    error.__cause__ = OSError(2, "gone")
    data = msgspec.msgpack.encode(as_failure(error))
    found = raised(msgspec.msgpack.decode(data, type=type(as_failure(error))))
    assert (type(found), str(found)) == (type(error), str(error))
    assert {name: value for name, value in vars(found).items() if not name.startswith("__")} == vars(error)
    assert isinstance(found.__cause__, OSError)


def test_an_error_of_somebody_else_says_its_type() -> None:
    """What cannot be made again is told all the same."""

    class OwnError(Exception):
        pass

    found = raised(as_failure(OwnError("no")))
    assert type(found) is RuntimeError
    assert str(found).endswith("OwnError: no")


def test_shared_rows_grow_and_what_was_written_last_but_one_stands() -> None:
    """A step's masks lie where they were said to be until the next but one."""
    file = new_shared_file()
    writer, reader = SharedRows(file), SharedRows(os.dup(file))
    rng = np.random.default_rng(3)
    places: list[tuple[int, Any]] = []
    for size in (3, 40_000, 5, 100_000, 100_000, 7):
        rows = rng.integers(0, 1 << 32, (2, size), np.uint32)
        place = writer.begin(rows.nbytes)
        writer.write(place, rows)
        places.append((place, rows))
        for at, expected in places[-2:]:
            assert np.array_equal(reader.read(at, expected.shape, np.uint32), expected)
    writer.close()
    reader.close()


# Equal to what it stands for.


class Player:
    """Makes random turns of a few rows; `found` is what steps gave, and what was held when nothing was under way."""

    def __init__(self, backend: Backend, seed: int, *, pipelines: bool) -> None:
        self._backend = backend
        self._rng = random.Random(seed)  # noqa: S311 - no secret
        self._pipelines = pipelines
        self.found: list[Any] = []
        self._lengths: dict[int, int] = {}
        self._under_way = self._count = 0

    def play(self) -> list[Any]:
        """All of it."""
        for _ in range(30):
            self._edit()
            feeds = self._feeds()
            if feeds:
                self._run(feeds)
            if not feeds or self._rng.random() < 0.2:
                self._read(0)
                self.found.append(self._backend.edit(()))
        self._read(0)
        return self.found

    def _edit(self) -> None:
        rng, lengths = self._rng, self._lengths
        if len(lengths) < 4 and rng.random() < 0.5:
            row, prompt = self._count, tuple(rng.randrange(65, 90) for _ in range(rng.randint(1, 5)))
            sampling = Sampling(seed=row, logprobs=rng.choice([None, 2]))
            self._backend.edit([Open(row, sampling, prompt=prompt if row % 2 else ())])
            lengths[row] = 0
            self._count += 1
        if lengths and rng.random() < 0.2:
            row = rng.choice(sorted(lengths))
            del lengths[row]
            self._backend.edit([Close(row)])

    def _feeds(self) -> tuple[Feed, ...]:
        rng, feeds = self._rng, []
        for row, length in sorted(self._lengths.items()):
            if length == 0 or rng.random() < 0.8:
                ids = tuple(rng.randrange(65, 90) for _ in range(3)) if length == 0 else ()
                feeds.append(Feed(row, ids, logits=(0,) if rng.random() < 0.1 else ()))
                self._lengths[row] += len(ids) or 1
        return tuple(feeds)

    def _run(self, feeds: tuple[Feed, ...]) -> None:
        rng = self._rng
        masks = allowing((feeds[0].row,), rng.randrange(97, 120)) if rng.random() < 0.3 else None
        self._backend.forward(ForwardPlan(feeds, masks is not None))
        if not self._pipelines:
            self._read(0)
        self._backend.sample(masks if masks is None or rng.random() < 0.5 else partial(_same, masks))
        self._under_way += 1
        self._read(1)

    def _read(self, but: int) -> None:
        while self._under_way > but:
            self._under_way -= 1
            result = self._backend.read()
            self.found.append([(each.row, each.token, each.logprob, each.top) for each in result.sampled])
            self.found.extend([each.logits.tolist() for each in result.sampled if each.logits is not None])


def _same(masks: Masks) -> Masks:
    """Filled already."""
    return masks


@pytest.mark.parametrize("seed", range(6))
def test_any_turns_give_what_they_give_here(pair: tuple[RemoteBackend, Scripted], seed: int) -> None:
    """Tokens, log-probabilities, logits and bytes, in either order, with masks and without."""
    remote, there = pair
    pipelines = there._info.pipelines
    here = Scripted(remote_doubles.said, kv_bytes_per_row=3, pipelines=pipelines)
    here.load()
    expected = Player(here, seed, pipelines=pipelines).play()
    here.close()
    assert len(expected) > 20
    assert Player(remote, seed, pipelines=pipelines).play() == expected


def test_a_row_that_is_closed_under_way_is_counted_here(pair: tuple[RemoteBackend, Scripted]) -> None:
    """While a pass is under way nobody waits for what is held: it is counted, to the byte."""
    remote, there = pair
    remote.edit([Open(1, Sampling()), Open(2, Sampling())])
    turn(remote, Feed(1, (65, 66)), Feed(2, (65, 66, 67)))
    with there.held():
        turn(remote, Feed(1), Feed(2))  # is not read until the gate opens
        assert remote.edit([Close(1)]).kv_bytes == 4 * 16 + 3
    remote.read()
    remote.read()
    assert remote.edit(()).kv_bytes == 4 * 16 + 3


def test_what_is_kept_of_prompts_goes_both_ways(
    pair: tuple[RemoteBackend, Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As bytes of any size, behind a pass that is under way; what is wrong with them is raised here."""
    remote, there = pair
    assert remote.export_prefix((65,)) is None  # it keeps nothing
    assert remote.import_prefix(b"anything") == 0
    data = bytes(range(256)) * 20_000

    def give(_: Any, tokens: Sequence[int], adapter: int) -> bytes | None:
        return data if list(tokens) == [1, 2, adapter] else None

    def take(_: Any, given: bytes) -> int:
        if given != data:
            raise InvalidSnapshot("these are no bytes of a prefix")
        return 3

    monkeypatch.setattr(Scripted, "export_prefix", give, raising=False)
    monkeypatch.setattr(Scripted, "import_prefix", take, raising=False)
    remote.edit([Open(1, Sampling())])
    turn(remote, Feed(1, (65,)))
    turn(remote, Feed(1))
    assert remote.export_prefix([1, 2, 7], 7) == data
    assert remote.import_prefix(data) == 3
    with pytest.raises(InvalidSnapshot, match="no bytes of a prefix"):
        remote.import_prefix(data[1:])
    assert [len(remote.read().sampled), len(remote.read().sampled)] == [1, 1]
    assert there.passes == 2


def test_a_backend_without_adapters_says_so(pair: tuple[RemoteBackend, Scripted]) -> None:
    """As it does here; nobody gives it to another one."""
    remote, _ = pair
    remote._crossing = _Anything()
    weights: Any = object()
    with pytest.raises(NotSupported, match="takes none"):
        remote.open_adapter(1, weights)
    assert remote._adapters == {}


class _Anything(remote_doubles.Talking):
    """Packs whatever it is given."""

    def pack_adapter(self, weights: object) -> bytes:
        """See `Crossing.pack_adapter`."""
        return repr(weights).encode()


# What fails.


def test_a_pass_that_fails_fails_its_rows_for_good_and_no_other(pair: tuple[RemoteBackend, Scripted]) -> None:
    """It is told when it is read; a row that lacks a token is not run, and whoever is fed beside it goes on."""
    remote, there = pair
    remote.edit([Open(1, Sampling()), Open(2, Sampling(seed=2))])
    there.fail_next("forward", ValueError("no room"))
    turn(remote, Feed(1, (65,)))
    turn(remote, Feed(1), Feed(2, (65,)), masks=allowing((1, 2), ord("2")))
    with pytest.raises(ValueError, match="no room"):
        remote.read()
    result = remote.read()
    assert [(each.row, each.token) for each in result.sampled] == [(2, ord("2"))]
    assert [(each.row, str(each.error)) for each in result.failures] == [(1, "no room")]
    turn(remote, Feed(1))
    assert [each.row for each in remote.read().failures] == [1]
    assert remote.edit([Close(1)]).kv_bytes == 16 + 3
    turn(remote, Feed(2))
    assert [each.row for each in remote.read().sampled] == [2]


@pytest.mark.parametrize("method", ["sample", "read"])
def test_a_step_that_fails_is_told_in_its_place(pair: tuple[RemoteBackend, Scripted], method: Any) -> None:
    """The step before it and the one behind it are told as they are."""
    remote, there = pair
    remote.edit([Open(1, Sampling()), Open(2, Sampling(seed=2)), Open(3, Sampling(seed=3))])
    turn(remote, Feed(1, (65,)))
    assert [each.row for each in remote.read().sampled] == [1]
    there.fail_next(method, MemoryError("full"))
    turn(remote, Feed(2, (65,)))
    turn(remote, Feed(3, (65,)), masks=None)
    with pytest.raises(MemoryError, match="full"):
        remote.read()
    assert [each.token for each in remote.read().sampled] == [ord("3")]


def test_an_edit_that_fails_is_its_rows_failure(pair: tuple[RemoteBackend, Scripted]) -> None:
    """Where it is waited for it is raised; else the row fails in its first pass, and closes as any other."""
    remote, there = pair
    there.fail_next("edit", ValueError("no row"))
    with pytest.raises(ValueError, match="no row"):
        remote.edit([Open(1, Sampling(), prompt=(65,))])
    remote.edit([Open(2, Sampling())])
    turn(remote, Feed(2, (65,)))
    there.fail_next("edit", ValueError("no other row"))
    remote.edit([Open(3, Sampling())])
    turn(remote, Feed(2), Feed(3, (65,)))
    remote.read()
    result = remote.read()
    assert [each.row for each in result.sampled] == [2]
    assert [(each.row, str(each.error)) for each in result.failures] == [(3, "no other row")]
    remote.edit([Close(3), Rewind(2, 1)])
    assert remote.edit(()).kv_bytes == 16 + 3


# The process.


def pid_of(remote: RemoteBackend) -> int:
    """Its child's number; 0 would mean this process's group."""
    assert remote.pid
    return remote.pid


def num_descriptors() -> int:
    """Open ones of this process; 0 where the system does not say."""
    folder = Path("/proc/self/fd")
    return len([*folder.iterdir()]) if folder.exists() else 0


def test_a_child_that_is_killed_is_told_by_name_and_another_one_takes_its_place() -> None:
    """With no rows, no zombie and no descriptor left; and no more often than it may."""
    before = num_descriptors()
    heard = threading.Event()
    remote = RemoteBackend(remote_doubles.factory(), restarts=RestartBudget(1, 60.0))
    remote.load()
    remote.watch(heard.set)
    remote.edit([Open(1, Sampling())])
    turn(remote, Feed(1, (65,)))
    remote.read()
    killed = pid_of(remote)
    os.kill(killed, signal.SIGKILL)
    assert heard.wait(20.0)
    assert "SIGKILL" in str(remote.find_loss())
    with pytest.raises(BackendLost, match=f"process {killed} was ended by SIGKILL"):
        turn(remote, Feed(1))
    heard.clear()
    remote.restart()
    assert remote.pid not in {killed, None}
    assert heard.wait(20.0)
    assert remote.resume()
    assert remote.find_loss() is None
    assert remote.edit(()).kv_bytes == 0
    remote.edit([Open(2, Sampling(seed=2))])
    turn(remote, Feed(2, (65,)))
    assert remote.read().sampled[0].token == ord("2")
    os.kill(pid_of(remote), signal.SIGKILL)
    with pytest.raises(BackendLost):
        remote.read()
    with pytest.raises(EngineFailed, match="1 times within 1 minutes"):
        remote.restart()
    remote.close()
    with pytest.raises(ProcessLookupError):
        os.kill(killed, 0)
    assert num_descriptors() == before


def test_a_child_that_hangs_is_ended() -> None:
    """Stopped, it says nothing within the deadline."""
    remote = RemoteBackend(remote_doubles.factory(), deadline=0.2)
    remote.load()
    os.kill(pid_of(remote), signal.SIGSTOP)
    with pytest.raises(BackendLost, match="does not answer"):
        remote.edit(())
    remote.close()


def test_what_a_load_raises_comes_back_as_it_is() -> None:
    """The model's own error; and a death over it is a load that failed, with the last words."""
    with pytest.raises(ModelNotFound, match="nowhere"):
        RemoteBackend(remote_doubles.factory("missing")).load()
    with pytest.raises(ModelLoadFailed, match=r"(?s)SIGABRT.*last words.*over and out"):
        RemoteBackend(remote_doubles.factory("aborting")).load()
    with pytest.raises(ModelLoadFailed, match=r"(?s)status 7.*words without an end, by [0-9]+$") as caught:
        RemoteBackend(remote_doubles.factory("leaving")).load()
    os.kill(int(str(caught.value).rpartition(" ")[2]), signal.SIGKILL)  # which nobody has waited for


PARENT = """
import os, signal, sys
import remote_doubles
from greenroom.backends.protocol import Feed, ForwardPlan, Open, Sampling
from greenroom.backends.remote.backend import RemoteBackend
remote = RemoteBackend(remote_doubles.factory(sys.argv[1]))
remote.load()
remote.edit([Open(1, Sampling())])
remote.forward(ForwardPlan((Feed(1, (65,)),), False))
print(remote.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("make", ["scripted", "sleeping", "spinning"])
def test_a_child_ends_with_its_parent(make: str) -> None:
    """At once, whatever it is in the midst of: an empty inbox, a pass that hangs, native code that keeps the lock."""
    if make == "spinning" and sys.platform != "linux":
        pytest.skip("the kernel of macOS sends no signal that ends a process when its pipe does")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", PARENT, make]
    parent = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=50)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    child = int(parent.stdout)
    deadline = time.monotonic() + 10.0
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    """Whether there is such a process; one that only waits to be reaped by the system's first is none."""
    state = Path(f"/proc/{pid}/stat")
    try:
        os.kill(pid, 0)
        return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_ctrl_c_reaches_the_parent_alone() -> None:
    """The child is a session of its own, and looks away where it is meant."""
    remote = RemoteBackend(remote_doubles.factory())
    remote.load()
    assert os.getsid(pid_of(remote)) != os.getsid(0)
    os.kill(pid_of(remote), signal.SIGINT)
    assert remote.edit(()).kv_bytes == 0
    remote.close()


def test_stop_is_the_last_message() -> None:
    """It is a call like others on the wire."""
    assert isinstance(msgspec.msgpack.decode(msgspec.msgpack.encode(EndChild()), type=Call), EndChild)
