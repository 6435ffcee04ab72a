"""Files of KV: what comes back is what was saved, or nothing."""

from __future__ import annotations

import json
import logging
import os
import stat
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import llama, mamba2, mx

from greenroom import Runtime
from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.layer_shape import LayerShape
from greenroom.backends.mlx.prefix_cache import file_format as prefix_format
from greenroom.backends.mlx.prefix_cache import files as prefix_files
from greenroom.backends.mlx.prefix_cache.export import export_prefix, import_prefix
from greenroom.backends.mlx.prefix_cache.files import PrefixFiles, PrefixFileWarning
from greenroom.backends.mlx.prefix_cache.layers import CacheSnapshot
from greenroom.backends.mlx.prefix_cache.store import PrefixNamespace, PrefixStore
from greenroom.backends.mlx.tensor_header import parse_header
from greenroom.backends.protocol import Close, Feed, ForwardPlan, Open, Sampling
from greenroom.errors import InvalidSnapshot, ModelError, SnapshotMismatch, UnusablePath

TOKENS = (5, 6, 7, 300_000)
ARRAYS = {"keys.0": (1, 2, 4, 3), "values.0": (1, 2, 4, 5)}
MUCH = 1 << 20


def arrays_of(start: float = 0.0, dtype: mx.Dtype = mx.float32) -> dict[str, mx.array]:
    """Different numbers in every place."""
    return {
        name: (mx.arange(4 * 2 * shape[-1]).reshape(shape) + start + place).astype(dtype)
        for place, (name, shape) in enumerate(ARRAYS.items())
    }


