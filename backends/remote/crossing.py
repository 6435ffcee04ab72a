"""What of a model cannot be told in plain values, and is made in either process: its tokenizer, its adapters' reader.

A backend's own `Crossing` knows how; it is named by the factory, and made there with the factory's arguments.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

from greenroom.backends.protocol import AdapterWeights, ModelInfo

__all__ = ["Crossing", "find"]


class Crossing(Protocol):
    """One end of it; made with the arguments of the factory."""

    def describe(self, info: ModelInfo) -> bytes:
        """Where the model is: what `own` needs of it."""

    def prepare(self) -> None:
        """Where it is not: load a tokenizer, and what else need not know the model. May be called again."""

    def own(self, described: bytes) -> dict[str, Any]:
        """Where it is not: the `tokenizer`, `tool_parser` and `adapters` of `ModelInfo`, once `prepare` is done."""

    def pack_adapter(self, weights: AdapterWeights) -> bytes:
        """Weights that this `adapters` has read. Raises `TypeError` for others."""

    def unpack_adapter(self, data: bytes) -> AdapterWeights:
        """The same weights where the model is."""


def find(path: str) -> Any:
    """What `module:name` names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
