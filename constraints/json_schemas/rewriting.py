"""JSON Schema in the part of it that llguidance enforces, with the same meaning.

llguidance knows no `not`, no `if`, no `oneOf` whose alternatives it cannot tell apart, nothing that depends on what
other keywords saw. Much of that can be said in other words: `if` is either it with `then` or its opposite with `else`;
`oneOf` is each alternative and none of those that may fit as well; a property that is needed beside another either
comes with it or the other is away. What is left of a schema is asked of llguidance; what cannot be said is refused
here, with its place. Nothing that a schema asserts is dropped, unless the caller is lenient, who is then told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

from greenroom.constraints.json_schemas.arrays import arrays_with, distinct_arrays, most_items
from greenroom.constraints.json_schemas.cases import counted, discriminated
from greenroom.constraints.json_schemas.circles import Circles
from greenroom.constraints.json_schemas.emptiness import Prover
from greenroom.constraints.json_schemas.evaluated import TooManyWaysError, Way, ways
from greenroom.constraints.json_schemas.formats import ENFORCED, PATTERNS, beyond_grammars
from greenroom.constraints.json_schemas.keywords import (
    EVERYTHING,
    KEYWORDS,
    LISTS,
    MAPS,
    SINGLES,
    Part,
    Parts,
    kinds,
    type_names,
)
from greenroom.constraints.json_schemas.names import names_pattern
from greenroom.constraints.json_schemas.negation import NoOppositeError, opposite
from greenroom.errors import UnsupportedKeyword

__all__ = ["Rewriter", "Rewritten"]

LENIENT = "or leave it out with JsonSchema(..., lenient=True), which says so"

_DEEPEST_CIRCLE = 8
"""Parts in each other that are spelt out."""
_FEW = 8
"""Combinations of alternatives that llguidance may make by itself."""
_MOST_COMBINED = 256
_MOST_PAIRS = 400
"""Pairs of alternatives that may overlap, of one `oneOf`."""
_LONGEST = 8
"""Items of an array whose places are told apart."""
_CONDITIONAL = frozenset(["if", "then", "else", "not", "oneOf", "dependentRequired", "dependentSchemas"])


class RootedParts(Parts, Protocol):
    """What a `Document` is here."""

    @property
    def root(self) -> Part:
        """The whole schema."""

    def place(self, part: object, /) -> str | None:
        """Where the part stands in the user's schema; None for one that was made of others."""

    def is_elsewhere(self, place: str, /) -> bool:
        """Whether what stands there was brought by a reference to another document."""


@dataclass(frozen=True)
class Rewritten:
    """The schema for llguidance, and what of the user's it leaves out."""

    schema: dict[str, Any]
    warnings: tuple[str, ...]
    places: Mapping[int, str]
    """Where each object in `schema`, by its identity, comes from."""


@dataclass
class _Node:
    """One part on its way to llguidance's words."""

    part: Mapping[str, Any]
    kinds: frozenset[str]
    out: dict[str, Any] = field(default_factory=dict)
    conjuncts: list[Any] = field(default_factory=list)
    """Schemas of llguidance's that hold as well."""
    choices: list[list[Part]] = field(default_factory=list)
    """Parts of which one has to hold, of each list."""

    def apart_from(self, kind: str) -> list[Part]:
        """A part that any value but one of that kind fits, where there may be one."""
        others = self.kinds - {kind}
        return [{"type": type_names(others)}] if others else []


