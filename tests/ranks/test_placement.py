"""What `Runtime(distributed=)` refuses: in its arguments, in a request, and of machines that cannot hold the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rank_groups import worker, write_hostfile, write_model

from greenroom import (
    CannotDistribute,
    GreenroomError,
    InvalidHostfile,
    InvalidParameter,
    RanksDiffer,
    Runtime,
    Scripted,
)
from greenroom.cli import _parser
from greenroom.cli.loading import make_runtime
from greenroom.worker.__main__ import main

pytestmark = pytest.mark.timeout(180)
OVER_MACHINES = ["--distributed", "hosts.json", "--pipeline"]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Runtime(backend=Scripted(), distributed="hosts.json"), "backend"),
        (lambda: Runtime(distributed="hosts.json", prefix_folder="prefixes"), "prefix_folder"),
        (lambda: Runtime(distributed="hosts.json", max_adapters=2), "max_adapters"),
        (lambda: Runtime(pipeline=True), "pipeline"),
        (lambda: Runtime(distributed=7), "distributed"),  # type: ignore[arg-type]
    ],
)
def test_what_a_group_does_not_do_is_refused_by_name(make: Callable[[], Any], name: str) -> None:
    """Where the runtime is made."""
    with pytest.raises(InvalidParameter) as caught:
        make()
    assert caught.value.name == name


@pytest.mark.anyio
async def test_a_file_that_is_no_list_is_refused_on_entry(tmp_path: Path) -> None:
    """Before a process is started."""
    runtime = Runtime(distributed=tmp_path / "none.json")
    with pytest.raises(InvalidHostfile, match="there is no such file"):
        await runtime.open()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("anyio_backend", "there", "here", "expected", "why"),
    [
        ((("asyncio", {})), {"rope_theta": 5e5}, {}, RanksDiffer, "the files of its model have other contents"),
        ((("trio", {})), {"num_key_value_heads": 1}, {"num_key_value_heads": 1}, CannotDistribute, "1 heads"),
    ],
)
async def test_machines_that_cannot_hold_the_model_are_told_apart(
    tmp_path: Path, there: dict[str, Any], here: dict[str, Any], expected: type[GreenroomError], why: str
) -> None:
    """By the type of the error, which has crossed from the child; the worker ends with 1."""
    hostfile = write_hostfile(tmp_path)
    own = write_model(tmp_path / "own", "llama", num_hidden_layers=2, **here)
    other = write_model(tmp_path / "other", "llama", num_hidden_layers=2, **there)
    with worker(other, hostfile) as process:
        runtime = Runtime(own, distributed=hostfile)
        with pytest.raises(expected, match=why):
            await runtime.open()
        assert process.wait(60) == 1


@pytest.mark.parametrize(
    "case",
    [
        (["--rank", "2"], "", "--rank must be 1 to 1"),
        (["--rank", "0"], "", "rank 0 is the app"),
        ([], "1", "--rank must be 1 to 1"),  # the second of mlx.launch's workers
    ],
)
def test_a_rank_that_the_list_has_not_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[list[str], str, str],
) -> None:
    """Status 2, before anything is loaded."""
    arguments, launched, why = case
    monkeypatch.setenv("MLX_RANK", launched)
    assert main(["--hostfile", str(write_hostfile(tmp_path)), *arguments]) == 2
    assert why in capsys.readouterr().err


def test_a_worker_without_its_list_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1, with the type of the error."""
    assert main(["--hostfile", str(tmp_path / "none.json"), "--rank", "1"]) == 1
    assert capsys.readouterr().err.startswith("greenroom: InvalidHostfile: ")


@pytest.mark.parametrize(
    "command", [["serve"], ["generate", "hello"], ["chat"], ["batch", "in.jsonl", "out.jsonl"], ["demo"]]
)
def test_a_command_runs_over_the_machines_that_it_is_told_of(command: list[str]) -> None:
    """Each that runs a model; without the switches it runs here."""
    plain, told = (make_runtime(_parser().parse_args([*command, *more])) for more in ([], OVER_MACHINES))
    assert plain._opening.placement.is_here
    placement = told._opening.placement
    assert (placement.distributed, placement.pipeline, placement.process) == ("hosts.json", True, False)