def same(one: dict[str, mx.array], other: dict[str, mx.array]) -> bool:
    """Names, types and every bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and bool(mx.array_equal(one[name], other[name])) for name in one
    )


def only_file(folder: Path) -> Path:
    """The one file there is."""
    (path,) = folder.iterdir()
    return path


def saved(folder: Path) -> Path:
    """One file, freshly written."""
    assert PrefixFiles(folder, MUCH).save("block", "model", TOKENS, arrays_of(), "a note")
    return only_file(folder)


@pytest.mark.parametrize(
    "dtype", [mx.float32, mx.float16, mx.bfloat16, mx.uint32, mx.uint8, mx.bool_, mx.int64, mx.complex64]
)
def test_another_process_finds_what_was_saved(tmp_path: Path, dtype: mx.Dtype) -> None:
    """Every bit of it, in every type, with the note; bfloat16 too, which NumPy does not know."""
    arrays = {**arrays_of(0.5, dtype), "scalar": mx.array(1).astype(dtype), "empty": mx.zeros((1, 0, 3), dtype)}
    assert PrefixFiles(tmp_path, MUCH).save("snapshot", "model", TOKENS, arrays, "ünder \n")
    found = PrefixFiles(tmp_path, MUCH).load("snapshot", "model", TOKENS)
    assert found is not None
    assert same(found.arrays, arrays)
    assert found.note == "ünder \n"


def test_a_view_of_a_larger_array_is_saved_as_what_it_shows(tmp_path: Path) -> None:
    """Not as what lies next to it in memory."""
    view = mx.arange(48).reshape(1, 2, 8, 3)[:, :, 2:5]
    files = PrefixFiles(tmp_path, MUCH)
    files.save("block", "model", TOKENS, {"keys.0": view})
    found = files.load("block", "model", TOKENS)
    assert found is not None
    assert found.arrays["keys.0"].tolist() == view.tolist()


def test_other_tools_can_read_the_files(tmp_path: Path) -> None:
    """They are safetensors files, and say what they are."""
    loaded: Any = mx.load(str(saved(tmp_path)), return_metadata=True)
    arrays, metadata = loaded
    assert same(arrays, arrays_of())
    assert metadata["namespace"] == "model"
    assert metadata["format"] == "greenroom-prefix-2"


@pytest.mark.parametrize(
    ("kind", "namespace", "tokens"),
    [
        ("snapshot", "model", TOKENS),
        ("block", "other", TOKENS),
        ("block", "model", TOKENS[:-1]),
        ("block", "model", (*TOKENS[:-1], 8)),
    ],
)
def test_a_file_is_for_its_own_key_alone(
    tmp_path: Path, kind: prefix_files.Kind, namespace: str, tokens: tuple[int, ...]
) -> None:
    """Kind, namespace and every token; and also where hashes collide, which is what a renamed file looks like."""
    path = saved(tmp_path)
    files = PrefixFiles(tmp_path, MUCH)
    assert files.load(kind, namespace, tokens) is None
    path.rename(files._path(kind, namespace, prefix_format.token_bytes(tokens), len(tokens)))
    with pytest.warns(PrefixFileWarning, match="another"):
        assert files.load(kind, namespace, tokens) is None


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_is_never_used(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Cut off anywhere, or one byte changed anywhere: a warning and nothing found, or all of what was saved."""
    folder = tmp_path_factory.mktemp("damaged")
    path = saved(folder)
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        damaged = content[:place]
    else:
        changed = content[place] ^ data.draw(st.integers(1, 255))
        damaged = content[:place] + bytes([changed]) + content[place + 1 :]
    path.write_bytes(damaged)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = PrefixFiles(folder, MUCH).load("block", "model", TOKENS)
    if found is None:
        assert [warning.category for warning in caught] == [PrefixFileWarning]
    else:  # a byte between the JSON's tokens, such as the padding behind the header
        assert same(found.arrays, arrays_of())
        assert found.note == "a note"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content[:4],
        lambda _: b"",
        lambda _: b"not a safetensors file at all",
        lambda content: (1 << 60).to_bytes(8, "little") + content[8:],
        lambda content: content.replace(b"greenroom-prefix-2", b"greenroom-prefix-1"),
        lambda content: content.replace(b"a note", b"A note"),
        lambda content: content.replace(b'"F32"', b'"I32"'),
    ],
    ids=["short", "bit", "header", "empty", "foreign", "length", "version", "note", "type"],
)
def test_what_is_unusable_is_named_once_and_written_over(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """One warning, then silence; and saving again repairs it."""
    path = saved(tmp_path)
    before = path.read_bytes()
    path.write_bytes(damage(before))
    assert path.read_bytes() != before
    files = PrefixFiles(tmp_path, MUCH)
    with pytest.warns(PrefixFileWarning, match="is ignored"):
        assert files.load("block", "model", TOKENS) is None
    assert files.load("block", "model", TOKENS) is None
    assert files.save("block", "model", TOKENS, arrays_of(), "a note")
    found = files.load("block", "model", TOKENS)
    assert found is not None
    assert same(found.arrays, arrays_of())


def test_arrays_of_another_form_are_not_used(tmp_path: Path) -> None:
    """As a file of another model that goes by the same namespace has them."""
    saved(tmp_path)
    right = {name: (shape, mx.float32) for name, shape in ARRAYS.items()}
    assert PrefixFiles(tmp_path, MUCH).load("block", "model", TOKENS, right) is not None
    for wrong in (
        {**right, "keys.0": ((1, 2, 4, 4), mx.float32)},
        {**right, "keys.0": ((1, 2, 4, 3), mx.float16)},
        {**right, "keys.1": ((1, 2, 4, 3), mx.float32)},
        {"keys.0": right["keys.0"]},
    ):
        with pytest.warns(PrefixFileWarning, match="other shapes"):
            assert PrefixFiles(tmp_path, MUCH).load("block", "model", TOKENS, wrong) is None


def test_the_file_unused_for_longest_goes_first(tmp_path: Path) -> None:
    """Loading and saving again are uses. Within the budget, and no file of another name is touched or counted."""
    size = saved(tmp_path / "sized").stat().st_size
    folder = tmp_path / "cache"
    folder.mkdir()
    foreign = folder / "weights.safetensors"
    foreign.write_bytes(b"x" * 10 * size)
    files = PrefixFiles(folder, 3 * size)
    keys = [(token, 6, 7, 300_000) for token in range(5)]
    for age, tokens in enumerate(keys[:3]):
        files.save("block", "model", tokens, arrays_of(), "a note")
        when = 1_000_000 + age
        os.utime(files._path("block", "model", prefix_format.token_bytes(tokens), 4), (when, when))
    assert files.load("block", "model", keys[0]) is not None
    assert files.save("block", "model", keys[1], arrays_of(), "a note")
    assert files.save("block", "model", keys[3], arrays_of(), "a note")
    assert [files.load("block", "model", tokens) is not None for tokens in keys] == [True, True, False, True, False]
    assert files.nbytes == 3 * size
    assert foreign.stat().st_size == 10 * size


@pytest.mark.parametrize("spare", [-1, 0])
def test_the_budget_holds_to_the_byte(tmp_path: Path, spare: int) -> None:
    """One file is kept where it fits exactly, and not where its header does not fit."""
    size = saved(tmp_path / "sized").stat().st_size
    files = PrefixFiles(tmp_path / "cache", size + spare)
    assert files.save("block", "model", TOKENS, arrays_of(), "a note") is (spare == 0)
    assert files.nbytes == (size if spare == 0 else 0)
    assert not PrefixFiles(tmp_path / "none", 10).save("block", "model", TOKENS, arrays_of())
    assert not (tmp_path / "none").exists()


def test_a_failing_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not under its name, not half of it under another, and what was there before stays as it was."""
    path = saved(tmp_path)
    path.write_bytes(b"damaged")
    files = PrefixFiles(tmp_path, MUCH)
    with pytest.warns(PrefixFileWarning, match="is ignored"):
        files.load("block", "model", TOKENS)

    def fail(name: str, *_: object) -> None:
        Path(name).write_bytes(b"half of it")
        assert {file.name for file in tmp_path.iterdir()} == {path.name, Path(name).name}
        raise RuntimeError("no space left")

    monkeypatch.setattr(mx, "save_safetensors", fail)
    with pytest.warns(PrefixFileWarning, match="no space left"):
        assert not files.save("block", "model", TOKENS, arrays_of())
    assert not files.save("block", "model", TOKENS[:2], arrays_of())  # said once, not for every block
    assert only_file(tmp_path).read_bytes() == b"damaged"


def test_an_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not about files leaves as it came."""

    def interrupt(name: str, *_: object) -> None:
        Path(name).write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(mx, "save_safetensors", interrupt)
    with pytest.raises(KeyboardInterrupt):
        PrefixFiles(tmp_path, MUCH).save("block", "model", TOKENS, arrays_of())
    assert not list(tmp_path.iterdir())


def test_half_written_files_count_and_go(tmp_path: Path) -> None:
    """A process that was killed leaves one; it is never read, and is deleted as any other."""
    path = saved(tmp_path)
    part = path.with_name(f"{path.stem}.abc12_x9.part.safetensors")
    size = path.stat().st_size
    path.rename(part)
    os.utime(part, (1, 1))
    files = PrefixFiles(tmp_path, size + 1)
    assert files.nbytes == size
    assert files.lengths("block", "model") == []
    assert files.load("block", "model", TOKENS) is None
    assert files.save("block", "model", TOKENS, arrays_of(), "a note")
    assert only_file(tmp_path) == path


def test_files_may_vanish_between_listing_and_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process deletes them: a file that is gone is a miss, and room that somebody else made is room."""
    path = saved(tmp_path)
    size = path.stat().st_size
    files = PrefixFiles(tmp_path, size + 1)
    listed = list(files._listed())
    assert files.lengths("block", "model") == [4]
    path.unlink()
    assert files.load("block", "model", TOKENS) is None
    monkeypatch.setattr(files, "_listed", lambda: iter(listed))
    assert files.save("block", "model", (9, 6, 7, 300_000), arrays_of(), "a note")


def test_a_file_may_vanish_while_the_folder_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entry was read, its size was not."""
    path = saved(tmp_path)

    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.name, self.path = entry.name, entry.path

        def stat(self) -> os.stat_result:
            path.unlink()
            return path.stat()

    class Scan:
        def __enter__(self) -> list[Entry]:
            return [Entry(entry) for entry in entries]

        def __exit__(self, *_: object) -> None:
            pass

    with os.scandir(tmp_path) as scan:
        entries = list(scan)
    monkeypatch.setattr(os, "scandir", lambda _: Scan())
    assert PrefixFiles(tmp_path, MUCH).nbytes == 0
    assert not path.exists()


def test_a_half_written_file_may_vanish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process made room with it: nothing is saved, and the next attempt succeeds."""
    files = PrefixFiles(tmp_path, MUCH)
    with monkeypatch.context() as patch:
        patch.setattr(mx, "save_safetensors", lambda name, *_: Path(name).unlink())
        with pytest.warns(PrefixFileWarning, match="cannot be written"):
            assert not files.save("block", "model", TOKENS, arrays_of())
    assert files.save("block", "model", TOKENS, arrays_of())


def test_the_folder_may_vanish(tmp_path: Path) -> None:
    """It is a miss while it is gone, and it is made again."""
    files = PrefixFiles(tmp_path / "a" / "cache", MUCH)
    assert files.nbytes == 0
    assert files.lengths("block", "model") == []
    assert files.load("block", "model", TOKENS) is None
    assert files.save("block", "model", TOKENS, arrays_of())
    only_file(tmp_path / "a" / "cache").unlink()
    (tmp_path / "a" / "cache").rmdir()
    assert files.load("block", "model", TOKENS) is None
    assert files.save("block", "model", TOKENS, arrays_of())


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """A folder in the place of a file, and a file in the place of the folder."""
    files = PrefixFiles(tmp_path, MUCH)
    files._path("block", "model", prefix_format.token_bytes(TOKENS), len(TOKENS)).mkdir()
    with pytest.warns(PrefixFileWarning, match="is ignored"):
        assert files.load("block", "model", TOKENS) is None
    (tmp_path / "file").write_bytes(b"")
    with pytest.warns(PrefixFileWarning, match="cannot be written"):
        assert not PrefixFiles(tmp_path / "file", MUCH).save("block", "model", TOKENS, arrays_of())


def test_nobody_else_may_read_the_files(tmp_path: Path) -> None:
    """They hold prompts."""
    PrefixFiles(tmp_path / "cache", MUCH).save("block", "model", TOKENS, arrays_of())
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    assert stat.S_IMODE(only_file(tmp_path / "cache").stat().st_mode) == 0o600


def test_lengths_are_of_one_kind_and_namespace(tmp_path: Path) -> None:
    """The most first, each once."""
    files = PrefixFiles(tmp_path, MUCH)
    for tokens in ((1, 2), (1, 2, 3), (4, 5, 6), (7,) * 12):
        files.save("snapshot", "model", tokens, arrays_of())
    files.save("snapshot", "other", (1,), arrays_of())
    files.save("block", "model", (1, 2, 3, 4), arrays_of())
    assert files.lengths("snapshot", "model") == [12, 3, 2]


def test_a_type_that_files_do_not_hold_is_the_callers_error(tmp_path: Path) -> None:
    """Nothing is written then."""
    with mx.stream(mx.cpu):
        array = mx.zeros(2, mx.float64)
    with pytest.raises(TypeError, match="'state' has the type"):
        PrefixFiles(tmp_path, MUCH).save("snapshot", "model", TOKENS, {"state": array})
    assert not list(tmp_path.iterdir())


def entry(dtype: str = "F32", shape: object = (0,), offsets: object = (0, 0)) -> str:
    """Of one array, in a header."""
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": offsets})


HEADERS = {
    "deep": '{"a": ' + "[" * 99_000,
    "deep metadata": '{"__metadata__": ' + '{"a": ' * 99_000,
    "deep shape": '{"a": ' + entry(shape=[[[[1]]]]) + "}",
    "wide": '{"a": ' + entry(shape=[0, 2**40]) + "}",
    "wider": '{"a": ' + entry(shape=[0, 2**70]) + "}",
    "product": '{"a": ' + entry(shape=[0, 2**30, 2**30, 2**30]) + "}",
    "many": '{"a": ' + entry(shape=[0] * 5000) + "}",
    "negative": '{"a": ' + entry(shape=[-1, 0]) + "}",
    "turned": '{"a": ' + entry(offsets=[4, 0]) + "}",
    "before": '{"a": ' + entry(shape=[1], offsets=[-4, 0]) + "}",
    "behind": '{"a": ' + entry(shape=[2**20], offsets=[0, 2**22]) + "}",
    "short": '{"a": ' + entry(shape=[2], offsets=[0, 4]) + "}",
    "float": '{"a": ' + entry(shape=[1.0]) + "}",
    "null": '{"a": null}',
    "list": "[]",
    "text": '"{}"',
    "nothing": "",
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header_is_a_warning(tmp_path: Path, name: str) -> None:
    """In a file of the right name: whatever nests, whatever does not fit its bytes. What can be named is."""
    header = HEADERS[name].encode()
    path = saved(tmp_path)
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.warns(PrefixFileWarning, match="is ignored"):
        assert PrefixFiles(tmp_path, MUCH).load("block", "model", TOKENS) is None
    with pytest.raises(ValueError, match="'a'" if '"dtype"' in HEADERS[name] and name != "deep shape" else "."):
        parse_header(header, 16)


HOSTILE: st.SearchStrategy[object] = st.sampled_from(
    [None, True, -1, 0, 2**31, 2**40, 2**70, 1.5, "", "x", "F32", "F64", [], {}, [0, 2**40], [[[]]], [-1], {"a": []}]
)


def signed(header: dict[str, Any], body: memoryview) -> bytes:
    """A file with this header, and the checksum that goes with it where there can be one."""
    metadata = header["__metadata__"]
    with suppress(TypeError, KeyError):
        arrays = {name: each for name, each in header.items() if name != "__metadata__"}
        described = {name: (each["dtype"], tuple(each["shape"])) for name, each in arrays.items()}
        parts = {name: body[slice(*each["data_offsets"])] for name, each in arrays.items()}
        metadata["arrays"] = prefix_format._describe(described)
        metadata["checksum"] = prefix_format._checksum(prefix_format.Metadata(**metadata), parts)
    changed = json.dumps(header).encode()
    return len(changed).to_bytes(8, "little") + changed + bytes(body)


def opened(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header and what is behind it."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_lie_under_a_right_checksum_is_a_warning_or_what_it_says(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any value in the header in the place of any other, signed anew: nothing else is raised, and nothing dies."""
    folder = tmp_path_factory.mktemp("signed")
    path = saved(folder)
    header, body = opened(path.read_bytes())
    part = header[data.draw(st.sampled_from(sorted(header)))]
    part[data.draw(st.sampled_from(sorted(part)))] = data.draw(HOSTILE)
    path.write_bytes(signed(header, body))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = PrefixFiles(folder, MUCH).load("block", "model", TOKENS)
    assert (found is None) == ([warning.category for warning in caught] == [PrefixFileWarning])


def test_where_warnings_are_errors_a_damaged_file_is_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Loading and saving are on the thread of all requests: nothing may be raised there."""
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    files = PrefixFiles(tmp_path, MUCH)
    (tmp_path / "file").write_bytes(b"")
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, "greenroom"):
        warnings.simplefilter("error")
        assert files.load("block", "model", TOKENS) is None
        assert not PrefixFiles(tmp_path / "file", MUCH).save("block", "model", TOKENS, arrays_of())
    assert [f"{path} is ignored" in caplog.text, "cannot be written" in caplog.text] == [True, True]


def test_what_is_no_regular_file_is_neither_read_nor_replaced_nor_counted(tmp_path: Path) -> None:
    """A pipe in the place of a file would keep the thread of all requests waiting; a folder could not be deleted."""
    path = saved(tmp_path)
    size = path.stat().st_size
    path.unlink()
    os.mkfifo(path)
    files = PrefixFiles(tmp_path, size)
    (tmp_path / path.name.replace("block", "other")).mkdir()
    with pytest.warns(PrefixFileWarning, match="is a pipe"):
        assert files.load("block", "model", TOKENS) is None
    with pytest.warns(PrefixFileWarning, match="is a pipe"):
        assert not files.save("block", "model", TOKENS, arrays_of(), "a note")
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert files.nbytes == 0
    assert files.save("block", "model", TOKENS[::-1], arrays_of(), "a note")


def test_a_file_larger_than_all_may_be_is_not_read(tmp_path: Path) -> None:
    """It is not one of ours."""
    path = saved(tmp_path)
    os.truncate(path, 1 << 40)
    with pytest.warns(PrefixFileWarning, match="room for 1048576"):
        assert PrefixFiles(tmp_path, MUCH).load("block", "model", TOKENS) is None


def test_a_failing_folder_is_named_again_once_it_had_been_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning for each time that it begins to fail, whatever the number of blocks."""
    files = PrefixFiles(tmp_path, MUCH)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    for base in (0, 100):
        with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            patch.setattr(mx, "save_safetensors", fail)
            assert not any(files.save("block", "model", (base + n,), arrays_of()) for n in range(9))
            assert len(caught) == 1
        assert files.save("block", "model", (base,), arrays_of())


@pytest.mark.parametrize("place", ["file", "file/below", "read only"])
async def test_a_prefix_folder_that_cannot_be_written_is_an_error_at_entry(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named with what was given, before any model is loaded; the same runtime's files are then nowhere."""
    (tmp_path / "file").write_bytes(b"")
    if place == "read only":

        def refuse(*_: object) -> None:
            raise PermissionError("read-only file system")

        monkeypatch.setattr(prefix_files, "part_of", refuse)
    runtime = Runtime(backend=MlxBackend.from_model(llama, prefix_folder=tmp_path / place))
    with pytest.raises(UnusablePath, match="was given as prefix_folder and cannot be written"):
        async with runtime:
            pass
    assert not issubclass(UnusablePath, ModelError)
    monkeypatch.undo()
    async with Runtime(backend=MlxBackend.from_model(llama, prefix_folder=tmp_path / "a" / "b")) as fine:
        assert (tmp_path / "a" / "b").is_dir()
        assert list((tmp_path / "a" / "b").iterdir()) == []
        assert fine.is_open


@pytest.mark.parametrize("shapes", [[LayerShape(1, 3, 5, mx.float32, mx.float32)], []], ids=["kv", "caches"])
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_imported_kv_under_a_right_checksum_is_held_or_refused(shapes: list[LayerShape], data: st.DataObject) -> None:
    """Any value in its header in the place of any other: a typed error, after which nothing is held."""
    tokens = list(range(70))

    def store() -> PrefixNamespace:
        return PrefixNamespace(PrefixStore(MUCH, shapes), "model")

    one = store()
    if shapes:
        one.store.put("model", tokens, [(mx.zeros((1, 1, 70, 3)), mx.zeros((1, 1, 70, 5)))])
    else:
        one.store.put_snapshot("model", tokens, CacheSnapshot({"0/0": mx.zeros((2, 3))}, "[{}]"))
    one.store.settle()
    kv = export_prefix(one, tokens)
    assert kv is not None
    assert import_prefix(store(), kv) == len(tokens)
    header, body = opened(kv)
    part = header[data.draw(st.sampled_from(sorted(header)))]
    key = data.draw(st.sampled_from(sorted(part)))
    part[key] = data.draw(HOSTILE | st.sampled_from(["AAAA", "AAAAAA==", "/////w==", "é"]))
    other = store()
    try:
        held = import_prefix(other, signed(header, body))
    except (InvalidSnapshot, SnapshotMismatch):
        assert other.store.nbytes == 0
    else:
        assert 0 <= held <= len(tokens)


def test_caches_of_another_version_are_run_again(caplog: pytest.LogCaptureFixture) -> None:
    """A file may hold what this mlx-lm cannot take back: that costs the prompt's passes, and a line in the log."""
    backend = MlxBackend.from_model(mamba2, prefix_bytes=1 << 26)
    backend.load()
    kept = backend._kept
    assert kept is not None
    for note in ("[]", "{", "[" * 5000, '[{"a": 1}, 7]', "null"):
        kept.store.put_snapshot(kept.namespace, TOKENS[:3], CacheSnapshot({"0/0": mx.zeros((2, 3))}, note))
        with caplog.at_level(logging.WARNING, "greenroom"):
            assert backend.edit([Open(1, Sampling(), prompt=(*TOKENS[:3], 9))]).reused in ((), ((1, 0),))
        backend.forward(ForwardPlan((Feed(1, (*TOKENS[:3], 9)),)))
        backend.sample()
        assert len(backend.read().sampled) == 1
        backend.edit([Close(1)])
        assert "cannot be used, so they are run" in caplog.text
        caplog.clear()
    backend.close()
