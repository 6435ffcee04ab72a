"""Where a generation stands, as a value: everything that a fork copies, and nothing else.

KV is no part of it. It is a cache that the engine keeps by tokens, so the same generation continues the same anywhere.
Draws depend on (seed, position), so a seed is all there is of a random state. Nobody changes a generation's parts: a
request is given copies of the constraint and of the decoder, and what became of them is a new generation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from greenroom.actors.decoder import Decoder
from greenroom.backends.protocol import Sampled
from greenroom.constraints.state import ConstraintState, ForcingState, parts
from greenroom.errors import ConstraintFailed
from greenroom.events import Chunk, Finish, Info
from greenroom.lifetimes import calling
from greenroom.request.config import GenerationConfig
from greenroom.request.decoders import TokenDecoder
from greenroom.request.recorder import RecordedToken

__all__ = ["NOT_RUN", "Generation", "begin", "find_deadline", "follow", "fork_state", "seconds_until"]


NOT_RUN = Info.not_run("handle")
"""Of a generation of which nothing has run: `NOT_RUN.then(info)` is `info`."""


@dataclass(frozen=True, slots=True)
class Generation:
    """`tokens` is what the row holds, the last one perhaps pending; those from `start` on were generated."""

    config: GenerationConfig
    tokens: tuple[int, ...]
    start: int
    seed: int
    decoder: Decoder
    constraint: ConstraintState | None = None
    text: str = ""
    ending: Finish | None = None
    counts: Info = NOT_RUN
    """What its requests took to come here, those that were given up included; not its end and its lengths."""
    forks: int = 0
    """How many seeds were derived from this one."""
    is_begun: bool = True
    """Off where its time was over before its constraint was compiled: `begin` it anew before it goes on."""

    @staticmethod
    def bare(config: GenerationConfig, tokens: tuple[int, ...], start: int | None = None) -> Generation:
        """`tokens`, those from `start` on generated, for passes whose text nobody wants."""
        start = len(tokens) if start is None else start
        return Generation(config, tokens, start, 0, TokenDecoder(stop_ids=frozenset(), eos=frozenset()))

    @staticmethod
    def overdue(config: GenerationConfig, prompt: tuple[int, ...], seed: int) -> Generation:
        """Ended by its time before it had begun. Raises `InvalidPrompt`, `PromptTooLong`."""
        config.check_prompt(prompt)
        decoder = config.decoder(prompt, seed)
        ending = Finish("cancelled", "timeout")
        return Generation(config, prompt, len(prompt), seed, decoder, ending=ending, is_begun=False)

    @property
    def output(self) -> tuple[int, ...]:
        """What was generated, without a token that only ended the turn."""
        return self.tokens[self.start :]

    @property
    def num_generated(self) -> int:
        """How many tokens were generated."""
        return len(self.tokens) - self.start

    # On.

    def append(
        self,
        recorded: Sequence[RecordedToken],
        *,
        decoder: Decoder,
        constraint: ConstraintState | None,
        ending: Finish | None = None,
    ) -> Generation:
        """Behind `recorded`, which `decoder` and `constraint` have taken already."""
        return replace(
            self,
            tokens=(*self.tokens, *[each.token for each in recorded if each.is_kept]),
            text=self.text + "".join([each.text for each in recorded]),
            decoder=decoder,
            constraint=constraint,
            ending=ending,
        )

    def replay(self, recorded: Sequence[RecordedToken], ahead: ConstraintState | None) -> Generation:
        """Behind those of `recorded` that stay, of a request that was given up; its constraint went `ahead`."""
        kept = [each.sampled for each in recorded if each.is_kept]
        if not kept:
            return self
        is_freed = ahead is not None and any(isinstance(p, ForcingState) and p.is_freed for p in parts(ahead))
        constraint = fork_state(self.constraint)
        twin = replace(self, decoder=self.decoder.fork(), constraint=constraint)
        return twin.feed(kept, by_masks=is_freed)

    def feed(self, sampled: Sequence[Sampled], *, by_masks: bool) -> Generation:
        """Behind `sampled`, all of which stay; its own decoder and constraint are used up. `by_masks`: see `follow`."""
        if self.constraint is not None:
            vocab_size = self.config.model.vocab_size if by_masks else None
            follow(self.constraint, [each.token for each in sampled], vocab_size)
        recorded = [RecordedToken(each, self.decoder.feed((each,)).events, None) for each in sampled]
        return self.append(recorded, decoder=self.decoder, constraint=self.constraint)

    def count(self, info: Info) -> Generation:
        """With what one more request took."""
        return replace(self, counts=self.counts.then(info))

    def expecting(self, horizon: int | None) -> Generation:
        """Expected to have so many tokens in all, those that it has included; None: as others turn out."""
        return replace(self, config=self.config.with_parameters(horizon=horizon))

    # Back, and elsewhere.

    def rewind(self, count: int, seed: int | None) -> Generation:
        """Without the last `count` tokens that were generated."""
        constraint = fork_state(self.constraint)
        if constraint is not None:
            constraint.rollback(count)
            if constraint.error is not None:
                raise ConstraintFailed(f"the constraint cannot take {count} tokens back: {constraint.error}")
        shorter = replace(self, tokens=self.tokens[: len(self.tokens) - count], constraint=constraint, ending=None)
        return (shorter if seed is None else replace(shorter, seed=seed, forks=0)).decode()

    def decode(self) -> Generation:
        """Decoded anew, as its config and its seed say now."""
        decoder, text = self.config.decoder(self.tokens[: self.start], self.seed), ""
        for token in self.output:
            events = decoder.feed((Sampled(0, token),)).events
            text += "".join([event.text for event in events if isinstance(event, Chunk)])
        return replace(self, decoder=decoder, text=text)

    # The end.

    def conclude(self) -> Generation:
        """Ended, where nothing can follow."""
        ending = self.ending or self._find_ending()
        return self if ending is self.ending else replace(self, ending=ending)

    def _find_ending(self) -> Finish | None:
        most = self.config.parameters.max_tokens
        if most is not None and self.num_generated >= most:
            return Finish("length", "max_tokens")
        if self.constraint is not None and self.num_generated and self.constraint.is_stopped:
            return Finish("stop", "constraint")
        return Finish("length", "context") if len(self.tokens) >= self.config.room else None

    def expire(self, deadline: float | None) -> Generation:
        """Ended, where its time is over; `deadline` in monotonic seconds."""
        if self.ending is not None or deadline is None or time.monotonic() < deadline:
            return self
        return replace(self, ending=Finish("cancelled", "timeout"))

    def check_output(self) -> ConstraintFailed | None:
        """Why a complete output fails what masks could not enforce."""
        compiled = self.config.compiled
        problem = None if compiled is None else compiled.check(self.output)
        return None if problem is None else ConstraintFailed(f"the output is complete and does not fit: {problem}")


def fork_state(constraint: ConstraintState | None) -> ConstraintState | None:
    """A copy in the same state; it may be the user's own. Raises `CallbackFailed` for what that raises."""
    if constraint is None:
        return None
    with calling("the constraint's fork"):
        return constraint.fork()


def begin(config: GenerationConfig, prompt: tuple[int, ...], seed: int, decoder: Decoder | None = None) -> Generation:
    """The generation that stands behind `prompt`. Compiles: not on the event loop where there is a constraint.

    `decoder` takes the place of the config's own. Raises `InvalidPrompt`, `PromptTooLong`, `InvalidConstraint`.
    """
    config.check_prompt(prompt)
    config = config.for_prompt(prompt).compile()
    constraint = None if config.compiled is None else config.compiled.start()
    own = config.decoder(prompt, seed) if decoder is None else decoder
    return Generation(config, prompt, len(prompt), seed, own, constraint).conclude()


def find_deadline(config: GenerationConfig) -> float | None:
    """Until when a generation may run if its time begins now, in monotonic seconds; None: for ever."""
    timeout = config.parameters.timeout
    return None if timeout is None else time.monotonic() + timeout


def seconds_until(deadline: float | None) -> float:
    """How long that is from now; infinity for None."""
    return math.inf if deadline is None else deadline - time.monotonic()


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
