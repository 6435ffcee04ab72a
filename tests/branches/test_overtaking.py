"""A request that needs no preparing may reach the engine before one that was announced earlier."""

from __future__ import annotations

from typing import Any

from silent import Silent

from greenroom.actors.messages import Cancel, Ended, Submit
from greenroom.actors.scheduler.admission import Limits
from greenroom.actors.scheduler.scheduler import Scheduler
from greenroom.backends.protocol import Sampling
from greenroom.backends.scripted import Scripted


def submit(request: int) -> Submit:
    """A request of one token."""
    more: dict[str, Any] = {"sampling": Sampling(), "max_tokens": 4, "submitted": 0.0, "decoder": Silent()}
    return Submit(request=request, prompt=(1,), **more)


def test_a_cancel_of_an_overtaken_request_waits_for_it() -> None:
    """It is neither lost, nor kept for a request that has ended."""
    backend = Scripted()
    scheduler = Scheduler(backend.load(), Limits(rows=4, step_tokens=16, kv_bytes=1 << 20))
    scheduler.submit(submit(0))
    scheduler.submit(submit(3))
    scheduler.cancel(Cancel(1, "handle"))
    scheduler.cancel(Cancel(3, "handle"))
    scheduler.submit(submit(1))
    ended = [message for message in scheduler.plan(0.0).messages if isinstance(message, Ended)]
    assert [(message.request, message.info.stop_reason) for message in ended] == [(3, "cancelled"), (1, "cancelled")]
    scheduler.cancel(Cancel(1, "handle"))
    scheduler.submit(submit(2))
    assert not [message for message in scheduler.plan(0.0).messages if isinstance(message, Ended)]
    backend.close()
