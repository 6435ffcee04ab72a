"""A JSON schema of any draft as one document of the newest: references resolved, old spellings replaced.

Whatever `$id`, anchors and drafts do to a reference is settled here, so that who works with the parts meets one
dialect: every `$ref` is a key that `Document.target` knows, lists of items are `prefixItems`, `dependencies` are what
they depend on. A part is read when something leads to it: what nothing reaches is no fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from greenroom.constraints.json_pointer import escape, holds, resolve
from greenroom.constraints.json_schemas.keywords import (
    KEYWORDS,
    LISTS,
    MAPS,
    SINGLES,
    Keyword,
    Part,
    draft_of,
    objects_in,
)
from greenroom.errors import InvalidSchema

if TYPE_CHECKING:
    from referencing._core import Resolver

__all__ = ["Document"]

_BASES = frozenset(["$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor"])
_DYNAMIC = ("$dynamicRef", "$recursiveRef")


class _Elsewhere(str):
    """A place that refers to another document: all that stands there counts as standing here."""

    __slots__ = ()


def _below(place: str, *steps: object) -> str:
    return place if isinstance(place, _Elsewhere) else place + "".join(f"/{escape(str(step))}" for step in steps)


@dataclass(frozen=True)
class _Reference:
    """A reference, its keyword and where that stands."""

    keyword: str
    text: str
    place: str


class Document:
    """The parts of one schema.

    Raises `InvalidSchema` where a keyword's value is of no form that the standard knows, or a reference leads nowhere,
    once that part is reached.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._draft = draft_of(schema)
        self._read: dict[tuple[int, int], Part] = {}
        self._places: dict[int, str] = {}
        self._kept: list[Any] = []
        """What `_places` and `_read` know by its identity."""
        self._targets: dict[str, tuple[Any, str, Resolver[Any] | None]] = {}
        self._index: dict[int, str] | None = None
        self._resolver = self._root_resolver()
        self.root: Part = self._part(schema, "", self._resolver)

    def __repr__(self) -> str:
        return f"<Document draft={self._draft} targets={len(self._targets)}>"

    def place(self, part: object, /) -> str | None:
        """Where the part stands in the user's schema; None for one that was made of others."""
        return self._places.get(id(part))

    def is_elsewhere(self, place: str, /) -> bool:
        """Whether what stands there was brought by a reference to another document."""
        return isinstance(place, _Elsewhere)

    def target(self, key: str, /) -> Part:
        """What a part's `$ref` stands for."""
        schema, pointer, resolver = self._targets[key]
        return self._part(schema, pointer, resolver)

    def _root_resolver(self) -> Resolver[Any] | None:
        """What knows of bases and anchors; None where every reference is a place from the root on."""
        if not any(_has_base(part) or _leads_out(part) for part in objects_in(self._schema)):
            return None
        from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped] # it takes a tenth of a second, and few schemas need it

        resource = _resource(self._schema, self._draft)
        base = resource.id() or ""
        resolver: Resolver[Any] = REGISTRY.with_resource(base, resource).resolver(base)
        return resolver

    def _inside(self, resolver: Resolver[Any] | None, schema: Mapping[str, Any]) -> Resolver[Any] | None:
        resource = None if resolver is None else _resource(schema, self._draft)
        named = None if resource is None else resource.id()
        # A resolver that led here by the name itself knows of it, and a relative one would count twice.
        if resolver is None or resource is None or named is None or resolver._base_uri.endswith(named):  # noqa: SLF001
            return resolver
        return resolver.in_subresource(resource)

    def _part(self, schema: Any, pointer: str, resolver: Resolver[Any] | None) -> Part:
        if isinstance(schema, bool):
            return schema
        found = self._read.get((id(schema), id(resolver)))
        if found is None:
            part: dict[str, Any] = {}
            found = self._read[id(schema), id(resolver)] = part
            self._places[id(part)] = pointer
            self._kept.append((schema, part, resolver))
            part |= self._keywords(schema, pointer, self._inside(resolver, schema))
        return found

    def _keywords(self, schema: Mapping[str, Any], pointer: str, resolver: Resolver[Any] | None) -> dict[str, Any]:
        part: dict[str, Any] = {}
        for name, value in schema.items():
            keyword = KEYWORDS.get(name)
            if keyword is None or self._draft < keyword.since:
                continue
            _check(name, value, keyword, pointer)
            self._add(part, name, schema, pointer, resolver)
        return part

    def _add(
        self, part: dict[str, Any], name: str, schema: Mapping[str, Any], pointer: str, resolver: Resolver[Any] | None
    ) -> None:
        value, place = schema[name], _below(pointer, name)
        if name == "$ref":
            part["$ref"] = self._key(_Reference(name, value, pointer), resolver)
        elif name in _DYNAMIC:
            key = self._dynamic_key(_Reference(name, value, pointer), resolver)
            part["allOf"] = [*part.get("allOf", ()), {"$ref": key}]
        elif name in ("items", "additionalItems") and self._is_tuple(schema):
            self._add_tuple(part, name, schema, pointer, resolver)
        elif name == "additionalItems":
            return
        elif name in SINGLES:
            part[name] = self._part(value, place, resolver)
        elif name in LISTS:
            parts = [self._part(each, _below(place, number), resolver) for number, each in enumerate(value)]
            part[name] = [*part.get(name, ()), *parts]
        elif name in MAPS or name == "dependencies":
            self._add_map(part, name, value, place, resolver)
        elif name in ("exclusiveMinimum", "exclusiveMaximum") and isinstance(value, bool):
            _add_exclusive(part, name, schema)
        else:
            part[name] = value

    def _is_tuple(self, schema: Mapping[str, Any]) -> bool:
        return isinstance(schema.get("items"), list)

    def _add_tuple(
        self, part: dict[str, Any], name: str, schema: Mapping[str, Any], pointer: str, resolver: Resolver[Any] | None
    ) -> None:
        place = _below(pointer, name)
        if name == "additionalItems":
            part["items"] = self._part(schema[name], place, resolver)
        else:
            items = schema["items"]
            part["prefixItems"] = [
                self._part(each, _below(place, number), resolver) for number, each in enumerate(items)
            ]

    def _add_map(
        self, part: dict[str, Any], name: str, value: Mapping[str, Any], place: str, resolver: Resolver[Any] | None
    ) -> None:
        if name != "dependencies":
            part[name] = {key: self._part(each, _below(place, key), resolver) for key, each in value.items()}
            return
        names = {key: each for key, each in value.items() if isinstance(each, list)}
        schemas = {key: each for key, each in value.items() if not isinstance(each, list)}
        if names:
            part["dependentRequired"] = {**part.get("dependentRequired", {}), **names}
        if schemas:
            self._add_map(part, "dependentSchemas", schemas, place, resolver)

    def _key(self, reference: _Reference, resolver: Resolver[Any] | None) -> str:
        """The key of what `reference` leads to. Raises `InvalidSchema` where that is nothing, or elsewhere."""
        if resolver is None:
            place = unquote(reference.text.partition("#")[2])
            place = "" if place == "/" else place
            if not (place == "" or place.startswith("/")) or not holds(self._schema, place):
                raise _dangling(reference)
            return self._known(reference, resolve(self._schema, place), place, None)
        from referencing.exceptions import Unresolvable

        try:
            found = resolver.lookup(reference.text)
        except (Unresolvable, ValueError, LookupError, AttributeError, TypeError):
            raise _dangling(reference) from None
        # Of a schema elsewhere, as the standard's own are, the place to name is the one that refers to it.
        return self._known(reference, found.contents, self._place_of(found.contents, reference.place), found.resolver)

    def _known(self, reference: _Reference, target: Any, place: str, resolver: Resolver[Any] | None) -> str:
        if not isinstance(target, Mapping | bool):
            why = f"{reference.text!r} leads to what is no schema"
            raise _wrong(reference.keyword, reference.place, why, "refer to an object, or to true or false")
        key = place if resolver is None else f"{place} {id(target)} {resolver._base_uri}"  # noqa: SLF001 - no other way
        if key not in self._targets:
            self._targets[key] = target, place, resolver
            self._kept.append(target)
        return key

    def _place_of(self, contents: Any, otherwise: str) -> str:
        if self._index is None:
            self._index = {id(part): pointer for part, pointer in _places(self._schema)}
        return self._index.get(id(contents), _Elsewhere(otherwise))

    def _dynamic_key(self, reference: _Reference, resolver: Resolver[Any] | None) -> str:
        """The key of what a reference leads to that looks at who refers; where that can be told without."""
        anchor = reference.text.partition("#")[2]
        keyword = "$dynamicAnchor" if reference.keyword == "$dynamicRef" else "$recursiveAnchor"
        anchors = [part[keyword] for part in objects_in(self._schema) if keyword in part]
        same = [each for each in anchors if each == anchor or keyword == "$recursiveAnchor"]
        key = self._key(reference, resolver)
        target = self._targets[key][0]
        is_plain = anchor.startswith("/") or not isinstance(target, Mapping) or keyword not in target
        if not is_plain and (len(same) > 1 or self._index is None or id(target) not in self._index):
            why = f"what {reference.text!r} leads to depends on the way to it"
            raise _wrong(reference.keyword, reference.place, why, "use $ref, which leads to one place")
        return key


