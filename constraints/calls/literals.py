"""Values by a JSON schema, as rules: in JSON between tags, as Python's literals, in syntaxes of the kind.

For JSON by itself there is llguidance's own, which enforces more keywords; this one knows what must not stand in a
string. Keywords that are not enforced here are left to the check of the arguments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from greenroom.constraints.calls.plain import Plain
from greenroom.constraints.calls.rules import Item, Rules, pattern
from greenroom.constraints.calls.schemas import alternatives, with_bounds, with_definitions
from greenroom.constraints.json_schemas.json_schema import JsonSchema

__all__ = ["JSON", "PYTHON", "Literals", "Syntax", "as_json", "as_literal", "as_text_or_json", "is_text"]

_SCALARS = ({"type": "string"}, {"type": "number"}, {"type": "boolean"}, {"type": "null"})
"""What any value may be: nested ones have no end that a model must come to."""


_WORDS = (True, False, None)
_NEVER = "/[^\\s\\S]/"
"""What no text is."""
_KIND_BY_KEYWORD = {"properties": "object", "items": "array"}
"""What kind of value is meant where a schema does not say."""


class Syntax(msgspec.Struct, frozen=True, kw_only=True):
    """How values are written. `quotes` stand around a string, `words` are true, false and null.

    `escapes` says that characters of a string may be escaped as in JSON; else it holds what `plain` allows. Keys of
    objects stand in quotes with `quoted_keys`, else they are words. `flat` ones have no lists and no objects.
    """

    quotes: str
    words: tuple[str, str, str]
    plain: Plain
    comma: str
    colon: str
    escapes: bool = False
    quoted_keys: bool = False
    flat: bool = False

    def spell(self, value: Any) -> str | None:
        """A value's text; None for one that cannot be written."""
        if isinstance(value, str):
            return self._string(value)
        if isinstance(value, Sequence):
            return self._join("[", [self.spell(each) for each in value], "]")
        if isinstance(value, Mapping):
            return self._join("{", [self._pair(str(key), each) for key, each in value.items()], "}")
        return next((word for word, each in zip(self.words, _WORDS, strict=True) if value is each), json.dumps(value))

    def _join(self, begin: str, parts: Sequence[str | None], end: str) -> str | None:
        return None if self.flat or None in parts else begin + self.comma.join(filter(None, parts)) + end

    def key(self, name: str) -> str | None:
        """A key's text; None for one that cannot be written."""
        if self.quoted_keys:
            return self._string(name)
        return name if re.fullmatch(r"\w+", name) else None

    def _string(self, text: str) -> str | None:
        if self.escapes:
            spelt = json.dumps(text, ensure_ascii=False)
            for mark in self.plain.marks:  # whose first character is escaped, so that none stands there
                spelt = spelt.replace(mark, f"\\u{ord(mark[0]):04x}{mark[1:]}")
            return spelt
        return f"{self.quotes}{text}{self.quotes}" if not text or self.plain.fits(text) else None

    def _pair(self, key: str, value: Any) -> str | None:
        name, text = self.key(key), self.spell(value)
        return None if name is None or text is None else f"{name}{self.colon}{text}"


PYTHON = Syntax(
    quotes='"',
    words=("True", "False", "None"),
    plain=Plain(marks=()),
    comma=", ",
    colon=": ",
    escapes=True,
    quoted_keys=True,
)
"""Python's own."""
JSON = msgspec.structs.replace(PYTHON, words=("true", "false", "null"))
"""JSON with the spaces of `json.dumps`."""


def _json_between(marks: tuple[str, ...]) -> Syntax:
    """JSON whose strings hold none of `marks`: a reader that looks for these does not look for strings."""
    return msgspec.structs.replace(JSON, plain=Plain(marks=marks))


