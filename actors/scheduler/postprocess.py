"""What a token that was drawn, or that a constraint forces, means for its request: text, counts, and perhaps its end.

A constraint may know what must come next. Such a run of tokens is recorded at once and fed as one piece in the next
pass, without being drawn; it is told like any other. Nothing here raises for what a decoder or a constraint of the
user's does: the request ends in a typed error.
"""

from __future__ import annotations

from collections.abc import Sequence

from greenroom.actors.decoder import Payload
from greenroom.actors.scheduler.request import End, Request
from greenroom.backends.protocol import Sampled
from greenroom.errors import CallbackFailed, ConstraintFailed

__all__ = ["begin", "callback_failed", "take", "unmet"]


def begin(request: Request) -> tuple[list[Payload], End | None]:
    """Record what the constraint forces behind the prompt. It is told with the first token that is drawn.

    Where nothing is to be drawn at all, it is told now, and the request has ended.
    """
    events: list[Payload] = []
    end = _record(request, _forced(request))
    if end is not None or request.room <= 0:
        end = _tell(request, events) or end or _full(request)
    return events, end


def take(request: Request, drawn: Sequence[Sampled], now: float) -> tuple[list[Payload], End | None]:
    """Record what a step drew, and what is forced behind it; what that tells, and whether it ends the request.

    Of several draws, those behind guesses, each counts as long as the guesses before it were what was drawn.
    """
    events: list[Payload] = []
    if request.first_token is None:
        request.first_token = now
    request.last_token = now
    drafts, request.drafts.in_flight = request.drafts.in_flight, ()
    dead_end, request.drafts.dead_end = request.drafts.dead_end, None
    request.drawn += 1
    end: End | None = None
    right = 0
    for number, sampled in enumerate(drawn):
        if not request.submit.draws:
            end = _looked(request, drawn, events)
            break
        if dead_end is not None and number == dead_end[0]:
            end = dead_end[1]
            break
        count = len(request.tokens)
        end = _take_one(request, sampled, events)
        if end is not None or number == len(drafts) or sampled.token != drafts[number]:
            break
        right += 1
        if len(request.tokens) > count + 1:  # the next draw is of a place that is forced, and so taken
            request.is_redirected = True
            break
    if drafts:
        end = _judge(request, len(drafts), right) or end
    if end is None and request.submit.steps is not None and request.drawn >= request.submit.steps:
        end = End("length", "max_tokens")
    return events, end


def _looked(request: Request, drawn: Sequence[Sampled], events: list[Payload]) -> End:
    """Hand the draws over for their logits; nothing of them is recorded."""
    end = _tell(request, events)
    try:
        request.decoder.feed(drawn)
    except Exception as cause:  # noqa: BLE001 - a decoder may be the user's own
        return callback_failed("the decoder", cause)
    return end or End("length", "max_tokens")


def _judge(request: Request, drafted: int, right: int) -> End | None:
    """Count guesses; the wrong ones, and those behind them, must go from the row."""
    if right < drafted:
        request.fed -= drafted - right
        request.is_redirected = True
    try:
        request.drafts.update(drafted, right)
    except Exception as cause:  # noqa: BLE001 - a speculator may be the user's own
        return callback_failed("the speculator", cause)
    return None


def _take_one(request: Request, sampled: Sampled, events: list[Payload]) -> End | None:
    end = _tell(request, events)
    if end is not None:  # the text ended in what was forced before the draw, which so counts for nothing
        return end
    request.tokens.append(sampled.token)
    end = _emit(request, sampled, events)
    request.has_end_token = end is not None and end.detail in ("eos", "stop_token")
    if end is not None and end.detail == "stop_string":
        _consume(request, (sampled.token,))
    if end is None and request.constraint is not None:
        end = _consume(request, (sampled.token,)) or _full(request)
        if end is None:
            end = _record(request, _forced(request))
            end = _tell(request, events) or end
    return end or _full(request)


def _forced(request: Request) -> tuple[int, ...]:
    """As many forced tokens as the request may still have."""
    if request.constraint is None or not request.forces:
        return ()
    try:
        return tuple(request.constraint.forced_tokens()[: request.room])
    except Exception as cause:  # noqa: BLE001 - a constraint may be the user's own
        request.constraint_failure = f"{type(cause).__name__}: {cause}"
        return ()


def _record(request: Request, forced: tuple[int, ...]) -> End | None:
    """Put forced tokens behind the others, to be fed and to be told."""
    if not forced:
        return _failure(request)
    request.tokens += forced
    request.untold += forced
    request.forced_tokens += len(forced)
    request.forced_runs += 1
    return _consume(request, forced)


def _tell(request: Request, events: list[Payload]) -> End | None:
    """Hand what was forced to the decoder; what stands behind the text's end was not said."""
    untold, request.untold = request.untold, []
    for told, token in enumerate(untold, 1):
        end = _emit(request, Sampled(request.row or 0, token), events)
        if end is not None:
            _unsay(request, len(untold) - told + (end.detail in ("eos", "stop_token")))
            return end
    return None


def _unsay(request: Request, count: int) -> None:
    """Take the last `count` forced tokens back, from the constraint too."""
    if not count or request.constraint is None:
        return
    del request.tokens[-count:]
    request.forced_tokens -= count
    try:
        request.constraint.rollback(count)
    except Exception as cause:  # noqa: BLE001 - a constraint may be the user's own
        request.constraint_failure = f"{type(cause).__name__}: {cause}"


def _emit(request: Request, sampled: Sampled, events: list[Payload]) -> End | None:
    try:
        decoded = request.decoder.feed((sampled,))
    except Exception as cause:  # noqa: BLE001 - a decoder may be the user's own
        return callback_failed("the decoder", cause)
    events += decoded.events
    stop = decoded.stop
    if stop is None or stop.counted:
        request.emitted += 1
    request.held_back += 1
    return End(stop.reason, stop.detail, sequence=stop.sequence) if stop is not None else None


def _consume(request: Request, tokens: tuple[int, ...]) -> End | None:
    """Let the constraint go on; it may fail, or have no more to say."""
    constraint = request.constraint
    if constraint is None:
        return None
    try:
        constraint.consume(tokens)
        if constraint.error is None:
            return End("stop", "constraint") if constraint.is_stopped else None
        request.constraint_failure = constraint.error
    except Exception as cause:  # noqa: BLE001 - a constraint may be the user's own
        request.constraint_failure = f"{type(cause).__name__}: {cause}"
    return _failure(request)


def _failure(request: Request) -> End | None:
    if request.constraint_failure is None:
        return None
    error = ConstraintFailed(f"the constraint of this request failed: {request.constraint_failure}")
    return End("cancelled", "scope", error=error)


def unmet(request: Request) -> ConstraintFailed | None:
    """Why a complete output fails what masks could not enforce; None where it is right, or not complete."""
    check, end = request.submit.check, request.end
    if check is None or end is None or end.reason != "stop" or not request.is_complete:
        return None
    try:
        problem = check(request.output)
    except Exception as cause:  # noqa: BLE001 - it may be the user's own
        problem = f"{type(cause).__name__}: {cause}"
    return None if problem is None else ConstraintFailed(f"the output is complete and does not fit: {problem}")


def _full(request: Request) -> End | None:
    return End("length", request.length_detail()) if request.is_full else None


def callback_failed(what: str, cause: Exception) -> End:
    """The end of a request whose own code raised."""
    error = CallbackFailed(f"{what} of this request raised {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return End("cancelled", "scope", error=error)