class Rewriter:
    """Rewrites one document. With `coerce`, `oneOf` means `anyOf`, since something else decides in the end.

    Raises `UnsupportedKeyword` for what cannot be said, and `InvalidSchema` as the document does.
    """

    def __init__(self, document: RootedParts, *, lenient: bool = False, coerce: bool = False) -> None:
        self._document = document
        self._lenient = lenient
        self._coerce = coerce
        self._prover = Prover(document)
        self._done: dict[int, Any] = {}
        self._kept: list[Part] = []
        self._names: dict[str, str] = {}
        self._nevers: dict[str, bool] = {}
        self._circles = Circles(document)
        self._own: dict[str, Any] = {}
        """Parts that lead back to themselves with more to say, each a definition."""
        self._spelling_out = 0
        self._waiting: list[str] = []
        self._warnings: dict[str, None] = {}
        self._places: dict[int, str] = {}
        self._way: list[str] = [""]
        """Where the parts around the one at hand stand."""

    def __repr__(self) -> str:
        return f"<Rewriter definitions={len(self._names)} warnings={len(self._warnings)}>"

    def rewrite(self) -> Rewritten:
        """The whole schema."""
        root = self._of(self._document.root)
        definitions: dict[str, Any] = {}
        while self._waiting:
            key = self._waiting.pop()
            definitions[self._names[key]] = self._of(self._document.target(key))
        definitions |= self._own
        whole = {"allOf": [False]} if root is False else {} if root is True else root
        schema = {**whole, **({"$defs": definitions} if definitions else {})}
        return Rewritten(schema, tuple(self._warnings), {**self._places, id(schema): ""})

    def _of(self, part: Part) -> Any:
        if isinstance(part, bool):
            return part
        if id(part) not in self._done and self._circles.spelt_out(part):
            name = f"own{len(self._own)}"
            self._own[name] = {}  # first: it is met again on the way
            self._done[id(part)] = {"$ref": f"#/$defs/{name}"}
            self._enter(part)
            self._own[name] = self._made_of(part)
            self._way.pop()
        if id(part) not in self._done:
            self._enter(part)
            self._done[id(part)] = self._made_of(part)
            self._way.pop()
        return self._done[id(part)]

    def _enter(self, part: Part) -> None:
        self._kept.append(part)
        place = self._document.place(part)
        self._way.append(self._way[-1] if place is None else place)

    def _made_of(self, part: Mapping[str, Any]) -> Any:
        node = _Node(part, kinds(part))
        if not node.kinds:
            return False
        self._take(node, part)
        self._settle_choices(node)
        if node.conjuncts:
            node.out["allOf"] = [*node.out.get("allOf", ()), *node.conjuncts]
        self._places[id(node.out)] = self._way[-1]
        return False if False in node.conjuncts else node.out

    def _take(self, node: _Node, part: Mapping[str, Any]) -> None:
        for keyword, value in part.items():
            if not KEYWORDS[keyword].kinds & node.kinds:
                continue  # it speaks of values that do not come here
            handler = _HANDLERS.get(keyword)
            if handler is not None:
                handler(self, node, part, value)
            elif keyword in LISTS:
                node.out[keyword] = [self._member(node, each) for each in value]
            elif keyword in MAPS:
                node.out[keyword] = {name: self._of(each) for name, each in value.items()}
            elif keyword in SINGLES:
                node.out[keyword] = self._of(value)
            else:
                node.out[keyword] = _whole(value) if keyword in _COUNTS else value

    def _refuse(self, keyword: str, why: str, advice: str) -> None:
        """Raise `UnsupportedKeyword`, or note that it is left out."""
        if self._document.is_elsewhere(self._way[-1]):
            keyword, why = "$ref", f"of what it refers to, {keyword!r} cannot be enforced: {why}"
        if not self._lenient:
            raise UnsupportedKeyword(keyword, self._way[-1], why, f"{advice}, {LENIENT}")
        self._warn(f"the keyword {keyword!r} at {self._way[-1] or '/'} is left out: {why}")

    def _warn(self, message: str) -> None:
        self._warnings[message] = None

    def _settle_choices(self, node: _Node) -> None:
        """Alternatives become `anyOf`, several lists of them the combinations that something may fit."""
        base = {word: value for word, value in node.part.items() if word not in _CONDITIONAL}
        choices = [self._possible(choice, base) for choice in node.choices]
        if len(choices) > 1 and prod(map(len, choices)) > _FEW:
            choices = self._combined(choices, base)
        for choice in choices:
            options = [self._member(node, each) for each in choice]
            if len(options) == 1 or not options:
                node.conjuncts.append(options[0] if options else False)
            elif "anyOf" in node.part:
                node.conjuncts.append({"anyOf": options})
            else:
                self._place_choice(node, options)

    @staticmethod
    def _place_choice(node: _Node, options: list[Any]) -> None:
        if "anyOf" in node.out:
            node.conjuncts.append({"anyOf": options})
        else:
            node.out["anyOf"] = options

    def _possible(self, choice: list[Part], base: Part) -> list[Part]:
        return [each for each in choice if each is not False and not self._prover.is_empty(base, each)]

    def _combined(self, choices: Sequence[list[Part]], base: Part) -> list[list[Part]]:
        """One list for several; those that would make too many combinations stay as they are."""
        combined: list[tuple[Part, ...]] = [()]
        rest: list[list[Part]] = []
        for choice in choices:
            grown = [
                (*chosen, each)
                for chosen in combined
                for each in choice
                if not chosen or not self._prover.is_empty(base, *chosen, each)
            ]
            if len(grown) > _MOST_COMBINED:
                rest.append(choice)
            else:
                combined = grown
        return [[{"allOf": list(chosen)} for chosen in combined], *rest]

    # Of each keyword that llguidance has other words for, what takes its place.

    def _ref(self, node: _Node, part: Mapping[str, Any], key: str) -> None:
        del part
        if self._is_never(key):
            node.conjuncts.append(False)
            return
        if key in self._circles.spelt_out(node.part) and self._spelling_out < _DEEPEST_CIRCLE:
            node.conjuncts.append(self._spelt_out(key))
            return
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = str(len(self._names))
            self._waiting.append(key)
        node.out["$ref"] = f"#/$defs/{name}"

    def _spelt_out(self, key: str) -> Any:
        """What `key` stands for, once more and in full."""
        part = self._document.target(key)
        while isinstance(part, Mapping) and set(part) == {"$ref"} and part["$ref"] != key:
            part = self._document.target(part["$ref"])
        if isinstance(part, bool):
            return part
        self._spelling_out += 1
        self._enter(part)
        made = self._made_of(part)
        self._way.pop()
        self._spelling_out -= 1
        return made

    def _is_never(self, key: str) -> bool:
        """Whether nothing fits what is referred to: llguidance bears with that beside a reference, not behind one."""
        if key not in self._nevers:
            self._nevers[key] = self._prover.is_empty(self._document.target(key))
        return self._nevers[key]

    def _all_of(self, node: _Node, part: Mapping[str, Any], parts: Sequence[Part]) -> None:
        """Conditions side by side are taken as the node's own, so that they are combined."""
        del part
        others = [each for each in parts if isinstance(each, bool) or not _CONDITIONAL.issuperset(each)]
        if others:
            node.out["allOf"] = [self._member(node, each) for each in others]
        for each in parts:
            if not isinstance(each, bool) and _CONDITIONAL.issuperset(each):
                self._enter(each)
                self._take(node, each)
                self._way.pop()

    def _member(self, node: _Node, part: Part) -> Any:
        """A part of the node's lists: a reference that leads back to the node is spelt out."""
        key = part["$ref"] if isinstance(part, Mapping) and set(part) == {"$ref"} else None
        is_circle = key in self._circles.spelt_out(node.part) and self._spelling_out < _DEEPEST_CIRCLE
        return self._spelt_out(str(key)) if is_circle else self._of(part)

    def _pattern(self, node: _Node, part: Mapping[str, Any], pattern: str) -> None:
        del part
        why = beyond_grammars(pattern)
        if why is None:
            node.out["pattern"] = pattern
        else:
            self._refuse("pattern", f"{pattern!r} has {why}, which no grammar follows", "write the pattern without it")

    def _pattern_properties(self, node: _Node, part: Mapping[str, Any], parts: Mapping[str, Part]) -> None:
        del part
        left = dict(parts)
        for pattern in parts:
            why = beyond_grammars(pattern)
            if why is not None:
                advice = "write the pattern without it"
                self._refuse("patternProperties", f"{pattern!r} has {why}, which no grammar follows", advice)
                del left[pattern]
        node.out["patternProperties"] = {pattern: self._of(each) for pattern, each in left.items()}

    def _format(self, node: _Node, part: Mapping[str, Any], name: str) -> None:
        if "string" not in node.kinds:
            return
        if name in PATTERNS and "pattern" in part:
            node.conjuncts.append({"pattern": PATTERNS[name]})
        elif name in PATTERNS:
            node.out["pattern"] = PATTERNS[name]
        elif name in ENFORCED:
            node.out["format"] = name
        else:
            self._warn(f"the format {name!r} at {self._way[-1] or '/'} is a note that nothing enforces")

    def _not(self, node: _Node, part: Mapping[str, Any], denied: Part) -> None:
        del part
        try:
            node.choices.append(opposite(self._document, denied, node.kinds))
        except NoOppositeError as error:
            why = f"no grammar says that {error.keyword!r} does not hold"
            self._refuse("not", why, "say what may come instead")

    def _if(self, node: _Node, part: Mapping[str, Any], condition: Part) -> None:
        then, otherwise = part.get("then", True), part.get("else", True)
        if then is True and otherwise is True:
            return
        try:
            opposites = opposite(self._document, condition, node.kinds)
        except NoOppositeError as error:
            why = f"what does not fit it cannot be told, for the sake of {error.keyword!r}"
            self._refuse("if", why, "list the cases under anyOf")
            return
        holds: Part = {"allOf": [condition, then]}
        node.choices.append([holds, *({"allOf": [each, otherwise]} for each in opposites)])

    def _nothing(self, node: _Node, part: Mapping[str, Any], value: object) -> None:
        """Another keyword says it."""

    def _one_of(self, node: _Node, part: Mapping[str, Any], alternatives: Sequence[Part]) -> None:
        base = {word: value for word, value in node.part.items() if word not in _CONDITIONAL}
        possible = self._possible(list(alternatives), base)
        if self._coerce or self._prover.are_tagged(possible):
            node.choices.append(possible)
            return
        overlapping = self._prover.overlapping(possible, base)
        if overlapping and "discriminator" in part:
            possible = [discriminated(each, part["discriminator"]) for each in possible]
            overlapping = [] if self._prover.are_tagged(possible) else self._prover.overlapping(possible, base)
        node.choices.append(self._told_apart(node, alternatives, possible, overlapping) if overlapping else possible)

    def _told_apart(
        self, node: _Node, given: Sequence[Part], alternatives: list[Part], overlapping: Sequence[tuple[int, int]]
    ) -> list[Part]:
        """Each alternative without what fits another one as well."""
        if len(overlapping) > _MOST_PAIRS:
            self._refuse_pair(given, *(alternatives[at] for at in overlapping[-1]))
            return alternatives
        without: dict[int, list[Part]] = {}
        for i, j in overlapping:
            common = self._prover.common_kinds(alternatives[i], alternatives[j])
            for one, other in ((i, j), (j, i)):
                try:
                    without.setdefault(one, []).append(
                        self._apart_from(
                            node, alternatives[other], common, self._prover.closed_names(alternatives[one])
                        )
                    )
                except NoOppositeError:
                    self._refuse_pair(given, alternatives[i], alternatives[j])
                    return alternatives
        return [{"allOf": [each, *without[at]]} if at in without else each for at, each in enumerate(alternatives)]

    def _apart_from(self, node: _Node, other: Part, common: frozenset[str], names: frozenset[str] | None) -> Part:
        """What does not fit `other`, of the kinds that may, and what is of another kind. Raises `NoOppositeError`."""
        rest = EVERYTHING - common
        elsewhere: list[Part] = [{"type": type_names(rest)}] if rest else []
        opposites = opposite(self._document, other, common & node.kinds, names)
        return {"anyOf": [*elsewhere, *opposites] or [False]}

    def _refuse_pair(self, given: Sequence[Part], one: Part, other: Part) -> None:
        first, second = [self._called(given, each) for each in (one, other)]
        why = f"a value may fit both {first} and {second}, and nothing tells them apart"
        advice = "give each a property with a constant of its own, or write anyOf"
        self._refuse("oneOf", why, advice)

    def _called(self, given: Sequence[Part], part: Part) -> str:
        """An alternative as the user knows it."""
        place = next((at for at, each in enumerate(given) if each is part or _holds(part, each)), 0)
        plain = given[place]
        key = plain.get("$ref") if isinstance(plain, Mapping) else None
        return f"alternative {place}" if key is None else f"alternative {place} (#{key.partition(' ')[0]})"

    def _dependent_required(self, node: _Node, part: Mapping[str, Any], needs: Mapping[str, Sequence[str]]) -> None:
        del part
        for name, others in needs.items():
            if others:
                present: Part = {"type": "object", "required": [*others, name]}
                node.choices.append([{"properties": {name: False}}, present])

    def _dependent_schemas(self, node: _Node, part: Mapping[str, Any], schemas: Mapping[str, Part]) -> None:
        del part
        for name, each in schemas.items():
            if each is not True:
                present: Part = {"type": "object", "required": [name]}
                node.choices.append([{"properties": {name: False}}, {"allOf": [present, each]}])

    def _property_names(self, node: _Node, part: Mapping[str, Any], named: Part) -> None:
        del part
        if named is True:
            return
        found = names_pattern(self._document, named, self._prover.values)
        if found is None:
            why = "names are told by one pattern, by lengths or by constants alone"
            self._refuse("propertyNames", why, "write the names under properties or patternProperties")
        elif found == []:
            node.conjuncts.append({"maxProperties": 0})
        elif isinstance(found, list):
            node.conjuncts.append({"properties": dict.fromkeys(found, True), "additionalProperties": False})
        else:
            node.conjuncts.append({"patternProperties": {found: True}, "additionalProperties": False})

    def _least_properties(self, node: _Node, part: Mapping[str, Any], count: float) -> None:
        self._count_properties(node, part, "minProperties", int(count))

    def _most_properties(self, node: _Node, part: Mapping[str, Any], count: float) -> None:
        self._count_properties(node, part, "maxProperties", int(count))

    @staticmethod
    def _count_properties(node: _Node, part: Mapping[str, Any], word: str, count: int) -> None:
        """What is not named llguidance counts."""
        cases = counted(part, word, count)
        if cases is None:
            node.out[word] = count
        else:
            node.choices.append([*cases, *node.apart_from("object")])

    def _contains(self, node: _Node, part: Mapping[str, Any], wanted: Part) -> None:
        low, high = int(part.get("minContains", 1)), part.get("maxContains")
        if wanted is True:
            node.conjuncts.append({"minItems": low} | ({} if high is None else {"maxItems": int(high)}))
        elif low == 0 and high is None:
            return
        elif wanted is False or (high is not None and high < low):
            if low > 0:
                node.choices.append(node.apart_from("array"))
        else:
            self._contained(node, part, wanted, low, None if high is None else int(high))

    def _contained(self, node: _Node, part: Mapping[str, Any], wanted: Part, low: int, high: int | None) -> None:
        try:
            others = None if high is None else opposite(self._document, wanted) or [False]
        except NoOppositeError as error:
            why = f"what does not fit it cannot be told, for the sake of {error.keyword!r}"
            self._refuse("contains", why, "leave maxContains out")
            return
        if high == 0:
            node.choices.append([*node.apart_from("array"), {"items": {"anyOf": others}}])
            return
        most = most_items(part)
        arrays = None if most is None or most > _LONGEST else arrays_with(wanted, others, low, high, int(most))
        if arrays is None or len(arrays) > _MOST_COMBINED:
            why = "no grammar looks for an item anywhere in a list without end"
            self._refuse("contains", why, f"limit the list with maxItems, to {_LONGEST} or fewer")
            return
        node.choices.append([*node.apart_from("array"), *arrays])

    def _unique_items(self, node: _Node, part: Mapping[str, Any], asked: bool) -> None:
        most = most_items(part)
        if not asked or (most is not None and most <= 1):
            return
        arrays = self._distinct(part, most)
        if arrays is None:
            why = "no grammar remembers the items before"
            self._refuse(
                "uniqueItems", why, "make the items a small enum, or the list an object with one property each"
            )
            return
        node.choices.append([*node.apart_from("array"), {"enum": arrays}])

    def _distinct(self, part: Mapping[str, Any], most: float | None) -> list[Any] | None:
        """The arrays that repeat nothing, written out; None where they are too many."""
        prefix = [self._prover.values(each) for each in part.get("prefixItems", ())]
        rest = self._prover.values(part.get("items", True))
        if any(each is None for each in prefix) or (rest is None and (most is None or most > len(prefix))):
            return None
        return distinct_arrays([each or [] for each in prefix], rest or [], int(part.get("minItems", 0)), most)

    def _unevaluated(self, word: str, node: _Node, part: Mapping[str, Any], rest: Part) -> None:
        if rest is True:
            return
        try:
            found = ways(self._document, part, word)
            for denied in [
                each["not"] for way in found for each in way.holds if isinstance(each, Mapping) and "not" in each
            ]:
                opposite(self._document, denied)
        except NoOppositeError as error:
            self._refuse(word, f"what is looked at depends on {error.keyword!r}", "write additionalProperties or items")
        except TooManyWaysError as error:
            self._refuse(word, f"what other keywords look at cannot be told: {error}", "list the properties or items")
        else:
            node.choices.append([{"allOf": [*way.holds, _closed(word, way, rest)]} for way in found])

    def _unevaluated_items(self, node: _Node, part: Mapping[str, Any], rest: Part) -> None:
        self._unevaluated("unevaluatedItems", node, part, rest)

    def _unevaluated_properties(self, node: _Node, part: Mapping[str, Any], rest: Part) -> None:
        self._unevaluated("unevaluatedProperties", node, part, rest)


