"""The queue: in which order those who wait get a row.

1. Who had a row and lost it is first, whatever its priority, the oldest before others: none of those who wait takes the
   place of one that ran. It rests where its reader is behind, until that has caught up. (A paused one whose
   KV went to somebody who waits goes back to where it waited.)
2. Then the highest priority. A lower one is first where it has waited `LEVEL_SECONDS` longer for each level between:
   so whoever waits is passed only by requests that came in that time after it.
3. Of one priority, the client that has had the least, and of its users the one that has: see `shares`.
4. Of one user, who came first. Until that one has waited `PATIENCE_SECONDS`, others take its turn: where the KV of
   what its prompt begins with is not there, the first of those whose is, as far as can be told (`known`); where its
   horizon is known, the shortest of all whose horizon is, prompt and output together.

Moments are passed in. Adding, taking and looking cost a bisection, whatever waits.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from heapq import heappop, heappush, heapreplace
from math import inf
from typing import Generic, TypeVar

from greenroom.actors.scheduler.request import Request, RequestState
from greenroom.actors.scheduler.shares import Account, Shares

__all__ = ["LEVEL_SECONDS", "PATIENCE_SECONDS", "Waiting"]

_T = TypeVar("_T")

LEVEL_SECONDS = 300.0
"""What a level of priority is worth, in seconds of waiting."""
PATIENCE_SECONDS = 25.0
"""How long one that is longer is passed by shorter ones. With much more, the longest would wait for twice as long."""


_MOST_WARM = 64
"""Beginnings of prompts that are remembered, the last ones that were run."""


class Waiting:
    """Requests that have no row."""

    def __init__(self) -> None:
        self._first = _Ordered()
        """Those that had a row."""
        self._resting: dict[int, Request] = {}
        """Those that had one, and whose reader is behind."""
        self._levels: dict[int, _Level] = {}
        self._aside: list[Request] = []
        self._count = 0
        self._warm: OrderedDict[int, int] = OrderedDict()
        """Beginnings of prompts that were run, the last ones last, with the tokens of the prompt."""
        self.shares = Shares()

    def __repr__(self) -> str:
        return f"<Waiting first={len(self._first)} resting={len(self._resting)} levels={sorted(self._levels)}>"

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Request]:
        """All of them, in no order that means anything."""
        yield from self._first
        yield from self._resting.values()
        yield from self._aside
        for level in self._levels.values():
            yield from level

    def add(self, request: Request) -> None:
        """Put a new request at its place."""
        self._count += 1
        self._begin(request)

    def add_again(self, request: Request, *, first: bool) -> None:
        """Put one that lost its row where it was, or before all others; or let it rest."""
        self._count += 1
        request.is_first = request.is_first or first
        if request.is_due:
            self._begin(request)
        else:
            self._resting[request.id] = request

    def look_again(self, request: Request) -> None:
        """Put one that rests at its place, where its reader has caught up; let it rest where nobody reads."""
        if request.state is not RequestState.WAITING:
            return
        is_resting = request.id in self._resting
        if is_resting and request.is_due:
            self._begin(self._resting.pop(request.id))
        elif not is_resting and not request.is_due:
            self._take_out(request)
            self._resting[request.id] = request

    def change_horizon(self, request: Request, horizon: int | None) -> None:
        """Take another horizon of it, whether it waits or not."""
        is_placed = request.state is RequestState.WAITING and request.id not in self._resting
        if is_placed:
            self._displace(request)
        request.horizon = horizon
        if is_placed:
            self._place(request)

    def remove(self, request: Request) -> None:
        """It waits no longer: it has a row, or is over."""
        self._count -= 1
        self._take_out(request)

    def _take_out(self, request: Request) -> None:
        if self._resting.pop(request.id, None) is not None:
            return
        if request in self._aside:
            self._aside.remove(request)
        else:
            self._displace(request)
        if not request.is_first:
            request.account.stop_waiting()

    def _begin(self, request: Request) -> None:
        if not request.is_first:
            request.account.wait()
        self._place(request)

    def _place(self, request: Request) -> None:
        priority = request.submit.priority
        if request.is_first:
            self._first.add(-priority, request)
            return
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = _Level(priority)
        level.add(request)

    def _displace(self, request: Request) -> None:
        priority = request.submit.priority
        if request.is_first:
            self._first.remove(-priority, request)
            return
        level = self._levels[priority]
        level.remove(request)
        if not len(level):
            del self._levels[priority]

    def known(self, rows: Iterable[Request], kept: int) -> set[int]:
        """Beginnings of prompts whose KV is there: those of `rows`, and those run last, in `kept` tokens of others."""
        found = {row.beginning for row in rows if row.beginning is not None}
        for beginning, tokens in reversed(self._warm.items()):
            if beginning not in found:
                kept -= tokens
                if kept < 0:
                    break
                found.add(beginning)
        return found

    def first(self, now: float, known: Collection[int] = ()) -> Request | None:
        """Who is to get a row at `now`, in monotonic seconds; None where nobody waits who could use one.

        `known` are the beginnings of prompts with whose KV a row may begin.
        """
        if len(self._first):
            return self._first.first()
        if not self._levels:
            return None
        highest = self._levels[max(self._levels)]
        chosen = highest.choose(now, known)
        if len(self._levels) > 1:
            best = _standing(highest.priority, chosen.queued)
            for priority, level in self._levels.items():
                oldest = level.oldest()
                if priority < highest.priority and _standing(priority, oldest.queued) > best:
                    best, chosen = _standing(priority, oldest.queued), oldest
        return chosen

    def take(self, request: Request) -> None:
        """It has a row; its client is served."""
        self.remove(request)
        request.account.serve()
        if request.beginning is not None:
            self._warm[request.beginning] = len(request.submit.prompt)
            self._warm.move_to_end(request.beginning)
            if len(self._warm) > _MOST_WARM:
                self._warm.popitem(last=False)

    def set_aside(self, request: Request) -> None:
        """Look past it until `put_back`."""
        self._displace(request)
        self._aside.append(request)

    def put_back(self) -> None:
        """Put those that were set aside at their places."""
        aside, self._aside = self._aside, []
        for request in aside:
            self._place(request)

    def refund(self, request: Request, tokens: int) -> None:
        """Take back what a client was charged for tokens that did not have to be run."""
        request.account.charge(-tokens, request.submit.weight)
        for level in self._levels.values():
            level.move_up(request.account)


class _Level:
    """Those of one priority."""

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self._by_age = _Ordered()
        self._clients: _Turns[_Turns[_Lane]] = _Turns(partial(_Turns, _Lane))

    def __len__(self) -> int:
        return len(self._by_age)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._by_age)

    def add(self, request: Request) -> None:
        """Put a request into its user's lane."""
        user, client = request.account, _client(request.account)
        self._clients.of(client).of(user).add(request)
        self._by_age.add(request.queued, request)

    def remove(self, request: Request) -> None:
        """Take it out."""
        user, client = request.account, _client(request.account)
        users = self._clients.of(client)
        lane = users.of(user)
        lane.remove(request)
        if not len(lane):
            users.drop(user)
        if not len(users):
            self._clients.drop(client)
        self._by_age.remove(request.queued, request)

    def move_up(self, user: Account) -> None:
        """One has spent less than was known."""
        client = _client(user)
        self._clients.move_up(client)
        if client in self._clients:
            self._clients.of(client).move_up(user)

    def choose(self, now: float, known: Collection[int]) -> Request:
        """The first of the user that has had the least, of the client that has."""
        return self._clients.least().least().choose(now, known)

    def oldest(self) -> Request:
        """Who has waited longest."""
        return self._by_age.first()


