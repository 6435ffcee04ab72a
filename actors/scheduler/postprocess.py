"""What a token that was drawn, or that a constraint forces, means for its request: text, counts, and perhaps its end.

A constraint may know what must come next. Such a run of tokens is recorded at once and fed as one piece in the next
pass, without being drawn; its events are delivered like any other. Nothing here raises for what a decoder or a
constraint of the user's does: the request ends in a typed error.
"""

from __future__ import annotations

from collections.abc import Sequence

from greenroom.actors.decoder import Payload
from greenroom.actors.scheduler.request import Failure, Request
from greenroom.backends.protocol import Sampled
from greenroom.errors import CallbackFailed, ConstraintFailed
from greenroom.events import Finish

__all__ = ["callback_failed", "check_output", "process_prompt", "process_samples"]

_END_TOKENS = ("eos", "stop_token")


def process_prompt(request: Request) -> tuple[list[Payload], Finish | None]:
    """Record what the constraint forces behind the prompt. It is decoded with the first token that is drawn.

    Where nothing is to be drawn at all, it is decoded now, and the request has ended.
    """
    events: list[Payload] = []
    end = _record_forced(request)
    if end is not None or request.room <= 0:
        end = _decode_forced(request, events) or end or _end_if_full(request)
    return events, end


def process_samples(request: Request, samples: Sequence[Sampled], now: float) -> tuple[list[Payload], Finish | None]:
    """Record what a step drew, and what is forced behind it; returns the events, and the end if it has come.

    A sample behind draft tokens counts as long as all of these were what was drawn.
    """
    submit, progress, timing, state = request.submit, request.progress, request.timing, request.drafts
    # 1. The step is over.
    timing.last_token = now
    if timing.first_token is None:
        timing.first_token = now
    progress.num_steps += 1
    drafts, state.in_flight = state.in_flight, ()
    dead_end, state.dead_end = state.dead_end, None
    # 2. Each sample counts, up to the first that is not what was drafted.
    events: list[Payload] = []
    end: Finish | None = None
    accepted = 0
    for number, sampled in enumerate(samples):
        if not submit.draws:
            end = _decode_logits(request, samples, events)
            break
        if dead_end is not None and number == dead_end[0]:
            end = dead_end[1]
            break
        count = len(request.tokens)
        end = _take_sample(request, sampled, events)
        if end is not None or number == len(drafts) or sampled.token != drafts[number]:
            break
        accepted += 1
        if len(request.tokens) > count + 1:  # the next draw is of a place that is forced, and so taken
            progress.is_redirected = True
            break
    # 3. The other draft tokens, and those behind them, must go from the row.
    if drafts:
        end = _check_drafts(request, len(drafts), accepted) or end
    # 4. A request may have been made for so many steps.
    if end is None and submit.steps is not None and progress.num_steps >= submit.steps:
        end = Finish("length", "max_tokens")
    return events, end


def check_output(request: Request) -> Exception | None:
    """Why a complete output fails what masks could not enforce; None where it is right, or not complete."""
    check, end, constraint = request.submit.check, request.end, request.constraint
    if check is None or end is None or end.reason != "stop" or constraint is None or not constraint.is_complete:
        return None
    try:
        problem = check(request.output_tokens)
    except Exception as cause:  # noqa: BLE001 - it may be the user's own
        problem = f"{type(cause).__name__}: {cause}"
    except BaseException as cause:  # noqa: BLE001 - on this thread nobody is interrupted: it is the check's own
        return callback_failed("the constraint's check", cause).error
    return None if problem is None else ConstraintFailed(f"the output is complete and does not fit: {problem}")


