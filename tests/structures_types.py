"""Random types with instances, in every flavour that structures take, and what a growing object must agree with."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, NotRequired, Optional, Union

import msgspec
import pydantic
from typing_extensions import TypedDict

from greenroom.constraints.structures import MISSING

__all__ = ["FLAVOURS", "Flavour", "described", "grows_into", "instance", "plain"]

Description = tuple[Any, ...]
"""("str",), ("list", item), ("record", name, {field: description}, {fields with a default: it}), …"""
_WORDS = ["", "a", "hello world", 'qu"ote\\', "line\nbreak", "café ☕", "😀😀", "null", "12"]


def described(rng: random.Random, depth: int = 3) -> Description:
    """A record of random fields."""
    names = rng.sample(["id", "name", "items", "note", "kind_of", "a", "zeta"], rng.randint(1, 4))
    fields = {name: _any(rng, depth - 1) for name in names}
    optional = {name: None for name, field in fields.items() if field[0] == "optional" and rng.random() < 0.5}
    return ("record", f"R{rng.randrange(10**9)}", fields, optional)


def _any(rng: random.Random, depth: int) -> Description:
    simple: list[Callable[[], Description]] = [
        lambda: ("str",),
        lambda: ("int",),
        lambda: ("float",),
        lambda: ("bool",),
        lambda: ("date",),
        lambda: ("literal", tuple(rng.sample(["red", "green", "blue", 1, 2], 3))),
        lambda: ("enum", f"E{rng.randrange(10**9)}", ("on", "off", "standby")),
    ]
    nested: list[Callable[[], Description]] = [
        lambda: described(rng, depth),
        lambda: ("list", _any(rng, depth - 1)),
        lambda: ("dict", _any(rng, depth - 1)),
        lambda: ("optional", _any(rng, depth - 1)),
        lambda: ("tagged", [("record", f"{tag}{rng.randrange(10**9)}", _fields(rng, depth), {}) for tag in "XY"]),
    ]
    return rng.choice(simple + nested if depth > 0 else simple)()


def _fields(rng: random.Random, depth: int) -> dict[str, Description]:
    return {name: _any(rng, depth - 1) for name in rng.sample(["left", "right", "note"], 2)}


def instance(rng: random.Random, kind: Description) -> Any:  # noqa: C901, PLR0911 - a case a kind
    """A JSON value of that type."""
    match kind:
        case ("str",):
            return rng.choice(_WORDS)
        case ("int",):
            return rng.choice([0, 7, -3, 10**12])
        case ("float",):
            return rng.choice([0.5, -1e-9, 3.0, 2e20])
        case ("bool",):
            return rng.random() < 0.5
        case ("date",):
            return f"20{rng.randrange(10, 40)}-0{rng.randrange(1, 10)}-1{rng.randrange(10)}"
        case ("literal", values) | ("enum", _, values):
            return rng.choice(values)
        case ("list", item):
            return [instance(rng, item) for _ in range(rng.randrange(4))]
        case ("dict", item):
            return {f"k{i}": instance(rng, item) for i in range(rng.randrange(4))}
        case ("optional", inner):
            return None if rng.random() < 0.4 else instance(rng, inner)
        case ("record", _, fields, optional):
            kept = [name for name in fields if name not in optional or rng.random() < 0.6]
            rng.shuffle(kept)
            return {name: instance(rng, fields[name]) for name in kept}
        case ("tagged", members):
            chosen = rng.randrange(len(members))
            return {"type": "XY"[chosen], **instance(rng, members[chosen])}
        case _:
            raise AssertionError(kind)


class Flavour(NamedTuple):
    """How a description becomes a type, and the plain parse of a whole text."""

    name: str
    record: Callable[[str, dict[str, Any], dict[str, Any], str | None], Any]
    parse: Callable[[Any, str], Any]

    def type_of(self, kind: Description) -> Any:  # noqa: PLR0911 - a case a kind
        """The Python type."""
        match kind:
            case ("str" | "int" | "float" | "bool" as name,):
                return {"str": str, "int": int, "float": float, "bool": bool}[name]
            case ("date",):
                return dt.date
            case ("literal", values):
                return Literal[values]
            case ("enum", name, values):
                return enum.Enum(name, {value.upper(): value for value in values})
            case ("list", item):
                return list[self.type_of(item)]  # type: ignore[misc]
            case ("dict", item):
                return dict[str, self.type_of(item)]  # type: ignore[misc]
            case ("optional", inner):
                return Optional[self.type_of(inner)]  # noqa: UP045 - of a value, not of a name
            case ("record", name, fields, optional):
                return self._record(name, fields, optional)
            case ("tagged", members):
                made = [self._record(name, fields, {}, name[0]) for _, name, fields, _ in members]
                return Union[tuple(made)]  # noqa: UP007
            case _:
                raise AssertionError(kind)

    def _record(self, name: str, fields: dict[str, Any], optional: dict[str, Any], tag: str | None = None) -> Any:
        return self.record(name, {key: self.type_of(field) for key, field in fields.items()}, optional, tag)


def _model(name: str, fields: dict[str, Any], optional: dict[str, Any], tag: str | None) -> Any:
    given: dict[str, Any] = {key: (field, optional.get(key, ...)) for key, field in fields.items()}
    if tag:
        given["type"] = (Literal[tag], ...)
    return pydantic.create_model(name, **given)


def _struct(name: str, fields: dict[str, Any], optional: dict[str, Any], tag: str | None) -> Any:
    given = [(key, field, *([optional[key]] if key in optional else [])) for key, field in fields.items()]
    return msgspec.defstruct(name, given, kw_only=True, tag=tag, tag_field="type" if tag else None)


def _dataclass(name: str, fields: dict[str, Any], optional: dict[str, Any], tag: str | None) -> Any:
    given: list[Any] = [("type", Literal[tag])] if tag else []
    for key, field in fields.items():
        given.append((key, field, dataclasses.field(default=None)) if key in optional else (key, field))
    return dataclasses.make_dataclass(name, given, kw_only=True)


def _typed_dict(name: str, fields: dict[str, Any], optional: dict[str, Any], tag: str | None) -> Any:
    given = {key: NotRequired[field] if key in optional else field for key, field in fields.items()}
    form: Any = TypedDict  # mypy reads its call as a declaration alone
    return form(name, {"type": Literal[tag], **given} if tag else given)


def _schema(_name: str, fields: dict[str, Any], optional: dict[str, Any], tag: str | None) -> Any:
    return _model("Schema", fields, optional, tag)


def _by_pydantic(kind: Any, text: str) -> Any:
    return pydantic.TypeAdapter(kind).validate_json(text)


def _by_msgspec(kind: Any, text: str) -> Any:
    """Where it takes the type: a union of two dataclasses it does not."""
    try:
        return msgspec.json.decode(text, type=kind)
    except TypeError:
        return _by_pydantic(kind, text)


FLAVOURS = [
    Flavour("pydantic", _model, _by_pydantic),
    Flavour("msgspec", _struct, lambda kind, text: msgspec.json.decode(text, type=kind)),
    Flavour("dataclass", _dataclass, _by_msgspec),
    Flavour("TypedDict", _typed_dict, _by_msgspec),
    Flavour("schema", _schema, lambda _, text: json.loads(text)),
]


def plain(value: Any) -> Any:
    """Any flavour's object as dicts, lists and scalars; what it has not got is left out, or UNSET."""
    if isinstance(value, pydantic.BaseModel):
        return {"": type(value).__name__, **{key: plain(item) for key, item in value.__dict__.items()}}
    if isinstance(value, msgspec.Struct):
        found = {key: getattr(value, key) for key in value.__struct_fields__ if hasattr(value, key)}
        return {"": type(value).__name__, **{key: plain(item) for key, item in found.items()}}
    if dataclasses.is_dataclass(value):
        return {"": type(value).__name__, **{key: plain(item) for key, item in vars(value).items()}}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def grows_into(part: Any, whole: Any) -> bool:
    """Whether a moment's object (see `plain`) is a beginning of the whole: nothing in it will have to be taken back."""
    if part is MISSING or part is msgspec.UNSET:
        return True
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and grows_into(item, whole[key]) for key, item in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) <= len(whole) and all(map(grows_into, part, whole))
    if type(part) is str and type(whole) is str:
        return whole.startswith(part)
    return type(part) is type(whole) and bool(part == whole)
