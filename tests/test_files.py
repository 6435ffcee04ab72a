"""Files that appear whole, whoever writes them at the same time, and only where a file may be."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom import ChatSession, Runtime, Scripted
from greenroom.backends.host import available_memory
from greenroom.errors import GreenroomError, InvalidSnapshot, UnusablePath
from greenroom.files.json_depth import MAX_JSON_DEPTH, check_json_depth
from greenroom.files.regular import find_target, part_of, read_file, replace_file
from greenroom.files.tensor_file import read_tensor_file


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """From several threads at once: none fails, what is read is always one writer's, and nothing is left beside it."""
    path = tmp_path / "one.json"
    replace_file(path, b"begin" * 1000)
    texts = [bytes([48 + number % 10]) * 5000 for number in range(240)]
    with ThreadPoolExecutor(8) as pool:
        writing = pool.map(lambda text: replace_file(path, text), texts)
        seen = {path.read_bytes() for _ in range(100)}
        assert list(writing) == [None] * 240
    assert {*seen, path.read_bytes()} <= {b"begin" * 1000, *texts}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["one.json"]


def test_a_file_that_cannot_be_moved_leaves_nothing(tmp_path: Path) -> None:
    """What is in its place stays."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(UnusablePath, match="is a folder"):
        replace_file(tmp_path / "folder", b"data")
    with part_of(tmp_path / "given.up") as part:
        part.write_bytes(b"half")
        assert part.suffix == ".up"
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def irregular(folder: Path) -> dict[str, Path]:
    """What is there and is no regular file, by what it is called; and links to each."""
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    with closing(socket.socket(socket.AF_UNIX)) as door:
        door.bind(os.path.relpath(folder / "socket"))
    found = {"folder": folder / "folder", "pipe": folder / "pipe", "socket": folder / "socket"}
    found["device"] = folder / "device"
    found["device"].symlink_to("/dev/null")
    for name in ("folder", "pipe", "socket"):
        link = folder / f"to {name}"
        link.symlink_to(found[name])
        found[f"{name} "] = link
    return found


def test_what_is_no_regular_file_is_neither_replaced_nor_read(tmp_path: Path) -> None:
    """Named with its path; it stays what it was. A pipe's reader would wait, a device would be read for ever."""
    for name, path in irregular(tmp_path).items():
        before = path.stat()
        for act in (lambda path: replace_file(path, b"data"), read_file):
            with pytest.raises(UnusablePath, match=f"{re.escape(str(path))} is a {name.strip()}") as caught:
                act(path)
            assert isinstance(caught.value, GreenroomError)
            assert isinstance(caught.value, OSError)
        assert (path.stat().st_mode, path.stat().st_ino) == (before.st_mode, before.st_ino)
    assert not list(tmp_path.rglob("*.part*"))


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    """Through several links, into another folder, where the file is yet to be made; a link to itself is an error."""
    (tmp_path / "far").mkdir()
    real = tmp_path / "far" / "real"
    real.write_bytes(b"old")
    (tmp_path / "near").symlink_to(real)
    (tmp_path / "link").symlink_to("near")
    (tmp_path / "new").symlink_to("far/made")
    (tmp_path / "self").symlink_to("self")
    replace_file(tmp_path / "link", b"new")
    replace_file(tmp_path / "new", b"made")
    assert (real.read_bytes(), (tmp_path / "far" / "made").read_bytes()) == (b"new", b"made")
    assert all((tmp_path / name).is_symlink() for name in ("near", "link", "new"))
    assert find_target(tmp_path / "link") == real.resolve()
    with pytest.raises(OSError, match="self"):
        replace_file(tmp_path / "self", b"data")
    assert {each.name for each in (tmp_path / "far").iterdir()} == {"real", "made"}


def test_what_is_no_path_is_named(tmp_path: Path) -> None:
    """A null character, half of a surrogate pair."""
    for name in ("a\0b", "\ud800"):
        with pytest.raises(UnusablePath, match="is no path"):
            replace_file(tmp_path / name, b"data")


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    """To the byte; and what no memory could hold is not tried."""
    path = tmp_path / "data"
    path.write_bytes(b"12345")
    assert read_file(path, 5) == read_file(path) == b"12345"
    with pytest.raises(UnusablePath, match="5 bytes, and at most 4"):
        read_file(path, 4)
    os.truncate(path, 1 << 40)
    with pytest.raises(UnusablePath, match="at most"):
        read_file(path, 1 << 30)


