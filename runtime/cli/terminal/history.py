"""The file in which the chat's editor keeps what was typed: where it is, and that it is bounded and private."""

from __future__ import annotations

import os
from pathlib import Path

from greenroom.files.regular import read_file, replace_file

__all__ = ["history_path", "prepare_history"]

_MOST_BYTES = 1 << 20
"""A file that is larger loses its older half when a chat begins."""


def history_path(asked: str | None) -> Path | None:
    """`asked`, or the user's own by the XDG convention; None for "none"."""
    if asked == "none":
        return None
    if asked is not None:
        return Path(asked).expanduser()
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "greenroom" / "chat_history"


def prepare_history(path: Path) -> None:
    """Have a regular file there that its owner alone can read. Raises `UnusablePath`, `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        kept = read_file(path)
    except FileNotFoundError:
        kept = b""
    if len(kept) > _MOST_BYTES:
        kept = kept[len(kept) // 2 :]
        kept = kept[max(0, kept.find(b"\n# ")) :]  # an entry begins with a line of its time
    elif path.exists():
        return
    replace_file(path, kept)
