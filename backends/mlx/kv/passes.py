"""A pass between `forward` and `sample`: what it feeds to the decode batch, and whose logits come out of it.

Numbers of tokens that nobody has read stay on the device: the input of a pass is gathered there. When the same rows
decode again, it is the very array that the last pass drew.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from greenroom.backends.mlx.rows import DrawSite, Row, SubmittedPass, TokenRef
from greenroom.backends.protocol import RowFailure

__all__ = ["Pass", "inputs_of"]


@dataclass(slots=True, eq=False, repr=False)
class Pass:
    """A pass between `forward` and `sample`."""

    failures: list[RowFailure] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    """Rows to sample, in the plan's order."""
    order: list[DrawSite] = field(default_factory=list)
    """Whose the logits are, row by row; a row with drafts has several, side by side."""
    wanted: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """By row, of which of its draws the logits are to be copied."""
    drafts: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """By row, the guesses among what it is fed."""
    logits: mx.array | None = None
    inputs: mx.array | None = None
    state: list[mx.array] = field(default_factory=list)
    """What must be evaluated beside the tokens."""
    done: mx.array | None = None
    """Where nothing is sampled: a small array that is there when the pass is over."""

    @property
    def asked(self) -> list[mx.array]:
        """What is to be evaluated beside the tokens that are drawn."""
        return self.state if self.done is None else [*self.state, self.done]

    def select(self) -> tuple[list[DrawSite], mx.array, mx.array]:
        """Pick what is sampled: the draws, their logits and what was fed there, in one order."""
        if self.logits is None or self.inputs is None:
            raise RuntimeError("nothing was decoded in this pass")
        wanted = set(self.sampled)
        places = [i for i, site in enumerate(self.order) if site.row.id in wanted]
        if len(places) == len(self.order):
            return self.order, self.logits, self.inputs
        at = mx.array(places)
        return [self.order[i] for i in places], self.logits[at], self.inputs[at]


def inputs_of(rows: list[Row]) -> mx.array:
    """The pending tokens of `rows` `[n]`, without waiting for those that nobody has read."""
    pending = [row.pending for row in rows]
    step = _common_step(pending)
    if step is not None and step.tokens is not None:
        return step.tokens
    known: list[int] = []
    places: list[int] = []
    unread: dict[int, list[tuple[int, TokenRef]]] = {}
    for i, token in enumerate(pending):
        if isinstance(token, TokenRef) and token.step.values is None:
            unread.setdefault(id(token.step), []).append((i, token))
        elif token is not None:
            places.append(i)
            known.append(token.number() if isinstance(token, TokenRef) else token)
    parts = [mx.array(known, dtype=mx.uint32)] if known else []
    for refs in unread.values():
        tokens = refs[0][1].step.tokens
        if tokens is None:
            raise RuntimeError("a step that drew nothing has no tokens to run")
        parts.append(tokens[mx.array([ref.place for _, ref in refs])])
        places += [i for i, _ in refs]
    joined = parts[0] if len(parts) == 1 else mx.concatenate(parts)
    return joined if places == sorted(places) else joined[mx.array(np.argsort(places))]


def _common_step(pending: list[int | TokenRef | None]) -> SubmittedPass | None:
    """The step whose tokens, all of them and in this order, are `pending`."""
    first = pending[0]
    if not isinstance(first, TokenRef):
        return None
    step = first.step
    if step.tokens is None or step.tokens.size != len(pending):
        return None
    matches = all(isinstance(ref, TokenRef) and ref[0] is step and ref[1] == i for i, ref in enumerate(pending))
    return step if matches else None
