"""Small models that are made in another process: what their factories name, there and here."""

from __future__ import annotations

from typing import Any

from models import ByteTokenizer, llama
from remote_doubles import Talking

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.protocol import Backend
from greenroom.backends.remote.messages import BackendFactory

__all__ = ["Plain", "factory", "plain_llama"]


def factory(make: str = "plain_llama", **arguments: Any) -> BackendFactory:
    """One of this module's."""
    return BackendFactory(f"{__name__}:{make}", f"{__name__}:Plain", arguments)


class Plain(Talking):
    """The crossing of the small models of tests."""

    def own(self, described: bytes) -> dict[str, Any]:  # noqa: ARG002 - there is nothing in it
        """See `Crossing.own`."""
        return {"tokenizer": ByteTokenizer()}


def plain_llama(device_profile: str = "cpu") -> Backend:
    """A small llama with random weights."""
    return MlxBackend.from_model(llama, name="llama", device_profile=device_profile)
