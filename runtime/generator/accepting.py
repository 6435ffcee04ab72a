"""Tokens that somebody else chose, checked and folded into a state as drawn ones are."""

from __future__ import annotations

from collections.abc import Sequence

from greenroom.backends.protocol import Sampled
from greenroom.constraints.state import ConstraintState
from greenroom.errors import InvalidParameter, TokenRefused
from greenroom.inputs.parameters import stop_ids
from greenroom.request.config import GenerationConfig
from greenroom.request.generation import Ending, Generation, advanced
from greenroom.request.recorder import RecordedToken

__all__ = ["accepted"]


def accepted(course: GenerationConfig, state: Generation, tokens: Sequence[int]) -> Generation:
    """`state` behind `tokens`, up to the first that ends the generation. Raises, changing nothing, `TokenRefused`."""
    if len(tokens) == 0:
        raise InvalidParameter("tokens", tokens, "at least one token")
    decoder = state.decoder.fork()
    constraint = None if state.constraint is None else state.constraint.fork()
    stops = stop_ids(course.parameters, course.model)
    most = course.parameters.max_tokens
    said: list[RecordedToken] = []
    ending: Ending | None = None
    for token in tokens:
        _check(token, course, constraint, is_stop=token in stops)
        sampled = Sampled(0, int(token))
        decoded = decoder.feed((sampled,))
        said.append(RecordedToken(sampled, decoded.events, decoded.stop))
        if constraint is not None and said[-1].is_kept:
            constraint.consume((int(token),))
        if decoded.stop is not None:
            ending = Ending(decoded.stop.reason, decoded.stop.detail, decoded.stop.sequence)
        elif constraint is not None and constraint.is_stopped:
            ending = Ending("stop", "constraint")
        elif most is not None and state.generated + len(said) >= most:
            ending = Ending("length", "max_tokens")
        if ending is not None:
            break
    after = advanced(state, said, decoder=decoder, constraint=constraint, ending=ending)
    is_complete = constraint is not None and ending is not None and ending.reason == "stop" and constraint.is_accepting
    problem = course.unmet(after) if is_complete else None
    if problem is not None:
        raise problem
    return after


def _check(token: object, course: GenerationConfig, constraint: ConstraintState | None, *, is_stop: bool) -> None:
    size = course.model.vocab_size
    try:
        number = int(token)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number < size or isinstance(token, bool | float):
        raise TokenRefused(token, f"ids are integers from 0 to {size - 1}")
    if constraint is None:
        return
    if is_stop and not constraint.is_accepting:
        raise TokenRefused(token, "it ends the turn, and what was written is not complete")
    if not is_stop and constraint.validate((number,)) != 1:
        raise TokenRefused(token, "the constraint does not allow it here")
