"""The next token of a row, or its failure."""

from __future__ import annotations

from greenroom.backends.protocol import RowFailure, Sampled
from greenroom.backends.scripted.legal import Bits, Legal
from greenroom.backends.scripted.row import Row
from greenroom.backends.scripted.violation import ProtocolViolation

__all__ = ["draw"]

_LIKELY = -0.1
_UNLIKELY = -3.1


def draw(row: Row, bits: Bits | None, vocab_size: int) -> Sampled | RowFailure:
    """Draw what becomes the row's pending token: the first legal id of its script, else the lowest legal id.

    Log-probabilities are made up: that of the token is always the highest, those of the others fall by one each.
    """
    reply = None if row.script is None else row.script.reply
    if reply is not None and row.error is None and row.num_generated + 1 == reply.fail_at:
        row.error = reply.error or RuntimeError(f"the reply of row {row.id} fails at its token {reply.fail_at}")
    if row.error is not None:
        return RowFailure(row.id, row.error)
    token = _choice(row, Legal(row, bits), vocab_size)
    row.tokens.append(token)
    wanted = row.sampling.logprobs
    if wanted is None:
        return Sampled(row.id, token)
    others = [other for other in range(min(wanted, vocab_size)) if other != token]
    likeliest = [(token, _LIKELY), *[(other, _UNLIKELY - place) for place, other in enumerate(others)]]
    return Sampled(row.id, token, _LIKELY, tuple(likeliest[:wanted]))


def _choice(row: Row, legal: Legal, vocab_size: int) -> int:
    if row.script is not None:
        for token, _ in row.script.choices(row.place):
            if token in legal:
                return token
    for token in range(vocab_size):
        if token in legal:
            return token
    raise ProtocolViolation(f"no id is legal for {row!r}")
