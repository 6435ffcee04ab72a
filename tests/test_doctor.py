"""`greenroom doctor`: what is right is found right, what is wrong is found and ends in 1, and nobody is given away."""

from __future__ import annotations

import io
import json
import platform
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import msgspec
import numpy as np
import pytest

from greenroom.backends import understudy
from greenroom.backends.mlx.diagnostics import decode_step, hardware, mlx_lm_runs
from greenroom.backends.mlx.sampling import masks
from greenroom.cli import doctor, main
from greenroom.doctor import examination, machine, model_checks
from greenroom.doctor.equality import TIE, compare, judge
from greenroom.doctor.examination import Sizes, Subject, examine
from greenroom.doctor.findings import SCHEMA, Finding, Report
from greenroom.doctor.privacy import describe_error
from greenroom.doctor.speed import judge_speed, rate
from greenroom.events import Token
from greenroom.request import current
from greenroom.runtime import Runtime

TINY = Sizes(prompts=(3,), tokens=2, rows=(1,), rounds=1, seconds=0.0, most_tokens=8)
MACHINE = {
    "machine": {"system", "architecture", "is_translated", "cores", "memory_bytes", "wired_limit_mb", "python", "mlx"},
    "device": {"name", "kind", "profile", "blas", "recommended_bytes", "memory_bytes"},
    "masks": set[str](),
}
MODEL = {
    "load": {"kind", "seconds", "store", "pipelines", "vocabulary", "context_length", "kv_bytes_per_token"},
    "memory": {
        *("weights_bytes", "precision", "kv_bytes", "kv_tokens", "prefix_bytes", "cache_bytes", "all_bytes"),
        *("recommended_bytes", "physical_bytes"),
    },
    "equality": {"rule", "rows", "equal_rows", "tokens", "equal_tokens", "deviation", "gap", "allowed"},
    "speed": {"1 row", "4 rows", "16 rows"},
    "close": set[str](),
    "launches": {"1 row", "4 rows", "16 rows"},
}
MARKED = {"USER": "marked-user", "LOGNAME": "marked-user", "HOSTNAME": "marked-host", "SECRET": "marked-value"}


def silent(*_: object) -> None:
    """Shows no progress."""


