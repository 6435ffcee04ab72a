"""Which ids a row may draw at its next position, and the next tokens of a row, or its failure."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np
import numpy.typing as npt

from greenroom.backends.protocol import Feed, Masks, RowFailure, Sampled
from greenroom.backends.scripted.failures import ProtocolViolation
from greenroom.backends.scripted.row import ScriptedRow

__all__ = ["Bits", "Legal", "check_masks", "draw"]

Bits = npt.NDArray[np.uint32]
_LIKELY = -0.1
_UNLIKELY = -3.1


class Legal(Container[int]):
    """The row's mask, if it has one, without its banned ids."""

    __slots__ = ("_banned", "_bits")

    def __init__(self, row: ScriptedRow, length: int, bits: Bits | None) -> None:
        sampling = row.sampling
        self._banned = frozenset(sampling.banned if length < sampling.banned_until else ())
        self._bits = bits

    def __repr__(self) -> str:
        return f"<Legal masked={self._bits is not None} banned={len(self._banned)}>"

    def __contains__(self, token: object) -> bool:
        if not isinstance(token, int) or token in self._banned:
            return False
        return self._bits is None or int(self._bits[token // 32]) >> token % 32 & 1 == 1


def check_masks(masks: Masks | None, feeds: Sequence[Feed], vocab_size: int) -> dict[int, list[Bits]]:
    """Each named row's bits, draw by draw. Raises `ProtocolViolation` where masks are not as the protocol has them."""
    if masks is None:
        return {}
    wanted = (len(masks.rows), -(-vocab_size // 32))
    if masks.bits.dtype != np.uint32 or masks.bits.shape != wanted:
        raise ProtocolViolation(f"masks must be uint32 {wanted}, got {masks.bits.dtype} {masks.bits.shape}")
    draws = {feed.row: 1 + feed.drafts for feed in feeds}
    found: dict[int, list[Bits]] = {}
    for row, bits in zip(masks.rows, masks.bits, strict=True):
        found.setdefault(row, []).append(bits)
    if any(draws.get(row) != len(lines) for row, lines in found.items()):
        raise ProtocolViolation(f"masks name the rows {masks.rows}, the pass has the draws {draws}")
    return found


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
