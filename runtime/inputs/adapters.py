"""Handles of adapters: what a request is run with beside the model, and for how long that is kept.

A handle stands for weights, under a number of the engine's: a version. Who goes on from a request holds its version, so
it is given back once the handle is closed, or has a newer one, and nothing that was begun with it is left. A member is
a version under the noise of a seed: it is made where the first request that has it is prepared.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar
from weakref import WeakValueDictionary

from anyio import Lock, to_thread

from greenroom.backends.protocol import AdapterReader, AdapterWeights, ModelInfo
from greenroom.errors import AdapterClosed, InvalidParameter, NotSupported
from greenroom.inputs.rollouts import check_zo_seed, weigh
from greenroom.lifetimes import Closing
from greenroom.values import integer, number, path_of, sequence, text

__all__ = [
    "KEYS",
    "RANK",
    "SIGMA",
    "Adapter",
    "AdapterClient",
    "AdapterVersion",
    "create_adapter",
    "load_adapter",
    "version_of",
]

RANK = 8
SIGMA = 0.1
KEYS = ("self_attn.q_proj", "self_attn.v_proj")
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

    def __init__(self, client: AdapterClient, fingerprint: str, make: Callable[[], AdapterWeights]) -> None:
        """`make` gives the weights, on a thread that prepares; `fingerprint` tells them from others, in any process."""
        self._client = client
        self.number = client.new_adapter_number()
        self.fingerprint = fingerprint
        self._make = make
        self._weights: AdapterWeights | None = None
        self.is_open = False
        """Whether the engine knows it."""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<AdapterVersion {self.number} {'open' if self.is_open else 'to be made'}>"

    def __del__(self) -> None:
        if getattr(self, "is_open", False):
            self._client.close_adapter(self.number)

    @property
    def weights(self) -> AdapterWeights:
        """They are made the first time. Any thread; it may take a while."""
        with self._lock:
            if self._weights is None:
                self._weights, self._make = self._make(), _made
            return self._weights

    def ensure(self) -> None:
        """Have the engine know it before the next message. Any thread; off the event loop where it is not open."""
        if self.is_open:
            return
        weights = self.weights
        with self._lock:
            if not self.is_open:
                self._client.put_adapter(self.number, weights)
                self.is_open = True

    async def open(self) -> None:
        """The same, awaited. Raises why it cannot be."""
        self.is_open = True  # also where nobody waits for the answer: it is given back as any other
        await self._client.open_adapter(self.number, self.weights)

    def is_of(self, client: object) -> bool:
        """Whether it was made there."""
        return self._client is client


class Adapter(Closing):
    """An adapter that requests of one runtime may have; made by `Runtime.load_adapter` and `Runtime.create_adapter`.

    Any number of requests have it at once, beside those with others and with none. It is an async context manager:
    closed, it is given to no new request; what was begun with it goes on, and its memory is given back with the last.

    With a `sigma` it can learn: a request with `zo_seed` runs under noise of that size, and `update` moves the adapter
    towards what scored well. What was begun before goes on with the version that it began with.
    """

    def __init__(
        self, client: AdapterClient, name: str, version: AdapterVersion, sigma: float | None, *, is_fixed: bool = False
    ) -> None:
        self._client = client
        self._name = name
        self._version: AdapterVersion | None = version
        self._sigma = sigma
        self._is_fixed = is_fixed
        self._members: WeakValueDictionary[int, AdapterVersion] = WeakValueDictionary()
        """Of this version, by seed: rows of one member share it."""
        self._lock = Lock()
        self.num_updates = 0
        """How many times it has learned something."""

    def __repr__(self) -> str:
        state = "closed" if self._version is None else f"updates={self.num_updates} sigma={self._sigma}"
        return f"<Adapter {self._name} {state}>"

    @property
    def name(self) -> str:
        """Where it was loaded from."""
        return self._name

    @property
    def sigma(self) -> float | None:
        """How large its noise is; None where it has none."""
        return self._sigma

    @property
    def fingerprint(self) -> str:
        """Tells its weights, as they are now, from others, in any process. Raises `AdapterClosed`."""
        return self._require_version().fingerprint

    @property
    def is_closed(self) -> bool:
        """Whether it is given to no new request."""
        return self._version is None

    async def aclose(self) -> None:
        """Give it to no new request. Again is nothing."""
        self._version = None
        self._members = WeakValueDictionary()

    async def save(self, folder: str | Path) -> None:
        """Write it as mlx-lm has adapters, as it is now. Raises `AdapterClosed`, `UnusablePath`, `OSError`."""
        target, version = path_of("folder", folder), self._require_version()
        await to_thread.run_sync(lambda: version.weights.save(target))

    def perturbed(self, seed: int) -> Adapter:
        """The adapter as requests with `zo_seed=seed` have it: to be saved, or used. It does not learn.

        Raises `AdapterClosed`, and `InvalidParameter` for what is no seed, or where there is no `sigma`.
        """
        return Adapter(self._client, f"{self._name} under {seed}", self.version(seed), None, is_fixed=True)

    async def update(
        self, seeds: Sequence[int], scores: Sequence[float], *, lr: float, sigma: float | None = None
    ) -> bool:
        """Move towards the noise of rollouts that scored well; whether there was anything to learn.

        `seeds[i]` is the `zo_seed` of a rollout, and `scores[i]` its score, higher for better; they count by their
        ranks. The adapter moves by `lr` times the weighted mean of the noise, as large as it was for the rollouts:
        `sigma`, by default the adapter's own. Where all scores are equal nothing changes, and it says so. The same
        seeds and scores give the same numbers, on any machine.

        A reward without a leash is hacked: look at what is written, and end in time.

        Raises `InvalidParameter` for scores that are not finite or not as many as seeds, `AdapterClosed`,
        `NotSupported` for one that does not learn.
        """
        number("lr", lr, "a finite number above 0", lambda x: x > 0)
        size = self._require_sigma() if sigma is None else _checked_sigma(sigma)
        if self._is_fixed:
            raise NotSupported("update() of an adapter under noise", "update the one that it was made of")
        steps = {seed: weight * size * lr for seed, weight in weigh(seeds, scores).items()}
        async with self._lock:
            before = self._require_version()
            if not steps:
                return False
            weights = await self._client.prepare(lambda: before.weights.moved(steps))
            version = AdapterVersion(self._client, weights.fingerprint, lambda: weights)
            await version.open()
            self._require_version()
            self._version, self._members = version, WeakValueDictionary()
            self.num_updates += 1
        return True

    def version(self, seed: int | None = None) -> AdapterVersion:
        """What a request that comes now is run with; with a seed, under its noise. Raises `AdapterClosed`."""
        version = self._require_version()
        if seed is None:
            return version
        check_zo_seed("zo_seed", seed)
        sigma = self._require_sigma()
        if seed == 0:
            return version
        member = self._members.get(seed)
        if member is None:
            fingerprint = f"{version.fingerprint}~{seed}~{sigma!r}"
            member = AdapterVersion(
                self._client, fingerprint, lambda: version.weights.perturbed(seed, sigma, fingerprint)
            )
            self._members[seed] = member
        return member

    def is_of(self, client: object) -> bool:
        """Whether it was made there."""
        return self._client is client

    def _require_version(self) -> AdapterVersion:
        if self._version is None:
            raise AdapterClosed(f"{self!r}: load it again")
        return self._version

    def _require_sigma(self) -> float:
        if self._sigma is None:
            raise NotSupported("noise on this adapter", f"{self!r} has no sigma: load it with one")
        return self._sigma


def _made() -> AdapterWeights:
    raise RuntimeError("the weights are there already")


def version_of(adapter: object, client: object, zo_seed: int | None = None) -> AdapterVersion:
    """What requests of `client` are run with. Raises `InvalidParameter` for what is none there, `AdapterClosed`."""
    if not isinstance(adapter, Adapter) or not adapter.is_of(client):
        raise InvalidParameter("adapter", adapter, "an adapter of this runtime, made by its load_adapter")
    return adapter.version(zo_seed)


def _checked_sigma(sigma: object) -> float:
    number("sigma", sigma, "a finite number above 0", lambda x: x > 0)
    return float(sigma)  # type: ignore[arg-type]


async def load_adapter(client: AdapterClient, folder: str | Path, sigma: float | None) -> Adapter:
    """See `Runtime.load_adapter`."""
    source, reader = path_of("folder", folder), _reader_of(client)
    size = None if sigma is None else _checked_sigma(sigma)
    weights = await client.prepare(partial(reader.read, folder if isinstance(folder, str) else source))
    return await _open(client, str(folder), weights, size)


async def create_adapter(client: AdapterClient, *, rank: int, keys: Sequence[str], sigma: float, seed: int) -> Adapter:
    """See `Runtime.create_adapter`."""
    reader = _reader_of(client)
    integer("rank", rank, 1, reader.max_rank, f"an integer from 1 to {reader.max_rank}")
    integer("seed", seed, 0, 2**64 - 1, "an integer from 0 to 2**64 - 1")
    sequence("keys", keys, "a sequence of names of modules")
    for key in keys:
        text("keys", key, "a sequence of names of modules")
    if not keys:
        raise InvalidParameter("keys", keys, "at least one name of a module")
    size = _checked_sigma(sigma)
    weights = await client.prepare(partial(reader.create, tuple(keys), rank, seed))
    return await _open(client, "created", weights, size)


async def _open(client: AdapterClient, name: str, weights: AdapterWeights, sigma: float | None) -> Adapter:
    version = AdapterVersion(client, weights.fingerprint, lambda: weights)
    await version.open()
    return Adapter(client, name, version, sigma)


def _reader_of(client: AdapterClient) -> AdapterReader:
    model = client.model
    if model.adapters is None or model.max_adapters == 0:
        raise NotSupported("adapter=", f"{model.name} runs on a backend that takes none")
    return model.adapters