@pytest.mark.timeout(120)
def test_a_quick_run_finds_nothing_wrong_and_gives_nobody_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of the bundled model, and of one in a folder of somebody's: both reports, as a user gets them."""
    folder = tmp_path / "marked-home" / "marked-model"
    shutil.copytree(understudy.path(), folder)
    for name, value in {**MARKED, "HOME": str(folder.parent)}.items():
        monkeypatch.setenv(name, value)
    command = ["doctor", "--quick", "--model", str(folder), "--json", "-", "--report", str(tmp_path / "report.md")]
    assert main(command) == 0
    out = capfd.readouterr().out
    report = msgspec.json.decode(out, type=Report)
    assert report.schema == SCHEMA == 1
    models = (None, "the bundled model", "a model in a folder")
    for model in models:
        found = {finding.check: finding for finding in report.findings if finding.model == model}
        expected = MACHINE if model is None else MODEL
        assert list(found) == list(expected)
        assert {name: set(finding.figures) & expected[name] for name, finding in found.items()} == expected
        assert all(finding.status != "wrong" for finding in found.values())
    own = {"marked", str(tmp_path), str(Path.home()), platform.node(), "chess", "theatre"}
    for text in (out, (tmp_path / "report.md").read_text()):
        assert [word for word in own if re.search(rf"(?<!\w){re.escape(word)}", text)] == []


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_the_report_goes_to_the_output_as_markdown(
    loop: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where nothing else is asked for; on either loop."""
    monkeypatch.setattr(doctor, "QUICK", TINY)
    assert main(["doctor", "--quick", "--backend", loop]) == 0
    out = capfd.readouterr().out
    assert out.startswith("# greenroom doctor: nothing found wrong\n")
    assert "| 1 row |" in out


def fails(*_: object, **__: object) -> Any:
    """What breaks, and says where it lives."""
    raise RuntimeError(f"it broke at {Path('/', 'home', 'somebody', 'models')}")


def other(theirs: Callable[..., list[tuple[int, Any]]], *arguments: Any) -> list[tuple[int, Any]]:
    """mlx-lm's tokens, but another first one."""
    (token, logprobs), *rest = theirs(*arguments)
    logprobs[token - 1] = logprobs[token] + 1
    return [(token - 1, logprobs), *rest]


METAL = hardware.Hardware("a GPU", "gpu", "metal", None, has_metal=True, recommended=None, memory=None)
ILLS: dict[str, list[tuple[Any, str, Any]]] = {
    "machine": [(machine, "is_mac", lambda: True), (machine, "sysctl", lambda _: 1)],
    "device": [(hardware, "describe_hardware", fails)],
    "masks": [(hardware, "describe_hardware", lambda: METAL), (hardware, "find_wrong_masks", lambda: [33])],
    "load": [(examination, "Runtime", fails)],
    "memory": [(model_checks, "physical_memory", lambda: 1)],
    "equality": [(mlx_lm_runs, "draw_alone", partial(other, mlx_lm_runs.draw_alone))],
    "speed": [(mlx_lm_runs, "time_batch", fails)],
    "close": [(Runtime, "__aexit__", fails)],
    "launches": [(decode_step, "launches_of_mlx_lm", fails)],
}


@pytest.mark.parametrize("check", ILLS)
def test_what_is_wrong_is_one_finding_and_ends_in_one(
    check: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The check that looks at it says so, without a traceback; the others go on."""
    monkeypatch.setattr(doctor, "QUICK", TINY)
    monkeypatch.setattr(current, "_entered", [])  # one of them never leaves its runtime
    for owner, name, instead in ILLS[check]:
        monkeypatch.setattr(owner, name, instead)
    assert main(["doctor", "--quick", "--json", "-"]) == 1
    captured = capfd.readouterr()
    report = msgspec.json.decode(captured.out, type=Report)
    wrong = [finding for finding in report.findings if finding.status == "wrong"]
    assert check in {finding.check for finding in wrong}
    assert "/home" not in captured.out
    assert "Traceback" not in captured.err


def test_every_check_has_an_ill() -> None:
    """None is left untried."""
    assert list(ILLS) == [*MACHINE, *MODEL]


async def test_a_model_that_cannot_be_loaded_is_wrong_and_the_rest_of_it_is_skipped(tmp_path: Path) -> None:
    """Its message names neither the folder nor where that is."""
    folder = tmp_path / "marked-model"
    shutil.copytree(understudy.path(), folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    report = await examine(Subject(folder, "owner/name"), TINY, silent)
    found = {finding.check: finding for finding in report.findings if finding.model == "owner/name"}
    assert found["load"].status == "wrong"
    assert "ModelLoadFailed" in found["load"].summary
    assert "marked-model" not in report.to_json()
    assert str(tmp_path) not in report.to_json()
    assert {finding.status for check, finding in found.items() if check != "load"} == {"skipped"}
    assert list(found) == list(MODEL)


async def test_progress_ends_where_all_is_done() -> None:
    """It never goes back, and its end is known from the beginning."""
    seen: list[tuple[int, int]] = []
    await examine(None, TINY, lambda _, done, pieces: seen.append((done, pieces)))
    pieces = seen[0][1]
    assert [pair[0] for pair in seen] == [*range(1, pieces + 1)]


def test_one_copy_of_the_weights_serves_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """What mlx-lm runs is the very model that the runtime has loaded."""
    from mlx_lm import utils

    loads, models = [], []
    load, draw = utils.load, mlx_lm_runs.draw_alone

    def counting(*arguments: Any, **options: Any) -> Any:
        found = load(*arguments, **options)
        loads.append(found[0])
        return found

    def watching(model: Any, *arguments: Any) -> Any:
        models.append(model)
        return draw(model, *arguments)

    monkeypatch.setattr(utils, "load", counting)
    monkeypatch.setattr(mlx_lm_runs, "draw_alone", watching)
    monkeypatch.setattr(doctor, "QUICK", TINY)
    assert main(["doctor", "--quick"]) == 0
    assert len(loads) == 1
    assert models
    assert all(model is loads[0] for model in models)


# What is downloaded.


class Terminal(io.StringIO):
    """Somebody who answers."""

    def isatty(self) -> bool:
        """They are there."""
        return True


class Hub:
    """Has no model, and notes what it was asked for."""

    def __init__(self) -> None:
        self.is_local: list[bool] = []

    def snapshot_download(self, _: str, *, local_files_only: bool = False, **__: object) -> str:
        """See `huggingface_hub`."""
        self.is_local.append(local_files_only)
        raise OSError("nothing is here")


@pytest.mark.parametrize("answer", [None, "n\n", "\n"])
def test_nothing_is_downloaded_that_was_not_asked_for(
    answer: str | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nobody is there, or they say no: the command that would do it is told."""
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n") if answer is None else Terminal(answer))
    assert main(["doctor", "--model", "nobody/nothing"]) == 1
    assert hub.is_local == [True]
    assert "greenroom doctor --model nobody/nothing --download" in capfd.readouterr().err


@pytest.mark.parametrize("flags", [["--download"], []])
def test_a_model_is_downloaded_once_that_is_asked_for(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the flag, or by an answer."""
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert main(["doctor", "--model", "nobody/nothing", *flags]) == 1
    assert hub.is_local == [True, False]


# What counts as wrong.

LOGPROBS = np.log(np.array([0.5, 0.3, 0.1999, 0.0001], np.float32))


def row(token: int, shift: float = 0.0) -> list[Token]:
    """One token, whose log-probability is off by `shift`."""
    return [Token(token, float(LOGPROBS[token]) + shift)]


@pytest.mark.parametrize(
    ("mine", "is_exact", "is_wrong"),
    [
        (row(0), True, False),
        (row(0, 2 * TIE), True, True),
        (row(1), True, True),
        (row(0, 0.1), False, False),
        (row(0, 0.3), False, True),
        (row(0, float("nan")), False, True),
        (row(1), False, True),
    ],
)
def test_rounding_is_allowed_where_kernels_round_and_nothing_else(
    mine: list[Token], is_exact: bool, is_wrong: bool
) -> None:
    """A spread of 8.5 allows 0.17; token 1 is 0.51 less likely than mlx-lm's own."""
    agreement = compare(mine, [(0, LOGPROBS)], is_exact=is_exact)
    assert agreement.is_wrong is is_wrong
    assert judge([("a row is", agreement)], is_exact=is_exact).status == ("wrong" if is_wrong else "ok")


def test_a_tie_ends_the_comparison_and_is_not_wrong() -> None:
    """Behind it two rows answer two prompts."""
    logprobs = np.log(np.array([0.5, 0.5], np.float32))
    mine = [Token(1, float(logprobs[1])), Token(0, -40.0)]
    agreement = compare(mine, [(0, logprobs), (1, logprobs)], is_exact=True)
    assert (agreement.equal, agreement.drawn, agreement.is_wrong) == (0, 2, False)


def test_tokens_a_second_are_those_while_all_rows_draw() -> None:
    """From the last first token to the first last one."""
    assert rate([[0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 9.0]]) == pytest.approx(4 / 2)


def test_slower_than_mlx_lm_is_a_note_and_never_wrong() -> None:
    """Such figures depend on what else runs."""
    rates = {"greenroom": 50.0, "BatchGenerator": 100.0, "generate_step": 80.0}
    finding = judge_speed({1: rates})
    assert finding.status == "note"
    assert finding.figures == {"1 row": {**rates, "ratio": 0.5}}
    assert Report(findings=(finding,)).is_right


# What is told.


def test_an_error_is_told_without_who_met_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths, the model's folder, names and values of the environment; a name on the hub stays."""
    home = str(Path("/", "Users", "marked home"))
    for name, value in {**MARKED, "HOME": home}.items():
        monkeypatch.setenv(name, value)
    message = (
        f"mlx-community/Qwen3-4B-4bit at {home}/x.json and models/marked-folder of marked-user on "
        f"{platform.node()}: marked-value"
    )
    told = describe_error(ValueError(message), private=("models/marked-folder",))
    assert "marked" not in told
    assert platform.node() not in told
    assert told.startswith("ValueError: mlx-community/Qwen3-4B-4bit at ")


def test_of_errors_in_a_group_the_first_is_told() -> None:
    """A group by itself says nothing."""
    error = ExceptionGroup("rows", [ExceptionGroup("streams", [ValueError("odd")]), KeyError("even")])
    assert describe_error(error) == "ValueError: odd"


def test_a_report_shows_what_is_wrong_first() -> None:
    """A line each, before all tables; a bar in a text is none of a table."""
    wrong = Finding(check="equality", model="owner/name", status="wrong", summary="a | b")
    table = Finding(check="speed", status="ok", summary="fast", figures={"1 row": {"greenroom": 1234.5, "ratio": 2}})
    lines = Report(findings=(table, wrong)).to_markdown().splitlines()
    assert lines[0] == "# greenroom doctor: 1 of 2 checks found wrong"
    assert lines[2] == "- **equality** of owner/name: a | b"
    assert "| equality | wrong | a \\| b |" in lines
    assert "| 1 row | 1,234 | 2 |" in lines


def test_a_mac_s_python_under_rosetta_and_an_old_macos_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do; an arm64 one on a new system is right."""
    found = {}
    monkeypatch.setattr(machine, "is_mac", lambda: True)
    monkeypatch.setattr(machine, "sysctl", {"iogpu.wired_limit_mb": 0}.get)
    for processor, version in (("arm64", "15.3"), ("arm64", "13.6"), ("x86_64", "15.3")):
        monkeypatch.setattr(platform, "machine", lambda processor=processor: processor)
        monkeypatch.setattr(platform, "mac_ver", lambda version=version: (version, ("", "", ""), ""))
        found[processor, version] = machine.check_machine()
    assert found["arm64", "15.3"].status == "ok"
    assert found["arm64", "15.3"].figures["system"] == "macOS 15.3"
    assert "macOS 14 or newer" in found["arm64", "13.6"].summary
    assert "arm64" in found["x86_64", "15.3"].summary
    assert {finding.status for (_, version), finding in found.items() if version != "15.3"} == {"wrong"}


def test_a_kernel_that_lays_masks_otherwise_is_found_by_its_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each width and type is tried, those that are no whole number of words too."""
    tried: set[tuple[int, str]] = set()

    def as_portable(x: Any, bits: Any) -> Any:
        tried.add((x.shape[-1], str(x.dtype)))
        return masks.by_bools(x, bits)

    monkeypatch.setattr(masks, "by_kernel", as_portable)
    assert hardware.find_wrong_masks() == []
    assert len(tried) == 2 * len(hardware._WIDTHS)
    monkeypatch.setattr(masks, "by_kernel", lambda x, bits: x if x.shape[-1] == 33 else masks.by_bools(x, bits))
    assert set(hardware.find_wrong_masks()) == {33}


def test_json_is_one_object_that_reads_as_a_report() -> None:
    """Its fields by name, as other programs find them."""
    report = Report(findings=(Finding(check="masks", status="skipped", summary="not here"),))
    assert json.loads(report.to_json()) == {
        "schema": 1,
        "findings": [{"check": "masks", "model": None, "status": "skipped", "summary": "not here", "figures": {}}],
    }
    assert msgspec.json.decode(report.to_json(), type=Report) == report