JSON = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=30,
)


def depth_of(value: object) -> int:
    """Counted on values."""
    if isinstance(value, dict | list):
        return 1 + max([depth_of(each) for each in (value.values() if isinstance(value, dict) else value)], default=0)
    return 0


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_the_depth_of_json_is_that_of_its_values(value: object) -> None:
    """Whatever stands in its strings."""
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    check_json_depth(text, depth_of(value))
    if depth_of(value):
        with pytest.raises(ValueError, match="levels at byte"):
            check_json_depth(text, depth_of(value) - 1)


def test_depth_is_found_in_linear_time_in_whatever_text() -> None:
    """Where a string never ends, and where it ends in the middle of an escape: else this would take minutes."""
    for text in (b'"' + b'\\"' * 300_000, b'"' + b"\\\\" * 300_000 + b"\\", b"}" * 300_000, b'"' * 300_001):
        check_json_depth(text)
    with pytest.raises(ValueError, match=f"deeper than {MAX_JSON_DEPTH} levels at byte {MAX_JSON_DEPTH + 4}"):
        check_json_depth(b'"[["' + b"[" * 99_000)


def tensor_file(*, data: bytes = b"abcd", end: int = 4, extra: bytes = b"") -> bytes:
    """A safetensors file of one array that says that it ends at `end`."""
    header = b'{"__metadata__":{"a":"b"},"x":{"dtype":"U8","shape":[4],"data_offsets":[0,%d]}}' % end
    return len(header).to_bytes(8, "little") + header + data + extra


BAD_TENSORS: dict[str, tuple[bytes, str]] = {
    "longer": (tensor_file(extra=b"x"), "its header tells of"),
    "cut off": (tensor_file(data=b"abc"), "its header tells of"),
    "an end far away": (tensor_file(end=1 << 50), "its header tells of"),
    "empty": (b"", "cut off"),
    "a header beyond its end": (b"\xff" * 8 + b"{}", "cut off"),
    "no JSON": ((8).to_bytes(8, "little") + b"garbage!", "none of safetensors"),
    "deep": ((90_000).to_bytes(8, "little") + b'{"a":' * 18_000, "none of safetensors"),
    "another type": ((7).to_bytes(8, "little") + b'{"x":1}', "none of safetensors"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_a_tensor_file_is_as_long_as_its_header_says(name: str, tmp_path: Path) -> None:
    """Found before memory is taken for what it holds."""
    data, message = BAD_TENSORS[name]
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(InvalidSnapshot, match=message):
        read_tensor_file(path, 1 << 30)


def test_a_tensor_file_is_read_where_there_is_room(tmp_path: Path) -> None:
    """One that is larger is refused by its size: of a file with a hole of a terabyte nothing is read."""
    path = tmp_path / "x"
    path.write_bytes(tensor_file())
    size = len(tensor_file())
    assert read_tensor_file(path, size) == tensor_file()
    with pytest.raises(UnusablePath, match=f"has {size} bytes, and there is room for {size - 1}"):
        read_tensor_file(path, size - 1)
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(UnusablePath, match="there is room for"):
        read_tensor_file(path, available_memory())
    with pytest.raises(InvalidSnapshot, match="its header tells of"):
        read_tensor_file(path, 1 << 50)


async def test_a_session_whose_kv_does_not_fit_the_memory_is_not_loaded(tmp_path: Path) -> None:
    """Nothing has changed then, and without its KV it is."""
    path, kv = tmp_path / "chat.json", tmp_path / "chat.json.kv"
    async with Runtime(backend=Scripted(["One.", "Two."])) as runtime:
        session = ChatSession(runtime)
        await session.respond("Hi!")
        await session.save(path)
        await session.respond("And?")
        said = session.history
        for size, error in ((1 << 41, UnusablePath), (1 << 20, InvalidSnapshot)):
            kv.write_bytes(tensor_file())
            with kv.open("r+b") as file:
                file.truncate(size)
            with pytest.raises(error):
                await session.load(path)
            assert session.history == said
        await session.load(path, cache=False)
        assert len(session.history) == 2
