"""`greenroom models`, over caches that are made here: what is expected of a model, and what is broken."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from models import mx  # before mlx_lm: behind the BLAS
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from greenroom.backends import understudy
from greenroom.backends.mlx import MlxBackend, forecast
from greenroom.backends.mlx.memory_plan import DeviceMemory
from greenroom.cli import main
from greenroom.cli.terminal.commands import COMMANDS
from greenroom.cli.terminal.editor import CommandCompleter

GIB = 1 << 30
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "torch_dtype": "bfloat16",
}


@pytest.fixture(name="cache")
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub, in place of the user's."""
    import huggingface_hub.constants

    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    return folder


def put(
    cache: Path, name: str, config: object = LLAMA, *, weights: int = 1000, refs: tuple[str, ...] = ("main",)
) -> Path:
    """A model in the cache, with so many bytes of weights, as the hub's library lays it out. Its snapshot."""
    commit = "0123456789abcdef" * 2 + "01234567"
    folder = cache / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    for ref in refs:
        (folder / "refs" / ref).write_text(commit)
    (snapshot / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    header = json.dumps({"w": {"dtype": "U8", "shape": [weights], "data_offsets": [0, weights]}}).encode()
    (snapshot / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(weights))
    return snapshot


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """What `greenroom models --json` says, by name."""
    assert main(["models", "--json"]) == 0
    return {model["name"]: model for model in json.loads(capsys.readouterr().out)["models"]}


def test_each_model_is_told_how_it_would_run(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Batched, row by row or refused with the reason; the tables on the page are those of the package."""
    put(cache, "me/llama")
    put(cache, "me/gemma", LLAMA | {"model_type": "gemma2"})
    put(cache, "me/none", LLAMA | {"model_type": "no_such_model"})
    put(cache, "me/path", LLAMA | {"model_type": "../llama"})
    put(cache, "me/code", LLAMA | {"model_file": "model.py"})
    found = listed(capsys)
    assert {name: model["runs"] for name, model in found.items()} == {
        "me/llama": "batched",
        "me/gemma": "row by row",
        "me/none": "refused",
        "me/path": "refused",
        "me/code": "refused",
    }
    assert found["me/gemma"]["reason"] == forecast.ROW_BY_ROW["gemma2"]
    assert "mlx-lm has no file" in found["me/none"]["reason"]
    assert "trust_remote_code" in found["me/code"]["reason"]
    assert found["me/llama"]["fits"] is True
    assert found["me/llama"]["size_bytes"] > 1000


def test_what_is_broken_is_a_line_and_hides_nothing(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of another form, names of another coding, blobs that are missing, downloads that stopped."""
    put(cache, "me/whole")
    put(cache, "me/list", "[]")
    put(cache, "me/deep", "[" * 100_000)
    put(cache, "me/number", LLAMA | {"num_hidden_layers": "many", "hidden_size": -1})
    (put(cache, "me/bytes") / "config.json").write_bytes(b"\xff\xfe")
    (put(cache, "me/blob") / "lost.json").symlink_to("../../blobs/lost")
    (put(cache, "me/short") / "model.safetensors").write_bytes(b"\x08\x00")
    (put(cache, "me/part") / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}})
    )
    (put(cache, "me/index") / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    (put(cache, "me/ref").parents[1] / "refs" / "odd").write_bytes(b"\xff")
    (put(cache, "me/adapter") / "adapter_config.json").write_text("{}")
    (cache / "models--me--adapter/snapshots").rglob("config.json").__next__().unlink()
    (cache / "models--me--empty").mkdir()
    (cache / "models--me--file").write_text("")
    (cache / "models--me--\x1b[31mred").mkdir()
    (cache / "datasets--me--data").mkdir()
    found = listed(capsys)
    runs = {name.removeprefix("me/"): model["runs"] for name, model in found.items()}
    assert runs.pop("whole") == "batched"
    assert runs.pop("number") == "batched"
    assert {name for name, way in runs.items() if way == "broken"} == {"blob", "ref", "empty", "file", "\x1b[31mred"}
    assert {name for name, way in runs.items() if way == "refused"} == {
        "list", "deep", "bytes", "short", "part", "index", "adapter",
    }  # fmt: skip
    assert "1 of 2 files" in found["me/part"]["reason"]
    assert "an adapter" in found["me/adapter"]["reason"]
    assert str(cache) in found["me/blob"]["reason"]
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert len(out.splitlines()) == len(found)


def test_a_revision_has_its_name(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `--revision` takes it, where it is not the main one."""
    put(cache, "me/main")
    put(cache, "me/tagged", refs=("v2",))
    put(cache, "me/detached", refs=())
    assert main(["models"]) == 0
    names = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["me/detached at 0123456789ab", "me/main", "me/tagged at v2"]


def test_a_chat_completes_the_names_of_the_cache(cache: Path, tmp_path: Path) -> None:
    """Behind `/model`, with folders; a command by itself, and nothing in a question."""
    put(cache, "me/llama")
    (tmp_path / "chats").mkdir()

    def completed(text: str) -> list[str]:
        found = CommandCompleter(COMMANDS).get_completions(Document(text), CompleteEvent())
        return [text[: len(text) + each.start_position] + each.text for each in found]

    assert completed("/model me") == ["/model me/llama"]
    assert completed(f"/load {tmp_path}/ch") == [f"/load {tmp_path}/chats"]
    assert completed("/s") == ["/save", "/system"]
    assert completed("Is it /s") == completed("/system me") == completed("/nothing me") == []


def test_an_empty_cache_is_no_error(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor one that is not there."""
    for _ in range(2):
        assert main(["models"]) == 0
        assert "no models in" in capsys.readouterr().out
        if cache.is_dir():
            cache.rmdir()


def test_the_users_own_cache_is_listed_by_a_process(tmp_path: Path) -> None:
    """Where the environment says that it is."""
    put(tmp_path / "hub", "me/llama")
    command = [sys.executable, "-m", "greenroom", "models"]
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("me/llama  ")


@pytest.mark.parametrize(
    ("device", "config", "weights", "fits"),
    [
        (DeviceMemory("metal", 16 * GIB, 12 * GIB), {}, 4 * GIB, True),
        (DeviceMemory("metal", 16 * GIB, 12 * GIB), {}, 11 * GIB, False),
        (DeviceMemory("cuda", 16 * GIB, 8 * GIB), {}, 9 * GIB, False),
        (DeviceMemory("cpu", 16 * GIB, 8 * GIB), {"quantization": {"bits": 4}}, 7 * GIB, True),
        (DeviceMemory("cpu", 16 * GIB, 8 * GIB), {}, 5 * GIB, False),  # float32 there
    ],
)
def test_whether_it_fits_is_by_the_plan_of_memory(
    device: DeviceMemory, config: dict[str, Any], weights: int, *, fits: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """That a load goes by, for any device: weights by their files, and a short row."""
    snapshot = put(tmp_path, "me/model", LLAMA | config)
    shape = [weights // GIB, GIB]
    header = json.dumps({"w": {"dtype": "U8", "shape": shape, "data_offsets": [0, weights]}}).encode()
    with (snapshot / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + weights)  # sparse
    monkeypatch.setattr(forecast, "device_memory", lambda: device)
    monkeypatch.setenv("GREENROOM_DEVICE_PROFILE", device.kind)
    assert forecast.forecast_folder(snapshot).fits is fits


def test_what_is_expected_of_a_model_is_what_a_load_finds() -> None:
    """Of the bundled one: how it runs, and what its weights and KV take."""
    expected = forecast.forecast_folder(understudy.path())
    backend = MlxBackend(understudy.path())
    before = mx.get_active_memory()
    info = backend.load()
    held = mx.get_active_memory() - before + 512 * info.kv_bytes_per_token
    backend.close()
    assert (expected.way, expected.fits) == ("batched", True)
    assert info.store == "packed"
    assert expected.needed_bytes is not None
    assert 0.8 < expected.needed_bytes / held < 1.25
