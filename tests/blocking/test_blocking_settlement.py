"""Stop means stop through the portal too: the ways and stages of `test_settlement.py`, from a thread without a loop."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, cast

import pytest
from passlog import PassLog

from greenroom import Chunk, Info, Reply, Scripted, WaitTimeout, blocking
from greenroom.actors.messages import Cancel
from greenroom.blocking import waits
from greenroom.blocking.loop_thread import LoopKind
from greenroom.blocking.mirrors import unwrap

NEIGHBOUR = "n" * 5
PROMPT = "p" * 100
STAGES = ("queued", "prefill", "between chunks", "decode", "finished")
KINDS: list[LoopKind] = ["asyncio", "trio"]
ORDERS: dict[str, dict[str, Any]] = {
    "blocks": {"dispatch_blocks": True},
    "reads": {},
    "pipelines": {"pipelines": True},
}
"""What the double says of its device: whether a pass is submitted before the last one is read."""
SETTINGS = [("asyncio", "blocks"), ("asyncio", "reads"), ("asyncio", "pipelines"), ("trio", "reads")]


class Stage:
    """A runtime on the double, and one request that stands at a known stage."""

    def __init__(self, runtime: blocking.Runtime, backend: Scripted, log: PassLog) -> None:
        self.runtime = runtime
        self.backend = backend
        self.log = log
        self.blocker: blocking.EventStream | None = None

    def step(self, steps: int = 1) -> None:
        """Let the engine read `steps` passes, and wait until it stands at the gate again."""
        for _ in range(steps):
            self.backend.release(1)
            self.backend.wait_held()

    def begin(self, stage: str) -> blocking.EventStream:
        """A request of 100 prompt tokens, 40 of which fit a pass, brought to `stage`."""
        self.backend.hold()
        if stage == "queued":
            self.blocker = self.runtime.generate(PROMPT, template=False)
            self.backend.wait_held()
        stream = self.runtime.generate(PROMPT, template=False)
        if stage == "finished":
            self.backend.release_all()
            stream.task.wait()
            return stream
        self.backend.wait_held()
        self.step({"between chunks": 1, "decode": 6}.get(stage, 0))
        self.release_behind_cancel(stream)
        return stream

    def release_behind_cancel(self, stream: blocking.EventStream) -> None:
        """Let the engine go on once it was told to end this request, not before."""
        mailbox = unwrap(stream)._mailbox
        put = mailbox._put

        def told(message: object) -> None:
            put(message)
            if isinstance(message, Cancel):
                self.backend.release_all()

        mailbox._put = told


@contextmanager
def staged(stage: str, loop: LoopKind, order: str = "reads") -> Iterator[Stage]:
    """A runtime over a logged double whose reply suits `stage`."""
    endless = Reply("abcdefghij", end=False, repeat=True)
    said = {PROMPT: Reply("a short answer") if stage == "finished" else endless}
    backend = Scripted({**said, NEIGHBOUR: Reply("the neighbour speaks on and on")}, **ORDERS[order])
    log = PassLog(backend)
    rows = 1 if stage == "queued" else 8
    with blocking.Runtime(backend=log, max_rows=rows, max_step_tokens=40, loop=loop) as runtime:
        try:
            yield Stage(runtime, backend, log)
        finally:
            backend.release_all()


def by_handle(stream: blocking.EventStream) -> Info:
    """`task.cancel()`, twice."""
    stream.task.cancel()
    stream.task.cancel()
    return cast("Info", list(stream)[-1])


def by_close(stream: blocking.EventStream) -> Info:
    """`stream.close()`."""
    stream.close()
    return stream.task.wait()


def by_leaving(stream: blocking.EventStream) -> Info:
    """Leaving `with stream`, by an error."""
    with pytest.raises(ZeroDivisionError), stream:
        raise ZeroDivisionError
    return stream.task.wait()


def settled(stream: blocking.EventStream) -> Info:
    """What the handle has already, where the wait was cut."""
    info = stream.task.info
    assert info is not None, "the wait ended before the request was settled"
    return info


def by_time(stream: blocking.EventStream) -> Info:
    """A wait whose time is over."""
    with pytest.raises(WaitTimeout), blocking.fail_after(0):
        stream.collect()
    return settled(stream)


def interrupted(wait: Callable[[], Any], at: int = 1) -> bool:
    """`wait`, with a Ctrl-C as soon as this thread waits for the `at`th time; False where it never does."""
    begin, count = waits._Signal.wait, 0

    def begin_interrupted(self: Any, deadline: float | None = None) -> bool:
        nonlocal count
        count += 1
        if count == at:
            signal.raise_signal(signal.SIGINT)
        return begin(self, deadline)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waits._Signal, "wait", begin_interrupted)
        try:
            wait()
        except KeyboardInterrupt:
            return True
    return False


def by_interrupt(stream: blocking.EventStream) -> Info:
    """Ctrl-C in a loop."""

    def read() -> None:
        for _ in stream:
            pass

    assert interrupted(read)
    return settled(stream)


def by_interrupt_of_collect(stream: blocking.EventStream) -> Info:
    """Ctrl-C in a call."""
    assert interrupted(stream.collect)
    return settled(stream)


WAYS: dict[str, tuple[Callable[[blocking.EventStream], Info], str]] = {
    "handle": (by_handle, "handle"),
    "close": (by_close, "stream_closed"),
    "leaving with": (by_leaving, "stream_closed"),
    "time": (by_time, "scope"),
    "interrupt": (by_interrupt, "scope"),
    "interrupt of a call": (by_interrupt_of_collect, "scope"),
}


def can_be(way: str, stage: str) -> bool:
    """Whether somebody waits, where an interrupt is to end that."""
    return stage != "finished" or way != "interrupt"


def after(log: PassLog, row: int, mark: int) -> int:
    """How many passes with `row` were submitted since the log had `mark` entries."""
    return sum(row in rows for rows in log.passes[mark:])


@pytest.mark.parametrize(("loop", "order"), SETTINGS)
@pytest.mark.parametrize(("way", "stage"), [(way, stage) for way in WAYS for stage in STAGES if can_be(way, stage)])
def test_every_way_to_stop_settles_at_every_stage(way: str, stage: str, loop: LoopKind, order: str) -> None:
    """One `Info`; at most one more pass with the row, none once it is told; KV bytes exactly back."""
    stop, detail = WAYS[way]
    with staged(stage, loop, order) as s:
        stream = s.begin(stage)
        before = stream.task.info
        mark = len(s.log.passes)
        info = stop(stream)
        row = 1 if stage == "queued" else 0
        assert after(s.log, row, mark) <= 1
        if stage == "finished":
            assert info == before
        else:
            assert (info.stop_reason, info.stop_detail) == ("cancelled", detail)
        assert stream.task.wait() == info
        now = len(s.log.passes)
        if s.blocker is not None:
            s.blocker.close()
        assert s.runtime.statistics().kv_bytes == 0
        assert s.runtime.statistics().running == 0
        assert after(s.log, row, now) == 0


@pytest.mark.parametrize(("loop", "order"), SETTINGS)
@pytest.mark.parametrize("stage", STAGES[:-1])
def test_dropping_the_last_reference_cancels(stage: str, loop: LoopKind, order: str) -> None:
    """A stream that nobody can read any more is cancelled, and its handle says so."""
    with staged(stage, loop, order) as s:
        stream = s.begin(stage)
        task = stream.task
        del stream
        gc.collect()
        assert task.wait().stop_detail == "dropped"
        if s.blocker is not None:
            s.blocker.close()
        assert s.runtime.statistics().kv_bytes == 0


@pytest.mark.parametrize(("loop", "order"), SETTINGS)
@pytest.mark.parametrize("stage", STAGES[:-1])
def test_closing_the_runtime_settles_what_runs(stage: str, loop: LoopKind, order: str) -> None:
    """Leaving the runtime ends every request as a shutdown, with its `Info` on stream and handle."""
    with staged(stage, loop, order) as s:
        stream = s.begin(stage)
        s.backend.release_all()
    info = stream.task.wait()
    assert (info.stop_reason, info.stop_detail) == ("cancelled", "shutdown")
    assert list(stream)[-1] == info


@pytest.mark.parametrize("loop", KINDS)
@pytest.mark.parametrize("way", ["break", "exception"])
def test_a_loop_that_is_left_cancels_where_nobody_else_holds_the_stream(way: str, loop: LoopKind) -> None:
    """A bare `break`, and an exception in the loop's body, over a stream that only the loop knew."""
    tasks: list[blocking.GenerationTask] = []
    with blocking.Runtime(backend=Scripted({"*": Reply("tick ", repeat=True, end=False)}), loop=loop) as rt:

        def begun() -> blocking.EventStream:
            stream = rt.generate("x")
            tasks.append(stream.task)
            return stream

        def leave() -> None:
            for _ in begun():
                if way == "break":
                    break
                raise ZeroDivisionError

        with suppress(ZeroDivisionError):
            leave()
        gc.collect()
        assert tasks[0].wait().stop_detail == "dropped"
        assert rt.statistics().kv_bytes == 0