def _check(name: str, value: Any, keyword: Keyword, pointer: str) -> None:
    if not keyword.fits(value):
        shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
        raise _wrong(name, pointer, f"{shown} is not {keyword.what}", f"write {keyword.what}")


def _wrong(keyword: str, place: str, why: str, advice: str) -> InvalidSchema:
    if isinstance(place, _Elsewhere):
        keyword, why = "$ref", f"of what it refers to, {keyword!r} cannot be used: {why}"
    return InvalidSchema(keyword, place, why, advice)


def _dangling(reference: _Reference) -> InvalidSchema:
    if reference.text.startswith("#"):
        why = f"nothing stands at {reference.text!r} in the schema"
        advice = "define it, as under $defs, or correct the reference"
    else:
        why = f"{reference.text!r} is another document, and none is fetched"
        advice = "put what it refers to under $defs and refer to that"
    return _wrong(reference.keyword, reference.place, why, advice)


def _add_exclusive(part: dict[str, Any], name: str, schema: Mapping[str, Any]) -> None:
    """Draft 4's: whether the limit beside it is one that is not reached."""
    beside = name.removeprefix("exclusive").lower()
    if schema[name] and isinstance(schema.get(beside), int | float):
        part[name] = schema[beside]


def _resource(schema: Mapping[str, Any], draft: int) -> Any:
    from referencing.jsonschema import DRAFT4, DRAFT6, DRAFT7, DRAFT201909, DRAFT202012

    specifications = {4: DRAFT4, 6: DRAFT6, 7: DRAFT7, 2019: DRAFT201909}
    return specifications.get(draft_of(schema, draft), DRAFT202012).create_resource(schema)


def _has_base(part: Mapping[str, Any]) -> bool:
    return any(isinstance(part.get(key), str | bool) for key in _BASES)


def _leads_out(part: Mapping[str, Any]) -> bool:
    return any(isinstance(part.get(key), str) and not part[key].startswith("#") for key in ("$ref", "$dynamicRef"))


def _places(schema: Any) -> Iterator[tuple[Any, str]]:
    waiting = [(schema, "")]
    while waiting:
        part, pointer = waiting.pop()
        if isinstance(part, Mapping):
            yield part, pointer
            waiting += [(value, f"{pointer}/{escape(key)}") for key, value in part.items()]
        elif isinstance(part, list):
            waiting += [(value, f"{pointer}/{number}") for number, value in enumerate(part)]