def callback_failed(what: str, cause: BaseException) -> Failure:
    """The end of a request whose own code raised; whatever that is, on the engine's thread nobody else is meant."""
    error = CallbackFailed(f"{what} of this request raised {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return Failure.of(error)


def _take_sample(request: Request, sampled: Sampled, events: list[Payload]) -> Finish | None:
    """Record a token that was drawn, and what is forced behind it."""
    if request.output.undecoded:
        end = _decode_forced(request, events)
        if end is not None:  # the text ended in what was forced before the draw, which so counts for nothing
            return end
    request.tokens.append(sampled.token)
    end = _decode(request, sampled, events)
    if end is not None:
        request.output.has_end_token = end.detail in _END_TOKENS
        if end.detail == "stop_string":
            _consume(request, (sampled.token,))
        return end
    if request.constraint is not None:
        end = _consume(request, (sampled.token,)) or _end_if_full(request)
        if end is None:
            end = _record_forced(request)
            end = _decode_forced(request, events) or end
    return end or _end_if_full(request)


def _decode_logits(request: Request, samples: Sequence[Sampled], events: list[Payload]) -> Finish:
    """Hand the samples over for their logits, and end the request; nothing of them is recorded."""
    end = _decode_forced(request, events)
    try:
        request.submit.decoder.feed(samples)
    except BaseException as cause:  # noqa: BLE001 - a decoder may be the user's own
        return callback_failed("the decoder", cause)
    return end or Finish("length", "max_tokens")


def _check_drafts(request: Request, drafted: int, accepted: int) -> Finish | None:
    """Count draft tokens that were checked; the rest of the row's known tokens stand in place of the wrong ones."""
    if accepted < drafted:
        request.progress.num_computed -= drafted - accepted
        request.progress.is_redirected = True
    try:
        request.drafts.update(drafted, accepted)
    except BaseException as cause:  # noqa: BLE001 - a drafter may be the user's own
        return callback_failed("the speculator", cause)
    return None


def _record_forced(request: Request) -> Finish | None:
    """Put as many forced tokens as the request may still have behind the others, to be fed and to be decoded."""
    constraint = request.constraint
    forced = constraint.forced_tokens(request.room) if constraint is not None else ()
    if not forced:
        return _end_if_failed(request)
    output = request.output
    request.tokens += forced
    output.undecoded += forced
    output.num_forced += len(forced)
    output.num_forced_runs += 1
    return _consume(request, forced)


def _decode_forced(request: Request, events: list[Payload]) -> Finish | None:
    """Hand forced tokens to the decoder; those behind the text's end are taken back."""
    tokens, request.output.undecoded = request.output.undecoded, []
    for decoded, token in enumerate(tokens, 1):
        end = _decode(request, Sampled(request.row or 0, token), events)
        if end is not None:
            _take_back(request, len(tokens) - decoded + (end.detail in _END_TOKENS))
            return end
    return None


def _take_back(request: Request, count: int) -> None:
    """Forget the last `count` forced tokens, in the constraint too."""
    if not count or request.constraint is None:
        return
    del request.tokens[-count:]
    request.output.num_forced -= count
    request.constraint.rollback(count)


def _decode(request: Request, sampled: Sampled, events: list[Payload]) -> Finish | None:
    """Hand a token to the decoder, which may end the request."""
    try:
        decoded = request.submit.decoder.feed((sampled,))
    except BaseException as cause:  # noqa: BLE001 - a decoder may be the user's own
        return callback_failed("the decoder", cause)
    events += decoded.events
    output, stop = request.output, decoded.stop
    output.num_buffered += 1
    if stop is None:
        output.num_tokens += 1
        return None
    output.num_tokens += stop.counted
    return stop


def _consume(request: Request, tokens: tuple[int, ...]) -> Finish | None:
    """Let the constraint go on; it may fail, or have no more to say."""
    if request.constraint is not None and request.constraint.consume(tokens):
        return Finish("stop", "constraint")
    return _end_if_failed(request)


def _end_if_failed(request: Request) -> Finish | None:
    """The end of a request whose constraint has failed."""
    if request.constraint is None or request.constraint.failure is None:
        return None
    if request.constraint.cause is not None:
        return callback_failed("the constraint", request.constraint.cause)
    error = ConstraintFailed(f"the constraint of this request failed: {request.constraint.failure}")
    return Failure.of(error)


def _end_if_full(request: Request) -> Finish | None:
    """The end of a request that has all the tokens that it may have."""
    return Finish("length", request.length_detail()) if request.room <= 0 else None
