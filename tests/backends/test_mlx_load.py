"""Loading: what a folder turns out to be, and an error that names what is wrong with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_json import deep
from hypothesis import given, settings
from hypothesis import strategies as st
from models import mx

from greenroom.backends import understudy
from greenroom.backends.mlx import MlxBackend, load
from greenroom.backends.mlx import backend as backend_module
from greenroom.backends.mlx.device import DeviceLimits
from greenroom.backends.mlx.memory_plan import DeviceMemory
from greenroom.backends.protocol import Feed, ForwardPlan, Open, Sampling
from greenroom.errors import ModelLoadFailed, ModelNotFound

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "assets" / "models" / "stories260K"
needs_model = pytest.mark.skipif(not FOLDER.is_dir(), reason="no ../shared folder beside the repository")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a real model's folder, to be spoiled."""
    copy = tmp_path / "model"
    shutil.copytree(FOLDER, copy, copy_function=shutil.copyfile)
    copy.chmod(0o755)
    return copy


@needs_model
def test_a_trained_model_says_what_it_is_and_what_it_is_known_to_say() -> None:
    """Width of the logits, context and end of turn as in its files; and its well-known story."""
    backend = MlxBackend(FOLDER)
    info = backend.load()
    assert (info.vocab_size, info.context_length, info.stop_tokens) == (512, 512, frozenset({2}))
    assert info.kv_bytes_per_token == 5 * 2 * 4 * 8 * 4
    assert (info.kv_bytes_per_row, info.can_rewind, info.can_fork) == (0, True, True)
    assert info.memory_bytes > 0
    backend.edit([Open(1, Sampling())])
    ids: tuple[int, ...] = tuple(info.tokenizer.encode("Once upon a time"))
    found = []
    for _ in range(30):
        backend.forward(ForwardPlan((Feed(1, ids),)))
        backend.sample()
        found += [sampled.token for sampled in backend.read().sampled]
        ids = ()
    backend.close()
    assert info.tokenizer.decode(found).startswith(", there was a little girl named Lily. She loved to play outside")


def test_a_folder_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    """Neither is an empty one, nor a name that no hub could have. Nothing is asked of the network."""
    for name in (tmp_path / "nothing", str(tmp_path / "nothing"), tmp_path, "./nothing", "a/b/c", "nothing"):
        with pytest.raises(ModelNotFound):
            MlxBackend(name).load()


def test_a_hub_name_that_cannot_be_had_offline_is_not_found(tmp_path: Path) -> None:
    """In a process of its own, because the hub reads its settings once."""
    code = (
        "from greenroom.backends.mlx import MlxBackend\n"
        "from greenroom.errors import ModelNotFound\n"
        "try: MlxBackend('nobody/nothing').load()\n"
        "except ModelNotFound as error: print('not found:', error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.stdout.startswith("not found: nobody/nothing"), result.stderr


@needs_model
def test_truncated_weights_are_named(folder: Path) -> None:
    """Cut in the tensors, cut in the header, and not safetensors at all."""
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:20], whole[:3], b"", b"\xff" * 100):
        path.chmod(0o644)
        path.write_bytes(content)
        with pytest.raises(ModelLoadFailed, match=r"model\.safetensors"):
            MlxBackend(folder).load()


@needs_model
@pytest.mark.parametrize(
    ("change", "named"),
    [({"model_type": "no_such_kind"}, "no_such_kind"), ({"hidden_size": 65}, "model"), ({"model_type": None}, "model")],
)
def test_a_configuration_that_makes_no_model_fails_to_load(folder: Path, change: dict[str, object], named: str) -> None:
    """An unknown kind of model, shapes that do not fit the weights, and nonsense."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **change}
    path.chmod(0o644)
    path.write_text(json.dumps(config))
    held = mx.get_active_memory()
    backend = MlxBackend(folder)
    with pytest.raises(ModelLoadFailed, match=named) as caught:
        backend.load()
    assert str(folder) in str(caught.value)
    assert caught.value.__cause__ is not None
    del caught
    backend.close()
    assert mx.get_active_memory() <= held + 4096


@needs_model
def test_a_broken_file_of_settings_is_named(folder: Path) -> None:
    """Half of config.json."""
    path = folder / "config.json"
    path.chmod(0o644)
    path.write_text(path.read_text()[:50])
    with pytest.raises(ModelLoadFailed, match=r"config\.json"):
        MlxBackend(folder).load()


def tiny(tmp_path: Path) -> Path:
    """A copy of the bundled model's folder, to be spoiled."""
    copy = tmp_path / "tiny"
    shutil.copytree(understudy.path(), copy, copy_function=shutil.copyfile)
    copy.chmod(0o755)
    return copy