class Literals:
    """Values by schemas that are parts of one `root`, in one syntax. Each gives an expression, or None for no way."""

    def __init__(self, rules: Rules, syntax: Syntax, root: Mapping[str, Any]) -> None:
        self._rules = rules
        self._syntax = syntax
        self._root = root
        self._known: dict[str, str | None] = {}
        """The rules of references, so that a schema may refer to itself."""
        self._kinds: Mapping[str, Callable[[Mapping[str, Any]], str | None]] = {
            "any": self._any,
            "array": self._list,
            "boolean": self._boolean,
            "integer": self._number,
            "null": self._null,
            "number": self._number,
            "object": self._object,
            "string": self._string,
        }

    def value(self, schema: Any) -> str | None:
        """An expression for every value that fits `schema`."""
        pointer = schema.get("$ref") if isinstance(schema, Mapping) and len(schema) == 1 else None
        if pointer is None:
            return self._either(schema)
        if pointer not in self._known:
            self._known[pointer], known = self._rules.declare()
            expression = self._either(schema)
            known(expression or _NEVER)
            if expression is None:
                self._known[pointer] = None
        return self._known[pointer]

    def _either(self, schema: Any) -> str | None:
        ways = [self._one(one) for one in alternatives(schema, self._root)]
        found = [way for way in ways if way is not None]
        return self._rules.rule(" | ".join(f"({way})" for way in found)) if found else None

    def _one(self, schema: Mapping[str, Any]) -> str | None:
        if "enum" in schema or "const" in schema:
            values = schema["enum"] if "enum" in schema else [schema["const"]]
            texts = [text for text in map(self._syntax.spell, values) if text is not None]
            return " | ".join(map(self._rules.literal, texts)) or None
        kind = schema.get("type") or next((kind for word, kind in _KIND_BY_KEYWORD.items() if word in schema), "any")
        if kind in ("array", "object") and self._syntax.flat:
            return None
        return self._kinds[kind](schema)

    def _any(self, _: Mapping[str, Any]) -> str | None:
        return self._either({"anyOf": list(_SCALARS)})

    def _number(self, schema: Mapping[str, Any]) -> str:
        return self._rules.json(_json(schema, self._root))

    def _boolean(self, _: Mapping[str, Any]) -> str:
        return " | ".join(map(self._rules.literal, self._syntax.words[:2]))

    def _null(self, _: Mapping[str, Any]) -> str:
        return self._rules.literal(self._syntax.words[2])

    def _string(self, schema: Mapping[str, Any]) -> str | None:
        if not self._syntax.escapes:
            body = self._syntax.plain.terminal(self._rules, schema)
            quotes = self._syntax.quotes
            return None if body is None else f"{self._rules.literal(quotes)} {self._rules.until(body, quotes)}"
        if "pattern" in schema or "format" in schema:
            return self._rules.json(_json(schema, self._root))
        low, high = schema.get("minLength", 0), schema.get("maxLength", "")
        inside = rf'/"([^"\\\x00-\x1f\x7f]|\\[nrt"\\]){{{low},{high}}}"/'
        if not self._syntax.plain.marks:
            return self._rules.token(inside)
        marks = " | ".join(map(pattern, self._syntax.plain.marks))
        return self._rules.token(f"{inside} & ~{self._rules.token(f'/(?s:.*)/ ({marks}) /(?s:.*)/')}")

    def _list(self, schema: Mapping[str, Any]) -> str | None:
        first = [self.value(each) for each in schema.get("prefixItems", ())]
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        rest = (
            None if schema.get("items", {}) is False or (first and "items" not in schema) else schema.get("items", {})
        )
        further = self.value(rest) if rest is not None else None
        if None in first:
            return None
        items: list[Item] = [(each, place < least) for place, each in enumerate(filter(None, first))]
        if further is not None and (most is None or most > len(first)):
            items.append(
                (self._repetition(further, least - len(first), most and most - len(first)), least > len(first))
            )
        elif least > len(first):
            return None
        return f'"[" {self._rules.sequence(items, self._syntax.comma)} "]"'

    def _repetition(self, item: str, least: int, most: int | None) -> str:
        """One item or more, at least and at most so many."""
        comma = self._rules.literal(self._syntax.comma)
        bounds = f"{{{max(0, least - 1)},{'' if most is None else most - 1}}}"
        return self._rules.rule(f"{item} ({comma} {item}){bounds}")

    def _object(self, schema: Mapping[str, Any]) -> str | None:
        required = tuple(schema.get("required", ()))
        properties = dict(schema.get("properties") or {})
        properties |= {name: {} for name in required if name not in properties}
        items: list[Item] = []
        for name, part in properties.items():
            key, value = self._syntax.key(name), self.value(part)
            if key is not None and value is not None:
                pair = f"{self._rules.literal(key + self._syntax.colon)} {value}"
                items.append((self._rules.rule(pair), name in required))
            elif name in required:
                return None
        more = schema.get("additionalProperties", {})
        if not properties and more is not False and (pairs := self._pairs(more)) is not None:
            items.append((pairs, bool(schema.get("minProperties"))))
        return f'"{{" {self._rules.sequence(items, self._syntax.comma)} "}}"'

    def _pairs(self, schema: Any) -> str | None:
        """One pair or more, under any names."""
        value = self.value(schema)
        quote = '"' if self._syntax.quoted_keys else ""
        key = self._rules.token(rf"/{quote}\w{{1,64}}{quote}/")
        return (
            None
            if value is None
            else self._repetition(f"{key} {self._rules.literal(self._syntax.colon)} {value}", 0, 16)
        )


