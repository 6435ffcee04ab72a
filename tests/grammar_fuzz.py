"""Hostile constraints: made by seed, compiled, and followed for some tokens. Any error but a typed one ends the run.

`python tests/grammar_fuzz.py FIRST COUNT` prints each seed before its case, so that what kills or hangs it is known.
"""

from __future__ import annotations

import json
import random
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from greenroom.constraints import (
    All,
    Constraint,
    ConstraintCompiler,
    Gbnf,
    JsonSchema,
    Lark,
    Lazy,
    Regex,
    StructTag,
    Tag,
)
from greenroom.errors import InvalidConstraint

STEPS = 30


def wide(count: int = 120) -> tuple[dict[str, Any], bytes]:
    """A schema of many open properties, and a document that has them all."""
    rng = random.Random(1)  # noqa: S311 - no secret
    names = ["".join(rng.choices("abcdefghij_", k=rng.randint(5, 25))) for _ in range(count)]
    schema = {"type": "object", "properties": {name: {"type": ["string", "integer"]} for name in names}}
    return schema, json.dumps(dict.fromkeys(names, "x")).encode()


def regex(draw: random.Random, depth: int = 3) -> str:
    """A regular expression over few letters, with loops."""
    if depth == 0:
        return draw.choice(
            ["a", "b", "ab", " ", "[ab]", "[a]", "[^b]", ".", r"\s", r"\d", "é", "a{2}", "(?:)", '"', "x"]
        )
    part = regex(draw, depth - 1)
    other = regex(draw, draw.randrange(depth))
    forms = [part + other, f"({part}|{other})", f"({part})*", f"({part})+", f"({part})?{other}", f"(?:{part}){{2,}}"]
    return draw.choice(forms)


def terminal(draw: random.Random, names: list[str]) -> str:
    """A terminal's body in Lark."""
    atoms = ['"a"', '"b"', '"ab"', '" "', '"a".."b"', f"/{regex(draw, 2)}/", *names]
    parts = [
        draw.choice(atoms) + draw.choice(["", "", "+", "*", "?", "{2}", "{1,}"]) for _ in range(draw.randint(1, 3))
    ]
    joined = draw.choice([" ", " ", " | ", " & "]).join(parts)
    return draw.choice([joined, f"({joined})+", f"({joined})*"])


def lark(draw: random.Random) -> str:
    """A grammar in which terminals meet each other in every way."""
    terminals = [f"T{number}" for number in range(draw.randint(1, 4))]
    rules = [f"r{number}" for number in range(draw.randint(0, 3))]
    lines = []
    for number, name in enumerate(terminals):
        lines.append(f"{name}{draw.choice(['', '', '', '[lazy]'])}: {terminal(draw, terminals[:number])}")
    for name in ["start", *rules]:
        atoms = [*terminals, *rules, '"a"', '"b"', f"/{regex(draw, 1)}/", "<tool>"]
        bodies = [
            " ".join(draw.choice(atoms) + draw.choice(["", "", "", "+", "*", "?"]) for _ in range(draw.randint(1, 4)))
            for _ in range(draw.randint(1, 3))
        ]
        lines.append(f"{name}: " + draw.choice([" | ", "\n  | "]).join(bodies))
    if draw.random() < 0.3:
        lines.append(f"%ignore {draw.choice([f'/{regex(draw, 1)}/', '/ +/', *terminals])}")
    return "\n".join(lines)


def gbnf(draw: random.Random) -> str:
    """The same in GBNF."""
    names = [f"w{number}" for number in range(draw.randint(1, 4))]
    lines = []
    for number, name in enumerate(["root", *names]):
        atoms = ['"a"', '"ab"', "[ab]", "[a]", "[^a]", '" "', *names[number:]]
        body = [draw.choice(atoms) + draw.choice(["", "", "+", "*", "?", "{1,3}"]) for _ in range(draw.randint(1, 3))]
        lines.append(f"{name} ::= {draw.choice([' ', ' | ']).join(body)}")
    return "\n".join(lines)


