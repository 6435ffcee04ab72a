"""A rank is lost at a random moment: every stream fails in time, on every machine all ends, and nothing is left."""

from __future__ import annotations

import random
import signal
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from rank_groups import write_model

from greenroom.backends import understudy

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="nobody says here what a process holds"),
]


@pytest.fixture(scope="module")
def kills() -> ModuleType:
    """The script that does it fifty times."""
    spec = spec_from_file_location("rank_kills", ROOT / "benchmarks" / "rank_kills.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("anyio_backend", "victim", "number"),
    [(("asyncio", {}), 1, signal.SIGKILL), (("trio", {}), 0, signal.SIGKILL), (("asyncio", {}), 1, signal.SIGSTOP)],
)
async def test_a_lost_rank_fails_every_stream_in_time(kills: ModuleType, victim: int, number: int) -> None:
    """A worker that is killed, rank 0's own process, a worker that hangs: within five seconds."""
    after = random.Random(victim + 10 * number).uniform(0, 0.5)  # noqa: S311 - to be drawn again
    outcome = await kills.lose(understudy.path(), kills.Loss(victim, signal.Signals(number), after), streams=4)
    assert outcome.faults == ()
    assert outcome.seconds < 5


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_who_is_left_of_three_ends_too(kills: ModuleType, tmp_path: Path) -> None:
    """The other worker has only rank 0 to tell it."""
    model = write_model(tmp_path / "qwen2", "qwen2")
    loss = kills.Loss(2, signal.SIGKILL, 0.1)
    outcome = await kills.lose(model, loss, size=3, streams=2, pipeline=True)
    assert outcome.faults == ()
    assert outcome.seconds < 5
