"""What a grammar engine behind an address costs: a mask and a consumed token, beside llguidance's own classes.

Every way walks the same JSON document in the tokenizer's own tokens: a mask, then the token. `direct` is llguidance's
`LLMatcher`, `our own constraint` is `JsonSchema`, `native` and `callbacks` are llguidance exported as a CBISON factory
and taken back by its address. Without a tokenizer the vocabulary is bytes. Run it:

    python benchmarks/cbison.py --tokenizer path/to/qwen3/tokenizer.json --rounds 15
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import llguidance.numpy
import numpy as np
from harness import Bench, Case, Peer, arguments, run
from llguidance import LLMatcher
from records import Record

from greenroom.constraints import Cbison, ConstraintCompiler, ConstraintState, JsonSchema, Vocabulary
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


OURS = "our own constraint"
WAYS = ("direct", OURS, "native", "callbacks")


class Way(NamedTuple):
    """How one engine is asked: a state at the start, its mask, its next token."""

    start: Callable[[], Any]
    fill: Callable[[Any], None]
    consume: Callable[[Any, int], None]


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
    grammars = ConstraintCompiler(vocabulary)
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

    yield OURS, Way(grammars.compile(JsonSchema(schema)).start, fill, consume)
    for name, native in (("native", True), ("callbacks", False)):
        export = stack.enter_context(llguidance_cbison_factory(vocabulary, native=native))
        factory = CbisonFactory.from_address(export.address, owned=False)
        stack.callback(factory.close, defer=True)
        yield name, Way(grammars.compile(Cbison(factory, "json_schema", text)).start, fill, consume)


def walk(way: Way, tokens: list[int], *, is_mask: bool) -> Record:
    """One document: the seconds that its masks took, or its consumed tokens."""
    state, clock = way.start(), time.perf_counter
    masks = consumes = 0.0
    for token in tokens:
        begin = clock()
        way.fill(state)
        filled = clock()
        way.consume(state, token)
        masks += filled - begin
        consumes += clock() - filled
    return Record(masks if is_mask else consumes, len(tokens))


async def measure(vocabulary: Vocabulary, name: str, schema: str, bench: Bench) -> None:
    """Every way over one schema's document."""
    tokens = vocabulary.tokenize(documents(bench.sized(25, 2))[schema].encode())
    case = f"{schema}, {name}"
    with ExitStack() as stack:
        named = dict(ways(vocabulary, SCHEMAS[schema], stack))
        for verb, is_mask in (("mask", True), ("consume", False)):
            peers: dict[str, Peer] = {key: partial(walk, way, tokens, is_mask=is_mask) for key, way in named.items()}
            rounds = await bench.interleave(f"{case}: {verb}", peers)
            for way in ("native", "callbacks"):
                bench.add(case, f"{verb}: {way} ÷ direct", rounds.ratios(way, "direct", microseconds))
            bench.add(case, f"{verb}: native ÷ {OURS}", rounds.ratios("native", OURS, microseconds))
            for way in WAYS:
                bench.add(case, f"{verb}: {way}", rounds.each(way, microseconds), "µs")


def microseconds(record: Record) -> float:
    """Of one token."""
    return 1e6 * record.seconds / record.tokens


def vocabulary_of(options: argparse.Namespace) -> tuple[Vocabulary, str]:
    """The tokenizer named, or every byte where none is."""
    if options.smoke or options.tokenizer is None:
        words = [bytes([byte]) for byte in range(256)]
        return Vocabulary.from_tokens(words, special=(), n_vocab=258, eos=[256, 257]), "bytes"
    vocabulary = Vocabulary.from_json(options.tokenizer.read_text(), options.n_vocab, options.eos)
    return vocabulary, f"{vocabulary.n_vocab // 1000}k"


def cases(options: argparse.Namespace) -> dict[str, Case]:
    """Every schema."""
    vocabulary, name = vocabulary_of(options)
    return {schema: partial(measure, vocabulary, name, schema) for schema in SCHEMAS}


if __name__ == "__main__":
    parser = arguments("a grammar engine behind an address")
    parser.add_argument("--tokenizer", type=Path, help="a Hugging Face tokenizer.json (default: bytes)")
    parser.add_argument("--n-vocab", type=int, default=151936, help="the width of the logits")
    parser.add_argument("--eos", type=int, nargs="+", default=[151645, 151643], help="the ids that end a turn")
    chosen = parser.parse_args()
    sys.exit(run("an engine behind an address: ratios of time, below 1 is faster", cases(chosen), chosen))
