"""How many kernels a step launches beside mlx-lm's, counted in the graph: the same on every machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
Figures = dict[tuple[str, str], float]
AT_MOST = {
    "1 row": 1.0,
    "4 equal": 1.0,
    "16 equal": 1.0,
    "4 equal, one by one": 1.0,
    "16 equal, one by one": 1.0,
    "4 ragged": 1.0,
    "16 ragged": 1.0,
    "4 equal and a chunk": 0.65,
    "4 forks": 1.3,
}
FORKS_AT_MOST = 1.5
"""Of four plain rows' launches."""
DRAWS_AT_MOST = {
    "greedy": 0.34,
    "temperature": 1.0,
    "min_p": 0.9,
    "top_p": 1.65,
    "top_k": 1.8,
    "top_k, top_p": 1.2,
    "top_k, top_p, min_p": 1.15,
    "large top_k": 1.25,
    "large top_k, top_p": 0.9,
    "repetition penalty": 0.37,
    "three penalties": 0.33,
    "5 log-probabilities": 5.4,
}
"""Launches from logits to tokens ÷ mlx-lm's, which picks no five likeliest."""
KEEPING = {
    ("4 rows close", "launches, a row"): 2 * 28 + 16,  # keys and values of each layer, and sixteen blocks
    ("4 rows close", "waits"): 0,
    ("a row begins", "launches beside the pass"): 2 * (2 * 28) + 16,  # the same, and the pool is new
    ("a row begins", "waits"): 0,
}


def figures_of(tmp_path: Path, *arguments: str) -> Figures:
    """What the benchmark finds, by case and figure."""
    out = tmp_path / "launches.json"
    script = [sys.executable, str(ROOT / "benchmarks" / "launches.py"), *arguments, "--json", str(out)]
    subprocess.run(script, check=True, timeout=280, capture_output=True)
    return {(each["case"], each["what"]): each["median"] for each in json.loads(out.read_text())}


def each(figures: Figures, what: str) -> dict[str, float]:
    """One figure of all cases that have it."""
    return {case: value for (case, name), value in figures.items() if name == what}


def ours(figures: Figures, what: str) -> dict[str, float]:
    """One figure of our steps, by model and rows."""
    ending = ": greenroom"
    return {case.removesuffix(ending): value for case, value in each(figures, what).items() if case.endswith(ending)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    """Every case on a Llama; on Qwen3, and on Qwen3 in four bits, some."""
    folder = tmp_path_factory.mktemp("launches")
    rows = [name.replace(" ", "").replace(",", "") for name in AT_MOST if name != "4 forks"]
    of_llama = figures_of(folder, *rows, "forks", "sampling", "--models", "llama")
    of_qwen3 = figures_of(folder, "1row", "16ragged", "--models", "qwen3")
    return of_llama | of_qwen3 | figures_of(folder, "1row", "16equal", "--models", "qwen3-4bit")


@pytest.mark.timeout(300)
def test_a_step_launches_no_more_kernels_than_published(found: Figures) -> None:
    """Under Metal's profile; where a ratio falls, its bound is to follow."""
    ratios = each(found, "launches ÷ BatchGenerator's")
    assert {case.partition(": ")[0] for case in ratios} == {"llama", "qwen3", "qwen3-4bit"}
    assert {case.partition(": ")[2] for case in ratios} == AT_MOST.keys()
    assert {case: ratio for case, ratio in ratios.items() if ratio > AT_MOST[case.partition(": ")[2]]} == {}
    assert max(each(found, "launches ÷ generate_step's").values()) <= 1.005  # a launch in 482
    assert each(found, "launches ÷ plain rows'")["llama: 4 forks"] <= FORKS_AT_MOST


@pytest.mark.timeout(300)
def test_launches_by_kind_are_all_launches(found: Figures) -> None:
    """And those of a plain step are what the model has: one attention, two norms and seven products a layer.

    Of the reductions one draws, and two look at what is drawn from.
    """
    kinds = ("attention", "norm", "position", "matmul", "write", "copy", "cast", "reduction", "elementwise")
    totals = ours(found, "all")
    assert totals
    assert {case: sum(ours(found, kind)[case] for kind in kinds) for case in totals} == totals
    plain = {kind: ours(found, kind)["llama: 1 row"] for kind in kinds}
    assert (plain["attention"], plain["norm"], plain["position"], plain["matmul"]) == (28, 57, 56, 197)
    assert (plain["write"], plain["reduction"]) == (56, 3)


@pytest.mark.timeout(300)
def test_a_step_casts_no_index_moves_no_buffer_and_waits_for_nothing_early(found: Figures) -> None:
    """And copies nothing as large as a row's keys, or as a shared beginning's."""
    for what in ("casts of indices", "KV buffers moved", "early waits", "copies of KV"):
        values = ours(found, what)
        assert len(values) == len(AT_MOST) + 4
        assert {case: value for case, value in values.items() if value} == {}, what
    calls = ours(found, "attention calls a layer")
    assert {case: value for case, value in calls.items() if value > 1} == {"llama: 4 equal and a chunk": 2}
    assert set(ours(found, "evaluations").values()) == {1}


@pytest.mark.timeout(300)
def test_no_draw_waits_nor_launches_more_than_published(found: Figures) -> None:
    """Every kind of sampling, with a GPU's choices."""
    waits = each(found, "waits")
    assert waits.keys() > DRAWS_AT_MOST.keys()
    assert set(waits.values()) == {0}
    ratios = each(found, "launches of a draw ÷ mlx-lm's")
    assert ratios.keys() == DRAWS_AT_MOST.keys()
    assert {name: ratio for name, ratio in ratios.items() if ratio > DRAWS_AT_MOST[name]} == {}
    assert each(found, "greenroom")["greedy under a mask"] == 2


@pytest.mark.timeout(120)
def test_keeping_and_reusing_a_prompt_launches_no_more_kernels_than_published(tmp_path: Path) -> None:
    """Nor does anybody wait for it."""
    out = tmp_path / "launches.json"
    script = [sys.executable, str(ROOT / "benchmarks" / "prefixes.py"), "--json", str(out)]
    subprocess.run(script, check=True, timeout=110, capture_output=True)
    figures = {(each["case"], each["what"]): each["median"] for each in json.loads(out.read_text())}
    assert figures.pop(("a row begins", "tokens kept")) == 1024
    assert figures.keys() == KEEPING.keys()
    assert {what: figure for what, figure in figures.items() if figure > KEEPING[what]} == {}
