"""Whether lists that must not repeat an item do, where a schema that came from Python types says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

__all__ = ["first_duplicate"]

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "integer": (int,),
    "number": (int, float),
}


def first_duplicate(schema: Mapping[str, Any], value: object) -> str | None:
    """The JSON pointer into `value` of the first list that repeats an item against `schema`; None where none does.

    Of several alternatives one that `value` fits without a repetition is enough.
    """
    return next(_Search(schema).found(schema, value, ""), None)


class _Search:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def found(self, schema: object, value: object, at: str) -> Iterator[str]:
        if not isinstance(schema, Mapping):
            return
        schema = self._resolved(schema)
        for keyword in ("anyOf", "oneOf"):
            options = [option for option in schema.get(keyword, ()) if self._fits(option, value)]
            repeats = [next(self.found(option, value, at), None) for option in options]
            if repeats and None not in repeats:
                yield from [repeat for repeat in repeats[:1] if repeat is not None]
        for option in schema.get("allOf", ()):
            yield from self.found(option, value, at)
        if isinstance(value, list):
            if schema.get("uniqueItems") and len({_key(item) for item in value}) < len(value):
                yield at
            for number, item in enumerate(value):
                yield from self.found(_item_schema(schema, number), item, f"{at}/{number}")
        elif isinstance(value, dict):
            known = schema.get("properties", {})
            for name, item in value.items():
                yield from self.found(known.get(name, schema.get("additionalProperties")), item, f"{at}/{name}")

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return schema
        here: Any = self._root
        for step in reference.removeprefix("#/").split("/"):
            here = here[step.replace("~1", "/").replace("~0", "~")]
        return {**here, **{keyword: part for keyword, part in schema.items() if keyword != "$ref"}}

    def _fits(self, schema: object, value: object) -> bool:
        """Whether `value` may be meant by this alternative: its type, its constants, its keys and its items."""
        if not isinstance(schema, Mapping):
            return bool(schema)
        schema = self._resolved(schema)
        if value != schema.get("const", value) or value not in schema.get("enum", [value]):
            return False
        kinds = schema.get("type", [*_TYPES])
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not any(_is(kind, value) for kind in kinds):
            return False
        if isinstance(value, list):
            return all(self._fits(_item_schema(schema, number), item) for number, item in enumerate(value))
        if isinstance(value, dict):
            known = schema.get("properties", {})
            has_all = all(name in value for name in schema.get("required", ()))
            return has_all and all(self._fits(known[name], item) for name, item in value.items() if name in known)
        return True


def _is(kind: str, value: object) -> bool:
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _item_schema(schema: Mapping[str, Any], number: int) -> object:
    first = schema.get("prefixItems", ())
    return first[number] if number < len(first) else schema.get("items", True)


def _key(item: object) -> bytes:
    """Equal JSON values have equal keys; 1 and 1.0 are equal."""
    whole = int(item) if isinstance(item, float) and item.is_integer() else item
    return msgspec.json.encode(whole, order="deterministic")
