"""Which ids a row may draw at its next position."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np
import numpy.typing as npt

from greenroom.backends.protocol import Feed, Masks
from greenroom.backends.scripted.row import ScriptedRow
from greenroom.backends.scripted.violation import ProtocolViolation

__all__ = ["Bits", "Legal", "check_masks"]

Bits = npt.NDArray[np.uint32]


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
