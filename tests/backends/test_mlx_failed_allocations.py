"""An allocation that fails, at each call of MLX in the steps of a course: rows may fail by it, never the runtime.

Who did not fail says what it says otherwise, requests that come afterwards do too, and nothing stays behind.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from failing_calls import FailingCalls, failing_calls
from models import MODELS, VOCAB, llama

from greenroom.actors.engine import Engine, EngineLoop
from greenroom.actors.inbox import Inbox
from greenroom.actors.messages import Delivery, Ended, Outbound, Submit
from greenroom.actors.scheduler.admission import Limits
from greenroom.actors.scheduler.scheduler import Scheduler
from greenroom.actors.scheduler.statistics import StepTimes
from greenroom.backends.mlx import MlxBackend
from greenroom.backends.protocol import KvOptions, Sampling
from greenroom.errors import BackendFailed
from greenroom.events import Token
from greenroom.request.decoders import TokenDecoder

TOKENS = [(7 * place + 3) % VOCAB for place in range(120)]
REQUESTS: list[tuple[int, int, int, Sampling, KvOptions | None]] = [
    (0, 30, 16, Sampling(), None),
    (1, 90, 12, Sampling(seed=1, temperature=1.0, top_p=0.9), None),
    (3, 20, 8, Sampling(seed=2, temperature=1.0, min_p=0.1), KvOptions(bits=8, group_size=32)),
    (5, 110, 9, Sampling(seed=3, temperature=1.0, top_k=20, top_p=0.8, repetition_penalty=1.2, logprobs=2), None),
    (7, 80, 9, Sampling(seed=4, temperature=0.8, presence_penalty=0.5, logit_bias=((5, 1.0),)), None),
    (9, 30, 30, Sampling(), None),
]
"""When each comes, the tokens of its prompt, those that it writes, how they are drawn, and how they are held."""
Told = tuple[list[int], Exception | None]
TURNS = 16
"""In which calls fail."""


class Outcome:
    """What was told of requests."""

    def __init__(self) -> None:
        self.tokens: dict[int, list[int]] = {}
        self.errors: dict[int, Exception | None] = {}

    def take(self, told: tuple[Outbound, ...]) -> None:
        """See `Outbox`."""
        for message in told:
            if isinstance(message, Delivery):
                found = [event.id for event in message.events if isinstance(event, Token)]
                self.tokens.setdefault(message.request, []).extend(found)
            elif isinstance(message, Ended):
                self.errors[message.request] = message.error


class Loop:
    """Stands for the bridge: calls at once, on the caller's thread."""

    def post(self, function: Callable[[Any], object], argument: object) -> bool:
        """See `Bridge.post`."""
        function(argument)
        return True


class Course:
    """The requests on a loaded backend, again and again, each time as if for the first."""

    def __init__(self, backend: MlxBackend, kinds: list[int]) -> None:
        self.backend = backend
        info = backend.load()
        limits = Limits(rows=6, step_tokens=48, kv_bytes=420 * info.kv_bytes_per_token + 5 * info.kv_bytes_per_row)
        self.scheduler = Scheduler(info, limits)
        self.inbox = Inbox()
        self.outcome = Outcome()
        engine = Engine(lambda: backend, lambda _: limits)
        post = partial(Loop().post, self.outcome.take)
        self.loop = EngineLoop(engine, backend, self.scheduler, self.inbox, post)
        self._kinds = kinds
        self._next = 0

    def run(self, calls: FailingCalls | None = None, place: int | None = None) -> list[Told]:
        """The tokens of every request and its error; where calls fail, that is the one at `place`."""
        first = self._next
        self._next += len(self._kinds)
        turn = 0
        while any(request not in self.outcome.errors for request in range(first, self._next)):
            for request, kind in enumerate(self._kinds, start=first):
                if REQUESTS[kind][0] == turn:
                    self.inbox.put(self._submit(request, kind))
            if calls is not None and turn == 0:
                calls.arm(place)
            if calls is not None and turn == TURNS:
                calls.is_armed = False
            self.loop.is_idle = False
            self.loop.step()
            turn += 1
            assert turn < 500, f"nobody comes to an end: {self.scheduler!r}"
        if calls is not None:
            calls.is_armed = False
        for _ in range(3):
            self.loop.is_idle = False
            self.loop.step()
        return [(self.outcome.tokens.get(n, []), self.outcome.errors[n]) for n in range(first, self._next)]

    def _submit(self, request: int, kind: int) -> Submit:
        _, prompt, max_tokens, sampling, kv = REQUESTS[kind]
        return Submit(
            request=request,
            prompt=tuple(TOKENS[:prompt]),
            sampling=sampling,
            max_tokens=max_tokens,
            submitted=0.0,
            kv=kv,
            decoder=TokenDecoder(stop_ids=frozenset(), eos=frozenset()),
        )

    def forget(self, *, is_cold: bool) -> None:
        """What is kept of prompts that are over stays, or, where the next course is to begin as the first, goes."""
        if is_cold and self.backend.prefixes is not None:
            self.backend.prefixes.clear()

    def check_empty(self) -> None:
        """Nothing is held but kept prefixes, and nobody is there."""
        statistics = self.scheduler.statistics(StepTimes())
        assert (statistics.running, statistics.waiting, statistics.kv_bytes) == (0, 0, 0)
        assert statistics.allocated_bytes == statistics.prefix_bytes
        assert self.backend.edit([]).allocated_bytes == 0
        assert not self.backend._rows


def places(sites: list[tuple[str, str, int]], part: int) -> list[int]:
    """Of all calls from each line the first, the middle or the last one: 0, 1, 2 as `part`."""
    found: dict[tuple[str, str, int], list[int]] = {}
    for place, site in enumerate(sites):
        found.setdefault(site, []).append(place)
    return sorted({(each[0], each[len(each) // 2], each[-1])[part] for each in found.values()})


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("kind", "profile", "is_cold", "part"),
    [
        ("llama", "cpu", True, 0),
        ("llama", "metal", False, 2),
        ("deepseek_v3", "cpu", True, 1),
        ("gemma3", "cpu", False, 1),
        ("mamba2", "cpu", True, 1),
    ],
)
def test_a_failed_allocation_fails_rows_at_most(kind: str, profile: str, is_cold: bool, part: int) -> None:
    """At every line of a course that calls MLX: prompts, decoding, all kinds of drawing, moves, prefixes, endings.

    `part`: at its first call of the course, the middle one or the last.
    """
    builder = (lambda: llama(2, 128)) if kind == "llama" else MODELS[kind]
    backend = MlxBackend.from_model(builder, prefix_bytes=1 << 18, device_profile=profile)
    kinds = [place for place, (*_, kv) in enumerate(REQUESTS) if kind == "llama" or kv is None]
    with failing_calls() as calls:
        course = Course(backend, kinds)
        course.run()
        course.forget(is_cold=is_cold)
        expected = course.run(calls)
        assert all(error is None for _, error in expected)
        failed = raised = 0
        for place in places(calls.sites, part):
            course.forget(is_cold=is_cold)
            found = course.run(calls, place)
            raised += (
                calls.has_raised
            )  # what a failure has left of kept prefixes may make the next course a shorter one
            where = calls.sites[min(place, len(calls.sites) - 1)]
            for (tokens, error), (wanted, _) in zip(found, expected, strict=True):
                assert error is None or isinstance(error, BackendFailed), where
                assert tokens == (wanted if error is None else wanted[: len(tokens)]), where
            failed += any(error is not None for _, error in found)
            course.check_empty()
        assert course.run() == expected
        assert raised > failed > 0
    backend.close()