class _Turns(Generic[_T]):
    """What waits, by accounts that contend: whose turn it is, is whose account has spent the least."""

    __slots__ = ("_heap", "_listed", "_make", "_waiting")

    def __init__(self, make: Callable[[], _T]) -> None:
        """`make` something for what waits of an account."""
        self._make = make
        self._waiting: dict[Account, _T] = {}
        self._heap: list[tuple[float, int, Account]] = []
        """Accounts by what they had spent when they were last looked at: since then it may have become more."""
        self._listed: dict[Account, float] = {}
        """By that: what else is in the heap is left over."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, account: Account) -> bool:
        return account in self._waiting

    def of(self, account: Account) -> _T:
        """What waits of an account, which has a turn from now on."""
        found = self._waiting.get(account)
        if found is None:
            found = self._waiting[account] = self._make()
            self.move_up(account)
        return found

    def drop(self, account: Account) -> None:
        """Nothing of it waits any more."""
        del self._waiting[account]

    def move_up(self, account: Account) -> None:
        """List an account that is not listed, or has spent less than it is listed with."""
        if account in self._waiting and account.spent < self._listed.get(account, inf):
            self._listed[account] = account.spent
            heappush(self._heap, (account.spent, account.number, account))

    def least(self) -> _T:
        """What waits of the account that has spent the least."""
        heap, listed = self._heap, self._listed
        while True:
            spent, number, account = heap[0]
            if listed.get(account) != spent:
                heappop(heap)
            elif account not in self._waiting:
                heappop(heap)
                del listed[account]
            elif account.spent > spent:
                listed[account] = account.spent
                heapreplace(heap, (account.spent, number, account))
            else:
                return self._waiting[account]


class _Lane:
    """Those of one priority and one user."""

    __slots__ = ("_by_age", "_by_beginning", "_by_size")

    def __init__(self) -> None:
        self._by_age = _Ordered()
        self._by_beginning: dict[int, _Ordered] = {}
        """By age, those whose prompts begin alike."""
        self._by_size = _Ordered()
        """Those whose horizon is known."""

    def __len__(self) -> int:
        return len(self._by_age)

    def add(self, request: Request) -> None:
        """Put a request at its place."""
        self._by_age.add(request.queued, request)
        if request.beginning is not None:
            self._by_beginning.setdefault(request.beginning, _Ordered()).add(request.queued, request)
        if request.horizon is not None:
            self._by_size.add(_size(request, request.horizon), request)

    def remove(self, request: Request) -> None:
        """Take it out."""
        self._by_age.remove(request.queued, request)
        if request.beginning is not None:
            alike = self._by_beginning[request.beginning]
            alike.remove(request.queued, request)
            if not len(alike):
                del self._by_beginning[request.beginning]
        if request.horizon is not None:
            self._by_size.remove(_size(request, request.horizon), request)

    def choose(self, now: float, known: Collection[int]) -> Request:
        """Whose turn it is: the oldest's, or in place of that one's whose prompt is there, or the shortest's."""
        oldest = self._by_age.first()
        if now - oldest.queued > PATIENCE_SECONDS:
            return oldest
        if known and oldest.beginning not in known:
            found = [self._by_beginning[each].first() for each in known if each in self._by_beginning]
            if found:
                return min(found, key=lambda each: (each.queued, each.id))
        if oldest.horizon is None:
            return oldest
        return self._by_size.first()


class _Ordered:
    """Requests by a number, and by their own where that is equal."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Request]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Request]:
        return (request for _, _, request in self._entries)

    def add(self, rank: float, request: Request) -> None:
        """Put a request at its place."""
        insort(self._entries, (rank, request.id, request))

    def remove(self, rank: float, request: Request) -> None:
        """Take it out, from where it was put by `rank`."""
        del self._entries[bisect_left(self._entries, (rank, request.id))]

    def first(self) -> Request:
        """The one with the lowest number."""
        return self._entries[0][2]


def _client(user: Account) -> Account:
    return user if user.owner is None else user.owner


def _size(request: Request, horizon: int) -> int:
    """Tokens that its row will come to."""
    return len(request.submit.prompt) + horizon


def _standing(priority: int, queued: float) -> float:
    """What is compared between levels: neither of two that wait overtakes the other as time goes by."""
    return priority * LEVEL_SECONDS - queued
