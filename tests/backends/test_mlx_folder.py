"""A model's folder: what of it is read, and what is wrong with it, by the file and the place."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from models import mx  # before mlx: behind the BLAS

# isort: split
import huggingface_hub

from greenroom import Runtime
from greenroom.backends import understudy
from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.load import find_folder
from greenroom.backends.mlx.model_folder import read_folder
from greenroom.backends.protocol import ModelInfo
from greenroom.cli import main
from greenroom.errors import InvalidParameter, InvalidPrompt, ModelLoadFailed, ModelNotFound

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
DEEP = "[" * 99_000 + "]" * 99_000
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bundled model, to be changed."""
    copy = tmp_path / "model"
    shutil.copytree(understudy.path(), copy, copy_function=shutil.copyfile)
    copy.chmod(0o755)
    return copy


def change(path: Path, **changes: object) -> None:
    """Change fields of a file of JSON; an ellipsis takes one away."""
    fields = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    fields = {name: value for name, value in {**fields, **changes}.items() if value is not ...}
    path.write_text(json.dumps(fields), encoding="utf-8")


def load(folder: Path, **options: Any) -> ModelInfo:
    """Load, close, and say what it was."""
    backend = MlxBackend(folder, **options)
    try:
        return backend.load()
    finally:
        backend.close()


def write(name: str, text: str) -> Callable[[Path], object]:
    """A change of a folder: that file has that text."""
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def edit(name: str, **changes: object) -> Callable[[Path], object]:
    """A change of a folder: fields of that file."""
    return lambda folder: change(folder / name, **changes)


