"""The engine's client, as requests, contexts and generators know it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from greenroom.actors.draining import Drain, Hold
from greenroom.actors.mailbox import Mailbox, PendingRequest
from greenroom.actors.messages import Submit
from greenroom.actors.scheduler.statistics import Statistics
from greenroom.backends.protocol import KvOptions
from greenroom.constraints.constraint import CompiledConstraint, Constraint
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import EngineFailed
from greenroom.inputs.adapters import AdapterClient

__all__ = ["Client"]


class Client(AdapterClient, Protocol):
    """What is asked of `EngineClient`, which has the contracts: threads and loops are its own business."""

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

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's vocabulary, as constraints have it."""

    def compile(self, constraint: Constraint) -> CompiledConstraint:
        """Compile for the model's vocabulary, within `prepare`."""

    def announce(
        self,
        prepare: Callable[[int], Submit],
        *,
        deadline: float | None = None,
        needs_thread: bool = True,
        client: str | None = None,
    ) -> PendingRequest:
        """Take a place in the queue for a request that is yet to be prepared, off the loop or here."""

    def submit(self, make: Callable[[int], Submit], *, client: str | None = None) -> Mailbox:
        """Submit a request that needs no preparing."""

    def expect(self, request: int, tokens: int | None) -> None:
        """Say how many tokens a request is expected to have in all."""

    def new_context_id(self) -> int:
        """The number of a context that nobody else has."""

    def release(self, context_id: int) -> None:
        """Give back the context's row."""

    def trim(self, context_id: int, length: int) -> None:
        """Give back what the context's row holds behind its first `length` tokens."""

    async def export_kv(self, tokens: Sequence[int], adapter: int = 0) -> bytes | None:
        """The KV of the longest prefix of `tokens` that is held, as `adapter` has made it."""

    async def import_kv(self, data: bytes) -> int:
        """Hold exported KV; how many tokens that is."""