def _json(schema: Any, root: Mapping[str, Any]) -> JsonSchema:
    return JsonSchema(with_bounds(with_definitions(schema, root)), separators=(", ", ": "), lenient=True)


# Values with what ends them, as a `Spelling` asks for them.


def as_json(rules: Rules, schema: Any, root: Mapping[str, Any], end: str, *, plain: Plain) -> str | None:
    """A `Value` as JSON, strings in quotes."""
    value = Literals(rules, _json_between(plain.marks), root).value(schema)
    return None if value is None else f"{value} {rules.literal(end)}"


def as_literal(rules: Rules, schema: Any, root: Mapping[str, Any], end: str, *, syntax: Syntax) -> str | None:
    """A `Value` in that syntax, which needs no end."""
    del end
    return Literals(rules, syntax, root).value(schema)


def as_text_or_json(rules: Rules, schema: Any, root: Mapping[str, Any], end: str, *, plain: Plain) -> str | None:
    """A `Value`: strings as they are, else JSON; a string that may be something else must not look like it."""
    ways = list(alternatives(schema, root))
    texts = [way for way in ways if is_text(way)]
    if not texts:
        return as_json(rules, schema, root, end, plain=plain)
    others = [way for way in ways if not is_text(way)]
    is_sure = not others and all(way.get("type") == "string" or "enum" in way or "const" in way for way in texts)
    plain = msgspec.structs.replace(plain, guessed=not is_sure)
    bodies = [plain.terminal(rules, way, _words(others)) for way in texts]
    found = [rules.until(body, end) for body in bodies if body is not None]
    structured = [way for way in others if way.get("type") not in ("boolean", "null")]
    values = as_json(rules, {"anyOf": structured}, root, end, plain=plain) if structured else None
    found += [] if values is None else [values]
    return rules.rule(" | ".join(f"({way})" for way in found)) if found else None


def is_text(way: Mapping[str, Any]) -> bool:
    """Whether a string fits: the schema asks for one, or for anything."""
    values = way["enum"] if "enum" in way else [way["const"]] if "const" in way else None
    if values is not None:
        return any(isinstance(value, str) for value in values)
    return way.get("type") == "string" or not {"type", "properties", "items"}.intersection(way)


def _words(others: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The words that are values of `others`: true, false and null."""
    kinds = {way.get("type") for way in others if "enum" not in way and "const" not in way}
    return (*(["true", "false"] if "boolean" in kinds else []), *(["null"] if "null" in kinds else []))
