"""Python types as shapes: classes with fields, containers, unions, scalars.

What the walk does not know is not guessed at: such a value is shown once it is whole, as the library makes it.
"""

from __future__ import annotations

import collections.abc
import enum
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from greenroom.constraints.python_types.libraries import Library, library_of
from greenroom.constraints.structures.records import DeclaredField, declared_fields, is_record, maker
from greenroom.constraints.structures.shapes import (
    ANYTHING,
    Array,
    Either,
    Field,
    Leaf,
    Map,
    OneOf,
    Opaque,
    Record,
    Shape,
)
from greenroom.errors import UnsupportedType, shown

__all__ = ["shape_of"]

NONE = type(None)
_LISTS: dict[Any, type | None] = {
    list: None,
    collections.abc.Sequence: None,
    collections.abc.MutableSequence: None,
    collections.abc.Iterable: None,
    collections.abc.Collection: None,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    collections.abc.Set: frozenset,
    collections.abc.MutableSet: set,
}
_MAPS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_BLANKS = {str: ""}
_PLAIN = (str, int, float, bool, NONE)
_QUALIFIERS = (typing.Required, typing.NotRequired, typing.Final, typing.ClassVar)


def shape_of(kind: Any) -> Shape:
    """The shape of a type. Raises `UnsupportedType` where neither msgspec nor pydantic takes it, nor we."""
    try:
        walk = _Walk(library_of(kind))
        shape = walk.shape(kind, checked=True)
    except NameError as error:
        raise UnsupportedType(
            f"an annotation of {shown(kind)} cannot be resolved: {error}; move it to a module"
        ) from error
    except UnsupportedType:
        raise
    except Exception as error:  # a value in the place of a type, which may not even bear to be looked at
        raise UnsupportedType(f"{shown(kind)} is no type of which objects can be made: {error}") from error
    decode = walk.library.decoder(kind)
    if decode is None and not isinstance(shape, (Array, Map, Record, OneOf, Either)):
        raise UnsupportedType(f"{shown(kind)} is neither a type that msgspec takes nor one of pydantic's")
    shape.check = decode
    return shape


