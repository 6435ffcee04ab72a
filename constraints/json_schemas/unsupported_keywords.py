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

from greenroom.errors import InvalidConstraint, UnsupportedKeyword

__all__ = ["validate"]

_ONE = ("items", "additionalItems", "additionalProperties")
_LISTS = ("items", "prefixItems", "allOf", "anyOf", "oneOf")
_MAPS = ("properties", "patternProperties")
_WHOLE = "#/$defs/whole"

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


@lru_cache(maxsize=256)
def validate(schema: str, options: str) -> None:
    """Raise `UnsupportedKeyword` or `InvalidConstraint` where llguidance does not take `schema` (JSON text)."""
    overrides = json.loads(options)
    content = json.loads(schema)
    message = _error(content, overrides)
    if message:
        pointer = _deepest(content, overrides, message)
        raise _refusal(_at(content, pointer), pointer, message)


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
    seen = {""}

    def search(pointer: str) -> str | None:
        parts = list(_parts(schema, pointer))
        leads_back = _target(_at(schema, pointer)) in seen
        for part in parts:
            if part not in seen:
                seen.add(part)
                if _error({**frame, "$ref": _WHOLE + part}, options) == message:
                    found = search(part)
                    if found is not None:
                        return found
        return None if leads_back else pointer

    return search("") or ""


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
    here = _at(schema, pointer)
    if not isinstance(here, Mapping):
        return
    target = _target(here)
    if target is not None and _at(schema, target) is not None:
        yield target
    for keyword, value in here.items():
        place = f"{pointer}/{_escape(keyword)}"
        if keyword in _LISTS and isinstance(value, list):
            yield from (f"{place}/{number}" for number in range(len(value)))
        elif keyword in _MAPS and isinstance(value, Mapping):
            yield from (f"{place}/{_escape(name)}" for name in value)
        elif keyword in _ONE:
            yield place


def _target(part: Any) -> str | None:
    """The pointer that `part` refers to, where it refers to one."""
    reference = part.get("$ref") if isinstance(part, Mapping) else None
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        return unquote(reference[1:])
    return None


def _at(schema: Any, pointer: str) -> Any:
    """What stands at `pointer`; None where nothing does."""
    here = schema
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(here, list) and name.isdigit() and int(name) < len(here):
            here = here[int(name)]
        elif isinstance(here, Mapping) and name in here:
            here = here[name]
        else:
            return None
    return here


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


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
