"""Adapters that learn from rollouts: members are noise that a seed makes again, and scores move the adapter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from adapter_folders import adapted, write_mlx_lm
from models import sequential
from test_adapters import BUILDER, LENGTH, PROMPT, opened

from greenroom import (
    Adapter,
    AdapterClosed,
    GenerateParameters,
    InvalidAdapter,
    InvalidParameter,
    NotSupported,
    Runtime,
    Snapshot,
    SnapshotMismatch,
    Token,
    mirrored,
)

KEYS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
PARAMETERS = GenerateParameters(max_tokens=LENGTH, temperature=0.0, default_stops=False)


async def written(runtime: Runtime, adapter: Adapter | None, zo_seed: int | None = None) -> list[int]:
    """The tokens of one rollout."""
    stream = runtime.generate_tokens(PROMPT, PARAMETERS, adapter=adapter, zo_seed=zo_seed)
    return [event.id async for event in stream if isinstance(event, Token)]


async def test_a_member_writes_what_its_saved_folder_writes_under_mlx_lm(tmp_path: Path) -> None:
    """Many members in one batch; 0 is no noise, and one that begins adds nothing."""
    seeds = [*mirrored(6, 1), 0]
    async with opened(max_adapters=4) as runtime:
        adapter = await runtime.create_adapter(rank=3, keys=KEYS, sigma=0.4, seed=5)
        found: dict[int, list[int]] = {}

        async def write(seed: int) -> None:
            found[seed] = await written(runtime, adapter, seed)

        async with anyio.create_task_group() as group:
            for seed in seeds:
                group.start_soon(write, seed)
        plain = await written(runtime, None)
        for seed in seeds:
            await adapter.perturbed(seed).save(tmp_path / str(seed))
        assert await written(runtime, adapter.perturbed(seeds[0])) == found[seeds[0]]
    assert found[0] == plain
    assert len({tuple(tokens) for tokens in found.values()}) > 4
    for seed in seeds:
        assert sequential(adapted(BUILDER, tmp_path / str(seed)), PROMPT, LENGTH)[0] == found[seed]


async def test_the_same_scores_give_the_same_bytes_and_better_ones_are_followed(tmp_path: Path) -> None:
    """Two adapters that begin alike; the order of rollouts has no say, and equal scores teach nothing."""
    seeds = mirrored(8, 3)
    scores = [0.5, -1.0, 3.0, 2.0, 2.0, 0.0, 9.0, -4.0]
    async with opened() as runtime:
        one, two = [await runtime.create_adapter(rank=2, keys=KEYS, sigma=0.3, seed=1) for _ in range(2)]
        assert one.fingerprint == two.fingerprint
        assert not await one.update(seeds, [1.0] * 8, lr=1.0)
        assert await one.update(seeds, scores, lr=2.0)
        assert await two.update(seeds[::-1], [100 * score for score in scores[::-1]], lr=2.0)
        assert one.fingerprint == two.fingerprint
        for number, adapter in enumerate((one, two)):
            await adapter.save(tmp_path / str(number))
        again = await runtime.load_adapter(tmp_path / "0", sigma=0.3)
        assert again.fingerprint == one.fingerprint
        assert await written(runtime, again, 7) == await written(runtime, one, 7)
        other = await runtime.create_adapter(rank=2, keys=KEYS, sigma=0.3, seed=1)
        await other.update(seeds, scores, lr=1.0, sigma=0.6)
        assert other.fingerprint == one.fingerprint
    saved = [(tmp_path / str(number) / "adapters.safetensors").read_bytes() for number in range(2)]
    assert saved[0] == saved[1]
    # Of a pair, the noise of the better one is what is added.
    tensors = tensors_of(tmp_path / "0")
    async with opened() as runtime:
        start = await runtime.create_adapter(rank=2, keys=KEYS, sigma=0.3, seed=1)
        await start.perturbed(seeds[6]).save(tmp_path / "best")
    best = tensors_of(tmp_path / "best")
    b = [name for name in tensors if name.endswith("lora_b")]
    assert sum(float(np.sum(tensors[name] * best[name])) for name in b) > 0


def tensors_of(folder: Path) -> dict[str, Any]:
    """The arrays of a folder."""
    from safetensors import numpy as safe

    return dict(safe.load_file(folder / "adapters.safetensors"))


async def test_what_runs_keeps_the_version_that_it_began_with(tmp_path: Path) -> None:
    """A generator, its forks and its snapshot's file; who begins later has the newer one."""
    path = tmp_path / "saved.safetensors"
    async with opened() as runtime, runtime.context() as context:
        adapter = await runtime.create_adapter(rank=2, keys=KEYS, sigma=0.5, seed=2)
        expected = await written(runtime, adapter, 11)
        async with context.fill(PROMPT).generate(PARAMETERS, adapter=adapter, zo_seed=11) as generator:
            await (await anext(generator)).execute()
            await (await generator.snapshot()).save(path)
            assert await (await (await Snapshot.load(path, runtime)).restore()).collect_tokens() == expected
            assert await adapter.update([11, -11], [1.0, 0.0], lr=3.0)
            assert await (await generator.fork()).collect_tokens() == expected
            assert await generator.collect_tokens() == expected
        assert await written(runtime, adapter, 11) != expected
        with pytest.raises(SnapshotMismatch, match="not loaded"):
            await Snapshot.load(path, runtime)
        same = await runtime.create_adapter(rank=2, keys=KEYS, sigma=0.25, seed=2)
        with pytest.raises(SnapshotMismatch, match=r"sigma is 0\.25"):
            await Snapshot.load(path, runtime)
        assert "updates=0" in repr(same)


