"""Which keyword of a JSON schema cannot be enforced, and where it stands.

llguidance says what it met first, without a place. The place is found by asking it again about every part of the
schema on the way down: the deepest one that fails with the same words is to blame. So the judge is llguidance itself,
whatever its version supports, and parts that it never looks at are never blamed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from llguidance import LLMatcher

from greenroom.constraints.json_pointer import escape, resolve
from greenroom.constraints.watch import Watched
from greenroom.errors import InvalidConstraint, UnsupportedKeyword

__all__ = ["SchemaCheck", "check_of"]

_ONE = ("items", "additionalItems", "additionalProperties")
_LISTS = ("items", "prefixItems", "allOf", "anyOf", "oneOf")
_MAPS = ("properties", "patternProperties")
_WHOLE = "#/$defs/whole"
_MOST_ASKED = 100
"""Parts that llguidance is asked about to find the one to blame; of a larger schema a part around it is named."""

_KEYWORDS = (
    (r"Unknown format", ("format",)),
    (r"oneOf", ("oneOf",)),
    (r"min/maxProperties", ("minProperties", "maxProperties")),
    (r"patternPropert", ("patternProperties",)),
    (r"regex parse error|[Rr]egex", ("pattern", "patternProperties", "minimum", "maximum", "exclusiveMinimum",
                                     "exclusiveMaximum", "multipleOf")),
    (r"multiple ?[oO]f", ("multipleOf",)),
    (r"registry|Pointer '|[Rr]eference|ref ", ("$ref", "$schema")),
)  # fmt: skip
"""What llguidance says, and the keywords that it may say it of; the first that is there is named."""


SchemaCheck = Watched[None]
"""Raises `UnsupportedKeyword` or `InvalidConstraint` for its result where llguidance does not take the schema."""


@lru_cache(maxsize=256)
def check_of(schema: str, options: str) -> SchemaCheck:
    """The check of `schema` (JSON text), begun when it is first asked for; the last ones are kept."""
    return Watched(f"the JSON schema {schema[:60]}", lambda: _validate(schema, options))


def _validate(schema: str, options: str) -> None:
    overrides = json.loads(options)
    content = json.loads(schema)
    message = _error(content, overrides)
    if message:
        pointer = _deepest(content, overrides, message)
        raise _refusal(resolve(content, pointer), pointer, message)


def _error(schema: Any, options: dict[str, Any]) -> str:
    """The message of llguidance over `schema`; empty where it takes it."""
    try:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options or None)
    except ValueError as error:
        return str(error)
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    # The place it adds is of a compiler's making, and the same fault has another one when reached another way.
    return messages[0].split("\n  while processing ")[0] if is_error else ""


def _deepest(schema: Mapping[str, Any], options: dict[str, Any], message: str) -> str:
    """The JSON pointer of the deepest part that alone gives `message`."""
    whole = _relocate({keyword: part for keyword, part in schema.items() if keyword != "$id"})
    frame = {"$defs": {"whole": whole}} | {k: v for k, v in schema.items() if k in ("$schema", "x-guidance")}
    seen: set[str] = {""}
    way = [("", False, _parts(schema, ""))]
    """Each part on the way down, whether it refers to one of them, and its own parts."""
    while way:
        pointer, leads_back, parts = way[-1]
        part = next((part for part in parts if part not in seen), None)
        if part is None and not leads_back:
            return pointer
        if part is None:
            way.pop()
            continue
        if len(seen) > _MOST_ASKED:
            return pointer
        seen.add(part)
        if _error({**frame, "$ref": _WHOLE + part}, options) == message:
            way.append((part, _target(resolve(schema, part)) in seen, _parts(schema, part)))
    return ""


def _relocate(schema: Any) -> Any:
    """`schema` with its references to itself as they must be where it stands at `_WHOLE`."""
    if isinstance(schema, list):
        return [_relocate(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {name: _relocate(part) for name, part in schema.items()}
    return moved if _target(schema) is None else moved | {"$ref": _WHOLE + schema["$ref"][1:]}


def _parts(schema: Any, pointer: str) -> Iterator[str]:
    """The pointers of the schemas directly in the one at `pointer`, and of the one that it refers to."""
    here = resolve(schema, pointer)
    if not isinstance(here, Mapping):
        return
    target = _target(here)
    if target is not None and resolve(schema, target) is not None:
        yield target
    for keyword, value in here.items():
        place = f"{pointer}/{escape(keyword)}"
        if keyword in _LISTS and isinstance(value, list):
            yield from (f"{place}/{number}" for number in range(len(value)))
        elif keyword in _MAPS and isinstance(value, Mapping):
            yield from (f"{place}/{escape(name)}" for name in value)
        elif keyword in _ONE:
            yield place


def _target(part: Any) -> str | None:
    """The pointer that `part` refers to, where it refers to one."""
    reference = part.get("$ref") if isinstance(part, Mapping) else None
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        return unquote(reference[1:])
    return None


def _refusal(schema: Any, pointer: str, message: str) -> InvalidConstraint:
    why = re.sub(r"\s+", " ", message)
    present = schema if isinstance(schema, Mapping) else {}
    if message.startswith("Unimplemented keys: "):
        first, *others = json.loads(message.removeprefix("Unimplemented keys: "))
        if first not in present and "$ref" in present:  # by a name, or to another document: no pointer leads there
            return UnsupportedKeyword("$ref", pointer, f"llguidance does not implement {first!r}, which stands there")
        more = f", nor can {others}" if others else ""
        return UnsupportedKeyword(first, pointer, f"llguidance does not implement it{more}")
    for pattern, keywords in _KEYWORDS:
        keyword = next((keyword for keyword in keywords if keyword in present), None)
        if keyword is not None and re.search(pattern, message):
            return UnsupportedKeyword(keyword, pointer, why)
    return InvalidConstraint(f"the JSON schema at {pointer or '/'} cannot be used: {why}")
