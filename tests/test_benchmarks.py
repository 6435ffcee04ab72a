"""Each benchmark has a smoke run: it works, and its output has the form that its page shows."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,144
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,879,155
"""
QUESTION = {
    "question": [[{"role": "user", "content": "What is the weather in Tarnok?"}]],
    "function": [
        {
            "name": "get_weather",
            "description": "The weather of a city.",
            "parameters": {"type": "dict", "properties": {"days": {"type": "integer"}}, "required": ["days"]},
        }
    ],
}
SCRIPTS = {
    "blocking.py": {"tokens/s ÷ async", "processor's time ÷ async", "there and back", "until it is told, settled"},
    "steps.py": {"step ÷ BatchGenerator's", "step ÷ bare loop's"},
    "launches.py": {
        "launches ÷ BatchGenerator's",
        "launches ÷ generate_step's",
        "launches ÷ plain rows'",
        "launches of a draw ÷ mlx-lm's",
        "graph built ÷ BatchGenerator's",
        "casts of indices",
        "early waits",
    },
    "device.py": {"step ÷ empty loop's", "host's work in a step"},
    "prefixes.py": {"launches, a row", "launches beside the pass"},
    "ragged.py": {"time ÷ BatchGenerator's", "time ÷ batch_generate's", "worst gap ÷ BatchGenerator's"},
    "arrivals.py": {
        "p99 gap ÷ median gap",
        "bytes copied ÷ the joining rows'",
        "worst gap ÷ (deepest chunk + step)",
        "time ÷ (idle + step)",
        "step ÷ the steps of two forwards",
        "first tokens: with the store ÷ without",
    },
    "samplers.py": {"step ÷ one way for all", "step ÷ BatchGenerator's"},
    "constrained.py": {
        "step ÷ free rows' step",
        "forwards ÷ those one by one",
        "documents/s ÷ BatchGenerator's",
        "step with a constrained row ÷ without",
    },
    "scheduling.py": {
        "mean wait ÷ frozen policy's",
        "replays a request",
        "different lists in all runs",
        "requests that wrote others",
        "requests out of the simulated order",
        "tokens of prompts that were run ÷ in order",
        "calls: 1,000 waiting ÷ 10",
    },
    "traces.py": {"first token, p99 ÷ BatchGenerator's", "gap, p50 ÷ BatchGenerator's"},
    "structures.py": {"÷ ours", "64 KB ÷ 4 KB", "a chunk"},
    "peers.py": {"greenroom: time ÷ mlx-lm here"},
    "adapters.py": {
        "step ÷ the base's",
        "one after the other ÷ together",
        "launches",
        "tokens a second of members ÷ of adapters",
        "a step of a load ÷ the median of the others",
    },
    "branches.py": {"tokens/s ÷ BatchGenerator's", "tokens/s ÷ without guesses", "time ÷ by itself"},
    "forced_calls.py": {"schemas that compile", "calls that fit", "runs that end in a complete call"},
    "endurance.py": {"slope behind the first quarter", "held at the end", "read", "refused"},
    "serving.py": {"tokens/s over HTTP ÷ in process", "lost", "until nothing runs", "held"},
    "cbison.py": {"mask: native ÷ direct", "mask: callbacks ÷ direct", "consume: native"},
}


@pytest.fixture
def needed(tmp_path: Path) -> dict[str, list[str]]:
    """What a script cannot do without; this environment takes the place of the other one, where the peers are."""
    trace = tmp_path / "trace.csv.gz"
    trace.write_bytes(gzip.compress(TRACE.encode()))
    (tmp_path / "BFCL_v4_one.jsonl.gz").write_bytes(gzip.compress(json.dumps(QUESTION).encode()))
    return {
        "device.py": ["greedy", "constrained", "guesses"],
        "traces.py": ["--trace", str(trace)],
        "peers.py": ["short", "--python", sys.executable],
        "forced_calls.py": ["--functions", str(tmp_path)],
    }


@pytest.mark.timeout(120)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_smoke_run_reports_figures_of_each_round(script: str, needed: dict[str, list[str]], tmp_path: Path) -> None:
    """At tiny sizes, once; what they show is measured at full size."""
    out, image = tmp_path / "figures.json", tmp_path / "figures.png"
    command = [sys.executable, str(ROOT / "benchmarks" / script), *needed.get(script, [])]
    command += ["--smoke", "--json", str(out)]
    plots = script == "steps.py"  # all by the same code
    command += ["--plot", str(image)] if plots else []
    subprocess.run(command, check=True, timeout=110, capture_output=True)
    figures = json.loads(out.read_text())
    assert {figure["what"] for figure in figures} >= SCRIPTS[script]
    assert all(len(figure["values"]) == 1 and figure["min"] >= 0 for figure in figures)
    assert not plots or image.stat().st_size > 1000


@pytest.mark.timeout(400)
def test_nothing_from_outside_ends_hangs_or_changes_anything(tmp_path: Path) -> None:
    """Thousands of hostile requests, grammars and files, from a seed that is in what is printed."""
    out = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "fuzz.py"), "--smoke", "--json", str(out)]
    ended = subprocess.run(command, check=False, timeout=380, capture_output=True, text=True)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    figures = {figure["what"]: figure["values"] for figure in json.loads(out.read_text())}
    assert {what: figures[what] for what in ("deaths", "hangs", "untyped errors", "neighbours changed")} == {
        "deaths": [0],
        "hangs": [0],
        "untyped errors": [0],
        "neighbours changed": [0],
    }


def test_a_replay_without_its_trace_says_so(tmp_path: Path) -> None:
    """No trace comes with the project."""
    command = [sys.executable, str(ROOT / "benchmarks" / "traces.py"), "--trace", str(tmp_path / "none.csv")]
    ended = subprocess.run(command, check=False, timeout=55, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "there is no trace at" in ended.stderr
