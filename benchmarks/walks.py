"""Many copies of one grammar, walked at random side by side: whether any meets an error of the lexer they share.

Half of the copies have a mask before each token, the others are asked about one token after the other. The grammars are
those of `../shared/assets/structured`, where that is, made-up ones, and one of 240 open properties. Run it:

    python benchmarks/walks.py --grammars 200 --copies 64 --tokens 100000 --seed 7

`--tokens` are those of the grammar of open properties; every other one is walked for a hundredth of them.
"""

from __future__ import annotations

import argparse
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from fuzz_grammars import BYTES, WIDTH, constraint, real
from grammar_fuzz import wide

from greenroom.constraints import Constraint, ConstraintCompiler, ConstraintState, Gbnf, JsonSchema, Lark
from greenroom.errors import GreenroomError

LONGEST = 2000
"""Tokens after which a copy begins anew."""
_USUAL = list(b'"",:{}[]aeixz_ 0127\n')
Rng = random.Random


def grammars(count: int, rng: Rng) -> Iterator[Callable[[], Constraint]]:
    """Grammars to be made: up to half of `count` real ones, then made-up ones for ever."""
    kinds: list[tuple[str, Any]] = [("json", JsonSchema), ("gbnf", Gbnf), ("lark", Lark)]
    texts = [(make, text) for kind, make in kinds for text in real(kind)]
    for make, text in rng.sample(texts, min(len(texts), count // 2)):
        yield partial(make, text)
    while True:
        yield partial(constraint, rng)


def walk(compiler: ConstraintCompiler, given: Constraint, copies: int, tokens: int, rng: Rng) -> Iterator[str]:
    """How each walk of a copy ended."""
    compiled = compiler.compile(given)
    rows: list[tuple[ConstraintState, bool, int]] = [(compiled.start(), at % 2 == 0, 0) for at in range(copies)]
    for at in range(tokens):
        state, masked, length = rows[at % copies]
        token = _masked(state, rng) if masked else _asked(state, rng)
        if token is not None:
            state.consume([token])
        if state.error is not None or token is None or length == LONGEST:
            yield _ending(state, token)
            state, length = compiled.start(), 0
        rows[at % copies] = state, masked, length + 1


def _ending(state: ConstraintState, token: int | None) -> str:
    if state.error is not None:
        return state.error
    return "cut" if token is not None else "complete" if state.is_accepting else "no way on"


def _masked(state: ConstraintState, rng: Rng) -> int | None:
    row = np.zeros(-(-WIDTH // 32), np.uint32)
    state.fill_mask(row)
    legal = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little"))
    legal = legal[(legal < 256) | (legal == 258)]
    return int(rng.choice(legal.tolist())) if legal.size else None


def _asked(state: ConstraintState, rng: Rng) -> int | None:
    """No mask is filled: what JSON is made of is tried first, a byte after the other, then the others."""
    order = [*rng.sample(_USUAL, len(_USUAL)), *range(9, 256)]
    return next((token for token in order if state.validate([token])), None)


def main() -> None:
    """Walk, and say how walks ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("grammars", 200), ("copies", 64), ("tokens", 100_000), ("seed", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    rng = Rng(given.seed)
    compiler = ConstraintCompiler(BYTES, capacity=1)  # lexers that were walked far are large
    ends: Counter[str] = Counter(walk(compiler, JsonSchema(wide(240)[0]), given.copies, given.tokens, rng))
    walked, refused = 1, 0
    for make in grammars(given.grammars, rng):
        if walked == given.grammars:
            break
        try:
            made = make()
            found = Counter(walk(compiler, made, given.copies, given.tokens // 100, rng))
        except GreenroomError:
            refused += 1
            continue
        walked += 1
        ends += found
        for error in found.keys() - {"cut", "complete", "no way on"}:
            print(f"{made!r}: {error[:200]}", flush=True)
    print(f"{walked} grammars walked, {refused} refused; {sum(ends.values())} walks ended: {dict(ends)}")


if __name__ == "__main__":
    main()