def schema(draw: random.Random, depth: int = 3) -> Any:
    """A JSON schema with references, odd numbers and patterns."""
    if depth == 0:
        return draw.choice(
            [
                True,
                {"type": "string", "pattern": f"^{regex(draw, 2)}$"},
                {"type": "integer", "minimum": draw.choice([-1, 10**30, -(10**18), 1.5])},
                {"type": "number", "multipleOf": draw.choice([0.1, 3, 1e-9, 1e300])},
                {"type": "string", "minLength": draw.choice([0, 5, 10**6])},
                {"const": draw.choice(["aaa", None, 1e400, "\ud800", [[[]]]])},
                {"$ref": f"#/$defs/d{draw.randrange(6)}"},
                {"enum": list(range(draw.choice([1, 300])))},
            ]
        )
    part = schema(draw, depth - 1)
    other = schema(draw, draw.randrange(depth))
    return draw.choice(
        [
            {"anyOf": [part, other]},
            {"allOf": [part, other]},
            {"oneOf": [part, other]},
            {"type": "object", "properties": {"a": part, "b": other}, "required": draw.choice([["a"], ["a", "b"], []])},
            {"type": "object", "patternProperties": {f"^{regex(draw, 1)}$": part}},
            {"type": "array", "items": part, "minItems": draw.choice([0, 3, 10**6]), "prefixItems": [other]},
            {"type": "object", "additionalProperties": part, "minProperties": 2},
        ]
    )


def json_schema(draw: random.Random) -> Constraint:
    """A whole schema, whose definitions refer to each other."""
    whole = {"allOf": [schema(draw)], "$defs": {f"d{number}": schema(draw, 2) for number in range(6)}}
    if draw.random() < 0.1:
        whole["x-guidance"] = {"whitespace_pattern": regex(draw, 1)}
    kept = draw.choice([whole, json.dumps(whole)])
    return JsonSchema(kept, whitespace=draw.choice([None, True, regex(draw, 1)]), lenient=draw.random() < 0.7)


def chain(draw: random.Random) -> Constraint:
    """A chain of references or rules, of any length."""
    length = draw.choice([10, 300, 1500, 5000])
    if draw.random() < 0.3:
        rules = [f'r{at}: r{at + 1} "x"?' for at in range(length)]
        return Lark("\n".join(["start: r0", *rules, f'r{length}: "a"']))
    below = {"$ref": "#/$defs/d{}"}
    form = draw.choice(
        [
            below,
            {"anyOf": [below, {"type": "null"}]},
            {"allOf": [below]},
            {"type": "array", "prefixItems": [below]},
            {"type": "object", "properties": {"a": below}, "required": ["a"]},
        ]
    )
    text = json.dumps(form)
    definitions = {f"d{at}": json.loads(text.replace("{}", str(at + 1))) for at in range(length)}
    return JsonSchema({"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{length}": {"type": "integer"}}})


def tag(draw: random.Random) -> Constraint:
    """Terminals of three grammars beside each other."""
    content = draw.choice([Regex(regex(draw)), Lark(lark(draw)), Gbnf(gbnf(draw))])
    return StructTag(Tag(draw.choice(["<tool>", "aa", "("]), content, draw.choice(["", "a", "ab", " "])))


def lazy(draw: random.Random) -> Constraint:
    """Behind a trigger, anything."""
    trigger = 258 if draw.random() < 0.3 else draw.choice(["a", "ab" * 50])
    return Lazy(trigger, constraint(draw))


def constraint(draw: random.Random) -> Constraint:
    """Any of them."""
    makers: list[Callable[[random.Random], Constraint]] = [
        lambda draw: Regex(regex(draw, 4)),
        lambda draw: Gbnf(gbnf(draw)),
        json_schema,
        tag,
        lazy,
        lambda draw: All(Lark(lark(draw)), Regex(regex(draw))),
        lambda draw: chain(draw) if draw.random() < 0.1 else Lark(lark(draw)),
        lambda draw: Lark(lark(draw)),
    ]
    return draw.choice(makers)(draw)


def follow(compiler: ConstraintCompiler, seed: int) -> bool:
    """Compile the constraint of `seed` and draw from its masks; whether it compiled."""
    from vocabularies import filled, ids  # here, because the benchmarks make grammars too, and have such a module

    draw = random.Random(seed)  # noqa: S311 - the same for each seed
    try:
        state = compiler.compile(constraint(draw)).start()
    except InvalidConstraint:
        return False
    for _ in range(STEPS):
        legal = sorted(ids(filled(state)) - {256, 257})
        if state.error is not None or not legal:
            break
        forced = state.forced_tokens()
        token = forced[0] if forced and draw.random() < 0.7 else draw.choice(legal)
        state.consume([token])
        if draw.random() < 0.1 and state.error is None:
            state.rollback(1)
            state.fork().reset()
    return True


def main() -> None:
    """Run the seeds that the command line names."""
    from vocabularies import BYTES

    first, count = map(int, sys.argv[1:])
    warnings.simplefilter("ignore")
    np.seterr(all="raise")
    compiler = ConstraintCompiler(BYTES)
    good = 0
    for seed in range(first, first + count):
        print(seed, end=" ", flush=True)  # noqa: T201 - what was last there is to blame
        good += follow(compiler, seed)
    print(f"\ncompiled {good} of {count}")  # noqa: T201


if __name__ == "__main__":
    main()
