"""What a machine's memory is divided into, and what is given back where it is short: for devices that are not here."""

from __future__ import annotations

from itertools import product

import pytest
from models import MODELS, Driver, driven, llama, mx, qwen3

from greenroom.backends.mlx.memory_plan import DeviceMemory, check_room, plan_memory
from greenroom.backends.mlx.memory_pressure import MemoryPressure, most_to_hold, system_pressure
from greenroom.backends.protocol import Close, Feed, KvOptions, LimitPrefixes, Open, Pack, Sampling
from greenroom.errors import ModelLoadFailed

GIB = 1 << 30
MACS = [8, 16, 24, 32, 64, 128]
WEIGHTS = {"0.6B": 0.34e9, "1.7B": 0.97e9, "4B": 2.26e9, "8B": 4.61e9, "14B": 8.31e9, "30B-A3B": 17.2e9}
"""In 4 bits."""


def mac(gib: int, *, is_new: bool) -> DeviceMemory:
    """A Mac, by what Metal recommends there: two thirds or three quarters, and about the latter on newer systems."""
    share = 0.74 if is_new else 2 / 3 if gib <= 36 else 0.75
    return DeviceMemory("metal", gib * GIB, int(gib * GIB * share))


@pytest.mark.parametrize("is_new", [False, True])
@pytest.mark.parametrize(("gib", "model"), list(product(MACS, WEIGHTS)))
def test_weights_and_all_limits_fit_a_mac(gib: int, model: str, is_new: bool) -> None:
    """Under nine tenths of what Metal recommends, and the system keeps its part; or the load fails, and says why."""
    device, weights = mac(gib, is_new=is_new), int(WEIGHTS[model])
    plan = plan_memory(device, weights)
    most = min(0.9 * device.usable, device.total - max(3 * GIB, 0.2 * device.total))
    needed = 512 * 147_456
    if plan.kv < needed:
        assert weights > 0.85 * most
        with pytest.raises(ModelLoadFailed, match=rf"{weights / 1e9:.2f} GB of the {most / 1e9:.2f} GB"):
            check_room(model, device, weights, needed)
        return
    check_room(model, device, weights, needed)
    assert weights + sum(plan) <= most
    assert plan.cache <= (512 << 20 if gib <= 16 else 2 * GIB)
    assert plan.scratch >= 256 << 20
    assert plan.kv >= 0.75 * (most - weights - plan.scratch)


def test_more_is_wired_only_where_that_helps() -> None:
    """30B-A3B on 24 GB runs with the limit that the message names; on 16 GB no limit would do, and none is named."""
    weights, needed = int(WEIGHTS["30B-A3B"]), 512 * 98_304
    with pytest.raises(ModelLoadFailed, match=r"iogpu\.wired_limit_mb=\d+") as raised:
        check_room("30B-A3B", mac(24, is_new=False), weights, needed)
    megabytes = int(str(raised.value).split("wired_limit_mb=")[1].split("`")[0])
    assert megabytes < 24 * 1024
    check_room("30B-A3B", DeviceMemory("metal", 24 * GIB, megabytes << 20), weights, needed)
    with pytest.raises(ModelLoadFailed) as raised:
        check_room("30B-A3B", mac(16, is_new=True), weights, needed)
    assert "wired_limit" not in str(raised.value)


def test_elsewhere_it_is_what_is_free_that_counts() -> None:
    """On CUDA beside the weights, and whoever else is there; on a host, a quarter of what is available."""
    busy, idle = (plan_memory(DeviceMemory("cuda", 24 * GIB, free * GIB), 4 * GIB) for free in (6, 20))
    assert sum(busy) <= 0.9 * 6 * GIB
    assert sum(idle) <= 0.9 * 20 * GIB
    assert idle.kv > 2 * busy.kv > 0
    host = plan_memory(DeviceMemory("cpu", 64 * GIB, 40 * GIB), 4 * GIB)
    assert host == (10 * GIB, GIB, 0)


def test_a_look_a_second_counts_how_long_memory_is_short() -> None:
    """By what the system says, and by what is held."""
    now, held, level = [0.0], [0], [1]
    pressure = MemoryPressure(100, held=lambda: held[0], level=lambda: level[0], clock=lambda: now[0])
    assert not pressure.look()
    level[0] = 2
    assert not pressure.look()  # too soon
    found = []
    for seconds, given in ((1, 2), (1.5, 2), (2, 4), (3, 1)):
        now[0], level[0] = seconds, given
        found.append((pressure.look(), pressure.count))
    assert found == [(True, 1), (False, 1), (True, 2), (False, 0)]
    now[0], held[0] = 5, 101
    assert pressure.look()


def test_what_may_be_held_is_known_where_the_device_says_so() -> None:
    """On Metal in all, on CUDA beside what is held, on a host not at all; nor does another system tell its own."""
    assert most_to_hold(DeviceMemory("metal", 16 * GIB, 1000)) == 950
    assert most_to_hold(DeviceMemory("cuda", 16 * GIB, 1000)) == mx.get_active_memory() + 950
    assert most_to_hold(DeviceMemory("cpu", 16 * GIB, 1000)) is None
    assert system_pressure() >= 1


