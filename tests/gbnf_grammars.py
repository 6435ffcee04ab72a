"""Random grammars in GBNF, and which texts are theirs by a matcher that is nothing but the definition."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

LETTERS = "abc"


@dataclass(frozen=True)
class Grammar:
    """Rules as nested tuples, and as text."""

    rules: dict[str, tuple]  # type: ignore[type-arg]

    @property
    def text(self) -> str:
        """In GBNF."""
        return "\n".join(f"{name} ::= {_written(body)}" for name, body in self.rules.items())

    def texts(self, longest: int) -> set[str]:
        """Its texts of at most so many letters."""
        every = ["".join(letters) for size in range(longest + 1) for letters in product(LETTERS, repeat=size)]
        return {text for text in every if self.matches(text)}

    def matches(self, text: str) -> bool:
        """Whether `text` is one of its texts: the ends of every rule from every place, until none is new."""
        ends: dict[tuple[str, int], set[int]] = {
            (name, at): set() for name in self.rules for at in range(len(text) + 1)
        }
        is_new = True
        while is_new:
            is_new = False
            for (name, at), known in ends.items():
                found = set(_ends(self.rules[name], text, at, ends))
                is_new = is_new or not found <= known
                known.update(found)
        return len(text) in ends["root", 0]


def _ends(body: tuple, text: str, at: int, ends: dict[tuple[str, int], set[int]]) -> Iterator[int]:  # type: ignore[type-arg]
    kind, *rest = body
    if kind == "text":
        if text.startswith(rest[0], at):
            yield at + len(rest[0])
    elif kind == "set":
        if at < len(text) and (text[at] in rest[0]) != rest[1]:
            yield at + 1
    elif kind == "rule":
        yield from ends[rest[0], at]
    elif kind == "either":
        for part in rest[0]:
            yield from _ends(part, text, at, ends)
    elif kind == "series":
        places = {at}
        for part in rest[0]:
            places = {end for place in places for end in _ends(part, text, place, ends)}
        yield from places
    else:
        yield from _ends_repeated(rest, text, at, ends)


def _ends_repeated(rest: list, text: str, at: int, ends: dict[tuple[str, int], set[int]]) -> set[int]:  # type: ignore[type-arg]
    part, least, most = rest
    places = {at}
    seen = set(places) if least == 0 else set()
    for times in range(1, least + len(text) + 2 if most is None else most + 1):
        places = {end for place in places for end in _ends(part, text, place, ends)}
        seen |= places if times >= least else set()
    return seen


def _written(body: tuple) -> str:  # type: ignore[type-arg]
    kind, *rest = body
    if kind == "text":
        return f'"{rest[0]}"'
    if kind == "set":
        return f"[{'^' if rest[1] else ''}{rest[0]}]"
    if kind == "rule":
        return str(rest[0])
    if kind == "either":
        return "(" + " | ".join(map(_written, rest[0])) + ")"
    if kind == "series":
        return " ".join(map(_written, rest[0])) or '""'
    part, least, most = rest
    short = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
    return f"({_written(part)})" + (short or f"{{{least},{'' if most is None else most}}}")


def random_grammar(draw: random.Random) -> Grammar:
    """Small, with rules that share letters, name each other and themselves, and repeat."""
    names = ["root", *[f"r{number}" for number in range(draw.randint(0, 3))]]
    bodies = {name: _body(draw, names[1:] or names, draw.randint(1, 3)) for name in names}
    for name in names[1:]:  # most of them end
        if draw.random() < 0.8:
            bodies[name] = ("either", [bodies[name], ("set", draw.choice(["a", "bc"]), False)])
    return Grammar(bodies)


def _body(draw: random.Random, names: list[str], depth: int) -> tuple:  # type: ignore[type-arg]
    if depth == 0:
        forms = [
            ("text", draw.choice(["", "a", "b", "ab", "ba", "abc"])),
            ("set", draw.choice(["a", "ab", "bc", "abc"]), draw.random() < 0.15),
            ("rule", draw.choice(names)),
        ]
        return draw.choice([forms[0], forms[1], forms[1], forms[2], forms[2]])
    kind = draw.choice(["either", "series", "series", "series", "repeat"])
    if kind == "repeat":
        bounds = draw.choice([(0, None), (1, None), (0, 1), (2, 2), (1, 3), (0, 2), (2, None)])
        return ("repeat", _body(draw, names, depth - 1), *bounds)
    return kind, [_body(draw, names, draw.randint(0, depth - 1)) for _ in range(draw.randint(1, 3))]
