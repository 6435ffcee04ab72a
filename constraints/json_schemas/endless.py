"""Parts of a schema of which every value holds another one, and so none has an end: a node whose `next` is required.

A grammar would let a model begin one and never close it. The parts with a finite value are found from those that need
no other part on; what is left needs itself. What is not understood is taken to have one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from greenroom.constraints.json_pointer import escape, resolve
from greenroom.errors import InvalidSchema

__all__ = ["refuse_endless"]

_CONTAINERS = frozenset(["object", "array"])
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_MAPS = ("properties", "patternProperties")
_ONE = ("items", "additionalProperties")


def refuse_endless(schema: Mapping[str, Any]) -> None:
    """Raise `InvalidSchema` for a reference whose target has no finite value."""
    references = dict(_references(schema))
    endless = _endless(schema, references)
    places = [place for place, target in references.items() if target in endless]
    if places:
        inside = [place for place in places if any(place.startswith(f"{target}/") for target in endless)]
        raise InvalidSchema(
            "$ref",
            (inside or places)[0],
            "each value of what it refers to holds another one, so none has an end",
            "leave out what is required there, or allow null beside it",
        )


def _endless(schema: Mapping[str, Any], references: Mapping[str, str]) -> set[str]:
    """The targets without a finite value. Each is looked at again when one that it refers to turns out to have one."""
    parts = {target: resolve(schema, target) for target in references.values()}
    endless = {target for target, part in parts.items() if part is not None}
    waiting_for: dict[str, set[str]] = {target: set() for target in parts}
    for target in endless:
        for needed in _needed(parts[target]):
            waiting_for.setdefault(needed, set()).add(target)
    waiting = [*endless]
    while waiting:
        target = waiting.pop()
        if target in endless and _is_finite(parts[target], endless):
            endless.remove(target)
            waiting += waiting_for[target] & endless
    return endless


def _needed(part: Any) -> Iterator[str]:
    """What `part` refers to, by itself or by what stands in it."""
    inside = [part]
    while inside:
        here = inside.pop()
        if isinstance(here, Mapping):
            target = _target(here)
            if target is not None:
                yield target
            inside += [inner for inner, _ in _parts(here, "")]


def _target(part: Any) -> str | None:
    """The pointer that `part` refers to in the same document; None where it refers to nothing, or elsewhere."""
    reference = part.get("$ref") if isinstance(part, Mapping) else None
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        return unquote(reference[1:])
    return None


def _references(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The places of all references that can be met, each with its target."""
    waiting: list[tuple[Any, str]] = [(schema, "")]
    seen: set[str] = set()
    while waiting:
        part, place = waiting.pop()
        if not isinstance(part, Mapping) or place in seen:
            continue
        seen.add(place)
        target = _target(part)
        if target is not None:
            yield place, target
            waiting.append((resolve(schema, target), target))
        waiting += reversed([*_parts(part, place)])


def _parts(part: Mapping[str, Any], place: str) -> Iterator[tuple[Any, str]]:
    for word in _LISTS:
        if isinstance(part.get(word), list):
            yield from ((inner, f"{place}/{word}/{at}") for at, inner in enumerate(part[word]))
    for word in _MAPS:
        if isinstance(part.get(word), Mapping):
            yield from ((inner, f"{place}/{word}/{escape(name)}") for name, inner in part[word].items())
    for word in _ONE:
        yield part.get(word), f"{place}/{word}"


def _is_finite(part: Any, endless: set[str]) -> bool:
    """Whether a value may fit that holds none of `endless`."""
    if not isinstance(part, Mapping):
        return part is not False
    if _target(part) in endless or not all(_is_finite(each, endless) for each in _list(part, "allOf")):
        return False
    for word in ("anyOf", "oneOf"):
        if (options := _list(part, word)) and not any(_is_finite(each, endless) for each in options):
            return False
    return _has_finite_kind(part, endless)


def _has_finite_kind(part: Mapping[str, Any], endless: set[str]) -> bool:
    kinds = part.get("type")
    kinds = {kinds} if isinstance(kinds, str) else set(kinds) if isinstance(kinds, list) else set()
    if not kinds or kinds - _CONTAINERS:
        return True
    ways = [_is_finite_object(part, endless)] if "object" in kinds else []
    ways += [_is_finite_array(part, endless)] if "array" in kinds else []
    return any(ways)


def _is_finite_object(part: Mapping[str, Any], endless: set[str]) -> bool:
    properties = part.get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    return all(_is_finite(known.get(name, True), endless) for name in _list(part, "required"))


def _is_finite_array(part: Mapping[str, Any], endless: set[str]) -> bool:
    least = part.get("minItems", 0)
    if not isinstance(least, int | float) or least < 1:
        return True
    items = part.get("items", True)
    first = items if isinstance(items, list) else _list(part, "prefixItems")
    rest = [part.get("additionalItems", True) if isinstance(items, list) else items] if least > len(first) else []
    return all(_is_finite(item, endless) for item in [*first[: int(least)], *rest])


def _list(part: Mapping[str, Any], word: str) -> list[Any]:
    found = part.get(word)
    return found if isinstance(found, list) else []
