"""What ranks must have in common before they load a model together, and what their backends are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from greenroom.backends.protocol import Backend
from greenroom.backends.ranks.messages import RankHello, RankWelcome

__all__ = ["RankBackend", "differences"]


class RankBackend(Backend, Protocol):
    """A backend that is one of several ranks."""

    @property
    def num_run(self) -> int:
        """Tokens in all passes that it has built."""


def differences(hello: RankHello, welcome: RankWelcome) -> list[str]:
    """What of a rank is not as rank 0 has it, a line each."""
    names = sorted({*hello.versions, *welcome.versions})
    found = [
        f"{name} is {_version(welcome.versions, name)} there and {_version(hello.versions, name)} on rank 0"
        for name in names
        if hello.versions.get(name) != welcome.versions.get(name)
    ]
    if hello.fingerprint != welcome.fingerprint:
        found.append("the files of its model have other contents: copy them from rank 0's folder")
    return found


def _version(versions: Mapping[str, str], name: str) -> str:
    return versions.get(name, "not installed")
