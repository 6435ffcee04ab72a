"""A schema checked and rewritten for llguidance; where it is refused, the keyword to blame and its place.

What our own reading refuses has its place. What llguidance refuses it says without one: it is asked again about halves
of what stands in the schema on the way down, and the deepest part that fails with the same words is to blame. So parts
that it never looks at are never blamed. The search has an end in time, and then names the part around.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from llguidance import LLMatcher

from greenroom.constraints.bounds.number_bounds import check_numbers
from greenroom.constraints.bounds.schema_bounds import check_schema
from greenroom.constraints.json_pointer import escape, resolve
from greenroom.constraints.json_schemas.documents import Document
from greenroom.constraints.json_schemas.endless import refuse_endless
from greenroom.constraints.json_schemas.keywords import KEYWORDS
from greenroom.constraints.json_schemas.rewriting import LENIENT, Rewriter, Rewritten
from greenroom.constraints.watch import Watched
from greenroom.errors import InvalidConstraint, InvalidSchema, UnsupportedKeyword

__all__ = ["CheckedSchema", "SchemaCheck", "check_of", "rewriting_of"]

_SEARCH = 2.0
"""Seconds for finding the part to blame."""
_MOST_TEXT = 4_000_000
"""Characters of a schema in llguidance's words."""
_LISTS = ("prefixItems", "allOf", "anyOf")
_MAPS = ("properties", "patternProperties")
_ONE = ("items", "additionalProperties")
_WHOLE = "#/$defs/whole"
_UNSATISFIABLE = "Unsatisfiable schema: "


@dataclass(frozen=True)
class CheckedSchema:
    """The grammar of a schema in llguidance's form, what it leaves out, and what llguidance says to it."""

    grammar: str
    warnings: tuple[str, ...]
    verdict: Callable[[], None] = field(compare=False, repr=False)
    """Raises `InvalidSchema` where llguidance refuses the grammar. Takes as long as compiling it."""


SchemaCheck = Watched[CheckedSchema]
"""Raises `InvalidSchema`, as `UnsupportedKeyword` is, or `InvalidConstraint` for its result."""


@lru_cache(maxsize=128)
def rewriting_of(schema: str, options: str) -> SchemaCheck:
    """What our own reading says of `schema` (JSON text), begun when it is first asked for; the last ones are kept."""
    return Watched(f"the JSON schema {schema[:60]}", lambda: _check_within_bounds(schema, options))


@lru_cache(maxsize=128)
def check_of(schema: str, options: str) -> SchemaCheck:
    """The same, once llguidance has taken it."""

    def judged() -> CheckedSchema:
        checked = _check_within_bounds(schema, options)
        checked.verdict()
        return checked

    return Watched(f"the JSON schema {schema[:60]}", judged)


def _check_within_bounds(text: str, options: str) -> CheckedSchema:
    try:
        return _check(text, options)
    except RecursionError:
        raise InvalidConstraint("the schema's parts lead too deep into each other: refer in fewer steps") from None


def _check(text: str, options: str) -> CheckedSchema:
    overrides = json.loads(options)
    content = json.loads(text)
    check_schema(content)
    check_numbers(content)
    document = Document(content)
    refuse_endless(content)
    rewriter = Rewriter(document, lenient=overrides.get("lenient", False), coerce=overrides.get("coerce_one_of", False))
    rewritten = rewriter.rewrite()
    check_numbers(rewritten.schema)
    if "x-guidance" in content:
        rewritten.schema["x-guidance"] = content["x-guidance"]
    spelt = json.dumps(rewritten.schema)
    if len(spelt) > _MOST_TEXT:
        raise InvalidConstraint(
            f"the schema becomes {len(spelt)} characters long once it is rewritten: make it smaller"
        )

    def verdict() -> None:
        message = _message(_grammar(spelt, overrides))
        if message:
            raise _Blame(content, rewritten, overrides, message).error()

    return CheckedSchema(_grammar(spelt, overrides), rewritten.warnings, verdict)


def _grammar(spelt: str, options: Mapping[str, Any]) -> str:
    given = {name: value for name, value in options.items() if name != "coerce_one_of"}
    try:
        grammar: str = LLMatcher.grammar_from_json_schema(spelt, overrides=given or None)
    except ValueError as error:
        raise InvalidConstraint(f"llguidance cannot read the schema: {error}") from error
    return grammar


