"""Which ids a row may draw at its next position, and the next tokens of a row, or its failure.

A mask with one legal id leaves nothing to say: that id is drawn, as it would be fed where a constraint forces it. Where
there is a choice, the script makes it, or does not fit its constraint.
"""

from __future__ import annotations

import reprlib
from collections.abc import Container, Sequence

import numpy as np
import numpy.typing as npt

from greenroom.backends.protocol import Feed, Masks, RowFailure, Sampled
from greenroom.backends.scripted.failures import ProtocolViolation, ScriptFailed
from greenroom.backends.scripted.replies import Script
from greenroom.backends.scripted.row import ScriptedRow
from greenroom.backends.scripted.tokenizer import ByteTokenizer

__all__ = ["Bits", "Legal", "check_masks", "draw"]

Bits = npt.NDArray[np.uint32]
_LIKELY = -0.1
_UNLIKELY = -3.1
_SHOWN = 8
"""Legal ids that an error names."""
_TOKENIZER = ByteTokenizer()


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
        return self.takes(token)

    def takes(self, token: int) -> bool:
        """Whether the mask has `token`, banned or not."""
        return self._bits is None or int(self._bits[token // 32]) >> token % 32 & 1 == 1

    def first(self, most: int) -> list[int]:
        """The lowest ids that the mask has; of no mask none."""
        if self._bits is None:
            return []
        found: list[int] = np.flatnonzero(np.unpackbits(self._bits.view(np.uint8), bitorder="little"))[:most].tolist()
        return found


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
    is_certain = True
    for number in range(feed.drafts + 1):
        length = row.length - feed.drafts + number
        place = row.place_after(length)
        legal = Legal(row, length, None if bits is None else bits[number])
        if is_certain and row.script is not None and not _fits(row.script, place, legal):
            row.error = ScriptFailed(_mismatch(row, row.script, place, length, legal))
            return [*found, RowFailure(row.id, row.error)]
        token = _choice(row, place, legal, vocab_size)
        best = _choice(row, place, range(vocab_size), vocab_size)
        logits = _logits(best, vocab_size) if number in feed.logits else None
        found.append(_report(row, token, vocab_size, logits))
        is_certain = is_certain and number < feed.drafts and row.tokens[length] == token  # behind a wrong draft: unused
    row.tokens.append(token)
    return found


def _fits(script: Script, place: int, legal: Legal) -> bool:
    """Whether the script has something to say where there is a choice. Tokens that are banned come later."""
    if script.reply.bends or len(legal.first(2)) < 2:
        return True
    return any(legal.takes(token) for token, _ in script.choices(place))


def _mismatch(row: ScriptedRow, script: Script, place: int, length: int, legal: Legal) -> str:
    said, left = (
        _TOKENIZER.decode(ids, skip_special_tokens=False)
        for ids in (row.tokens[row.num_prompt : length], script.ids[place % len(script.ids) :])
    )
    shown = ", ".join([repr(_TOKENIZER.decode([token], skip_special_tokens=False)) for token in legal.first(_SHOWN)])
    return (
        f"the reply {reprlib.repr(script.reply.text)} does not fit the constraint of its request: behind {said!r} that "
        f"takes {shown}{', ...' if len(legal.first(_SHOWN + 1)) > _SHOWN else ''}, and of the reply there is {left!r}"
    )


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
