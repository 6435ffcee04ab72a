"""Files that appear whole, whoever writes them at the same time."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from greenroom.files import part_of, replace_file


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
    with pytest.raises(OSError, match="folder"):
        replace_file(tmp_path / "folder", b"data")
    with part_of(tmp_path / "given.up") as part:
        part.write_bytes(b"half")
        assert part.suffix == ".up"
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]