_COUNTS = frozenset(["minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"])

_HANDLERS: Mapping[str, Callable[[Rewriter, _Node, Mapping[str, Any], Any], None]] = {
    "$ref": Rewriter._ref,  # noqa: SLF001 - its table
    "allOf": Rewriter._all_of,  # noqa: SLF001
    "contains": Rewriter._contains,  # noqa: SLF001
    "dependentRequired": Rewriter._dependent_required,  # noqa: SLF001
    "dependentSchemas": Rewriter._dependent_schemas,  # noqa: SLF001
    "discriminator": Rewriter._nothing,  # noqa: SLF001
    "else": Rewriter._nothing,  # noqa: SLF001
    "format": Rewriter._format,  # noqa: SLF001
    "if": Rewriter._if,  # noqa: SLF001
    "maxContains": Rewriter._nothing,  # noqa: SLF001
    "maxProperties": Rewriter._most_properties,  # noqa: SLF001
    "minContains": Rewriter._nothing,  # noqa: SLF001
    "minProperties": Rewriter._least_properties,  # noqa: SLF001
    "not": Rewriter._not,  # noqa: SLF001
    "oneOf": Rewriter._one_of,  # noqa: SLF001
    "pattern": Rewriter._pattern,  # noqa: SLF001
    "patternProperties": Rewriter._pattern_properties,  # noqa: SLF001
    "propertyNames": Rewriter._property_names,  # noqa: SLF001
    "then": Rewriter._nothing,  # noqa: SLF001
    "unevaluatedItems": Rewriter._unevaluated_items,  # noqa: SLF001
    "unevaluatedProperties": Rewriter._unevaluated_properties,  # noqa: SLF001
    "uniqueItems": Rewriter._unique_items,  # noqa: SLF001
}


def _whole(count: float) -> int:
    return int(count)


def _holds(part: Part, inner: Part) -> bool:
    return isinstance(part, Mapping) and any(each is inner for each in part.get("allOf", ()))


def _closed(word: str, way: Way, rest: Part) -> Part:
    if way.is_all:
        return True
    if word == "unevaluatedItems":
        return {"prefixItems": [True] * way.items, "items": rest}
    names, patterns = sorted(way.names), sorted(way.patterns)
    return {
        **({"properties": dict.fromkeys(names, True)} if names else {}),
        **({"patternProperties": dict.fromkeys(patterns, True)} if patterns else {}),
        "additionalProperties": rest,
    }
