"""What a grammar engine behind an address costs: microseconds of a mask and of a consumed token, ways side by side.

    python benchmarks/cbison.py --tokenizer path/to/tokenizer.json --n-vocab 151936 --eos 151645 151643

Every way walks the same JSON document in the tokenizer's own tokens: a mask, then the token. Ways alternate within a
round, and each ratio is of one round.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import llguidance.numpy
import numpy as np
from llguidance import LLMatcher

from greenroom.constraints import Cbison, ConstraintState, Grammars, JsonSchema, Vocabulary
from greenroom.constraints.cbison import CbisonFactory, llguidance_cbison_factory

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 60},
        "mail": {"type": "string", "format": "email"},
        "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "role": {"enum": ["admin", "editor", "reader"]},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        "address": {
            "anyOf": [
                {"type": "null"},
                {
                    "type": "object",
                    "properties": {"street": {"type": "string"}, "number": {"type": "integer"}},
                    "required": ["street", "number"],
                    "additionalProperties": False,
                },
            ]
        },
    },
    "required": ["name", "mail", "code", "age", "role", "tags", "address"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "people": {
        "type": "object",
        "properties": {"people": {"type": "array", "items": PERSON}},
        "required": ["people"],
        "additionalProperties": False,
    },
    "numbers": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
}


class Way(NamedTuple):
    """How one engine is asked: a state at the start, its mask, its next token."""

    start: Callable[[], Any]
    fill: Callable[[Any], None]
    consume: Callable[[Any, int], None]


class Times(NamedTuple):
    """Means over one walk, in microseconds."""

    mask: float
    consume: float


def documents(num_people: int) -> dict[str, str]:
    """A document of each schema."""
    draw = random.Random(7)  # noqa: S311 - the same document each time
    people = [
        {
            "name": f"Ada Number {at}",
            "mail": f"ada.{at}@example.org",
            "code": f"AB-{draw.randrange(10**4):04}",
            "age": draw.randrange(120),
            "role": draw.choice(["admin", "editor", "reader"]),
            "tags": ["mathematics", "machines", "a longer tag, with words"][: at % 4],
            "address": None if at % 3 == 0 else {"street": "St. James's Square", "number": at},
        }
        for at in range(num_people)
    ]
    numbers = [[draw.randrange(10**6) for _ in range(8)] for _ in range(num_people * 2)]
    return {"people": json.dumps({"people": people}), "numbers": json.dumps(numbers)}


def ways(vocabulary: Vocabulary, schema: dict[str, Any], stack: ExitStack) -> Iterator[tuple[str, Way]]:
    """Llguidance's own classes, our constraint, and both exported factories through their addresses."""
    row = np.zeros(vocabulary.words, np.uint32)
    signed = row.view(np.int32)[None]
    text = json.dumps(schema)
    grammars = Grammars(vocabulary)
    first = LLMatcher(vocabulary.inner, LLMatcher.grammar_from_json_schema(text), log_level=0)
    yield (
        "direct",
        Way(
            first.deep_copy,
            lambda matcher: llguidance.numpy.fill_next_token_bitmask(matcher, signed, 0),
            lambda matcher, token: matcher.consume_token(token),
        ),
    )

    def fill(state: ConstraintState) -> None:
        state.fill_mask(row)

    def consume(state: ConstraintState, token: int) -> None:
        state.consume((token,))

    yield "constraint", Way(grammars.compile(JsonSchema(schema)).start, fill, consume)
    for name, native in (("native", True), ("callbacks", False)):
        export = stack.enter_context(llguidance_cbison_factory(vocabulary, native=native))
        factory = CbisonFactory.from_address(export.address, owned=False)
        stack.callback(factory.close, defer=True)
        yield name, Way(grammars.compile(Cbison(factory, "json_schema", text)).start, fill, consume)


def walk(way: Way, tokens: list[int]) -> Times:
    """One document."""
    state, clock = way.start(), time.perf_counter
    masks = consumes = 0.0
    for token in tokens:
        begin = clock()
        way.fill(state)
        filled = clock()
        way.consume(state, token)
        masks += filled - begin
        consumes += clock() - filled
    return Times(1e6 * masks / len(tokens), 1e6 * consumes / len(tokens))


def measure(vocabulary: Vocabulary, schema: str, document: str, rounds: int) -> list[dict[str, Any]]:
    """Figures of every way for one schema."""
    tokens = vocabulary.tokenize(document.encode())
    with ExitStack() as stack:
        named = dict(ways(vocabulary, SCHEMAS[schema], stack))
        for way in named.values():
            walk(way, tokens)
        found = [{name: walk(way, tokens) for name, way in named.items()} for _ in range(rounds)]
    return [
        {
            "schema": schema,
            "way": name,
            "tokens": len(tokens),
            "mask_us": statistics.median(each[name].mask for each in found),
            "consume_us": statistics.median(each[name].consume for each in found),
            "mask_ratios": sorted(each[name].mask / each["direct"].mask for each in found),
        }
        for name in named
    ]


def vocabulary_of(arguments: argparse.Namespace) -> Vocabulary:
    """The tokenizer named, or every byte where none is."""
    if arguments.tokenizer is None:
        return Vocabulary.from_tokens([bytes([at]) for at in range(256)], special=(), n_vocab=258, eos=[256, 257])
    return Vocabulary.from_json(arguments.tokenizer.read_text(), arguments.n_vocab, arguments.eos)


def main() -> None:
    """Measure, print a table, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, help="a Hugging Face tokenizer.json; without it, bytes")
    parser.add_argument("--n-vocab", type=int, default=151936)
    parser.add_argument("--eos", type=int, nargs="+", default=[151645, 151643])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--people", type=int, default=25)
    parser.add_argument("--smoke", action="store_true", help="one short round, over bytes")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.tokenizer, arguments.rounds, arguments.people = None, 1, 2
    vocabulary = vocabulary_of(arguments)
    figures = [
        figure
        for schema, document in documents(arguments.people).items()
        for figure in measure(vocabulary, schema, document, arguments.rounds)
    ]
    print("| schema | way | mask, µs | consume, µs | mask ÷ direct |")
    print("|---|---|---|---|---|")
    for figure in figures:
        ratios = figure["mask_ratios"]
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        row = (figure["schema"], figure["way"], f"{figure['mask_us']:.1f}", f"{figure['consume_us']:.1f}", ratio)
        print(f"| {' | '.join(row)} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
