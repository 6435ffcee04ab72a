"""The part of a model that a rank holds, and whether two folders hold the same model: nothing here needs a group."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
from models import build, mx, tree_flatten
from rank_groups import SMALL, write_model

from greenroom.backends.mlx.distributed.files import fingerprint_of
from greenroom.backends.mlx.distributed.parts import take_part
from greenroom.errors import CannotDistribute, ModelLoadFailed


class OneOf(NamedTuple):
    """A rank of so many, and MLX's group of it, as far as parts are cut."""

    number: int
    size: int
    split: str = "tensor"

    @property
    def group(self) -> Any:
        """What mlx-lm asks."""
        return SimpleNamespace(rank=lambda: self.number, size=lambda: self.size)


def whole_model(kind: str) -> Any:
    """The same one each time."""
    mx.random.seed(5)
    return build(kind, **SMALL[kind])[0]


def part(kind: str, one: OneOf) -> dict[str, mx.array]:
    """The parameters that a rank is left with."""
    model = whole_model(kind)
    take_part(model, cast("Any", one))
    return dict(tree_flatten(model.parameters()))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_shards_are_the_whole_model(kind: str) -> None:
    """Put together again, along one axis or none, they are what was there: nothing is lost, nothing twice."""
    whole = dict(tree_flatten(whole_model(kind).parameters()))
    shards = [part(kind, OneOf(rank, 2)) for rank in range(2)]
    assert shards[0].keys() == shards[1].keys() == whole.keys()
    divided = 0
    for name, array in whole.items():
        pieces = [shard[name] for shard in shards]
        axis = next((axis for axis in range(array.ndim) if pieces[0].shape[axis] != array.shape[axis]), None)
        found = pieces[0] if axis is None else mx.concatenate(pieces, axis=axis)
        assert mx.array_equal(found, array), name
        divided += axis is not None
    assert divided >= 7 * SMALL[kind]["num_hidden_layers"]


def test_a_pipeline_hands_every_layer_to_one_rank() -> None:
    """The last layers are rank 0's; what is below and above them all ranks have."""
    parts = [part("qwen2", OneOf(rank, 3, "pipeline")) for rank in range(3)]
    layers = [sorted({name.split(".")[2] for name in each if ".layers." in name}) for each in parts]
    assert layers == [["2", "3"], ["1"], ["0"]]
    assert all("model.embed_tokens.weight" in each for each in parts)


@pytest.mark.parametrize(
    ("kind", "one", "why"),
    [
        ("llama", OneOf(0, 4), r"2 heads \(model\.layers\.3\.self_attn\.n_kv_heads\) are not to be divided by 4"),
        ("llama", OneOf(0, 3), "kind llama is not to be divided by 3"),
        ("gemma2", OneOf(0, 2), "mlx-lm cannot divide the layers of a model of the kind gemma2"),
        (
            "gemma2",
            OneOf(0, 2, "pipeline"),
            "mlx-lm has no pipeline for a model of the kind gemma2: take its shards",
        ),
        ("qwen2", OneOf(0, 5, "pipeline"), "4 layers are not enough for 5 ranks"),
    ],
)
def test_what_cannot_be_divided_is_refused(kind: str, one: OneOf, why: str) -> None:
    """With what stands against it."""
    with pytest.raises(CannotDistribute, match=why):
        part(kind, one)


def test_a_copy_has_the_same_fingerprint(tmp_path: Path) -> None:
    """Also where its arrays are in several files."""
    one = write_model(tmp_path / "one", "llama")
    other = shutil.copytree(one, tmp_path / "other")
    assert fingerprint_of(one) == fingerprint_of(other)
    arrays: Any = mx.load(str(other / "model.safetensors"))
    (other / "model.safetensors").unlink()
    names = sorted(arrays)
    for number, chosen in enumerate((names[::2], names[1::2])):
        mx.save_safetensors(str(other / f"model-{number}.safetensors"), {name: arrays[name] for name in chosen})
    assert fingerprint_of(one) == fingerprint_of(other)


@pytest.mark.parametrize("change", ["numbers", "name", "config"])
def test_another_model_has_another_fingerprint(tmp_path: Path, change: str) -> None:
    """By its numbers, the names of its arrays, or its configuration."""
    one = write_model(tmp_path / "one", "llama")
    before = fingerprint_of(one)
    path = one / "model.safetensors"
    arrays: Any = mx.load(str(path))
    mx.eval(arrays)
    if change == "numbers":
        arrays["model.layers.2.mlp.up_proj.weight"] *= 1.001
    elif change == "name":
        arrays["model.layers.9.mlp.up_proj.weight"] = arrays.pop("model.layers.2.mlp.up_proj.weight")
    else:
        config = json.loads((one / "config.json").read_text())
        (one / "config.json").write_text(json.dumps({**config, "rope_theta": 5e5}))
    mx.save_safetensors(str(path), arrays)
    assert fingerprint_of(one) != before


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02\x00\x00\x00\x00\x00\x00\x00[]", b"\x09" + b"\x00" * 7])
def test_a_file_without_arrays_is_refused(tmp_path: Path, content: bytes) -> None:
    """Empty, of an endless header, of another one, cut off."""
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelLoadFailed, match="holds no arrays"):
        fingerprint_of(tmp_path)