def _message(grammar: str) -> str:
    """What llguidance says to a grammar; nothing where it takes it."""
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    # The place it adds is of a compiler's making, and the same fault has another one when reached another way.
    return messages[0].split("\n  while processing ")[0] if is_error else ""


class _Blame:
    """What to say of a schema that llguidance refuses with `message`."""

    def __init__(
        self, content: Mapping[str, Any], rewritten: Rewritten, options: Mapping[str, Any], message: str
    ) -> None:
        self._content = content
        self._places = rewritten.places
        self._schema = rewritten.schema
        self._options = options
        self._message = message
        self._frame = {"$defs": {"whole": _relocated(rewritten.schema)}}
        self._deadline = time.monotonic() + _SEARCH
        self._seen: set[str] = {""}

    def error(self) -> InvalidSchema:
        """With keyword, place, reason and advice."""
        deepest = self._deepest("") or ""
        if self._is_unsatisfiable and deepest:
            self._message = self._ask({"$ref": _WHOLE + deepest}) or self._message
        keyword, place = self._keyword(self._place(deepest))
        if self._is_unsatisfiable:
            why = self._message.partition(_UNSATISFIABLE)[2].split("\n")[0] or "nothing fits it"
            return InvalidSchema(keyword, place, f"nothing fits: {why}", "take out what contradicts itself")
        for pattern, reason, advice in _ADVICE:
            if re.search(pattern, self._message):
                return UnsupportedKeyword(keyword, place, reason or _reason(self._message), advice)
        return UnsupportedKeyword(keyword, place, _reason(self._message), "write it in a simpler way")

    @property
    def _is_unsatisfiable(self) -> bool:
        return _UNSATISFIABLE in self._message

    def _deepest(self, pointer: str) -> str | None:
        """The place of the deepest part in the one at `pointer` that gives the message; None where none does."""
        for part in self._failing(list(self._parts(pointer))):
            leads_back = _target(resolve(self._schema, part)) in self._seen
            self._seen.add(part)
            found = self._deepest(part)
            if found is not None or not leads_back:
                return found or part
        return None

    def _failing(self, parts: Sequence[str]) -> Iterator[str]:
        """Those of `parts` that give the message, by halves."""
        if not parts or not self._fails(parts):
            return
        if len(parts) == 1:
            yield parts[0]
            return
        middle = len(parts) // 2
        yield from self._failing(parts[:middle])
        yield from self._failing(parts[middle:])

    def _fails(self, parts: Sequence[str]) -> bool:
        if time.monotonic() > self._deadline:
            return False
        if self._is_unsatisfiable:
            return any(_UNSATISFIABLE in self._ask({"$ref": _WHOLE + part}) for part in parts)
        found = self._ask({"prefixItems": [{"$ref": _WHOLE + part} for part in parts]})
        return _without_place(found) == _without_place(self._message)

    def _ask(self, schema: Mapping[str, Any]) -> str:
        return _message(_grammar(json.dumps({**self._frame, **schema}), self._options))

    def _parts(self, pointer: str) -> Iterator[str]:
        """The pointers of the parts in the one at `pointer`, and of the one that it refers to, that were not seen."""
        here = resolve(self._schema, pointer)
        if not isinstance(here, Mapping):
            return
        yield from (
            part for part in _inner(here, pointer, only_needed=self._is_unsatisfiable) if part not in self._seen
        )

    def _place(self, pointer: str) -> str:
        """Where in the user's schema what stands at `pointer` comes from."""
        found, here = "", self._schema
        for step in ["", *pointer.split("/")[1:]]:
            here = resolve(here, f"/{step}") if step else here
            found = self._places.get(id(here), found)
        return found

    def _keyword(self, place: str) -> tuple[str, str]:
        """The keyword to name, and where it stands: a part that has none is named by the one that it is in."""
        present = resolve(self._content, place)
        if isinstance(present, Mapping):
            for pattern, keywords in _BLAMED:
                keyword = next((word for word in keywords if word in present), None)
                if keyword is not None and re.search(pattern, self._message):
                    return keyword, place
            keyword = next((word for word in present if word in KEYWORDS and word != "type"), None)
            keyword = "type" if keyword is None and "type" in present else keyword
            if keyword is not None:
                return keyword, place
        steps = place.split("/")[1:]
        at = next((at for at in range(len(steps) - 1, -1, -1) if steps[at] in KEYWORDS), None)
        return ("$ref", "") if at is None else (steps[at], "".join(f"/{step}" for step in steps[:at]))


