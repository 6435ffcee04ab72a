"""One opening of a runtime, as requests, contexts and generators use it."""

from __future__ import annotations

import hashlib
from typing import NamedTuple
from weakref import WeakSet

from greenroom.errors import NotSupported, UnknownContext
from greenroom.inputs.adapters import Adapter
from greenroom.inputs.parameters import DEFAULTS, GenerateParameters
from greenroom.inputs.segments import BEGINNING, Checkpoint
from greenroom.request.client import Client

__all__ = ["EMPTY", "ContextRecord", "Session"]


class ContextRecord(NamedTuple):
    """What a context holds, as a value: its tokens, and what its messages had come to at which length."""

    tokens: tuple[int, ...]
    checkpoints: tuple[Checkpoint, ...]


EMPTY = ContextRecord((), BEGINNING)
"""A context that nothing was put into."""


class Session:
    """The engine's client, and what is kept until the runtime is left.

    `parameters` are those of requests that bring none.
    """

    def __init__(self, client: Client, parameters: GenerateParameters = DEFAULTS) -> None:
        self.client = client
        self.parameters = parameters
        self._saved: dict[str, ContextRecord] = {}
        self.adapters: WeakSet[Adapter] = WeakSet()
        """Those that were loaded, and still have their handles."""
        self._fingerprints: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"<Session of {self.client!r} saved={len(self._saved)}>"

    def save(self, name: str, record: ContextRecord) -> None:
        """Keep `record` under `name`; another of that name is replaced."""
        self._saved[name] = record

    def saved(self, name: str) -> ContextRecord:
        """What was saved under `name`. Raises `UnknownContext`."""
        if name not in self._saved:
            raise UnknownContext(name)
        return self._saved[name]

    def delete(self, name: str) -> None:
        """Forget what was saved under `name`. Raises `UnknownContext`."""
        if self._saved.pop(name, None) is None:
            raise UnknownContext(name)

    def find_adapter(self, fingerprint: str) -> Adapter | None:
        """The handle of an adapter with these weights; None where none is open."""
        return next((each for each in self.adapters if not each.is_closed and each.fingerprint == fingerprint), None)

    def fingerprints(self) -> dict[str, str]:
        """What tells model and tokenizer from others. Takes up to a second for a large tokenizer, once."""
        if self._fingerprints is None:
            model = self.client.model
            digest = hashlib.blake2b(digest_size=16)
            try:
                vocabulary = model.tokenizer.vocabulary()
            except NotSupported:  # a slow tokenizer: what it makes of every id
                vocabulary = "\n".join([model.tokenizer.decode([id_]) for id_ in range(model.tokenizer.vocab_size)])
            if isinstance(vocabulary, str):
                parts = [vocabulary]
            else:
                parts = [*map(repr, vocabulary[0]), *map(str, sorted(vocabulary[1]))]
            for part in parts:
                digest.update(part.encode() + b"\0")
            weights = model.fingerprint or f"{model.vocab_size}/{model.context_length}/{model.kv_bytes_per_token}"
            self._fingerprints = {"model": weights, "tokenizer": digest.hexdigest()}
        return self._fingerprints
