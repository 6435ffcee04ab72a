"""What several rows begin with is held once: the same tokens, fewer bytes, and nobody notices who leaves first."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from anyio import create_task_group
from models import ONE_CALL, Driver, driven, llama, mx, qwen3, sequential

from greenroom import Runtime, Sampler
from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.device_profile import CPU, DeviceProfile
from greenroom.backends.mlx.kv import shared_prefix
from greenroom.backends.mlx.kv.packed import PackedStore
from greenroom.backends.protocol import Close, Feed, Open, Rewind, Sampling
from greenroom.backends.scripted import ByteTokenizer as Bytes

KINDS = {"llama": llama, "qwen3": qwen3}
LONG = tuple([(7 * i * i + 3 * i) % 40 + 1 for i in range(CPU.shared_least + 40)])


@contextmanager
def engine(
    builder: Callable[[], tuple[Any, Any]], device: DeviceProfile = CPU
) -> Iterator[tuple[Driver, MlxBackend, PackedStore]]:
    """A driver, its backend, and where the rows are."""
    with driven(builder, device=device) as (driver, backend):
        assert isinstance(backend.store, PackedStore)
        yield driver, backend, backend.store


def begin(driver: Driver, row: int, prompt: tuple[int, ...], sampling: Sampling | None = None) -> int:
    """Open a row, and feed it what it does not begin with; how much that was."""
    held = driver.backend.edit([Open(row, sampling or Sampling(), prompt=prompt)])
    driver.sampled[row] = []
    reused = dict(held.reused).get(row, 0)
    driver.turn(Feed(row, prompt[reused:]))
    return reused


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("is_ragged", [False, True])
def test_attention_over_two_parts_is_attention_over_both(*, sinks: bool, group: int, is_ragged: bool) -> None:
    """Beside MLX's own over the parts joined; value heads of another size than keys'."""
    rows, kv_heads, shared, tokens = 5, 2, 33, 12
    queries = mx.random.normal((rows, kv_heads * group, 1, 16), key=mx.random.key(1))
    parts = [mx.random.normal((1, kv_heads, shared, size), key=mx.random.key(size)) for size in (16, 24)]
    own = [mx.random.normal((rows, kv_heads, tokens, size), key=mx.random.key(size + 1)) for size in (16, 24)]
    mask = (mx.arange(tokens) < mx.arange(tokens - rows + 1, tokens + 1)[:, None])[:, None, None, :]
    sink = mx.random.normal((kv_heads * group,)) if sinks else None
    whole = [mx.concatenate([mx.repeat(part, rows, 0), mine], 2) for part, mine in zip(parts, own, strict=True)]
    seen = mx.concatenate([mx.ones((rows, 1, 1, shared), mx.bool_), mask], 3) if is_ragged else None
    wanted = mx.fast.scaled_dot_product_attention(queries, *whole, scale=0.25, mask=seen, sinks=sink)
    added = shared_prefix.added_mask(mask, queries.dtype) if is_ragged else None
    found = shared_prefix.attention(queries, (parts[0], parts[1]), (own[0], own[1]), scale=0.25, mask=added, sinks=sink)
    assert found.shape == wanted.shape
    assert mx.allclose(found, wanted, atol=2e-6).item()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_on_one_trunk_say_what_each_says_alone(kind: str) -> None:
    """Prompts that begin alike and end differently, in one batch; one of them begins within the trunk."""
    with engine(KINDS[kind]) as (driver, backend, store):
        prompts = [(*LONG, i, 1, 2) for i in range(1, 7)] + [(*LONG[: CPU.shared_least + 5], 38, 9)]
        assert begin(driver, 0, prompts[0]) == 0
        begun = [begin(driver, row, prompt) for row, prompt in enumerate(prompts[1:], 1)]
        assert begun == [len(LONG)] * 5 + [CPU.shared_least + 5]
        for _ in range(9):
            driver.turn(*(Feed(row) for row in range(len(prompts))))
        driver.read()
        assert len(store.pools.shared_prefixes()) == 1
        for row, prompt in enumerate(prompts):
            assert driver.tokens(row)[:10] == sequential(backend._model, prompt, 10)[0]


def test_a_shared_beginning_costs_its_bytes_once() -> None:
    """Eight rows of one beginning hold it once, the one that ran it too; the bytes are back when all have left."""
    with engine(llama) as (driver, _, store):
        long = LONG * 8
        begin(driver, 0, (*long, 1))
        for row in range(1, 8):
            assert begin(driver, row, (*long, 1, row)) == len(long) + 1
        driver.read()
        alone = len(long) * store.bytes_per_token
        assert alone < driver.edit() < 1.1 * alone
        assert store.nbytes < 1.4 * alone
        assert driver.edit(*(Close(row) for row in range(7))) < 1.1 * alone
        assert driver.edit(Close(7)) == 0
        assert store.nbytes == 0


def test_forks_stand_side_by_side_and_are_one_call() -> None:
    """However they come, and whoever leaves: rows behind one beginning have a pool of their own, without gaps."""
    with engine(llama, ONE_CALL) as (driver, backend, store):
        begin(driver, 9, (5, 6, 7))
        begin(driver, 0, (*LONG, 1))
        for row in range(1, 6):
            begin(driver, row, (*LONG, 1 + row))
            begin(driver, 10 + row, (row, 6))
        driver.edit(Close(3))
        rows = [0, 1, 2, 4, 5, 9, *range(11, 16)]
        for _ in range(12):
            driver.turn(*(Feed(row) for row in rows))
        driver.read()
        assert sorted(pool.count for pool in store.pools) == [5, 6]
        assert sorted((call.first, call.last) for call in store._layout.calls) in ([(0, 5), (5, 11)], [(0, 6), (6, 11)])
        for row in (0, 1, 2, 4, 5):
            assert driver.tokens(row) == sequential(backend._model, (*LONG, 1 + row), len(driver.tokens(row)))[0]


def test_a_beginning_is_shared_once_that_saves_enough() -> None:
    """By a rule that counts rows: two copy it, the third finds it worth holding once, for all of them."""
    with engine(llama, replace(CPU, shared_least=2 * len(LONG))) as (driver, backend, store):
        begin(driver, 0, (*LONG, 1))
        begin(driver, 1, (*LONG, 2))
        assert store.pools.shared_prefixes() == []
        begin(driver, 2, (*LONG, 3))
        assert [prefix.length for prefix in store.pools.shared_prefixes()] == [len(LONG)]
        assert {row.shared_length for row in store.rows()} == {len(LONG)}
        for _ in range(4):
            driver.turn(*(Feed(row) for row in range(3)))
        driver.read()
        for row in range(3):
            assert driver.tokens(row) == sequential(backend._model, (*LONG, 1 + row), len(driver.tokens(row)))[0]


def test_who_ran_the_beginning_may_leave_first_and_a_fork_of_a_fork_goes_on() -> None:
    """Forks, forks of forks behind their own tokens, and wide feeds, each as if it were alone."""
    with engine(llama) as (driver, backend, store):
        begin(driver, 0, LONG)
        driver.turn(Feed(0))
        driver.read()
        first, second = driver.tokens(0)
        behind = (*LONG, first, 5, 6, 7)
        assert begin(driver, 1, behind) >= len(LONG)
        driver.edit(Close(0))
        driver.sampled[1] = list(driver.sampled[0])
        driver.turn(Feed(1))
        driver.read()
        middle = driver.tokens(1)[2:4]
        left = driver.branch(2, (*behind, *middle))
        assert len(left) <= len(middle)
        driver.turn(Feed(1, (8, 9)), Feed(2, left))
        driver.turn(Feed(1), Feed(2))
        driver.read()
        assert len(store.pools.shared_prefixes()) == 1
        assert [first, second] == sequential(backend._model, LONG, 2)[0]
        assert middle == sequential(backend._model, behind, 2)[0]
        assert driver.tokens(1)[4:] == sequential(backend._model, (*behind, middle[0], 8, 9), 2)[0]
        assert driver.tokens(2) == sequential(backend._model, behind, 4)[0][2:]


def test_a_row_that_goes_back_into_its_trunk_leaves_the_others_alone() -> None:
    """It stands on less of it then, and may be told something else; its neighbour reads all of it."""
    with engine(llama) as (driver, backend, store):
        begin(driver, 0, (*LONG, 1))
        begin(driver, 1, (*LONG, 1, 2))
        driver.turn(Feed(0), Feed(1))
        driver.read()
        back = CPU.shared_least - 30
        driver.edit(Rewind(0, back))
        driver.turn(Feed(0, (3, 3, 4)), Feed(1))
        driver.turn(Feed(0), Feed(1))
        driver.turn(Feed(0), Feed(1))
        driver.read()
        assert driver.tokens(0)[-3:] == sequential(backend._model, (*LONG[:back], 3, 3, 4), 3)[0]
        assert driver.tokens(1) == sequential(backend._model, (*LONG, 1, 2), 5)[0]
        driver.edit(Rewind(0, 0))
        driver.turn(Feed(0, (9, 9)), Feed(1))
        driver.read()
        assert driver.tokens(0)[-1:] == sequential(backend._model, (9, 9), 1)[0]
        assert len(store.pools.shared_prefixes()) == 1


def test_what_stood_on_a_trunk_is_kept_whole_for_later_prompts() -> None:
    """The KV that goes to the prefix store is of all tokens, those of the trunk included."""
    with engine(llama) as (driver, backend, _):
        begin(driver, 0, (*LONG, 1))
        begin(driver, 1, (*LONG, 1, 2))
        driver.turn(Feed(1))
        driver.read()
        driver.edit(Close(0), Close(1))
        prompt = (*LONG, 1, 2, driver.tokens(1)[0], 30)
        assert begin(driver, 2, prompt) == len(prompt) - 1
        driver.turn(Feed(2))
        driver.read()
        assert driver.tokens(2) == sequential(backend._model, prompt, 2)[0]


@pytest.mark.parametrize("device", [CPU, ONE_CALL], ids=lambda device: device.name)
@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_forks_rewinds_and_leaves_gives_each_row_its_own_tokens(seed: int, device: DeviceProfile) -> None:
    """A random walk; every token that was drawn is the likeliest behind what its row holds, run afresh."""
    rng = random.Random(seed)  # noqa: S311 - a test is no secret
    with engine(llama, device) as (driver, backend, store):
        held: dict[int, list[int]] = {}
        drawn: list[tuple[tuple[int, ...], int]] = []
        most = 0

        def fed(feeds: dict[int, tuple[int, ...]]) -> None:
            driver.turn(*(Feed(row, ids) for row, ids in feeds.items()))
            driver.read()
            for row, ids in feeds.items():
                held[row] += ids
                drawn.append((tuple(held[row]), driver.tokens(row)[-1]))

        for number in range(50):
            action = rng.choice(["begin", "begin", "begin", "fork", *["step"] * 4, "wide", "rewind", "close"])
            some = rng.choice(sorted(held)) if held else -1
            if action == "begin" and len(held) < 8:
                base = LONG[: rng.randrange(CPU.shared_least - 40, len(LONG))] if rng.random() < 0.8 else ()
                prompt = (*base, *(rng.randrange(1, 40) for _ in range(rng.randrange(1, 9))))
                reused = begin(driver, number, prompt)
                driver.read()
                assert reused < len(prompt)
                held[number] = list(prompt)
                drawn.append((prompt, driver.tokens(number)[-1]))
            elif action == "fork" and held and len(held) < 8:
                prompt = (*held[some], rng.randrange(1, 40))
                begin(driver, number, prompt)
                driver.read()
                held[number] = list(prompt)
                drawn.append((prompt, driver.tokens(number)[-1]))
            elif action in ("step", "wide") and held:
                rows = [row for row in held if rng.random() < 0.8] or [some]
                count = 1 if action == "step" else rng.choice([2, 3, 5, 40])
                fed({row: tuple([rng.randrange(1, 40) for _ in range(count)]) for row in rows})
            elif action == "rewind" and held:
                length = rng.randrange(1, len(held[some]))
                driver.edit(Rewind(some, length))
                del held[some][length:]
            elif action == "close" and held:
                driver.edit(Close(some))
                del held[some]
            store.pack(tight=rng.random() < 0.2)
            most = max(most, len(store.pools.shared_prefixes()))
        assert most > 0
        for tokens, token in rng.sample(drawn, min(len(drawn), 24)):
            assert [token] == sequential(backend._model, tokens, 1)[0]


async def test_branches_of_a_long_prompt_run_together_where_three_prompts_have_room() -> None:
    """What they share is held once, so eight are in the same passes under a budget of three rows."""
    branches, tokens = 8, 16
    prompt = LONG * 2
    with driven(llama) as (_, loaded):
        assert isinstance(loaded.store, PackedStore)
        budget = 3 * (len(prompt) + tokens) * loaded.store.bytes_per_token
    backend = MlxBackend.from_model(lambda: (llama()[0], Bytes()), prefix_bytes=0)
    async with Runtime(backend=backend, kv_bytes=budget) as runtime:
        async with runtime.context() as ctx:
            await ctx.fill(list(prompt)).flush()
            root = ctx.generate(Sampler.multinomial(1.0), max_tokens=tokens, seed=1, default_stops=False)
            async with root.fork_many(branches) as kids:
                before = runtime.statistics().steps
                async with create_task_group() as group:
                    for kid in kids:
                        group.start_soon(kid.collect_tokens)
                passes = runtime.statistics().steps - before
                assert runtime.statistics().allocated_bytes <= 1.05 * budget
                assert [kid.tokens_generated for kid in kids] == [tokens] * branches
                assert passes <= tokens + branches
                shared = [kid.output for kid in kids]
        async with runtime.context() as ctx:
            alone = ctx.fill(list(prompt)).generate(
                Sampler.multinomial(1.0), max_tokens=tokens, seed=kids[3].seed, default_stops=False
            )
            assert tuple(await alone.collect_tokens()) == shared[3]
        assert runtime.statistics().kv_bytes <= budget
