"""`greenroom chat` on a scripted model, as a program: what tests drive in a terminal. Arguments are the chat's.

Its replies come in this order, whatever is asked.
"""

from __future__ import annotations

import argparse
import json
import sys

from greenroom import Runtime, Scripted
from greenroom.cli import chat, main

__all__ = ["GREETING", "REPLIES"]

GREETING = "Extraordinary conversations unfold magnificently between \x1b[31mterminals\x1b[0m."
_CALL = json.dumps({"name": "count_rows", "arguments": {}})
REPLIES = [
    GREETING,
    "An endless story. " * 2000,
    f"<tool_call>\n{_CALL}\n</tool_call>",
    "None is left.",
    "Two lines came.",
]
runtimes: list[Runtime] = []


def make_runtime(_: argparse.Namespace) -> Runtime:
    """Slow enough that the second reply takes minutes."""
    runtimes.append(Runtime(backend=Scripted(REPLIES, step_seconds=0.005)))
    return runtimes[-1]


def count_rows() -> str:
    """How many rows run."""
    statistics = runtimes[-1].statistics()
    return f"rows: {statistics.running}"


if __name__ == "__main__":
    if "--without-editor" in sys.argv:
        sys.argv.remove("--without-editor")
        sys.modules["prompt_toolkit"] = None  # type: ignore[assignment]  # as where it is not installed
    setattr(chat, "make_runtime", make_runtime)  # noqa: B010 - in place of the one that loads
    sys.exit(main(["chat", "--tools", "__main__:count_rows", *sys.argv[1:]]))