@pytest.mark.parametrize(("loop", "order"), SETTINGS)
def test_a_cancel_changes_no_neighbours_text(loop: LoopKind, order: str) -> None:
    """The neighbour says the same as alone while a row beside it is cancelled in mid-decode."""
    with staged("decode", loop, order) as s:
        neighbour = s.runtime.generate(NEIGHBOUR, template=False)
        stream = s.begin("decode")
        stream.task.cancel()
        assert neighbour.text() == "the neighbour speaks on and on"


@pytest.mark.parametrize("loop", KINDS)
def test_a_request_has_its_own_time(loop: LoopKind) -> None:
    """`timeout=` ends it as cancelled, with an `Info` and without an exception."""
    with blocking.Runtime(backend=Scripted(Reply("a", repeat=True, end=False), step_seconds=0.001), loop=loop) as rt:
        info = list(rt.generate("x", timeout=0.05))[-1]
        assert isinstance(info, Info)
        assert (info.stop_reason, info.stop_detail) == ("cancelled", "timeout")


@pytest.mark.parametrize("loop", KINDS)
def test_a_stream_that_is_never_read_but_waited_for_ends_normally(loop: LoopKind) -> None:
    """Waiting for the handle lifts the credit: nobody has to read."""
    with blocking.Runtime(backend=Scripted({"*": Reply("x" * 2000)}), loop=loop) as rt:
        stream = rt.generate("go")
        assert stream.task.wait().generation_tokens == 2000


