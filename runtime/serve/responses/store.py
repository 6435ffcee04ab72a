"""Responses kept in memory, for `previous_response_id` and to be asked for again: bounded in number, bytes and age."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from greenroom.serve.faults import Fault, RequestRefused
from greenroom.serve.kept import KeptByUse
from greenroom.serve.responses.items import as_input
from greenroom.serve.responses.requests import InputItem
from greenroom.serve.responses.resource import ResponseResource
from greenroom.serve.settings import StoreBounds

__all__ = ["ResponseStore", "StoredResponse"]

_OVERHEAD = 2048
"""Bytes of a response beside its texts, about."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response that is over: its JSON, what it was asked, and who asked."""

    response: ResponseResource
    body: bytes
    items: tuple[InputItem, ...]
    """Of its own input, without those before it."""
    owner: str
    input_bytes: int

    @property
    def num_bytes(self) -> int:
        """About how much memory it takes: what there is of texts is there as an object and as JSON."""
        return 2 * (len(self.body) + self.input_bytes) + _OVERHEAD


class ResponseStore:
    """The newest responses of one app. Whoever asks finds their own alone.

    What is looked at, or gone on from, counts as new, and with it all that it stands on: a conversation is forgotten
    as a whole, the oldest first.
    """

    def __init__(self, bounds: StoreBounds, now: Callable[[], float] = time.monotonic) -> None:
        self._bounds = bounds
        self._kept: KeptByUse[StoredResponse] = KeptByUse(bounds.seconds, self._leave, now)
        self._homes: dict[str, str] = {}
        """By an output item's id that of its response."""
        self._num_bytes = 0

    def __repr__(self) -> str:
        return f"<ResponseStore responses={len(self._kept)} bytes={self._num_bytes}>"

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, identity: str) -> bool:
        return identity in self._kept

    @property
    def num_bytes(self) -> int:
        """About how much memory it holds."""
        return self._num_bytes

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at all."""
        return self._bounds.most_responses > 0

    def put(self, stored: StoredResponse) -> None:
        """Keep one, and forget the oldest where there are too many. One larger than all may be is not kept."""
        self._kept.expire()
        if not self.keeps or stored.num_bytes > self._bounds.most_bytes:
            return
        self._kept.use(stored.response.id, stored)
        self._homes |= {item.id: stored.response.id for item in stored.response.output}
        self._num_bytes += stored.num_bytes
        while len(self._kept) > self._bounds.most_responses or self._num_bytes > self._bounds.most_bytes:
            self._kept.forget_oldest()

    def get(self, identity: str, owner: str) -> StoredResponse:
        """The response of that id. Raises `RequestRefused` (404) for none of `owner`'s."""
        return self._chain(identity, owner, param=None)[-1]

    def delete(self, identity: str, owner: str) -> None:
        """Forget one. What was made behind it cannot be gone on from any more. Raises as `get` does."""
        self.get(identity, owner)
        self._kept.forget(identity)

    def conversation(self, identity: str, owner: str) -> list[InputItem]:
        """All that was said up to a response's end. Raises `RequestRefused` (404), also where some is forgotten."""
        found: list[InputItem] = []
        for stored in self._chain(identity, owner, param="previous_response_id"):
            found += stored.items
            found += [as_input(item) for item in stored.response.output]
        return found

    def item(self, identity: str, owner: str, place: str) -> InputItem:
        """What the model said once, by the item's id. Raises `RequestRefused` (404), with the reference's `place`."""
        self._kept.expire()
        stored = self._kept.get(self._homes.get(identity, ""))
        if stored is None or stored.owner != owner:
            message = f"there is no item {identity[:80]!r} here any more: send the item itself"
            raise RequestRefused(Fault(404, "not_found", message, "item_not_found", place))
        self._chain(stored.response.id, owner, param=None)
        return next(as_input(item) for item in stored.response.output if item.id == identity)

    def _chain(self, identity: str, owner: str, param: str | None) -> list[StoredResponse]:
        """A response behind all that it stands on, each of which is new now; without a `param` what is left of them."""
        self._kept.expire()
        chain: list[StoredResponse] = []
        wanted: str | None = identity
        while wanted is not None:
            stored = self._kept.get(wanted)
            if stored is None or stored.owner != owner:
                if chain and param is None:
                    break
                message = f"there is no response {identity[:80]!r} here, or not all of its conversation any more"
                code = "previous_response_not_found" if param else "response_not_found"
                raise RequestRefused(Fault(404, "not_found", message, code, param))
            chain.append(stored)
            wanted = stored.response.previous_response_id
        chain.reverse()
        for stored in chain:
            self._kept.use(stored.response.id, stored)
        return chain

    def _leave(self, stored: StoredResponse) -> None:
        self._num_bytes -= stored.num_bytes
        for item in stored.response.output:
            self._homes.pop(item.id, None)
