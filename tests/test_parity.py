"""Two hundred requests through the scheduler and the engine's own turn, in a random mix, equal mlx-lm's one by one.

Requests arrive and are cancelled at counted turns, have prompts of many lengths, and neighbours that are drawn at
other temperatures. A token may differ only where mlx-lm's two best logits lie within 1e-4 of each other; such ties are
counted and printed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from models import MODELS, VOCAB, mx, sequential, swap_kv
from passlog import PassLog

from greenroom.actors.engine import Engine, EngineLoop
from greenroom.actors.inbox import Inbox
from greenroom.actors.messages import Cancel, Delivery, Ended, Inbound, Outbound, Submit
from greenroom.actors.scheduler.admission import Limits
from greenroom.actors.scheduler.scheduler import Scheduler
from greenroom.actors.scheduler.statistics import StepTimes
from greenroom.backends import understudy
from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.device_profile import CPU
from greenroom.backends.protocol import Sampling
from greenroom.events import Token
from greenroom.request.decoders import TokenDecoder

REQUESTS = 200
TIE = 1e-4


class Loop:
    """Stands for the bridge: calls at once, on the caller's thread."""

    def post(self, function: Callable[[Any], object], argument: object) -> bool:
        """See `Bridge.post`."""
        function(argument)
        return True


class Mix:
    """A random mix of requests, the turns at which they arrive, and those at which some are cancelled."""

    def __init__(self, seed: int, requests: int = REQUESTS * 6 // 5, stems: int = 0) -> None:
        """With `stems`, prompts begin with a part of one of so many sequences of 250 tokens."""
        rng = random.Random(seed)  # noqa: S311 - a mix is no secret
        self.submits: list[tuple[int, Submit]] = []
        self.cancels: dict[int, int] = {}
        turn = 0
        beginnings = [[rng.randrange(VOCAB) for _ in range(250)] for _ in range(stems)]
        for request in range(requests):
            turn += rng.choice([0, 0, 1, 2, 4])
            length = rng.choice([1, 2, rng.randint(3, 20), rng.randint(20, 60)])
            is_drawn = request % 6 == 5
            stem = rng.choice(beginnings)[: rng.randint(0, 250)] if stems else []
            submit = Submit(
                request=request,
                prompt=(*stem, *[rng.randrange(VOCAB) for _ in range(length)]),
                sampling=Sampling(seed=request, temperature=1.5, top_p=0.9) if is_drawn else Sampling(),
                max_tokens=rng.randint(1, 24),
                submitted=0.0,
                decoder=TokenDecoder(stop_ids=frozenset(), eos=frozenset()),
            )
            self.submits.append((turn, submit))
            if rng.random() < 0.1:
                self.cancels[request] = turn + rng.randint(0, 20)


def run(
    backend: PassLog,
    mix: Mix,
    limits: Limits,
    spoil: Callable[[int], None] | None = None,
    *,
    first: Sequence[Inbound] = (),
) -> dict[int, list[int]]:
    """Every request's tokens, through the engine's steps; `first` are messages before theirs."""
    tokens: dict[int, list[int]] = {submit.request: [] for _, submit in mix.submits}
    ended: set[int] = set()

    def outbox(told: tuple[Outbound, ...]) -> None:
        for message in told:
            if isinstance(message, Delivery):
                tokens[message.request] += [event.id for event in message.events if isinstance(event, Token)]
            elif isinstance(message, Ended):
                assert message.error is None, message.error
                ended.add(message.request)

    info = backend.load()
    scheduler = Scheduler(info, limits)
    inbox = Inbox()
    engine = Engine(lambda: backend, lambda _: limits)
    loop = EngineLoop(engine, backend, scheduler, inbox, partial(Loop().post, outbox))
    waiting: list[tuple[int, Inbound]] = [*[(0, message) for message in first], *mix.submits]
    turn = 0
    while len(ended) < len(tokens):
        while waiting and waiting[0][0] <= turn:
            inbox.put(waiting.pop(0)[1])
        for request, at in mix.cancels.items():
            if at == turn:
                inbox.put(Cancel(request, "handle"))
        loop.is_idle = False
        loop.step()
        if spoil is not None:
            spoil(turn)
        turn += 1
        assert turn < 20_000
    assert scheduler.statistics(StepTimes()).kv_bytes == 0
    return tokens


def compare(model: Any, mix: Mix, tokens: dict[int, list[int]]) -> tuple[int, int, list[int]]:
    """How many greedy requests were compared, how many met a tie, and which differ."""
    compared, ties, wrong = 0, 0, []
    for _, submit in mix.submits:
        if submit.sampling.temperature > 0:
            continue
        compared += 1
        mine = tokens[submit.request]
        if submit.request not in mix.cancels and len(mine) != submit.max_tokens:
            wrong.append(submit.request)
            continue
        if not mine:
            continue
        theirs, logprobs = sequential(model, submit.prompt, len(mine))
        different = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b), None)
        if different is None:
            continue
        best: Any = mx.sort(logprobs[different].reshape(-1))[-2:].tolist()
        if best[1] - best[0] <= TIE:
            ties += 1
        else:
            wrong.append(submit.request)
    return compared, ties, wrong