def _without_place(message: str) -> str:
    """The message without the reference that it names, which is another one where the schema stands elsewhere."""
    return message.partition(" are not supported: ")[0]


def _inner(here: Mapping[str, Any], pointer: str, *, only_needed: bool) -> Iterator[str]:
    """The parts of a schema; of one that nothing fits those alone that a value cannot do without."""
    target = _target(here)
    if target is not None:
        yield target
    for keyword, value in here.items():
        place = f"{pointer}/{escape(keyword)}"
        if keyword in _LISTS and not (only_needed and keyword == "prefixItems"):
            yield from (f"{place}/{number}" for number in range(len(value)))
        elif keyword == "prefixItems":
            yield from (f"{place}/{number}" for number in range(min(len(value), here.get("minItems", 0))))
        elif keyword in _MAPS:
            needed = here.get("required", ()) if keyword == "properties" else ()
            yield from (f"{place}/{escape(name)}" for name in value if not only_needed or name in needed)
        elif keyword in _ONE and not only_needed:
            yield place


def _relocated(schema: Any) -> Any:
    """`schema` with its references to itself as they must be where it stands at `_WHOLE`."""
    if isinstance(schema, list):
        return [_relocated(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {name: _relocated(part) for name, part in schema.items()}
    return moved if _target(schema) is None else moved | {"$ref": _WHOLE + schema["$ref"][1:]}


def _target(part: Any) -> str | None:
    """The pointer that `part` refers to, where it refers to one."""
    reference = part.get("$ref") if isinstance(part, Mapping) else None
    return reference[1:] if isinstance(reference, str) and reference.startswith("#") else None


def _reason(message: str) -> str:
    """The message on one line; of an error of a regular expression, the line that says why."""
    lines = [line.strip() for line in message.strip().splitlines()]
    told = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), None)
    return told or re.sub(r"\s+", " ", message)[:300]


_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_BLAMED = (
    (r"min/maxProperties|minProperties|maxProperties", ("minProperties", "maxProperties", "required")),
    (r"patternPropert", ("patternProperties", "propertyNames", "unevaluatedProperties")),
    (r"regex parse error|[Rr]egex", ("pattern", "patternProperties", "propertyNames", *_NUMBERS)),
    (r"multiple ?[oO]f", ("multipleOf",)),
    (r"minItems|maxItems|item is unsatisfiable", ("minItems", "maxItems", "items", "prefixItems")),
    (r"minLength|maxLength", ("minLength", "maxLength")),
    (r"minimum|maximum", _NUMBERS),
    (r"required property", ("required",)),
    (r"[Rr]eference|circular", ("$ref",)),
    (r"incompatible|false", ("allOf", "const", "enum", "anyOf", "oneOf", "$ref", "not", "if")),
    (r"", ("pattern", "allOf", "anyOf", "oneOf", "if", "not", "$ref", "properties")),
)
"""What llguidance says, and the keywords that it may say it of; the first that is there is named."""

_ADVICE = (
    (
        r"min/maxProperties",
        "how many of several optional properties come cannot be counted",
        f"require all that `properties` names, {LENIENT}",
    ),
    (r"not disjoint|are disjoint", None, "write patterns of which no name matches two"),
    (
        r"look-?around|look-?ahead|look-?behind|backreference|boundar",
        None,
        "write the pattern without look-around, back-references and word boundaries",
    ),
    (r"[Rr]egex", None, "correct the pattern: the syntax is that of Rust's regular expressions"),
    (
        r"circular references",
        "what it refers to refers back to it, with keywords beside each reference",
        "put those keywords into the schema that is referred to",
    ),
    (r"too large|limit|fuel|exceed|too big|too many", None, "make it smaller: fewer alternatives, lower counts"),
)
"""What llguidance says, how to say it, and what to do; None for its own words."""
