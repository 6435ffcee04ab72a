"""Grammars by seed: made up, or real ones with changes; compiled, and followed for some tokens."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_values import anything

from greenroom.constraints import (
    All,
    Choice,
    Constraint,
    ConstraintCompiler,
    Gbnf,
    JsonSchema,
    Lark,
    Lazy,
    Regex,
    StructTag,
    Tag,
    Vocabulary,
)

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))  # where hostile grammars are made for the tests
import grammar_fuzz  # noqa: E402

__all__ = ["BYTES", "change_json", "change_text", "constraint", "follow"]

Rng = random.Random
REAL = ROOT.parent / "shared" / "assets" / "structured"
WIDTH = 300
"""Of the logits; the vocabulary knows fewer ids."""
BYTES = Vocabulary.from_tokens(
    [*[bytes((byte,)) for byte in range(256)], b"<end>", b"<stop>", b"<tool>"],
    special=[256, 257, 258],
    n_vocab=WIDTH,
    eos=[256, 257],
    encode=lambda text: list(text.encode()),
)
STEPS = 20
PIECES = ["(", ")", "[", "]", "{", "}", "*", "+", "?", "|", "\\", '"', "/", ":", "::=", "\n", "\0", "é", "{999999}"]
PIECES += ["(?i)", "(?=", "[^", r"\p{L}", "%ignore ", "%import ", "<[1]>", "<tool>", "&", "~", "..", "$ref", "a" * 200]
KEYWORDS = ["type", "properties", "items", "pattern", "anyOf", "allOf", "oneOf", "not", "$ref", "enum", "const", "if"]
KEYWORDS += ["minItems", "maxItems", "minLength", "multipleOf", "required", "format", "$defs", "x-guidance", "$id"]
LEAVES: list[Any] = [None, True, 0, -1, 10**30, 1e308, "", "string", "#", "#/$defs/d0", "^(a+)+$", [], {}, [[]], 2**63]


@cache
def real(kind: str) -> tuple[str, ...]:
    """Grammars of others that were laid beside the project, by how their files end; none where there are none."""
    if not REAL.is_dir():
        return ()
    texts = [path.read_text(errors="replace") for path in sorted(REAL.rglob(f"*.{kind}"))]
    if kind != "json":
        return tuple(texts)
    suites = [json.loads(text) for text in texts]
    groups = [group for suite in suites if isinstance(suite, list) for group in suite if isinstance(group, dict)]
    return tuple([json.dumps(group["schema"]) for group in groups if "schema" in group])


def change_text(rng: Rng, text: str) -> str:
    """Some places of it are dropped, doubled, swapped or filled with others."""
    for _ in range(rng.randint(0, 4)):
        at = rng.randint(0, len(text))
        to = min(len(text), at + rng.choice([0, 1, 1, 3, 20]))
        filling = rng.choice([*PIECES, "", text[at:to] * 2, text[at - 9 : at]])
        text = text[:at] + filling + text[to:]
    return text


def change_json(rng: Rng, node: Any, leaves: list[Any] = LEAVES, words: list[str] = KEYWORDS) -> Any:
    """A copy, in which about one place has another value or another name."""
    if rng.random() < 0.1:
        return rng.choice(leaves)
    if isinstance(node, dict) and node:
        made = dict(node)
        name = rng.choice(list(made))
        match rng.randrange(6):
            case 0:
                made[rng.choice(words)] = made.pop(name)
            case 1:
                made[rng.choice(words)] = rng.choice([*leaves, node])
            case 2:
                del made[name]
            case _:
                made[name] = change_json(rng, made[name], leaves, words)
        return made
    if isinstance(node, list) and node:
        at = rng.randrange(len(node))
        return [*node[:at], change_json(rng, node[at], leaves, words), *node[at + rng.randint(0, 1) :]]
    return rng.choice([node, *leaves])


def _changed(rng: Rng) -> Constraint:
    """A real grammar, changed; a made-up one where there is none."""
    match rng.randrange(4):
        case 0:
            return Lark(change_text(rng, rng.choice(real("lark") or (grammar_fuzz.lark(rng),))))
        case 1:
            return Gbnf(change_text(rng, rng.choice(real("gbnf") or (grammar_fuzz.gbnf(rng),))))
        case 2:
            return Regex(change_text(rng, grammar_fuzz.regex(rng, 4)))
        case _:
            schema = json.loads(rng.choice(real("json") or (json.dumps(grammar_fuzz.schema(rng)),)))
            for _ in range(rng.randint(0, 3)):
                schema = change_json(rng, schema)
            return JsonSchema(schema, lenient=rng.random() < 0.7)


def _misused(rng: Rng) -> Constraint:
    """A constraint of values that it does not take."""
    makers: list[Callable[..., Any]] = [Regex, Lark, Gbnf, Choice, JsonSchema, All]
    makers += [
        lambda given: Choice("a", given),
        lambda given: Lazy(given, Regex("a")),
        lambda given: Lazy("a", given),
        lambda given: Tag(given, Regex("a")),
        lambda given: StructTag(Tag("a", given)),
        lambda given: StructTag(Tag("a", Regex("b"), given)),
        lambda given: StructTag(Tag("a", Regex("b"), "c", given)),
        lambda given: StructTag(Tag("a", Regex("b")), required=given),
        StructTag,
        lambda given: JsonSchema({"type": "string"}, whitespace=given),
        lambda given: JsonSchema({"type": "string"}, separators=given),
        lambda given: JsonSchema({"type": "string"}, lenient=given),
        lambda given: JsonSchema({rng.choice(KEYWORDS): given}),
    ]
    made: Constraint = rng.choice(makers)(anything(rng))
    return made


def constraint(rng: Rng) -> Constraint:
    """Any constraint."""
    return rng.choice([grammar_fuzz.constraint, _changed, _changed, _misused])(rng)


def follow(compiler: ConstraintCompiler, rng: Rng) -> str:
    """Compile one and draw from its masks. Raises what greenroom raises."""
    state = compiler.compile(constraint(rng)).start()
    row = np.zeros(-(-WIDTH // 32), np.uint32)
    for _ in range(STEPS):
        row[:] = 0xDEADBEEF
        state.fill_mask(row)
        legal = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little"))
        if legal.size and legal[-1] >= WIDTH:
            raise RuntimeError(f"the mask allows {legal[-1]}, which no logit has")
        legal = legal[(legal < 256) | (legal > 257)]
        if state.error is not None or not legal.size:
            break
        forced = state.forced_tokens()
        state.consume([forced[0] if forced and rng.random() < 0.7 else int(rng.choice(legal.tolist()))])
        if rng.random() < 0.1 and state.error is None:
            state.rollback(1)
            state.fork().reset()
    return "compiled"
