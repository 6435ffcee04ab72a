"""How many kernels a decode step launches beside mlx-lm's, counted in the graph: the same on every machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
AT_MOST = {
    "1 row": 1.0,
    "4 equal": 1.0,
    "16 equal": 1.0,
    "16 equal, one by one": 1.0,
    "4 equal, one by one": 1.0,
    "4 ragged": 1.0,
    "16 ragged": 1.0,
    "4 equal and a chunk": 0.65,
}


@pytest.mark.timeout(300)
def test_a_step_launches_no_more_kernels_than_published(tmp_path: Path) -> None:
    """Under Metal's profile; where the ratio falls, the bound is to follow."""
    out = tmp_path / "launches.json"
    script = [sys.executable, str(ROOT / "benchmarks" / "launches.py"), "--json", str(out)]
    subprocess.run(script, check=True, timeout=280, capture_output=True)
    figures = {each["case"]: each["median"] for each in json.loads(out.read_text()) if each["unit"] == "ratio"}
    assert figures.keys() == AT_MOST.keys()
    assert {case: ratio for case, ratio in figures.items() if ratio > AT_MOST[case]} == {}