def turn(driver: Driver, *feeds: Feed) -> int:
    """A pass; the pressure it reports."""
    driver.turn(*feeds)
    driver.read()
    return driver.results[-1].pressure


def test_under_pressure_prefixes_go_first_and_freed_buffers_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, by the backend itself; rows are the scheduler's, which is told how often that was not enough."""
    with driven(llama) as (driver, backend):
        assert driver.run(0, (7,) * 100, 2)
        assert backend.prefixes is not None
        assert backend.prefixes.nbytes > 0
        level, now, cleared = [2], [0.0], [0]

        def clear() -> None:
            cleared[0] += 1

        monkeypatch.setattr(mx, "clear_cache", clear)
        backend._pressure = MemoryPressure(None, level=lambda: level[0], clock=lambda: now[0])
        driver.open(1)
        assert turn(driver, Feed(1, (3, 4))) == 1
        assert (backend.prefixes.nbytes, cleared[0]) == (0, 1)
        assert driver.results[-1].prefix_bytes == 0
        now[0] = 1.0
        assert turn(driver, Feed(1)) == 2
        level[0], now[0] = 1, 2.0
        assert turn(driver, Feed(1)) == 0
        assert cleared[0] == 2


def test_freed_buffers_are_given_back_while_rows_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 256 passes, not only when nobody is left."""
    with driven(llama) as (driver, _):
        driver.open(0)
        driver.turn(Feed(0, (3, 4)))
        cleared: list[int] = []
        monkeypatch.setattr(mx, "clear_cache", lambda: cleared.append(len(driver.results)))
        for _ in range(600):
            driver.turn(Feed(0))
        driver.read()
        assert len(cleared) == 2


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_allocated_is_reported_and_goes_with_the_rows(kind: str) -> None:
    """At least what the tokens take; nothing once nobody is there."""
    with driven(MODELS[kind]) as (driver, backend):
        for row in range(3):
            driver.open(row)
        driver.turn(*(Feed(row, (5,) * (20 + 30 * row)) for row in range(3)))
        for _ in range(3):
            driver.turn(*(Feed(row) for row in range(3)))
        driver.read()
        held = backend.edit([])
        assert held.allocated_bytes >= held.kv_bytes > 0
        assert driver.results[-1].allocated_bytes == held.allocated_bytes
        driver.edit(*(Close(row) for row in range(3)))
        assert backend.edit([]).allocated_bytes == backend.edit([]).kv_bytes == 0


def test_active_memory_is_what_is_reported() -> None:
    """Within a tenth, for rows that came one by one, loosely held and packed."""
    with driven(lambda: llama(4, 256, max_position_embeddings=4096)) as (driver, backend):
        mx.clear_cache()
        before = mx.get_active_memory()
        for row in range(6):
            driver.open(row, expects=700)
            driver.turn(Feed(row, (5,) * (300 + 60 * row)), *(Feed(other) for other in range(row)))
        driver.read()
        for tight in (False, True):
            backend.edit([Pack(tight=tight)])
            driver.turn(*(Feed(row) for row in range(6)))
            driver.read()
            held = backend.edit([])
            assert 0.9 <= (mx.get_active_memory() - before) / (held.allocated_bytes + held.prefix_bytes) <= 1.1
        assert held.allocated_bytes <= 1.35 * held.kv_bytes


def test_prefixes_take_no_more_than_they_may() -> None:
    """Until told otherwise, whatever the backend's own bound is."""
    with driven(llama) as (driver, backend):
        block = 64 * backend._profile.info.kv_bytes_per_token  # type: ignore[union-attr]
        driver.run(0, (7,) * 200, 2)
        assert backend.edit([]).prefix_bytes > 2 * block
        assert 0 < backend.edit([LimitPrefixes(2 * block)]).prefix_bytes <= 2 * block
        driver.run(1, (8,) * 100, 2)
        assert 0 < backend.edit([]).prefix_bytes <= 2 * block
        backend.edit([LimitPrefixes(1 << 40)])
        driver.run(2, (9,) * 200, 2)
        assert backend.edit([]).prefix_bytes > 2 * block


@pytest.mark.parametrize(
    "kv", [KvOptions(bits=4, group_size=32), KvOptions(bits=8, group_size=32, start=20), KvOptions(max_size=16)]
)
def test_what_the_model_says_of_bounded_and_quantized_rows_is_what_they_hold(kv: KvOptions) -> None:
    """To the byte, as the backend counts their tokens."""
    with driven(lambda: llama(hidden=128) if kv.bits else qwen3()) as (driver, backend):
        info = backend._profile.info  # type: ignore[union-attr]
        for tokens in (10, 40):
            driver.backend.edit([Open(tokens, Sampling(), kv=kv)])
            driver.sampled[tokens] = []
            driver.turn(Feed(tokens, (5,) * tokens))
            driver.read()
            assert driver.edit() == info.kv_bytes(tokens, kv)
            driver.edit(Close(tokens))
