"""Where a generation stands, as a value: everything that a fork copies, and nothing else.

KV is no part of it. It is a cache that the engine keeps by tokens, so the same state continues the same anywhere. Draws
depend on (seed, position), so a seed is all there is of a random state. Nobody changes a state's parts: a request is
given copies of the constraint and of the decoder, and what became of them is a new state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from greenroom.actors.decoder import Decoder
from greenroom.backends.protocol import Sampled
from greenroom.constraints.state import ConstraintState
from greenroom.errors import ConstraintFailed
from greenroom.events import Chunk, Info, StopDetail, StopReason
from greenroom.request.recorder import RecordedToken

__all__ = ["NOT_RUN", "Ending", "Generation", "advanced", "cut", "follow", "redecoded", "replayed", "rewound"]


class Ending(NamedTuple):
    """Why a generation is over."""

    reason: StopReason
    detail: StopDetail
    sequence: str | int | None = None


NOT_RUN = Info(stop_reason="cancelled", stop_detail="handle", prompt_tokens=0, generation_tokens=0)
"""Of a generation of which nothing has run: `NOT_RUN.then(info)` is `info`."""

Fresh = Callable[[Sequence[int], int], Decoder]
"""Makes a decoder that was fed nothing, of the prompt's ids and a seed."""


@dataclass(frozen=True)
class Generation:
    """`tokens` is what the row holds, the last one perhaps pending; those from `start` on were generated."""

    tokens: tuple[int, ...]
    start: int
    seed: int
    decoder: Decoder
    constraint: ConstraintState | None = None
    text: str = ""
    ending: Ending | None = None
    counts: Info = NOT_RUN
    """What its requests took to come here, those that were given up included; not its end and its lengths."""
    forks: int = 0
    """How many seeds were derived from this one."""

    @property
    def output(self) -> tuple[int, ...]:
        """What was generated, without a token that only ended the turn."""
        return self.tokens[self.start :]

    @property
    def generated(self) -> int:
        """How many tokens were generated."""
        return len(self.tokens) - self.start


def advanced(
    state: Generation,
    said: Sequence[RecordedToken],
    *,
    decoder: Decoder,
    constraint: ConstraintState | None,
    ending: Ending | None,
) -> Generation:
    """`state` after `said`, where `decoder` and `constraint` have taken them."""
    tokens = [each.token for each in said if each.is_kept]
    return replace(
        state,
        tokens=(*state.tokens, *tokens),
        text=state.text + "".join([each.text for each in said]),
        decoder=decoder,
        constraint=constraint,
        ending=ending,
    )


def cut(state: Generation, said: Sequence[RecordedToken], *, vocab_size: int | None) -> Generation:
    """`state` after `said`, tokens that stay, which a request had recorded before it was given up.

    With `vocab_size` the constraint is asked for its masks again: see `follow`.
    """
    if not said:
        return state
    decoder = state.decoder.fork()
    again = [RecordedToken(each.sampled, decoder.feed((each.sampled,)).events, None) for each in said]
    constraint = None if state.constraint is None else state.constraint.fork()
    if constraint is not None:
        follow(constraint, [each.token for each in again], vocab_size)
    return advanced(state, again, decoder=decoder, constraint=constraint, ending=None)


def follow(constraint: ConstraintState, tokens: Sequence[int], vocab_size: int | None) -> None:
    """Let `constraint` go on by `tokens`; with `vocab_size` as it went when they were drawn, mask by mask.

    Where masks contradict each other, or what they force is spelt otherwise, a matcher changes its ways for good.
    """
    if vocab_size is None:
        constraint.consume(tokens)
        return
    mask = np.empty(-(-vocab_size // 32), np.uint32)
    for token in tokens:
        constraint.fill_mask(mask)
        constraint.consume((token,))


def replayed(state: Generation, tokens: Sequence[int], *, vocab_size: int) -> Generation:
    """`state` after `tokens`, all of which stay; its own parts are used up."""
    if state.constraint is not None:
        follow(state.constraint, tokens, vocab_size)
    fed = [Sampled(0, token) for token in tokens]
    said = [RecordedToken(sampled, state.decoder.feed((sampled,)).events, None) for sampled in fed]
    return advanced(state, said, decoder=state.decoder, constraint=state.constraint, ending=None)


def redecoded(state: Generation, fresh: Fresh) -> Generation:
    """`state` with another decoder, which may depend on its seed."""
    decoder, text = fresh(state.tokens[: state.start], state.seed), ""
    for token in state.output:
        events = decoder.feed((Sampled(0, token),)).events
        text += "".join([event.text for event in events if isinstance(event, Chunk)])
    return replace(state, decoder=decoder, text=text)


def rewound(state: Generation, count: int, fresh: Fresh, seed: int | None) -> Generation:
    """`state` without the last `count` tokens that were generated."""
    constraint = None if state.constraint is None else state.constraint.fork()
    if constraint is not None:
        constraint.rollback(count)
        if constraint.error is not None:
            raise ConstraintFailed(f"the constraint cannot take {count} tokens back: {constraint.error}")
    shorter = replace(
        state,
        tokens=state.tokens[: len(state.tokens) - count],
        constraint=constraint,
        ending=None,
        seed=state.seed if seed is None else seed,
        forks=state.forks if seed is None else 0,
    )
    return redecoded(shorter, fresh)
