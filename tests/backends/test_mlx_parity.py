"""Rows that join, pause, resume and leave at random get mlx-lm's own tokens, each as if it were alone.

A token may differ only where mlx-lm's two best logits lie within 1e-4 of each other: there float32 decides by the order
of its additions, and the row is compared no further. The number of such ties is printed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from models import MODELS, VOCAB, Driver, driven, gemma2, mx, sequential, swap_kv

from greenroom.backends.mlx.kv.packed import PackedStore
from greenroom.backends.mlx.kv.padded import PaddedStore
from greenroom.backends.mlx.kv.two_phase import SequentialStore
from greenroom.backends.protocol import Close, Feed, Rewind

TIE = 1e-4


@dataclass
class Plan:
    """One row of a schedule."""

    prompt: list[int]
    count: int
    start: int
    chunks: list[tuple[int, ...]] = field(default_factory=list)


def schedule(rng: random.Random, rows: int) -> dict[int, Plan]:
    """Prompts of 1 to 80 tokens in chunks of 1 to 64, to begin at different turns."""
    plans = {}
    for row in range(rows):
        prompt = [rng.randrange(VOCAB) for _ in range(rng.choice([1, 2, 3, rng.randint(4, 30), rng.randint(30, 80)]))]
        plan = Plan(prompt, count=rng.randint(1, 24), start=rng.randint(0, 20))
        at = 0
        while at < len(prompt):
            size = rng.choice([1, 7, 16, 64])
            plan.chunks.append(tuple(prompt[at : at + size]))
            at += size
        plans[row] = plan
    return plans


def play(driver: Driver, plans: dict[int, Plan], rng: random.Random, spoil: Any = None) -> None:
    """Run a schedule; now and then a row is left out of a pass."""
    drawn = dict.fromkeys(plans, 0)
    opened: set[int] = set()
    closed: set[int] = set()
    turn = 0
    while len(closed) < len(plans):
        feeds = []
        for row, plan in plans.items():
            if row in closed or turn < plan.start:
                continue
            if row not in opened:
                driver.open(row)
                opened.add(row)
            if drawn[row] >= plan.count:
                driver.read()
                driver.edit(Close(row))
                closed.add(row)
            elif rng.random() < 0.9:
                chunk = plan.chunks.pop(0) if plan.chunks else ()
                feeds.append(Feed(row, chunk, sample=not plan.chunks))
                drawn[row] += not plan.chunks
        if feeds:
            driver.turn(*feeds)
        if spoil is not None:
            spoil(turn)
        turn += 1
    driver.read()


def differences(model: Any, plans: dict[int, Plan], driver: Driver) -> tuple[list[int], int]:
    """Rows that differ from mlx-lm beyond a tie, and the number of ties."""
    wrong, ties = [], 0
    for row, plan in plans.items():
        tokens, logprobs = sequential(model, plan.prompt, plan.count)
        at = first_difference(driver.tokens(row), tokens)
        if at is None:
            continue
        if is_tie(logprobs[at]):
            ties += 1
        else:
            wrong.append(row)
    return wrong, ties


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """Where two lists of one length differ first."""
    for at, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a != b:
            return at
    return None


def is_tie(logprobs: mx.array) -> bool:
    """Whether the two best are too close to call."""
    best = mx.sort(logprobs)[-2:]
    return bool((best[1] - best[0] < TIE).item())


@pytest.mark.parametrize("name", MODELS)
def test_rows_in_any_company_get_the_tokens_of_mlx_lm_alone(name: str) -> None:
    """Ten rows of 1 to 80 tokens, chunked prompts, random pauses, on every kind of cache."""
    for seed in (1, 2):
        rng = random.Random(seed)  # noqa: S311 - a schedule is no secret
        plans = schedule(rng, rows=10)
        chunks = {row: list(plan.chunks) for row, plan in plans.items()}
        with driven(MODELS[name], name) as (driver, backend):
            play(driver, plans, rng)
            wrong, ties = differences(backend._model, plans, driver)
            held = backend.edit([]).kv_bytes
        print(f"{name}, seed {seed}: {ties} ties")  # noqa: T201 - ties are to be seen
        assert not wrong, {row: chunks[row] for row in wrong}
        assert ties <= 1
        assert held == 0


@pytest.mark.parametrize(
    ("name", "kind"), [("llama", PackedStore), ("qwen3", PackedStore), ("deepseek_v3", PaddedStore)]
)
def test_models_of_plain_kv_use_the_best_store_that_fits(name: str, kind: type) -> None:
    """The load-time probe must not send such a model to a slower store."""
    with driven(MODELS[name], name) as (_, backend):
        assert isinstance(backend.store, kind)


def test_a_model_that_cannot_be_batched_runs_its_rows_one_by_one() -> None:
    """Gemma 2 caps its scores by hand, and its grouped heads take no mask for several rows; the tokens are right."""
    prompts = ((5, 9, 200, 31), (1, 2), tuple(range(10, 28)))
    with driven(gemma2, "gemma2") as (driver, backend):
        assert isinstance(backend.store, SequentialStore)
        for i in range(3):
            driver.open(i)
        driver.turn(*(Feed(i, prompts[i]) for i in range(3)))
        for _ in range(9):
            driver.turn(*(Feed(i) for i in range(3)))
        driver.read()
        for i in range(3):
            assert driver.tokens(i) == sequential(backend._model, prompts[i], 10)[0]
        assert driver.edit(*(Close(i) for i in range(3))) == 0


def test_the_comparison_notices_two_rows_with_each_others_kv() -> None:
    """A test that cannot fail proves nothing: give every row another's KV, and they must differ from mlx-lm's."""
    rng = random.Random(1)  # noqa: S311 - a schedule is no secret
    plans = schedule(rng, rows=6)
    for plan in plans.values():
        plan.start, plan.count = 0, 20
    with driven(MODELS["llama"]) as (driver, backend):

        def swap(turn: int) -> None:
            if turn == 12:
                driver.read()
                swap_kv(backend)

        play(driver, plans, rng, swap)
        wrong, _ = differences(backend._model, plans, driver)
    assert len(wrong) >= 4


@pytest.mark.parametrize("name", ["llama", "gemma3", "mamba2"])
def test_forced_tokens_of_a_decoding_row_are_run_behind_its_own(name: str) -> None:
    """Ids fed to a row that decodes replace its pending token; the row goes on as if they had been its prompt."""
    prompt, forced = (5, 9, 200, 31), (17, 18, 250)
    with driven(MODELS[name], name) as (driver, backend):
        driver.open(0)
        driver.open(1)
        driver.turn(Feed(0, prompt), Feed(1, (8, 8)))
        driver.turn(Feed(0), Feed(1))
        driver.read()
        first = driver.tokens(0)[0]
        driver.turn(Feed(0, forced), Feed(1))
        for _ in range(6):
            driver.turn(Feed(0), Feed(1))
        driver.turn(Feed(0, (33,), sample=False), Feed(1))
        driver.turn(Feed(0, (34,)), Feed(1))
        driver.read()
        tokens = driver.tokens(0)
        wanted, _ = sequential(backend._model, [*prompt, first, *forced], 7)
        assert tokens[2:9] == wanted
        last, _ = sequential(backend._model, [*prompt, first, *forced, *wanted[:6], 33, 34], 1)
        assert tokens[9:] == last
        other, _ = sequential(backend._model, [8, 8], 11)
        assert driver.tokens(1) == other


@pytest.mark.parametrize("name", ["llama", "deepseek_v3", "gemma3", "mamba2"])
def test_a_fork_goes_on_as_its_source_would(name: str) -> None:
    """Forked while prefilling, and while decoding with an unread token; the source may end first."""
    prompt = [3, 1, 4, 1, 5, 9, 2, 6] * 12
    with driven(MODELS[name], name) as (driver, backend):
        wanted, _ = sequential(backend._model, prompt, 16)
        assert driver.branch(0, prompt) == tuple(prompt)
        driver.open(1)
        driver.turn(Feed(0, tuple(prompt[:72]), sample=False), Feed(1, (7, 7, 7)))
        left = driver.branch(2, prompt)
        # Slots that are no pools give what they hold when a row leaves, not before.
        assert left == tuple(prompt[72:] if name != "deepseek_v3" else prompt)
        driver.turn(Feed(0, tuple(prompt[72:])), Feed(2, left), Feed(1))
        for _ in range(5):
            driver.turn(Feed(1), Feed(0), Feed(2))
        driver.edit(Close(0))
        left = driver.branch(3, [*prompt, *driver.tokens(0)])
        assert len(left) <= 6
        driver.turn(Feed(3, left))
        driver.read()
        assert driver.tokens(3) == wanted[5:6]
        driver.sampled[3] = []
        for _ in range(5):
            driver.turn(Feed(1), Feed(3), Feed(2))
        driver.read()
        assert driver.tokens(2) == wanted[:11]
        # The step under way when the source was forked and closed is reported for neither.
        assert driver.tokens(0) == wanted[:5]
        assert driver.tokens(3) == wanted[6:11]


@pytest.mark.parametrize("name", ["llama", "deepseek_v3"])
def test_a_rewound_row_goes_on_as_if_the_rest_had_never_been(name: str) -> None:
    """Rewind while a token is unread and others decode; then feed something else."""
    with driven(MODELS[name], name) as (driver, backend):
        driver.open(0)
        driver.open(1)
        driver.turn(Feed(0, (1, 2, 3, 4, 5)), Feed(1, (9, 9)))
        for _ in range(4):
            driver.turn(Feed(0), Feed(1))
        driver.edit(Rewind(0, 3))
        driver.sampled[0] = []
        driver.read()
        driver.sampled[0] = []
        driver.turn(Feed(0, (44, 45)), Feed(1))
        driver.turn(Feed(0), Feed(1))
        driver.read()
        wanted, _ = sequential(backend._model, [1, 2, 3, 44, 45], 2)
        assert driver.tokens(0) == wanted
        assert driver.tokens(1) == sequential(backend._model, [9, 9], 7)[0]
