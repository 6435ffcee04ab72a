"""A foreign engine's matcher as the constraint of one request.

Nothing that an engine says is believed without a look: a return code that its header does not know, a count outside its
range, an error kept silent, all put this state, and this state alone, into error. Ids are checked before the engine
sees them, since one outside the vocabulary breaks some engines' matchers for good.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NoReturn

from greenroom.constraints.cbison import emulation
from greenroom.constraints.cbison.counts import Closable
from greenroom.constraints.cbison.emulation import Grammar
from greenroom.constraints.cbison.engine import CbisonEngine, MatcherHandle, error_of
from greenroom.constraints.cbison.masks import MaskCompletion, row_address
from greenroom.constraints.state import Bits, ConstraintState
from greenroom.errors import FactoryClosed, IncompatibleEngine

__all__ = ["CbisonMatcher"]


class CbisonMatcher(Closable, ConstraintState):
    """One request's state in a CBISON engine; made by `CbisonFactory.matcher`.

    It keeps its factory alive and is freed by `close()`, at the end of its `with` block, or when it is dropped. Where
    the engine lacks `rollback`, `reset`, `clone_matcher` or `validate_tokens`, they are emulated from the grammar's
    text and the tokens so far, at the cost of consuming those again.
    """

    def __init__(
        self,
        engine: CbisonEngine,
        grammar: Grammar,
        finish: MaskCompletion,
        handle: MatcherHandle | None,
        *,
        failure: str | None = None,
    ) -> None:
        self._engine = engine
        self._grammar = grammar
        self._finish = finish
        self._failure = failure
        self._history: list[int] = []
        self._handle = handle
        self._pointer = handle.pointer if handle else 0
        self.is_closed = False
        """Whether `close` was called."""

    def fill_mask(self, out: Bits) -> None:
        """Write the legal next ids over all of `out`, which may be wider than the engine's vocabulary.

        Raises `ValueError` for a row that is too narrow, or no contiguous writable uint32. It is all zero where the
        engine says that it failed; an error that only `error` tells of leaves it undefined.
        """
        engine = self._engine
        address = row_address(out, engine.num_words)
        if self.is_failed:
            out.fill(0)
            return
        code = engine.slots.compute_mask(self._pointer, address, engine.mask_bytes)
        if code:
            self._fail(f"compute_mask returned {code}")
            out.fill(0)
        else:
            self._finish(out)

    def finish_mask(self, out: Bits) -> None:
        """Complete a row of a batch that succeeded; all zero where this matcher did not."""
        if self.error is None:
            self._finish(out)
        else:
            out.fill(0)

    def consume(self, tokens: Sequence[int]) -> None:
        """Go on by `tokens`. An illegal id, one out of range and an EOS put the state in error."""
        if self.is_failed or not len(tokens):
            return
        num_legal = self._num_in_range(tokens)
        if num_legal < len(tokens):
            self._fail(f"token {tokens[num_legal]} is an EOS, or outside the {self._engine.n_vocab} of the engine")
            return
        batch = array("I", tokens)
        code = self._engine.slots.consume_tokens(self._pointer, batch.buffer_info()[0], len(batch))
        if code:
            self._fail(f"consume_tokens returned {code}")
        else:
            self._history += batch

    def validate(self, tokens: Sequence[int]) -> int:
        """How many of `tokens`, from the first on, are legal; an EOS and an id out of range are not."""
        if self.is_failed:
            return 0
        legal = tokens[: self._num_in_range(tokens)]
        if not len(legal):
            return 0
        call = self._engine.slots.validate_tokens
        if call is None:
            return self._try_tokens(legal)
        batch = array("I", legal)
        count = call(self._pointer, batch.buffer_info()[0], len(batch))
        return self._check_count(count, len(batch), "validate_tokens")

    def forced_tokens(self) -> tuple[int, ...]:
        """The tokens that must come next; none where the engine cannot tell."""
        call = self._engine.slots.compute_ff_tokens
        if call is None or self.is_failed:
            return ()
        room = 128
        while True:
            batch = array("I", bytes(4 * room))
            count = self._check_count(call(self._pointer, batch.buffer_info()[0], room), room, "compute_ff_tokens")
            # The engine cuts at the end of the buffer without a word.
            if count < room or room >= 1 << 16:
                break
            room *= 4
        return tuple(batch[: self._num_in_range(batch[:count])])

    def rollback(self, count: int) -> None:
        """Take the last `count` tokens back. Raises `ValueError` where there are fewer, changing nothing."""
        kept = len(self._history) - count
        if count < 0 or kept < 0:
            raise ValueError(f"cannot take {count} tokens back, {len(self._history)} were consumed")
        if self.is_failed or not count:
            return
        call = self._engine.slots.rollback
        if call is None:
            self._rewind(kept)
            return
        code = call(self._pointer, count)
        if code:
            self._fail(f"rollback returned {code}")
        else:
            del self._history[kept:]

    def fork(self) -> CbisonMatcher:
        """An independent copy in the same state, of an error too."""
        failure = self.error
        handle = None
        if failure is None:
            try:
                handle = emulation.clone(self._engine, self._grammar, self._pointer, self._history)
            except (emulation.Unable, IncompatibleEngine) as error:
                failure = str(error)
        twin = CbisonMatcher(self._engine, self._grammar, self._finish, handle, failure=failure)
        twin._history = self._history.copy()
        return twin

    def reset(self) -> None:
        """Back to the start; not from an error."""
        if not self.is_failed and self._history:
            self._rewind(0)

    @property
    def is_accepting(self) -> bool:
        """Whether what was consumed is complete as it stands."""
        return not self.is_failed and self._engine.slots.is_accepting(self._pointer) and self.error is None

    @property
    def is_stopped(self) -> bool:
        """Whether nothing but an EOS can follow. The engine says so in error too; this does not."""
        return not self.is_failed and self._engine.slots.is_stopped(self._pointer) and self.error is None

    @property
    def error(self) -> str | None:
        """Why the state cannot go on; None while it can."""
        if not self.is_failed:
            self._failure = error_of(self._engine, self._pointer)
        return self._failure

    @property
    def is_failed(self) -> bool:
        """Whether an error is known already, without asking the engine. Raises `FactoryClosed` once closed."""
        if self.is_closed:
            self._refuse()
        return self._failure is not None

    @property
    def pointer(self) -> int:
        """The engine's own handle; 0 for a copy of an error. Raises `FactoryClosed` once closed."""
        if self.is_closed:
            self._refuse()
        return self._pointer

    def is_of(self, engine: CbisonEngine) -> bool:
        """Whether `engine` made it."""
        return self._engine is engine

    def close(self) -> None:
        """Free the engine's matcher, once; any use afterwards raises `FactoryClosed`."""
        self.is_closed = True
        handle, self._handle, self._pointer = self._handle, None, 0
        if handle:
            handle.close()

    def _refuse(self) -> NoReturn:
        raise FactoryClosed(f"this matcher of {self._engine}")

    def _rewind(self, kept: int) -> None:
        try:
            handle = emulation.rewind(self._engine, self._grammar, self._pointer, self._history[:kept])
        except (emulation.Unable, IncompatibleEngine) as error:
            self._fail(str(error))
            return
        if handle and self._handle:
            self._handle.close()
            self._handle, self._pointer = handle, handle.pointer
        del self._history[kept:]

    def _try_tokens(self, tokens: Sequence[int]) -> int:
        try:
            return emulation.num_legal(self._engine, self._grammar, self._pointer, self._history, tokens)
        except (emulation.Unable, IncompatibleEngine) as error:
            self._fail(str(error))
            return 0

    def _num_in_range(self, tokens: Sequence[int]) -> int:
        """How many of `tokens`, from the first on, are ids that an engine may see."""
        n_vocab, eos_ids = self._engine.n_vocab, self._finish.eos_ids
        for index, token in enumerate(tokens):
            if not 0 <= token < n_vocab or token in eos_ids:
                return index
        return len(tokens)

    def _check_count(self, count: int, limit: int, what: str) -> int:
        if 0 <= count <= limit:
            return count
        self._fail(f"{what} returned {count} of at most {limit}")
        return 0

    def _fail(self, what: str) -> None:
        """Take the engine's own reason, or else `what`."""
        if self._failure is None:
            self._failure = error_of(self._engine, self._pointer) or what

    def __repr__(self) -> str:
        # The engine may have it in another thread's hands just now: it is not asked.
        failure = self._failure and self._failure.partition("\n")[0]
        where = "closed" if self.is_closed else failure or f"{len(self._history)} tokens consumed"
        return f"<CbisonMatcher of {self._engine}: {where}>"
