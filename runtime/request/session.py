"""One opening of a runtime, as requests, contexts and generators use it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from greenroom.actors.draining import Drain, Hold
from greenroom.actors.mailbox import Mailbox, PendingRequest
from greenroom.actors.messages import Submit
from greenroom.actors.scheduler.statistics import Statistics
from greenroom.backends.protocol import KvOptions, ModelInfo
from greenroom.constraints.constraint import CompiledConstraint, Constraint
from greenroom.errors import EngineFailed, NotSupported, UnknownContext
from greenroom.inputs.parameters import DEFAULTS, GenerateParameters
from greenroom.inputs.segments import BEGINNING, Checkpoint

__all__ = ["EMPTY", "Client", "ContextRecord", "Session"]

T = TypeVar("T")


class Client(Protocol):
    """What is asked of `EngineClient`, which has the contracts: threads and loops are its own business."""

    @property
    def model(self) -> ModelInfo:
        """The loaded model."""

    @property
    def failure(self) -> EngineFailed | None:
        """Why the engine has ended, where not by being closed."""

    def statistics(self) -> Statistics:
        """The engine's counts."""

    def require_loop(self) -> None:
        """Raise `WrongEventLoop` off the loop that it was opened on."""

    def drain(self, timeout: float | None) -> Drain:
        """Refuse what is new, and end what runs after `timeout` seconds."""

    @property
    def is_draining(self) -> bool:
        """Whether what is new is refused."""

    def require_accepting(self) -> None:
        """Raise `RuntimeDraining` where it is."""

    def hold(self, stop: Callable[[], object]) -> Hold:
        """Have a drain wait for what takes several requests."""

    async def close(self) -> None:
        """Settle all, and give everything back."""

    def row_tokens(self, kv: KvOptions | None) -> int:
        """The most tokens that one row may hold."""

    def compile(self, constraint: Constraint) -> CompiledConstraint:
        """Compile for the model's vocabulary, within `prepare`."""

    async def prepare(self, work: Callable[[], T]) -> T:
        """What `work` returns, done off the loop; cancelled, it is given up at once."""

    def announce(
        self, prepare: Callable[[int], Submit], *, deadline: float | None = None, needs_thread: bool = True
    ) -> PendingRequest:
        """Take a place in the queue for a request that is yet to be prepared, off the loop or here."""

    def submit(self, make: Callable[[int], Submit]) -> Mailbox:
        """Submit a request that needs no preparing."""

    def new_context_id(self) -> int:
        """The number of a context that nobody else has."""

    def release(self, context_id: int) -> None:
        """Give back the context's row."""

    def trim(self, context_id: int, length: int) -> None:
        """Give back what the context's row holds behind its first `length` tokens."""

    async def export_kv(self, tokens: Sequence[int]) -> bytes | None:
        """The KV of the longest prefix of `tokens` that is held."""

    async def import_kv(self, data: bytes) -> int:
        """Hold exported KV; how many tokens that is."""


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
