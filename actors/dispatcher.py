"""From the engine to who waits on the event loop: a request's messages go into its mailbox, an answer to its asker."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import count

from anyio import Event

from greenroom.actors.draining import Drain
from greenroom.actors.mailbox import Mailbox
from greenroom.actors.messages import (
    AdapterOpened,
    AllEnded,
    Answer,
    Ended,
    ExportKv,
    ImportKv,
    Inbound,
    KvExported,
    KvImported,
    OpenAdapter,
    Posted,
)
from greenroom.backends.protocol import AdapterWeights
from greenroom.errors import GreenroomError, RuntimeClosed, RuntimeDraining, TooBusy
from greenroom.events import Info
from greenroom.lifetimes import HomeLoop

__all__ = ["Dispatcher"]

_log = logging.getLogger("greenroom")


class _Question:
    """Something asked of the engine that needs no row."""

    def __init__(self) -> None:
        self.done = Event()
        self.answer: Answer | None = None

    def resolve(self, answer: Answer | None) -> None:
        """Wake the asker; with None no answer will come."""
        self.answer = answer
        self.done.set()


class Dispatcher:
    """Numbers the requests and sorts the engine's messages into mailboxes. On the event loop alone."""

    def __init__(self, put: Callable[[Inbound], object], *, max_waiting: int, client_limit: int | None = None) -> None:
        """`put` gives the engine a message. `client_limit` bounds the requests of one client; None: nothing does."""
        self._put = put
        self.max_waiting = max_waiting
        self._client_limit = client_limit
        self._by_client: Counter[str] = Counter()
        """Requests that are not settled, of each client that has one."""
        self._mailboxes: dict[int, Mailbox] = {}
        self._questions: dict[int, _Question] = {}
        self._failure: Exception | None = None
        """Why there are no answers any more."""
        self._numbers = count()
        """Of requests alone: the engine looks for one that is missing among them."""
        self._question_numbers = count()
        self._queued = 0
        self.rows = 0
        """How many requests may run at once, once a model is loaded."""
        self.drain = Drain(HomeLoop(), self._num_open)
        self.refusals: Counter[str] = Counter()
        """Requests that were not announced, by the error's name."""

    def __repr__(self) -> str:
        return f"<Dispatcher open={len(self._mailboxes)} queued={self._queued}>"

    def open_for(self, home: HomeLoop) -> None:
        """The runtime was entered on that loop."""
        self.drain = Drain(home, self._num_open)

    def require_accepting(self) -> None:
        """Raise `RuntimeDraining`, and count that, where nothing new is taken on."""
        try:
            self.drain.require_accepting()
        except RuntimeDraining as error:
            self.refusals[type(error).__name__] += 1
            raise

    @property
    def queued(self) -> int:
        """Requests that were announced and have no row yet."""
        return self._queued

    def open(self, client: str | None = None) -> Mailbox:
        """A mailbox for a new request. Raises `TooBusy` where as many wait as may, or its `client` has as many.

        What the engine is about to start does not wait: of those that were announced, so many as rows are free.
        """
        num_free = max(0, self.rows - (len(self._mailboxes) - self._queued))
        num_waiting = self._queued - num_free
        if num_waiting >= self.max_waiting:
            self.refusals[TooBusy.__name__] += 1
            raise TooBusy(num_waiting, self.max_waiting)
        if client is not None:
            self._count_client(client)
        mailbox = Mailbox(next(self._numbers), self._put)
        self._queued += 1
        self._mailboxes[mailbox.request] = mailbox
        if client is not None:
            mailbox.on_end(partial(self._leave_client, client))
        return mailbox

    def _count_client(self, client: str) -> None:
        if self._client_limit is not None and self._by_client[client] >= self._client_limit:
            self.refusals[TooBusy.__name__] += 1
            raise TooBusy(self._by_client[client], self._client_limit, client)
        self._by_client[client] += 1

    def _leave_client(self, client: str) -> None:
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]

    def withdraw(self, mailbox: Mailbox) -> None:
        """Nothing will be asked of a mailbox that was opened just now: its place is free."""
        del self._mailboxes[mailbox.request]
        self._queued -= 1
        mailbox.forget()

    async def open_adapter(self, adapter: int, weights: AdapterWeights) -> None:
        """Have the engine know an adapter by a number. Raises why it cannot."""
        await self._ask(OpenAdapter(adapter, weights, next(self._question_numbers)))

    async def export_kv(self, tokens: tuple[int, ...], adapter: int = 0) -> bytes | None:
        """The engine's KV of the longest prefix of `tokens`, as bytes; None where it holds none."""
        answer = await self._ask(ExportKv(next(self._question_numbers), tokens, adapter))
        return answer.data if isinstance(answer, KvExported) else None

    async def import_kv(self, data: bytes) -> int:
        """Have the engine hold the KV of an export; how many tokens it holds. Raises what is wrong with it."""
        answer = await self._ask(ImportKv(next(self._question_numbers), data))
        return answer.tokens if isinstance(answer, KvImported) else 0

    async def _ask(self, message: ExportKv | ImportKv | OpenAdapter) -> Answer:
        if self._failure is not None:
            raise self._failure
        question = _Question()
        if message.request is not None:
            self._questions[message.request] = question
        self._put(message)
        await question.done.wait()
        answer = question.answer
        problem = self._failure if answer is None else answer.error
        if answer is None or problem is not None:
            raise problem or RuntimeClosed("the runtime was closed before it answered")
        return answer

    def deliver(self, messages: tuple[Posted, ...]) -> None:
        """Sort one step's messages."""
        for message in messages:
            if isinstance(message, KvExported | KvImported | AdapterOpened):
                self._questions.pop(message.request).resolve(message)
                continue
            if isinstance(message, AllEnded):
                self._end_all()
                continue
            mailbox = self._mailboxes.get(message.request)
            if mailbox is None:
                continue
            was_queued = not mailbox.is_started and not mailbox.is_settled
            mailbox.deliver(message)
            if was_queued and (mailbox.is_started or mailbox.is_settled):
                self._queued -= 1
            if mailbox.is_settled:
                self._forget(mailbox)

    def _forget(self, mailbox: Mailbox) -> None:
        _log_end(mailbox)
        del self._mailboxes[mailbox.request]
        if self.drain.is_asked:
            self.drain.num_cut += mailbox.info is not None and mailbox.info.stop_detail == "shutdown"
            self.drain.check()

    def _num_open(self) -> int:
        return len(self._mailboxes)

    def _end_all(self) -> None:
        """The engine has settled what it knew: end what is still being prepared, and what would ask for more."""
        self.drain.stop_holders()
        self._end_unsettled(None)
        self.drain.end()

    def _end_unsettled(self, failure: GreenroomError | None) -> None:
        info = Info.not_run("shutdown")
        self.deliver(tuple([Ended(request, info, failure) for request in self._mailboxes]))

    def close(self, failure: GreenroomError | None) -> None:
        """The engine is gone: end what it never answered, as a shutdown or with `failure`."""
        self._failure = failure or RuntimeClosed("the runtime was closed before it answered")
        while self._questions:
            self._questions.popitem()[1].resolve(None)
        self._end_unsettled(failure)
        self.drain.end()


def _log_end(mailbox: Mailbox) -> None:
    """One line a request, of counts and times: nothing of its text."""
    info = mailbox.info
    if info is None or not _log.isEnabledFor(logging.DEBUG):
        return
    _log.debug(
        "request %d: %s, %d tokens of prompt (%d of them there already), %d generated; "
        "%.3f s queued, %.3f s to the first token, %.3f s to the last",
        mailbox.request,
        f"{info.stop_reason} ({info.stop_detail})" if mailbox.error is None else f"failed: {mailbox.error!r}",
        info.prompt_tokens,
        info.cached_prompt_tokens,
        info.generation_tokens,
        info.queue_time,
        info.prompt_time,
        info.generate_time,
    )