@pytest.mark.parametrize(
    "content",
    ["[" * 99_000, '{"a": ' * 99_000, '{"a": ' * 300 + "1" + "}" * 300, "{", "", "[]", "7", "null", '"text"', "\xff"],
    ids=["deep", "deeper", "closed", "half", "empty", "list", "number", "null", "text", "latin"],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_settings_that_are_no_object_or_nest_too_deep_are_named(tmp_path: Path, name: str, content: str) -> None:
    """Before mlx-lm or transformers read them: a typed error with the file."""
    path = tiny(tmp_path) / name
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ModelLoadFailed, match=f"{path} (cannot be read|should be a JSON object)"):
        MlxBackend(path.parent).load()


def test_a_tokenizer_that_nests_too_deep_is_named(tmp_path: Path) -> None:
    """It is looked at for that alone."""
    path = tiny(tmp_path) / "tokenizer.json"
    path.write_text('{"a": ' * 99_000)
    with pytest.raises(ModelLoadFailed, match=f"{path} cannot be read: .* deeper than 128 levels at byte 768"):
        MlxBackend(path.parent).load()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "chat_template.jinja", "merges.txt"])
def test_a_pipe_in_a_models_folder_is_named_and_not_waited_for(tmp_path: Path, name: str) -> None:
    """Whatever would read it."""
    path = tiny(tmp_path) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(ModelLoadFailed, match=f"{path} is no regular file"):
        MlxBackend(path.parent).load()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_the_header_of_weights_says_is_a_typed_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any value in the place of any other, or a deep one: it is found before MLX reads lazily what is not there."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    mx.save_safetensors(str(path), {"a": mx.zeros((2, 3))}, {"format": "mlx"})
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    key = data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
    values = [None, 0, -1, 1.5, [], {}, [2, 2**40], [-1, -6], [0, 10**9], [8, 0], ["a", "b"], deep(), [2**62, 8]]
    header["a"][key] = data.draw(st.sampled_from(values))
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + whole[8 + length :])
    with pytest.raises(ModelLoadFailed, match=r"model\.safetensors"):
        load._check_weights(path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the BLAS is a matter of Linux")
@pytest.mark.parametrize(
    ("setting", "before", "wanted"),
    [("off", "", {"off"}), ("libnone.so", "", {"absent"}), ("", "import mlx.core", {"too_late", "loaded"})],
)
def test_the_blas_says_what_became_of_it(setting: str, before: str, wanted: set[str]) -> None:
    """Switched off, not there, and too late: the last with a warning."""
    code = f"{before}\nfrom greenroom.backends.mlx import blas\nprint(blas.prepare())"
    environment = {**os.environ, "GREENROOM_OPENBLAS": setting}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() in wanted | {"not_needed"}
    assert ("BlasWarning" in result.stderr) == (result.stdout.strip() == "too_late")


def test_naming_the_package_loads_no_mlx() -> None:
    """Only using its backend does."""
    code = "import sys, greenroom.backends.mlx; print('mlx.core' in sys.modules, 'transformers' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False False"


def test_limits_of_the_process_come_back_with_the_last_model() -> None:
    """Two models share them, in whatever order they leave."""
    before = mx.set_cache_limit(123 << 20)
    try:
        one, two = DeviceLimits(2 << 30), DeviceLimits(4 << 30)
        assert mx.set_cache_limit(4 << 30) == 4 << 30
        two.restore()
        two.restore()
        assert mx.set_cache_limit(2 << 30) == 2 << 30
        one.restore()
        assert mx.set_cache_limit(before) == 123 << 20
    finally:
        mx.set_cache_limit(before)


def test_weights_that_leave_no_room_fail_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a typed error with the sizes and what to do; not request by request, as prompts that are too long."""
    monkeypatch.setattr(backend_module, "device_memory", lambda: DeviceMemory("metal", 16 << 30, 10 << 20))
    backend = MlxBackend(understudy.path())
    with pytest.raises(ModelLoadFailed, match=r"takes 0\.\d+ GB of the 0\.\d+ GB .* leaves 0\.000 GB .* fewer bits"):
        backend.load()
    assert backend.store is None
    given = MlxBackend(understudy.path(), memory_bytes=1000)  # who says how much, means it
    given.load()
    given.close()
