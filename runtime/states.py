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

from greenroom.actors.decoding import Decoder
from greenroom.backends.protocol import Sampled
from greenroom.constraints.state import ConstraintState
from greenroom.errors import ConstraintFailed
from greenroom.events import Chunk, Info, StopDetail, StopReason
from greenroom.recording import Said

__all__ = ["Counts", "Ending", "State", "advanced", "cut", "replayed", "reseeded", "rewound"]


class Ending(NamedTuple):
    """Why a generation is over."""

    reason: StopReason
    detail: StopDetail
    sequence: str | int | None = None


class Counts(NamedTuple):
    """What it took to come here, passes that were given up included."""

    drafted: int = 0
    accepted: int = 0
    forced: int = 0
    forced_runs: int = 0
    cached: int = 0
    queue_time: float = 0.0
    prompt_time: float = 0.0
    generate_time: float = 0.0

    def plus(self, info: Info) -> Counts:
        """With those of one more request; what the first one waited for and reused is the generation's."""
        is_first = self.prompt_time == 0.0
        return Counts(
            self.drafted + info.drafted_tokens,
            self.accepted + info.accepted_tokens,
            self.forced + info.forced_tokens,
            self.forced_runs + info.forced_runs,
            info.cached_prompt_tokens if is_first else self.cached,
            info.queue_time if is_first else self.queue_time,
            info.prompt_time if is_first else self.prompt_time,
            self.generate_time + info.generate_time + (0.0 if is_first else info.prompt_time),
        )


NONE = Counts()

Fresh = Callable[[Sequence[int], int], Decoder]
"""Makes a decoder that was fed nothing, of the prompt's ids and a seed."""


@dataclass(frozen=True)
class State:
    """`tokens` is what the row holds, the last one perhaps pending; those from `start` on were generated."""

    tokens: tuple[int, ...]
    start: int
    seed: int
    decoder: Decoder
    constraint: ConstraintState | None = None
    text: str = ""
    ending: Ending | None = None
    counts: Counts = NONE
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
    state: State, said: Sequence[Said], *, decoder: Decoder, constraint: ConstraintState | None, ending: Ending | None
) -> State:
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


def cut(state: State, said: Sequence[Said]) -> State:
    """`state` after `said`, tokens that stay, which a request had recorded before it was given up."""
    if not said:
        return state
    decoder = state.decoder.fork()
    again = [Said(each.sampled, decoder.feed((each.sampled,)).events, None) for each in said]
    constraint = None if state.constraint is None else state.constraint.fork()
    if constraint is not None:
        constraint.consume([each.token for each in again])
    return advanced(state, again, decoder=decoder, constraint=constraint, ending=None)


def replayed(state: State, tokens: Sequence[int], *, vocab_size: int) -> State:
    """`state` after `tokens`, all of which stay, in the steps in which they came; its own parts are used up.

    A constraint is asked for its mask before each token, as when that was drawn: where masks contradict each other, or
    what is spelt, a matcher changes its ways for good.
    """
    mask = np.empty(-(-vocab_size // 32), np.uint32)
    said: list[Said] = []
    for token in tokens:
        sampled = Sampled(0, token)
        if state.constraint is not None:
            state.constraint.fill_mask(mask)
            state.constraint.consume((token,))
        said.append(Said(sampled, state.decoder.feed((sampled,)).events, None))
    return advanced(state, said, decoder=state.decoder, constraint=state.constraint, ending=None)


def reseeded(state: State, seed: int, fresh: Fresh) -> State:
    """`state` with another seed, which what it decodes from here on may depend on."""
    decoder = fresh(state.tokens[: state.start], seed)
    for token in state.output:
        decoder.feed((Sampled(0, token),))
    return replace(state, seed=seed, forks=0, decoder=decoder)


def rewound(state: State, count: int, fresh: Fresh, seed: int | None) -> State:
    """`state` without the last `count` tokens that were generated."""
    kept = state.generated - count
    decoder, text = fresh(state.tokens[: state.start], state.seed if seed is None else seed), ""
    for token in state.output[:kept]:
        events = decoder.feed((Sampled(0, token),)).events
        text += "".join([event.text for event in events if isinstance(event, Chunk)])
    constraint = None if state.constraint is None else state.constraint.fork()
    if constraint is not None:
        constraint.rollback(count)
        if constraint.error is not None:
            raise ConstraintFailed(f"the constraint cannot take {count} tokens back: {constraint.error}")
    return replace(
        state,
        tokens=state.tokens[: state.start + kept],
        decoder=decoder,
        text=text,
        constraint=constraint,
        ending=None,
        seed=state.seed if seed is None else seed,
        forks=state.forks if seed is None else 0,
    )
