"""What importing MLX and mlx-lm must not do to the process."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

from greenroom.backends.mlx import blas
from greenroom.errors import MissingExtra

LIMITED = """
import json, resource, sys
soft, hard = json.loads(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from greenroom.backends.mlx import MlxBackend, parsers
assert parsers.names()
print(json.dumps(resource.getrlimit(resource.RLIMIT_NOFILE)))
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((3000, 3500), (3000, 3500)),  # mlx-lm alone cannot be imported there
        ((3000, 4096), (3000, 4096)),
        ((256, 4096), (2048, 4096)),  # as macOS begins
        ((256, 1024), (1024, 1024)),
    ],
)
def test_the_limit_of_open_files_is_never_lowered(before: tuple[int, int], after: tuple[int, int]) -> None:
    """Neither what the process has, nor what it may have; less than mlx-lm wants is raised as far as it goes."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, json.dumps(before)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert tuple(json.loads(done.stdout)) == after


@pytest.mark.parametrize(("platform", "says", "never"), [("darwin", "macOS 14", "[cpu]"), ("linux", "[cpu]", "macOS")])
def test_what_is_missing_is_said_for_the_machine_at_hand(
    platform: str, says: str, never: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An extra that is empty on macOS is no advice there."""

    def refuse(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(MissingExtra) as missing:
        blas._check_import()
    assert says in str(missing.value)
    assert never not in str(missing.value)


COLLECTED = """
import gc, anyio, greenroom

async def main():
    async with greenroom.Runtime() as runtime:
        await runtime.generate_tokens_task("Hello", max_tokens=2)
        gc.collect()
        print(len(gc.get_objects()), gc.get_freeze_count())

anyio.run(main)
"""


@pytest.mark.timeout(120)
def test_a_run_of_the_collector_looks_at_what_came_since() -> None:
    """Not at all of transformers: every thread stands still meanwhile."""
    done = subprocess.run([sys.executable, "-c", COLLECTED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    looked_at, frozen = map(int, done.stdout.split())
    assert looked_at < 20_000 < frozen