async def test_what_cannot_learn_is_refused_at_once(tmp_path: Path) -> None:
    """No noise without an adapter, nor without its size, nor on DoRA; scores are finite numbers, one for each seed."""
    dora = write_mlx_lm(tmp_path / "dora", BUILDER, 3, kind="dora", rank=2)
    async with opened() as runtime:
        adapter = await runtime.create_adapter(keys=KEYS)
        for given in (
            lambda: runtime.generate("x", zo_seed=1),
            lambda: runtime.generate("x", adapter=adapter, zo_seed=0.5),  # type: ignore[arg-type]
            lambda: adapter.perturbed(2**63),
            lambda: mirrored(3, 1),
        ):
            with pytest.raises(InvalidParameter):
                given()
        for seeds, scores in (([1], [1.0, 2.0]), ([1, 2], [1.0, math.nan]), ([True], [1.0])):
            with pytest.raises(InvalidParameter):
                await adapter.update(seeds, scores, lr=1.0)
        with pytest.raises(InvalidParameter, match="lr"):
            await adapter.update([1, 2], [1.0, 2.0], lr=0.0)
        with pytest.raises(NotSupported, match="under noise"):
            await adapter.perturbed(4).update([1, 2], [1.0, 2.0], lr=1.0, sigma=1.0)
        with pytest.raises(NotSupported, match="no sigma"):
            runtime.generate("x", adapter=await runtime.load_adapter(dora), zo_seed=1)
        with pytest.raises(NotSupported, match="DoRA"):
            await runtime.generate("x", adapter=await runtime.load_adapter(dora, sigma=0.1), zo_seed=1).text()
        with pytest.raises(InvalidAdapter, match="nothing_proj"):
            await runtime.create_adapter(keys=["nothing_proj"])
        await adapter.aclose()
        with pytest.raises(AdapterClosed):
            await adapter.update([1, 2], [1.0, 2.0], lr=1.0)


def test_mirrored_seeds_come_in_pairs_and_again() -> None:
    """Each beside its mirror, none twice, the same for the same seed."""
    seeds = mirrored(64, 9)
    assert [first + second for first, second in zip(seeds[::2], seeds[1::2], strict=True)] == [0] * 32
    assert len(set(seeds)) == 64
    assert seeds == mirrored(64, 9)
    assert set(seeds).isdisjoint(mirrored(64, 10))
