"""Each benchmark has a smoke run: it works, and its output has the form that its page shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.timeout(120)
def test_the_step_benchmark_runs_and_reports_ratios(tmp_path: Path) -> None:
    """One small subject, one round; ratios of all three loops."""
    out, image = tmp_path / "steps.json", tmp_path / "steps.png"
    command = [sys.executable, str(ROOT / "benchmarks" / "steps.py"), "--vocab", "2000", "--rows", "2", "--llama"]
    command += ["--tokens", "4", "--rounds", "1", "--json", str(out), "--plot", str(image)]
    subprocess.run(command, check=True, timeout=110, capture_output=True)
    (result,) = json.loads(out.read_text())
    assert result["ours/batch_generator"]["median"] > 0
    assert result["ours/bare"]["median"] > 0
    assert image.stat().st_size > 1000


@pytest.mark.timeout(180)
def test_every_workload_runs_and_reports_figures(tmp_path: Path) -> None:
    """At sizes of seconds; what they show is measured at full size."""
    out = tmp_path / "workloads.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "workloads.py"), "--smoke", "--json", str(out)]
    subprocess.run(command, check=True, timeout=170, capture_output=True)
    figures = json.loads(out.read_text())
    assert len({figure["workload"] for figure in figures}) >= 8
    assert all(value >= 0 for figure in figures for value in figure["values"])
    run = next(f for f in figures if f["what"] == "prompt tokens run ÷ distinct ones")
    assert max(run["values"]) >= 1


def test_the_engine_benchmark_runs_and_reports_every_way(tmp_path: Path) -> None:
    """Over bytes; what an engine behind an address costs is measured with a real vocabulary."""
    out = tmp_path / "cbison.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "cbison.py"), "--smoke", "--json", str(out)]
    subprocess.run(command, check=True, timeout=50, capture_output=True)
    figures = json.loads(out.read_text())
    assert {figure["way"] for figure in figures} == {"direct", "constraint", "native", "callbacks"}
    assert {figure["schema"] for figure in figures} == {"people", "numbers"}
    assert all(figure["mask_us"] > 0 and figure["consume_us"] > 0 for figure in figures)
