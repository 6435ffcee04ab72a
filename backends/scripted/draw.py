"""The next tokens of a row, or its failure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from greenroom.backends.protocol import Feed, RowFailure, Sampled
from greenroom.backends.scripted.legal import Bits, Legal
from greenroom.backends.scripted.row import ScriptedRow
from greenroom.backends.scripted.violation import ProtocolViolation

__all__ = ["draw"]

_LIKELY = -0.1
_UNLIKELY = -3.1


def draw(row: ScriptedRow, feed: Feed, bits: Sequence[Bits] | None, vocab_size: int) -> list[Sampled | RowFailure]:
    """Draw behind what was fed, and before each draft: the first legal id of the script, else the lowest legal id.

    The last draw becomes the row's pending token. Log-probabilities and logits are made up: those of the first scripted
    token are always the highest, those of the others fall by one each.
    """
    reply = None if row.script is None else row.script.reply
    if reply is not None and row.error is None and row.num_generated + 1 == reply.fail_at:
        row.error = reply.error or RuntimeError(f"the reply of row {row.id} fails at its token {reply.fail_at}")
    if row.error is not None:
        return [RowFailure(row.id, row.error)]
    found: list[Sampled | RowFailure] = []
    token = 0
    for number in range(feed.drafts + 1):
        length = row.length - feed.drafts + number
        place = row.place_after(length)
        token = _choice(row, place, Legal(row, length, None if bits is None else bits[number]), vocab_size)
        best = _choice(row, place, range(vocab_size), vocab_size)
        logits = _logits(best, vocab_size) if number in feed.logits else None
        found.append(_report(row, token, vocab_size, logits))
    row.tokens.append(token)
    return found


def _report(row: ScriptedRow, token: int, vocab_size: int, logits: npt.NDArray[np.float32] | None) -> Sampled:
    wanted = row.sampling.logprobs
    if wanted is None:
        return Sampled(row.id, token, logits=logits)
    others = [other for other in range(min(wanted, vocab_size)) if other != token]
    likeliest = [(token, _LIKELY), *[(other, _UNLIKELY - place) for place, other in enumerate(others)]]
    return Sampled(row.id, token, _LIKELY, tuple(likeliest[:wanted]), logits)


def _logits(best: int, vocab_size: int) -> npt.NDArray[np.float32]:
    logits = -np.arange(vocab_size, dtype=np.float32)
    logits[best] = 1.0
    return logits


def _choice(row: ScriptedRow, place: int, legal: Legal | range, vocab_size: int) -> int:
    if row.script is not None:
        for token, _ in row.script.choices(place):
            if token in legal:
                return token
    for token in range(vocab_size):
        if token in legal:
            return token
    raise ProtocolViolation(f"no id is legal for {row!r}")
