"""Whether rows of a batch, rows alone and mlx-lm draw the same tokens, and what counts as wrong where they do not.

Each prompt is gone on with greedily, and compared up to the first token that differs: behind that, two rows answer two
prompts. On a CPU in float32 tokens are equal, but where mlx-lm's own two best lie within `TIE` of each other. Elsewhere
the kernels differ by the number of rows, and logits are equal up to rounding: wrong is a row whose log-probability of a
token that it drew is further from mlx-lm's, for the same tokens before it, than `SHARE` of the spread of the logits, or
that drew a token which mlx-lm finds less likely than its own by twice that. It is what the probe at load allows, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from greenroom.doctor.findings import Finding
from greenroom.events import Token

__all__ = ["Agreement", "compare", "judge"]

TIE = 1e-4
SHARE = 0.02
Drawn = Sequence[tuple[int, npt.NDArray[np.float32]]]
"""Tokens of mlx-lm's, each with the log-probabilities of all tokens at its place."""


class Agreement(NamedTuple):
    """One row beside mlx-lm's: how many of `drawn` tokens are equal, and by how much the numbers differ.

    `deviation` is the largest difference of a log-probability, `gap` how much less likely than its own mlx-lm finds the
    first token that differs, `allowed` what rounding may come to.
    """

    equal: int
    drawn: int
    deviation: float
    gap: float
    allowed: float

    @property
    def is_wrong(self) -> bool:
        """More than rounding."""
        is_close = self.deviation <= self.allowed and self.gap <= 2 * self.allowed
        return not is_close  # what is not a number is not close


def compare(mine: Sequence[Token], theirs: Drawn, *, is_exact: bool) -> Agreement:
    """`mine` beside mlx-lm's tokens behind the same prompt."""
    if len(mine) != len(theirs):
        raise ValueError(f"{len(mine)} tokens were drawn, mlx-lm drew {len(theirs)}")
    equal, deviation, gap, allowed = 0, 0.0, 0.0, TIE
    for token, (expected, logprobs) in zip(mine, theirs, strict=True):
        if token.logprob is None:
            raise ValueError("a token came without its log-probability")
        if not is_exact:
            finite = logprobs[np.isfinite(logprobs)]
            allowed = max(allowed, TIE + SHARE * float(finite.max() - finite.min()))
        deviation = _larger(deviation, abs(token.logprob - float(logprobs[token.id])))
        if token.id != expected:
            gap = float(logprobs[expected] - logprobs[token.id])
            break
        equal += 1
    return Agreement(equal, len(mine), deviation, gap, allowed)


def _larger(a: float, b: float) -> float:
    """What is not a number is larger than any."""
    return b if b != b or b > a else a  # noqa: PLR0124 - only what is not a number differs from itself


def judge(rows: Iterable[tuple[str, Agreement]], *, is_exact: bool) -> Finding:
    """The finding of all rows, each under the name of the way it was run."""
    found = [*rows]
    wrong = {way for way, agreement in found if agreement.is_wrong}
    whole = sum(agreement.equal == agreement.drawn for _, agreement in found)
    deviation = float(np.max([agreement.deviation for _, agreement in found]))
    rule = "exactly" if is_exact else "up to rounding"
    verdict = f"{' and '.join(sorted(wrong))} not as mlx-lm's" if wrong else f"as mlx-lm's, {rule}"
    summary = f"{verdict}: {whole} of {len(found)} rows token for token, log-probabilities within {deviation:.2g}"
    return Finding(
        check="equality",
        status="wrong" if wrong else "ok",
        summary=summary,
        figures={
            "rule": rule,
            "rows": len(found),
            "equal_rows": whole,
            "tokens": sum(agreement.drawn for _, agreement in found),
            "equal_tokens": sum(agreement.equal for _, agreement in found),
            "deviation": deviation,
            "gap": float(np.max([agreement.gap for _, agreement in found])),
            "allowed": max(agreement.allowed for _, agreement in found),
        },
    )
