"""When requests are overdue: the nearest moment is known at once, however many have one."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

__all__ = ["Deadlines"]

_FEW = 64


class Deadlines:
    """By request, in monotonic seconds."""

    __slots__ = ("_by_request", "_heap")

    def __init__(self) -> None:
        self._by_request: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []
        """All of them, and some of requests that are over."""

    def __repr__(self) -> str:
        return f"<Deadlines requests={len(self._by_request)} nearest={self.nearest()}>"

    def __len__(self) -> int:
        return len(self._by_request)

    def add(self, request: int, deadline: float) -> None:
        """The request is overdue from then on."""
        self._by_request[request] = deadline
        heappush(self._heap, (deadline, request))

    def discard(self, request: int) -> None:
        """It is over, or never had one."""
        if self._by_request.pop(request, None) is not None and len(self._heap) > _FEW + 2 * len(self._by_request):
            self._heap = [(deadline, each) for each, deadline in self._by_request.items()]
            heapify(self._heap)

    def nearest(self) -> float | None:
        """The next one; None without any."""
        heap = self._heap
        while heap and heap[0][1] not in self._by_request:
            heappop(heap)
        return heap[0][0] if heap else None

    def pop_overdue(self, now: float) -> list[int]:
        """The requests whose deadline has come, which have none any more; those that were added first are first."""
        overdue: list[int] = []
        if not self._heap:
            return overdue
        while (nearest := self.nearest()) is not None and nearest <= now:
            overdue.append(heappop(self._heap)[1])
            del self._by_request[overdue[-1]]
        return sorted(overdue)

    def clear(self) -> None:
        """Nobody has one."""
        self._by_request.clear()
        self._heap.clear()
