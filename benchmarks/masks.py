"""Masks beside llguidance's own, on the same walks through the same documents: what is ours besides.

For every token of a document a mask is filled twice, in turns: by `LLMatcher.unsafe_compute_mask_ptr`, as
`llguidance.numpy` calls it (for several rows `LLExecutor`'s), and by `fill_masks`. Counted is the least time of each
place over the rounds, so that a busy machine shows the work and not its neighbours. The documents are of schemas with
unbounded strings, with bounded ones, and with numbers and enums. Run it:

    python benchmarks/masks.py --tokenizer path/to/qwen3/tokenizer.json --rounds 15 --rows 1 8
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from vocabularies import QWEN3, QWEN3_LOGITS

from greenroom.constraints import ConstraintCompiler, JsonSchema, Vocabulary
from greenroom.constraints.compiled_grammar import LIMITS
from greenroom.constraints.masks import fill_masks

Times = npt.NDArray[np.float64]
EOS = (151_645, 151_643)


def record(**properties: Any) -> dict[str, Any]:
    """An object of these properties alone, all of them required."""
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


STRING = {"type": "string"}
CASES: dict[str, tuple[Any, str]] = {
    "strings": (
        record(name=STRING, age={"type": "integer"}, email=STRING, tags={"type": "array", "items": STRING}),
        '{"name": "Ada Lovelace of London", "age": 36, "email": "ada@example.org", "tags": ["mathematics", "poetry"]}',
    ),
    "bounded strings": (
        record(name={**STRING, "maxLength": 40}, note={**STRING, "minLength": 5, "maxLength": 100}),
        '{"name": "Ada Lovelace of London, countess, 1", "note": "She wrote the first program of all, and saw far"}',
    ),
    "numbers and enums": (
        record(kind={"enum": ["standard", "express"]}, n={"type": "number"}, ok={"type": "boolean"}, label=STRING),
        '{"kind": "express", "n": -12.5, "ok": true, "label": "one thing and another"}',
    ),
}


def walk(vocabulary: Vocabulary, schema: Any, document: str, rows: int, rounds: int) -> tuple[Times, Times]:
    """The least microseconds of each place: llguidance's own, and ours."""
    constraint = JsonSchema(schema)
    compiled = ConstraintCompiler(vocabulary).compile(constraint)
    prototype = LLMatcher(vocabulary.inner, constraint.grammar(vocabulary), log_level=0, limits=LIMITS)
    executor = LLExecutor()
    out = np.zeros((rows, vocabulary.words), np.uint32)
    tokens = vocabulary.tokenize(document.encode())
    found = np.full((2, len(tokens) + 1), np.inf)
    for turn in range(rounds):
        matchers = [prototype.deep_copy() for _ in range(rows)]
        states = [compiled.start() for _ in range(rows)]

        def own(matchers: list[LLMatcher] = matchers) -> None:
            if rows == 1:
                matchers[0].unsafe_compute_mask_ptr(out[0].ctypes.data, out[0].nbytes)
            else:
                jobs = [(matcher, row) for row, matcher in enumerate(matchers)]
                executor.unsafe_compute_mask_ptr(jobs, out.ctypes.data, out.strides[0], rows)

        def ours(states: list[Any] = states) -> None:
            fill_masks(states, out)

        for place in range(len(tokens) + 1):
            for which in (0, 1) if (turn + place) % 2 else (1, 0):
                found[which, place] = min(found[which, place], timed((own, ours)[which]))
            for matcher, state in zip(matchers, states, strict=True):
                matcher.consume_tokens(tokens[place : place + 1])
                state.consume(tokens[place : place + 1])
    return found[0], found[1]


def timed(work: Callable[[], None]) -> float:
    """Microseconds."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e6


def main() -> None:
    """Walk, and print a table; the last column is of llguidance's own three slices, for one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, default=QWEN3 / "tokenizer.json")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    asked = parser.parse_args()
    text = asked.tokenizer.read_text()
    vocabulary = Vocabulary.from_json(text, QWEN3_LOGITS, EOS)
    usual = Vocabulary.from_json(text, QWEN3_LOGITS, EOS)
    usual.inner = vocabulary.inner.with_slices(LLTokenizer.json_slices())
    print("| walk | rows | own: median, p99 | ours: median, p99 | ratio: median, p99 | usual slices: mean, p99 |")
    print("|---|---|---|---|---|---|")
    for name, (schema, document) in CASES.items():
        plain = walk(usual, schema, document, 1, asked.rounds)[0]
        for rows in asked.rows:
            own, ours = walk(vocabulary, schema, document, rows, asked.rounds)
            middle, high = (np.percentile([own, ours], at, axis=1) for at in (50, 99))
            before = f"{plain.mean():.0f}, {np.percentile(plain, 99):.0f} ({own.mean():.0f} with ours)"
            print(
                f"| {name} | {rows} | {middle[0]:.1f}, {high[0]:.0f} | {middle[1]:.1f}, {high[1]:.0f} "
                f"| {middle[1] / middle[0]:.2f}, {high[1] / high[0]:.2f} | {before if rows == 1 else ''} |"
            )


if __name__ == "__main__":
    main()
