"""What many do at once costs a step no more than few do, and is not run over and over."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from greenroom import Reply, Runtime, Scripted
from greenroom.actors.decoder import Decoded
from greenroom.actors.dispatcher import Dispatcher
from greenroom.actors.messages import Credit, Delivery, Ended, Inbound, Submit
from greenroom.actors.scheduler import overlaps
from greenroom.actors.scheduler.admission import Limits
from greenroom.actors.scheduler.scheduler import Scheduler
from greenroom.backends.prefixes import common_prefix_length
from greenroom.backends.protocol import Feed, ForwardPlan, ModelInfo, Sampled, Sampling
from greenroom.events import Chunk
from greenroom.request.current import session_of


class Telling:
    """A decoder that tells of each token."""

    def feed(self, tokens: list[Sampled]) -> Decoded:
        """See `Decoder.feed`."""
        return Decoded(tuple([Chunk("x") for _ in tokens]))

    def finish(self, reason: str) -> tuple[()]:
        """See `Decoder.finish`."""
        del reason
        return ()

    def fork(self) -> Telling:
        """See `Decoder.fork`."""
        return Telling()


class Bench:
    """A scheduler and a backend, stepped by hand."""

    def __init__(self, limits: Limits, **changes: Any) -> None:
        self.backend = Scripted({"*": Reply("abc", repeat=True)}, kv_bytes_per_token=16)
        model: ModelInfo = msgspec.structs.replace(self.backend.load(), **changes)
        self.scheduler = Scheduler(model, limits)
        self.told: list[Any] = []
        self.num_run = 0
        self._now = 0.0

    def submit(self, request: int, prompt: tuple[int, ...], max_tokens: int) -> None:
        """One more request."""
        decoder: Any = Telling()
        more: dict[str, Any] = {"sampling": Sampling(), "submitted": 0.0, "decoder": decoder}
        self.scheduler.submit(Submit(request=request, prompt=prompt, max_tokens=max_tokens, **more))

    def step(self) -> None:
        """Plan, run, apply."""
        self._now += 1.0
        scheduler, backend = self.scheduler, self.backend
        plan = scheduler.plan(self._now)
        self.told += plan.messages
        scheduler.record_edits(backend.edit(plan.edits))
        feeds: tuple[Feed, ...] = scheduler.build_batch(self._now)
        if not feeds:
            return
        self.num_run += sum(max(1, len(feed.ids)) for feed in feeds)
        backend.forward(ForwardPlan(feeds))
        backend.sample()
        scheduler.mark_submitted(feeds)
        self.told += scheduler.apply(tuple([feed.row for feed in feeds]), backend.read(), self._now)


@pytest.mark.parametrize("num_waiting", [10, 100, 1000])
def test_a_step_compares_a_bounded_number_of_prompts(num_waiting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many wait: those in front, each pair once. All of them are served."""
    compared: list[tuple[int, int]] = []

    def counted(one: list[int], other: list[int], most: int) -> int:
        compared.append((one[-1] + 320 * one[-2], other[-1] + 320 * other[-2]))
        return common_prefix_length(one, other, most)

    monkeypatch.setattr(overlaps, "common_prefix_length", counted)
    bench = Bench(Limits(rows=4, step_tokens=300, kv_bytes=1 << 30), reuses_prefixes=True)
    for request in range(num_waiting):
        bench.submit(request, (*[7] * 200, request // 320, request % 320), 3)
    most = num_steps = 0
    while sum(isinstance(message, Ended) for message in bench.told) < num_waiting:
        before = len(compared)
        bench.step()
        most, num_steps = max(most, len(compared) - before), num_steps + 1
        assert num_steps < 20 * num_waiting
    assert 0 < most <= 4 * 33
    assert len(set(compared)) == len(compared)


@pytest.mark.parametrize(("num_readers", "num_fitting", "pace"), [(6, 2, 8), (12, 3, 4), (3, 1, 16), (8, 5, 2)])
def test_slow_readers_are_not_run_over_and_over(num_readers: int, num_fitting: int, pace: int) -> None:
    """Where the rows of few of them fit: in all, less is run again than they are told, and each is told everything."""
    length, prompt_length = 900, 100
    bench = Bench(Limits(rows=num_readers, step_tokens=400, kv_bytes=16 * (length + prompt_length) * num_fitting))
    for request in range(num_readers):
        bench.submit(request, tuple([1 + request] * prompt_length), length)
    unread, unreturned, num_steps = [0] * num_readers, [0] * num_readers, 0
    is_over: set[int] = set()
    while len(is_over) < num_readers:
        bench.step()
        for message in bench.told:
            if isinstance(message, Delivery):
                unread[message.request] += message.tokens
            elif isinstance(message, Ended):
                is_over.add(message.request)
        bench.told.clear()
        num_steps += 1
        for request in range(num_readers):
            if num_steps % pace or not unread[request]:
                continue
            unread[request] -= 1
            unreturned[request] += 1
            if unreturned[request] == 64 and request not in is_over:
                bench.scheduler.credit(Credit(request, 64))
                unreturned[request] = 0
        assert num_steps < 100_000
    useful = num_readers * (length + prompt_length)
    assert useful <= bench.num_run <= 2 * useful


async def test_questions_take_no_numbers_of_requests() -> None:
    """So the engine, which keeps those that were overtaken until they come, waits for none that never does."""
    asked: list[Inbound] = []
    dispatcher = Dispatcher(asked.append, max_waiting=9)
    numbers = [dispatcher.open().request]
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(dispatcher.export_kv, (1,))
            group.start_soon(dispatcher.import_kv, b"")
        await anyio.wait_all_tasks_blocked()
        numbers += [dispatcher.open().request for _ in range(2)]
        group.cancel_scope.cancel()
    assert len(asked) == 6
    assert numbers == [0, 1, 2]


async def test_a_request_that_cannot_be_made_takes_no_place() -> None:
    """What building it raises is raised, and its place in the queue is free again."""
    backend = Scripted("fine")

    def broken(request: int) -> Submit:
        raise LookupError(request)

    async with Runtime(backend=backend, max_rows=1, max_waiting=1) as runtime:
        client = session_of(runtime).client
        for _ in range(5):
            for _ in range(5):
                with pytest.raises(LookupError):
                    client.submit(broken)
            assert await runtime.generate("x").text() == "fine"