def paused(rt: blocking.Runtime, count: int) -> None:
    """Until the scheduler has paused `count` rows."""
    while rt.statistics().paused < count:
        pass


@pytest.mark.parametrize("loop", KINDS)
def test_consumers_that_never_read_delay_nobody(loop: LoopKind) -> None:
    """Rows without credit are paused and give up their places, and memory stays bounded."""
    backend = Scripted({"idle": Reply("z" * 50, repeat=True, end=False), "busy": Reply("hello")})
    with blocking.Runtime(backend=backend, max_rows=4, loop=loop) as rt:
        idle = [rt.generate("idle") for _ in range(16)]
        assert rt.generate("busy").text() == "hello"
        paused(rt, 16)
        assert rt.generate("busy").text() == "hello"
        for stream in idle:
            stream.close()
        assert rt.statistics().kv_bytes == 0


@pytest.mark.parametrize(("loop", "order"), SETTINGS)
def test_a_paused_stream_goes_on_when_a_thread_reads_it(loop: LoopKind, order: str) -> None:
    """Reading returns credit, also what is read without the loop; the text is whole."""
    backend = Scripted({"*": Reply("0123456789" * 200)}, **ORDERS[order])
    with blocking.Runtime(backend=backend, loop=loop) as rt:
        stream = rt.generate("go")
        paused(rt, 1)
        assert "".join([event.text for event in stream if isinstance(event, Chunk)]) == "0123456789" * 200


@pytest.mark.parametrize(("loop", "order"), SETTINGS)
def test_rows_that_outgrow_the_budget_are_replayed(loop: LoopKind, order: str) -> None:
    """With KV for one and a half rows, two long ones still finish with their whole texts."""
    backend = Scripted({"a": Reply("a" * 900), "b": Reply("b" * 900)}, kv_bytes_per_token=1, **ORDERS[order])
    with blocking.Runtime(backend=backend, kv_bytes=1400, loop=loop) as rt, ThreadPoolExecutor(2) as pool:
        streams = [rt.generate("a"), rt.generate("b")]
        assert list(pool.map(lambda stream: stream.text(), streams)) == ["a" * 900, "b" * 900]


WAITS: dict[str, Callable[[blocking.Runtime], Any]] = {
    "a generator": lambda rt: rt.context().fill("x").generate(max_tokens=5).collect_text(),
    "a step": lambda rt: next(rt.context().fill("x").generate()).execute(),
    "a turn": lambda rt: blocking.ChatSession(rt).respond("x", max_tokens=5),
    "a turn's text": lambda rt: list(blocking.ChatSession(rt).stream_response("x", max_tokens=5)),
    "an object": lambda rt: list(rt.stream(list[int], "x", growing={"truncated": "mark"}, max_tokens=5)),
    "a crowd": lambda rt: list(rt.map(["x"] * 3, max_tokens=5)),
    "a request that is prepared": lambda rt: rt.generate_task("x", max_tokens=5)[0].collect(),
}


@pytest.mark.parametrize("loop", KINDS)
@pytest.mark.parametrize("wait", WAITS)
def test_an_interrupt_ends_every_wait_and_its_row(wait: str, loop: LoopKind) -> None:
    """At the first wait, at the second, and so on, until it gets through: nothing runs behind any."""
    backend = Scripted({"x": Reply("1, ", end=False, repeat=True), "*": Reply("well")})
    with blocking.Runtime(backend=backend, loop=loop) as rt:
        at = 1
        while interrupted(lambda: WAITS[wait](rt), at):
            gc.collect()  # what was in the frames of the interrupt is dropped
            at += 1
        assert at > 1
        assert rt.generate("y").text() == "well"
        assert rt.drain().wait() == 0