def _joined(passes: list[tuple[int, ...]], row: int) -> bool:
    """Whether the row's first pass held rows of the pass before."""
    first = next(i for i, rows in enumerate(passes) if row in rows)
    return first > 0 and bool(set(passes[first - 1]) & set(passes[first]))


LIMITS = Limits(rows=12, step_tokens=48, kv_bytes=1 << 28)


def opened(kind: str, request: pytest.FixtureRequest) -> MlxBackend:
    """A backend for a random model of `kind`, or for a real one."""
    if kind in MODELS:
        return MlxBackend.from_model(MODELS[kind], name=kind)
    if kind == "understudy":
        return MlxBackend(understudy.path())
    shared: Path = request.getfixturevalue("shared")
    return MlxBackend(shared / "assets" / "models" / kind)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [*MODELS, "understudy", "stories260K"])
def test_two_hundred_requests_in_a_mix_equal_mlx_lm_one_by_one(kind: str, request: pytest.FixtureRequest) -> None:
    """Token for token, greedy, float32, on every cache kind, in batches that rows join while they run."""
    inner = opened(kind, request)
    backend = PassLog(inner)
    mix = Mix(seed=crc32(kind.encode()))
    tokens = run(backend, mix, LIMITS)
    width = sum(len(rows) for rows in backend.passes) / len(backend.passes)
    joining = sum(_joined(backend.passes, row) for row in {row for rows in backend.passes for row in rows})
    compared, ties, wrong = compare(inner._model, mix, tokens)
    backend.close()
    print(f"{kind}: {compared} compared, {ties} ties, mean width {width:.1f}, {joining} joins")  # noqa: T201
    assert not wrong
    assert compared >= REQUESTS
    assert width >= 4
    assert joining >= 0.3 * len(mix.submits)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["llama", "gemma3", "deepseek_v3"])
def test_a_mix_whose_passes_are_submitted_before_the_last_is_read_equals_mlx_lm(kind: str) -> None:
    """A GPU's order and choices, on the CPU: rows join, leave, move and are cancelled between two passes in flight."""
    inner = MlxBackend.from_model(MODELS[kind], device_profile="metal", prefix_bytes=1 << 20)
    backend = PassLog(inner)
    mix = Mix(seed=11, requests=80, stems=3)
    tokens = run(backend, mix, LIMITS)
    assert backend.most_in_flight == 2
    _, ties, wrong = compare(inner._model, mix, tokens)
    backend.close()
    assert not wrong
    assert ties <= 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "room", "trunk"),
    [
        ("llama", 40, 256),
        ("llama", 40, 64),
        ("llama", 16, 64),
        ("deepseek_v3", 14, 256),
        ("gemma3", 28, 256),  # its caches grow by 256 tokens, and kept prefixes need room too
        ("mamba2", 40, 256),
    ],
)
def test_prompts_that_begin_alike_equal_mlx_lm_one_by_one(name: str, room: int, trunk: int) -> None:
    """Prefixes are reused from rows that run and from rows that are over; scarce memory has rows replayed, too.

    There is room for so many rows of 100 tokens. Prefixes are copied, or, from `trunk` tokens on, held once.
    """
    inner = MlxBackend.from_model(MODELS[name], prefix_bytes=1 << 20, device_profile=replace(CPU, shared_least=trunk))
    backend = PassLog(inner)
    mix = Mix(seed=3, requests=90, stems=3)
    info = inner.load()
    inner.close()
    per_row = 100 * info.kv_bytes_per_token + info.kv_bytes_per_row
    tokens = run(backend, mix, Limits(rows=10, step_tokens=96, kv_bytes=per_row * room))
    assert inner.prefixes is not None
    assert inner.prefixes.hits > 4
    assert inner.prefixes.evictions > 0
    _, ties, wrong = compare(inner._model, mix, tokens)
    backend.close()
    assert not wrong
    assert ties <= 1


def test_two_rows_with_swapped_keys_and_values_are_noticed() -> None:
    """The comparison can fail: rows whose KV is exchanged in mid-run give other tokens."""
    inner = MlxBackend.from_model(MODELS["llama"], name="llama")
    backend = PassLog(inner)
    mix = Mix(seed=5)

    def spoil(turn: int) -> None:
        if turn == 60:
            swap_kv(inner)

    tokens = run(backend, mix, LIMITS, spoil)
    _, _, wrong = compare(inner._model, mix, tokens)
    backend.close()
    assert wrong
