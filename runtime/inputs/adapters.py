"""Handles of adapters: what a request is run with beside the model, and for how long that is kept.

A handle stands for weights, under a number of the engine's: a version. Who goes on from a request holds its version, so
it is given back once the handle is closed, or has a newer one, and nothing that was begun with it is left.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from greenroom.backends.protocol import AdapterWeights, ModelInfo
from greenroom.errors import AdapterClosed, InvalidParameter, NotSupported
from greenroom.lifetimes import Closing
from greenroom.values import path_of

__all__ = ["Adapter", "AdapterClient", "AdapterVersion", "load_adapter", "version_of"]

T = TypeVar("T")


class AdapterClient(Protocol):
    """What is asked of `EngineClient` about adapters; the contracts are there."""

    @property
    def model(self) -> ModelInfo:
        """The loaded model."""

    async def prepare(self, work: Callable[[], T]) -> T:
        """What `work` returns, done off the loop; cancelled, it is given up at once."""

    def new_adapter_number(self) -> int:
        """The number of an adapter that no other has."""

    async def open_adapter(self, adapter: int, weights: AdapterWeights) -> None:
        """Have the engine know an adapter by its number."""

    def put_adapter(self, adapter: int, weights: AdapterWeights) -> None:
        """The same, without waiting."""

    def close_adapter(self, adapter: int) -> None:
        """Nobody will ask for it any more."""


class AdapterVersion:
    """Weights that the engine knows by a number, until nobody holds this. Kept by who runs requests with them."""

    __slots__ = ("__weakref__", "_client", "number", "weights")

    def __init__(self, client: AdapterClient, number: int, weights: AdapterWeights) -> None:
        self._client = client
        self.number = number
        self.weights = weights

    def __repr__(self) -> str:
        return f"<AdapterVersion {self.number} {self.weights!r}>"

    def __del__(self) -> None:
        self._client.close_adapter(self.number)

    @property
    def fingerprint(self) -> str:
        """Tells it from others, in any process."""
        return self.weights.fingerprint

    def is_of(self, client: object) -> bool:
        """Whether it was opened there."""
        return self._client is client


class Adapter(Closing):
    """An adapter that requests of one runtime may have; made by `Runtime.load_adapter`. An async context manager.

    Any number of requests have it at once, beside those with others and with none. Closed, it is given to no new one;
    what was begun with it goes on, and its memory is given back with the last of them.
    """

    def __init__(self, name: str, version: AdapterVersion) -> None:
        self._name = name
        self._version: AdapterVersion | None = version

    def __repr__(self) -> str:
        state = "closed" if self._version is None else f"open bytes={self._version.weights.nbytes}"
        return f"<Adapter {self._name} {state}>"

    @property
    def name(self) -> str:
        """Where it was loaded from."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """Tells its weights from others, in any process. Raises `AdapterClosed`."""
        return self._require_version().fingerprint

    @property
    def is_closed(self) -> bool:
        """Whether it is given to no new request."""
        return self._version is None

    async def aclose(self) -> None:
        """Give it to no new request. Again is nothing."""
        self._version = None

    def _require_version(self) -> AdapterVersion:
        if self._version is None:
            raise AdapterClosed(f"{self!r}: load it again")
        return self._version


def version_of(adapter: object, client: object) -> AdapterVersion:
    """What requests of `client` are run with. Raises `InvalidParameter` for what is none there, `AdapterClosed`."""
    expected = "an adapter of this runtime, made by its load_adapter"
    if not isinstance(adapter, Adapter):
        raise InvalidParameter("adapter", adapter, expected)
    version = adapter._require_version()  # noqa: SLF001 - this module's
    if not version.is_of(client):
        raise InvalidParameter("adapter", adapter, expected)
    return version


async def load_adapter(client: AdapterClient, folder: str | Path) -> Adapter:
    """See `Runtime.load_adapter`."""
    source, reader = path_of("folder", folder), client.model.adapters
    if reader is None or client.model.max_adapters == 0:
        raise NotSupported("adapter=", f"{client.model.name} runs on a backend that takes none")
    weights = await client.prepare(partial(reader.read, folder if isinstance(folder, str) else source))
    version = AdapterVersion(client, client.new_adapter_number(), weights)
    await client.open_adapter(version.number, weights)
    return Adapter(str(folder), version)
