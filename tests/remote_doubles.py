"""The scripted double made in another process: what its factory names, there and here. MLX is not imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from greenroom.backends.protocol import AdapterWeights, Backend, ForwardPlan, ModelInfo
from greenroom.backends.remote.messages import BackendFactory
from greenroom.backends.scripted import ByteTokenizer, Reply, Scripted
from greenroom.errors import ModelNotFound

__all__ = ["BELL", "Talking", "factory", "said", "scripted"]


def factory(make: str = "scripted", **arguments: Any) -> BackendFactory:
    """One of this module's."""
    return BackendFactory(f"{__name__}:{make}", f"{__name__}:Talking", arguments)


class Talking:
    """The crossing of what has the scripted double's tokenizer, and no adapters."""

    def __init__(self, **_: Any) -> None:
        """Whatever the factory is given."""

    def describe(self, info: ModelInfo) -> bytes:  # noqa: ARG002 - there is nothing to say
        """See `Crossing.describe`."""
        return b""

    def prepare(self) -> None:
        """See `Crossing.prepare`."""

    def own(self, described: bytes) -> dict[str, Any]:  # noqa: ARG002 - there is nothing in it
        """See `Crossing.own`."""
        return {"tokenizer": ByteTokenizer()}

    def pack_adapter(self, weights: AdapterWeights) -> bytes:
        """See `Crossing.pack_adapter`."""
        raise TypeError(f"{weights!r} of nowhere")

    def unpack_adapter(self, data: bytes) -> AdapterWeights:
        """See `Crossing.unpack_adapter`."""
        raise TypeError(f"{len(data)} bytes of nowhere")


def said(message: str, seed: int) -> Reply:
    """What the double says to whatever was asked, for ever."""
    return Reply(f"{seed} {message} said who? ", repeat=True)


def scripted(**options: Any) -> Backend:
    """The scripted double."""
    return Scripted(said, **options)


def missing() -> Backend:
    """A model that is not there."""
    raise ModelNotFound("nowhere is no folder")


def aborting() -> Backend:
    """What a runtime in C++ does with an exception that nobody takes."""
    os.write(2, b"over and out\n")
    os.abort()


def leaving() -> Backend:
    """Starts a process that outlives it, and holds what it writes to; then says its last words."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"]) as left:
        os.write(2, f"words without an end, by {left.pid}".encode())
        os._exit(7)


class _Sleeping(Scripted):
    """A device that is never done."""

    def forward(self, plan: ForwardPlan) -> None:  # noqa: ARG002 - it is not looked at
        """Hang, without the interpreter's lock."""
        time.sleep(1000.0)


class _Spinning(Scripted):
    """Native code that never comes back."""

    def forward(self, plan: ForwardPlan) -> None:  # noqa: ARG002 - likewise
        """Hang with the interpreter's lock: a pattern that tries every way."""
        re.match("(a+)+$", "a" * 60 + "b")


def sleeping() -> Backend:
    """See `_Sleeping`."""
    return _Sleeping(said)


def spinning() -> Backend:
    """See `_Spinning`."""
    return _Spinning(said)


class _Poisoned(Scripted):
    """Dies over a prompt with a bell in it."""

    def forward(self, plan: ForwardPlan) -> None:
        """As the double, for all others."""
        if any(BELL in feed.ids for feed in plan.feeds):
            os.abort()
        super().forward(plan)


BELL = 7


def poisoned() -> Backend:
    """See `_Poisoned`."""
    return _Poisoned(said, kv_bytes_per_row=3)


def gated(folder: str) -> Backend:
    """The double, whose second load in that folder waits for a file `open`."""
    first, gate = Path(folder) / "first", Path(folder) / "open"
    while first.exists() and not gate.exists():
        time.sleep(0.005)
    first.touch()
    return Scripted(said)