class _Walk:
    """One type's walk. `checked`: objects in it may be validated by themselves, before what they are in is whole."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._known: dict[tuple[Any, bool], Record] = {}

    def shape(self, kind: Any, *, checked: bool) -> Shape:
        """The shape of a type within the whole."""
        kind = _unwrap(kind)
        if hasattr(kind, "__metadata__"):
            return self._annotated_shape(kind, checked=checked)
        if kind is Any or kind is object:
            return ANYTHING
        if _is_plain(kind):
            return self._leaf((kind,), kind, blank=_BLANKS.get(kind))
        origin = get_origin(kind)
        if origin in (Union, types.UnionType):
            return self._union(kind, get_args(kind), checked=checked)
        if is_record(origin or kind):
            return self._record(kind, checked=checked)
        return self._container(kind, origin or kind, get_args(kind), checked=checked) or self._scalar_or_opaque(
            kind, origin
        )

    def _annotated_shape(self, kind: Any, *, checked: bool) -> Shape:
        """Validators among the notes may rewrite the JSON value: what is below is then left to the whole."""
        inner = kind.__origin__
        is_rewritten = any(hasattr(note, "func") for note in kind.__metadata__)
        if _is_plain(inner):
            return self._leaf((), kind, grows=inner is str, blank=_BLANKS.get(inner))
        found = self.shape(inner, checked=checked and not is_rewritten)
        if isinstance(found, (Opaque, Leaf)):
            return self._scalar_or_opaque(kind, get_origin(inner))
        return found

    def _leaf(self, exact: Sequence[type], kind: Any, **options: Any) -> Leaf:
        options.setdefault("grows", kind is str)
        return Leaf(exact, self._converter(kind), **options)

    def _converter(self, kind: Any) -> Callable[[Any], Any]:
        convert = self.library.converter(kind)
        if convert is None:
            raise UnsupportedType(
                f"{shown(kind)} is neither a type that msgspec takes nor one of pydantic's: use a dataclass, "
                "a TypedDict, a msgspec.Struct or a pydantic model"
            )
        return convert

    def _scalar_or_opaque(self, kind: Any, origin: Any) -> Shape:
        if origin is Literal:
            return self._leaf((), kind, grows=False, allowed=_typed_values(get_args(kind)))
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return self._leaf((), kind, grows=False, allowed=_typed_values([member.value for member in kind]))
        return Opaque(self._converter(kind))

    # Containers.

    def _container(self, kind: Any, origin: Any, args: tuple[Any, ...], *, checked: bool) -> Shape | None:
        if origin in _MAPS:
            return self._map(kind, args, checked=checked)
        if origin not in _LISTS:
            return None
        made: Any = _LISTS[origin]
        if origin is tuple and args and args[-1] is not ...:
            array = Array(None, tuple, [self.shape(arg, checked=checked) for arg in args])
        elif made in (set, frozenset):
            array = Array(Opaque(self._converter(args[0])) if args else ANYTHING, made)
        else:
            array = Array(self.shape(args[0], checked=checked) if args else ANYTHING, made)
        array.whole = self.library.converter(kind)
        return array

    def _map(self, kind: Any, args: tuple[Any, ...], *, checked: bool) -> Map:
        key = None
        if args and args[0] is not str:
            convert = self._converter(dict.__class_getitem__((args[0], Any)))  # keys are text in JSON: it knows how

            def key(name: Any) -> Any:
                return next(iter(convert({name: None})))

        found = Map(self.shape(args[1], checked=checked) if args else ANYTHING, key)
        found.whole = self.library.converter(kind)
        return found

    def _record(self, kind: Any, *, checked: bool) -> Record:
        known = self._known.get((kind, checked))
        if known is not None:
            return known
        record = Record(getattr(kind, "__name__", str(kind)))
        self._known[kind, checked] = record
        fields = list(declared_fields(kind))
        record.make = maker(kind, [field.name for field in fields])
        for field in fields:
            self._field(record, field, checked=checked)
        config = getattr(get_origin(kind) or kind, "__struct_config__", None)
        if config is not None and config.tag is not None:
            record.tags[config.tag_field] = _typed_values([config.tag])
        if getattr(kind, "model_config", {}).get("extra") == "allow":
            record.extra = ANYTHING
        record.whole = self.library.converter(kind)
        record.check = self.library.decoder(kind) if checked else None
        if record.whole is None:
            record.build = lambda values, _received: kind(**values)
        return record

    def _field(self, record: Record, field: DeclaredField, *, checked: bool) -> None:
        shape = self.shape(field.kind, checked=checked and not field.is_rewritten)
        entry = Field(field.name, shape, field.default, required=field.required)
        leaf = shape.for_scalar()
        for key in field.keys:
            record.fields[key] = entry
            if leaf is not None and leaf.allowed is not None and type(shape) is Leaf:
                record.tags[key] = leaf.allowed
        if not field.keys:
            record.fields[f"\0{field.name}"] = entry  # no key: it only has a blank

    # Unions.

    def _union(self, kind: Any, args: Sequence[Any], *, checked: bool) -> Shape:
        args = [arg for arg in args if arg is not msgspec.UnsetType]  # a field that may be left out
        members = [arg for arg in args if arg not in (None, NONE)]
        if len(members) == 1:
            shape = self.shape(members[0], checked=checked)
            return shape if len(args) == 1 else self._optional(kind, shape)
        shapes = [self.shape(arg, checked=checked) for arg in members]
        whole = self.library.converter(kind)
        return Either(
            self._scalars(kind, members, shapes, nullable=len(members) < len(args)),
            self._arrays([found for shape in shapes if (found := shape.for_array())], whole),
            _objects([found for shape in shapes if (found := shape.for_object())], whole),
        )

    def _optional(self, kind: Any, shape: Shape) -> Shape:
        leaf = shape.for_scalar()
        if leaf is None:
            return Either(Leaf((NONE,), self._converter(NONE)), shape.for_array(), shape.for_object())
        convert = self._converter(kind)
        if isinstance(shape, Opaque):
            return Opaque(convert)
        exact = [kind for kind in get_args(kind) if _is_plain(kind)]
        found = Leaf([*exact, NONE], convert, grows=leaf.grows)
        return Either(found, shape.for_array(), shape.for_object())

    def _scalars(self, kind: Any, members: Sequence[Any], shapes: Sequence[Shape], *, nullable: bool) -> Leaf | None:
        """The shape of the scalars of a union. A string in it grows where no member but str takes strings."""
        leaves = [leaf for shape in shapes if (leaf := shape.for_scalar())]
        if not leaves:
            return Leaf((NONE,), self._converter(NONE)) if nullable else None
        plain = [member for member in members if _is_plain(member)]
        exact = [*plain, NONE] if len(plain) == len(leaves) else []
        takers = [leaf for leaf in leaves if leaf.takes_text]
        grows = len(takers) == 1 and takers[0].grows
        convert = self.library.converter(kind)
        return Leaf(exact, convert or _first_of([leaf.convert for leaf in leaves]), grows=grows)

    def _arrays(self, shapes: Sequence[Shape], whole: Callable[[Any], Any] | None) -> Shape | None:
        if len(shapes) < 2:
            return shapes[0] if shapes else None
        return Opaque(whole or _first_of([shape.convert for shape in shapes]))


def _is_plain(kind: Any) -> bool:
    """By identity: what a caller took for a type need not bear a comparison."""
    return any(kind is each for each in _PLAIN)


def _unwrap(kind: Any) -> Any:
    """What a qualifier, a NewType, an alias or a type variable stands for; an Annotated in it keeps its notes."""
    while not hasattr(kind, "__metadata__"):
        if kind is None:
            return NONE
        if get_origin(kind) in _QUALIFIERS or str(get_origin(kind)).endswith(".ReadOnly"):
            kind = get_args(kind)[0]
        elif isinstance(kind, TypeVar):
            kind = kind.__bound__ or Any
        elif hasattr(kind, "__supertype__"):
            kind = kind.__supertype__
        elif hasattr(kind, "__value__") and not isinstance(kind, type):  # `type X = ...`
            kind = kind.__value__
        else:
            break
    return kind


def _objects(shapes: Sequence[Shape], whole: Callable[[Any], Any] | None) -> Shape | None:
    if len(shapes) < 2:
        return shapes[0] if shapes else None
    members: list[Shape] = []
    for shape in shapes:
        members.extend(shape.members if isinstance(shape, OneOf) else [shape])
    return OneOf(members, whole)


def _first_of(converters: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """The first that takes the value; the last one's error where none does."""

    def convert(value: Any) -> Any:
        for attempt in converters[:-1]:
            try:
                return attempt(value)
            except Exception:  # noqa: BLE001, S112 - validators raise what they like, and the next one is asked
                continue
        return converters[-1](value)

    return convert


def _typed_values(values: Sequence[Any]) -> frozenset[Any]:
    return frozenset([(type(value), value) for value in values])
