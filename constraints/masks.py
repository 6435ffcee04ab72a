"""The masks of one step: all grammars in one call that gives the GIL away once.

A call per row would ask for the GIL back per row, and a busy event loop may keep it for milliseconds each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLExecutor

from greenroom.constraints.grammar_matcher import GrammarMatcher
from greenroom.constraints.state import Bits, ConstraintState, address, parts, stop_forcing

__all__ = ["Problem", "fill_masks", "is_dead_end", "masked_logits"]


Problem = str | BaseException | None
"""Why a row has no mask: its state's error, or what its code raised that is no `Exception`; None where all is well."""


def fill_masks(states: Sequence[ConstraintState], out: Bits) -> list[Problem]:
    """Write the mask of `states[i]` over `out[i]`; `out` is C-contiguous uint32 `[len(states), words]`.

    Returns for each row why it has no mask: the state's `error`, or what its own code raised; None where all is well.
    Such a row is zero, and no other is touched by it. A row of zeros without an error is a dead end (see
    `is_dead_end`). The states are of one vocabulary, each at most once among them.
    """
    words = out.data
    if words.format != "I" or words.ndim != 2 or len(words) != len(states) or not words.c_contiguous:
        raise ValueError(f"masks of {len(states)} states need contiguous uint32 rows, got {out.dtype} {out.shape}")
    grammars = [state for state in states if isinstance(state, GrammarMatcher)]
    if len(grammars) < len(states):
        return _fill_parts(states, out)
    # The usual case, grammars alone: whatever is done here besides is done for each token that is generated.
    _compute([(matcher, row) for row, state in enumerate(grammars) if (matcher := state.matcher) is not None], words)
    return [state.finish_mask(out, words, row) for row, state in enumerate(grammars)]


def _fill_parts(states: Sequence[ConstraintState], out: Bits) -> list[Problem]:
    """The same for states of any kind."""
    # 1. The first part of every state fills the state's own row.
    members = [parts(state) for state in states]
    errors = _fill([first for first, *_ in members], out)
    owners = [row for row, several in enumerate(members) for _ in several[1:]]
    if not owners:
        return errors
    # 2. The other parts of those that have several fill rows beside, which are ANDed into their owner's.
    spare = np.empty((len(owners), out.shape[1]), np.uint32)
    found = _fill([part for _, *others in members for part in others], spare)
    for row, mask, error in zip(owners, spare, found, strict=True):
        out[row] &= mask
        errors[row] = errors[row] or error
    # 3. Parts that forced one text in different tokens left nothing in common: without forcing they are filled again.
    for row in set(owners):
        if errors[row] is None and not out[row].any() and stop_forcing(members[row]):
            errors[row] = _outcome(states[row], out[row])
    return errors


def is_dead_end(state: ConstraintState, row: Bits) -> bool:
    """Whether `row`, the mask that `state` filled, allows nothing at all while the state has no error."""
    return state.error is None and not row.any()


def _fill(states: Sequence[ConstraintState], rows: Bits) -> list[Problem]:
    words = rows.data
    grammars = [(state, row) for row, state in enumerate(states) if isinstance(state, GrammarMatcher)]
    _compute([(state.matcher, row) for state, row in grammars if state.matcher is not None], words)
    for state, row in grammars:
        state.finish_mask(rows, words, row)
    return [_outcome(state, row) for state, row in zip(states, rows, strict=True)]


def _compute(jobs: list[tuple[Any, int]], words: memoryview) -> None:
    """Have each matcher write its row, in one call."""
    if not jobs:
        return
    size = words.nbytes // len(words)
    if len(jobs) == 1:
        [(matcher, row)] = jobs
        matcher.unsafe_compute_mask_ptr(address(words) + row * size, size)
    else:
        _executor().unsafe_compute_mask_ptr(jobs, address(words), size, len(words))


def _outcome(state: ConstraintState, row: Bits) -> Problem:
    """The state's error; a state that is no matcher fills its row first."""
    error: Problem
    try:
        if not isinstance(state, GrammarMatcher):
            state.fill_mask(row)
        error = state.error
    except Exception as failure:  # noqa: BLE001 - a user's state may raise anything, and only its row pays
        error = f"{type(failure).__name__}: {failure}"
    except BaseException as failure:  # noqa: BLE001 - likewise: on the engine's thread nobody else is meant
        error = failure
    if error is not None:
        row[:] = 0
    return error


@cache
def _executor() -> LLExecutor:
    """One pool of threads for the process; they live as long as it does."""
    return LLExecutor()


def masked_logits(row: npt.NDArray[np.float32], bits: Bits) -> npt.NDArray[np.float32]:
    """`row` with minus infinity where `bits` forbids a token."""
    allowed = np.unpackbits(bits.view(np.uint8), bitorder="little")[: len(row)]
    return np.where(allowed.astype(bool), row, np.float32(-np.inf))