def with_header(header: str) -> Callable[[Path], object]:
    """A change of a folder: weights with that header."""
    data = len(header.encode()).to_bytes(8, "little") + header.encode()
    return lambda folder: (folder / "model.safetensors").write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        *[
            (write(name, POINTER), rf"{name} is a Git LFS pointer .* `git lfs pull`")
            for name in ("model.safetensors", "tokenizer.json", "config.json", "model-00002-of-00002.safetensors")
        ],
        (edit("config.json", model_type=...), r"config\.json has no model_type"),
        *[
            (edit("config.json", model_type=value), r"config\.json: model_type must be a string, got")
            for value in (None, 5, ["llama"])
        ],
        *[
            (edit("config.json", **{name: "x"}), rf"config\.json: {name} must be an object, got 'x'")
            for name in ("text_config", "llm_config", "quantization", "quantization_config")
        ],
        *[
            (
                edit(name, eos_token_id=value),
                rf"{name}: eos_token_id must be an integer, a list of integers or null, got",
            )
            for name in ("config.json", "generation_config.json")
            for value in ("</s>", 2.0, True, [2, "3"], {"id": 2}, [[2]])
        ],
        (edit("config.json", text_config={"eos_token_id": "2"}), r"config\.json: text_config\.eos_token_id must be"),
        *[
            (write(name, DEEP), rf"{name} cannot be read: .* deeper than 128 levels")
            for name in ("config.json", "generation_config.json", "tokenizer_config.json")
        ],
        *[
            (write(name, "[1, 2]"), rf"{name} must hold a JSON object, got \[1, 2\]")
            for name in ("config.json", "generation_config.json", "tokenizer_config.json")
        ],
        (write("generation_config.json", '{"eos'), r"generation_config\.json cannot be read"),
        (with_header(DEEP), r"model\.safetensors is no safetensors file, .* deeper than 3 levels"),
        *[
            (with_header(json.dumps({"w": {"data_offsets": value}})), r"model\.safetensors is no safetensors file")
            for value in ([0, "9"], [0], "ab", 5, None)
        ],
        (edit("tokenizer_config.json", chat_template=5), r"tokenizer_config\.json: chat_template must be a string"),
        (edit("config.json", model_file=5), r"config\.json: model_file must be the name of a file, got 5"),
        (edit("config.json", model_file="own.py"), r"config\.json: model_file: .*'own\.py'.* trust_remote_code=True"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_with_the_place(
    folder: Path, spoil: Callable[[Path], object], said: str
) -> None:
    """The file, the field, and what was expected there; nothing is left in memory."""
    spoil(folder)
    held = mx.get_active_memory()
    with pytest.raises(ModelLoadFailed, match=said) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert mx.get_active_memory() <= held + 4096


def test_ids_that_end_a_turn_are_those_of_both_files(folder: Path) -> None:
    """mlx-lm takes generation_config.json's in place of config.json's; a model may draw either."""
    own = {2}  # the tokenizer's, and the template's marker
    change(folder / "config.json", eos_token_id=[100, 101])
    change(folder / "generation_config.json", eos_token_id=102)
    assert load(folder).stop_tokens == own | {100, 101, 102}
    change(folder / "config.json", eos_token_id=None, text_config={"eos_token_id": 103})
    change(folder / "generation_config.json", eos_token_id=[104, 105, 1 << 40])
    assert load(folder).stop_tokens == own | {103, 104, 105}


def without_template(folder: Path) -> None:
    """The model's own templates are gone."""
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    change(folder / "tokenizer_config.json", chat_template=...)


@pytest.mark.parametrize(
    "template", [TEMPLATE, [{"name": "default", "template": TEMPLATE}, {"name": "rag", "template": "no"}]]
)
def test_a_template_in_a_file_of_its_own_is_used(
    folder: Path, template: object, caplog: pytest.LogCaptureFixture
) -> None:
    """`chat_template.json`, which transformers reads for models that take pictures only; the log says so."""
    without_template(folder)
    change(folder / "chat_template.json", chat_template=template)
    with caplog.at_level(logging.INFO, "greenroom"):
        info = load(folder)
    assert "the chat template is that of chat_template.json" in caplog.text
    assert info.tokenizer.has_chat_template
    ids = info.tokenizer.render([{"role": "user", "content": "Hi"}])
    assert ids == info.tokenizer.encode("user: Hi\n", add_special_tokens=False)


def test_a_template_of_the_tokenizers_own_goes_before(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file of its own as Jinja, then the tokenizer's settings, then the file as JSON, each named in the log."""
    without_template(folder)
    change(folder / "chat_template.json", chat_template="json")
    found = []
    for name in ("chat_template.json", "tokenizer_config.json", "chat_template.jinja"):
        if name == "tokenizer_config.json":
            change(folder / name, chat_template="settings")
        if name == "chat_template.jinja":
            (folder / name).write_text("jinja")
        caplog.clear()
        with caplog.at_level(logging.INFO, "greenroom"):
            found.append(load(folder).chat_template)
        assert f"the chat template is that of {name}" in caplog.text
    assert found == ["json", "settings", "jinja"]


@pytest.mark.parametrize("content", ["{}", '{"chat_template": 5}', '{"chat_template": [{"name": "a"}]}', "[]", DEEP])
def test_a_file_that_holds_no_template_is_named(folder: Path, content: str) -> None:
    """Where it would be the one that is used."""
    without_template(folder)
    (folder / "chat_template.json").write_text(content)
    with pytest.raises(ModelLoadFailed, match=r"chat_template\.json"):
        load(folder)


async def test_a_model_without_a_template_is_told_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At load; a str is raw text then, and messages are refused."""
    without_template(folder)
    with caplog.at_level(logging.WARNING, "greenroom"):
        async with Runtime(folder) as runtime:
            assert await runtime.prepare("Hi") == runtime.tokenizer.encode("Hi")
            with pytest.raises(InvalidPrompt, match="no chat template"):
                await runtime.prepare([{"role": "user", "content": "Hi"}])
            for _ in range(2):
                await runtime.generate("Hi", max_tokens=1).collect()
    assert caplog.text.count("has no chat template: a str prompt is run as raw text") == 1


async def test_what_generation_config_suggests_is_offered(folder: Path) -> None:
    """Its sampling, without what is null; argmax where it says not to sample."""
    fields = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": None, "max_length": 99}
    change(folder / "generation_config.json", **fields)
    suggested = (("temperature", 0.7), ("top_p", 0.8), ("top_k", 20))
    assert read_folder(folder, trust_remote_code=False).suggested_sampling == suggested
    async with Runtime(folder, parameters="model") as runtime:
        assert runtime.model.suggested_sampling == suggested
        drawn = await runtime.generate("Hi", max_tokens=8, seed=3).collect()
        given = await runtime.generate("Hi", max_tokens=8, seed=3, temperature=0.7, top_p=0.8, top_k=20).collect()
        assert drawn.text == given.text
    change(folder / "generation_config.json", do_sample=False)
    assert read_folder(folder, trust_remote_code=False).suggested_sampling == (("temperature", 0.0),)


OWN_CODE = """
from pathlib import Path
from mlx_lm.models.{kind} import Model as Base, ModelArgs

Path(__file__).with_name("ran").touch()

class Model(Base):
    pass
"""


async def test_a_models_own_code_runs_where_it_is_trusted(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """And nowhere else: the error names an option that there is, of the runtime and of the command line."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    (folder / "own.py").write_text(OWN_CODE.format(kind=kind))
    change(folder / "config.json", model_file="own.py")
    with pytest.raises(ModelLoadFailed, match="trust_remote_code=True"):
        await Runtime(folder).__aenter__()
    assert not (folder / "ran").exists()
    async with Runtime() as plain:
        expected = (await plain.generate("Hello!", max_tokens=12, temperature=0.0).collect()).text
    async with Runtime(folder, trust_remote_code=True) as runtime:
        assert (await runtime.generate("Hello!", max_tokens=12, temperature=0.0).collect()).text == expected
    assert (folder / "ran").exists()
    assert not capfd.readouterr().out
    (folder / "own.py").unlink()
    with pytest.raises(ModelLoadFailed, match=r"there is no 'own\.py'"):
        await Runtime(folder, trust_remote_code=True).__aenter__()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache without a network, which has two revisions of one model."""
    root = tmp_path / "hub" / "models--some--model"
    (root / "refs").mkdir(parents=True)
    for name, commit in (("main", "a" * 40), ("v1", "b" * 40)):
        (root / "refs" / name).write_text(commit)
        shutil.copytree(understudy.path(), root / "snapshots" / commit, copy_function=shutil.copyfile)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root.parent))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return root / "snapshots"


async def test_a_revision_of_a_hub_name_is_the_one_that_is_loaded(cache: Path) -> None:
    """By its name or its commit; another one is not found, and says which."""
    assert find_folder("some/model", is_local=True) == cache / ("a" * 40)
    for revision in ("v1", "b" * 40):
        assert find_folder("some/model", revision=revision) == cache / ("b" * 40)
    change(cache / ("b" * 40) / "config.json", max_position_embeddings=77)
    async with Runtime("some/model", revision="v1") as runtime:
        assert runtime.model.context_length == 77
    with pytest.raises(ModelNotFound, match="some/model at revision 'v2'"):
        await Runtime("some/model", revision="v2").__aenter__()


async def test_a_folder_has_no_revisions(folder: Path) -> None:
    """Rather than being ignored, one is refused."""
    with pytest.raises(InvalidParameter, match=r"revision must be None: .* is a folder"):
        await Runtime(folder, revision="v1").__aenter__()


def test_the_command_line_has_the_same_options(folder: Path, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`--context-length`, `--revision` and `--trust-remote-code` come to where the model is loaded."""
    generate = ["generate", "Hello!", "--max-tokens", "3", "--temperature", "0", "--json"]
    assert main([*generate, "--context-length", "2"]) == 1
    assert "PromptTooLong" in capfd.readouterr().out
    change(cache / ("b" * 40) / "config.json", max_position_embeddings=2)
    assert main([*generate, "--model", "some/model", "--revision", "v1"]) == 1
    assert "PromptTooLong" in capfd.readouterr().out
    change(folder / "config.json", model_file="own.py")
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    (folder / "own.py").write_text(OWN_CODE.format(kind=kind))
    assert main([*generate, "--model", str(folder)]) == 1
    assert "trust_remote_code=True" in capfd.readouterr().out
    assert main([*generate, "--model", str(folder), "--trust-remote-code"]) == 0
