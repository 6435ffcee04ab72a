"""A hub name is found in a prepared cache, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from greenroom.backends import understudy

PROGRAM = """
import anyio, greenroom

async def main():
    async with greenroom.Runtime("stage/understudy") as runtime:
        print(len(await runtime.generate("Hello!", max_tokens=5, temperature=0.0).text()))

anyio.run(main)
"""


def test_a_hub_name_is_loaded_from_the_cache_offline(tmp_path: Path) -> None:
    """In the hub's own layout: a reference, and a snapshot under its commit."""
    commit = "0" * 40
    folder = tmp_path / "hub" / "models--stage--understudy"
    shutil.copytree(understudy.path(), folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    settings = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=settings, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
