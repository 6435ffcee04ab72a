"""Classes with fields: which they have, and how an object is made without its own checks.

A growing object has not all of its fields yet, so it is made past `__init__` and `__post_init__`: pydantic's as when
they are unpickled, msgspec's by copying, others by their attributes. Whole objects are made by their library.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NotRequired, Required, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from greenroom.constraints.python_types.libraries import is_model, is_typed_dict

__all__ = ["DeclaredField", "Make", "declared_fields", "is_record", "maker"]

Make = Callable[[dict[str, Any], set[str], dict[str, Any]], Any]


class DeclaredField(NamedTuple):
    """A field as its class declares it."""

    name: str
    keys: tuple[str, ...]
    """Its names in JSON; none where it cannot be told from a key alone."""
    kind: Any
    default: Callable[[], Any] | None
    required: bool
    is_rewritten: bool = False
    """The class's own validators see the JSON value first, and may change it."""


def is_record(kind: Any) -> bool:
    """Whether this is a class with fields that are the keys of an object."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return not kind.__struct_config__.array_like
    if is_model(kind):
        return not kind.__pydantic_root_model__
    return dataclasses.is_dataclass(kind) or is_typed_dict(kind) or _is_attrs_s(kind)


def _is_attrs_s(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "__attrs_attrs__")


def declared_fields(kind: Any) -> Iterator[DeclaredField]:
    """The fields of a class, in order. `kind` may be a generic class with its arguments."""
    origin = get_origin(kind) or kind
    if issubclass(origin, msgspec.Struct):
        return _of_struct(kind)
    if is_model(origin):
        return _of_model(kind)
    if is_typed_dict(origin):
        return _of_typed_dict(kind, origin)
    return _of_attrs(kind, origin) if _is_attrs_s(origin) else _of_dataclass(kind, origin)


def maker(kind: Any, fields: list[str]) -> Make:
    """How an object of this class is made of the values it has so far; their dict becomes the object's own."""
    origin = get_origin(kind) or kind
    if is_model(origin):
        return _model_maker(kind)
    if is_typed_dict(origin):
        return lambda values, _received, extra: {**values, **extra}
    if issubclass(origin, msgspec.Struct):
        return _struct_maker(origin, fields)
    return _attribute_maker(origin)


def _of_struct(kind: Any) -> Iterator[DeclaredField]:
    for field in msgspec.structs.fields(kind):
        default: Callable[[], Any] | None = None
        if field.default is not msgspec.NODEFAULT:
            default = _always(field.default)
        elif field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory
        yield DeclaredField(field.name, (field.encode_name,), field.type, default, field.required)


def _of_model(kind: Any) -> Iterator[DeclaredField]:
    rewritten = _rewritten(kind)
    by_name = bool(kind.model_config.get("populate_by_name") or kind.model_config.get("validate_by_name"))
    by_alias = kind.model_config.get("validate_by_alias") is not False
    for name, field in kind.__pydantic_fields__.items():
        alias = field.validation_alias if field.validation_alias is not None else field.alias
        choices = getattr(alias, "choices", [alias]) if by_alias else []
        keys = [choice for choice in choices if isinstance(choice, str)]
        if alias is None or by_name or not by_alias:
            keys.append(name)
        notes = [note for note in (*field.metadata, _discriminator(field)) if note is not None]
        annotation = field.annotation
        for note in notes:
            annotation = _annotate(annotation, note)
        default = None if field.is_required() else _model_default(field)
        yield DeclaredField(name, tuple(keys), annotation, default, field.is_required(), rewritten(name))


def _discriminator(field: Any) -> Any:
    from pydantic import Discriminator  # the user's own type has loaded it

    return Discriminator(field.discriminator) if isinstance(field.discriminator, str) else field.discriminator


def _annotate(kind: Any, note: Any) -> Any:
    from typing import Annotated

    return Annotated[kind, note]


def _model_default(field: Any) -> Callable[[], Any]:
    def default() -> Any:
        try:
            return field.get_default(call_default_factory=True, validated_data={})
        except KeyError:  # a factory that reads fields which have not come
            return None

    return default


def _rewritten(kind: Any) -> Callable[[str], bool]:
    """Whether a validator of the class itself sees a field's JSON value before the field's own type does."""
    decorators = kind.__pydantic_decorators__
    if any(found.info.mode != "after" for found in decorators.model_validators.values()):
        return lambda _name: True
    early = [found.info for found in decorators.field_validators.values() if found.info.mode != "after"]
    names = {name for info in early for name in info.fields}
    return lambda name: name in names or "*" in names


def _of_typed_dict(kind: Any, origin: Any) -> Iterator[DeclaredField]:
    for name, hint in _hints(kind, origin).items():
        # the class itself cannot see a qualifier in an annotation that is text
        required = {Required: True, NotRequired: False}.get(get_origin(hint), name in origin.__required_keys__)
        yield DeclaredField(name, (name,), hint, None, required)


def _of_dataclass(kind: Any, origin: Any) -> Iterator[DeclaredField]:
    hints = _hints(kind, origin)
    for field in dataclasses.fields(origin):
        default: Callable[[], Any] | None = None
        if field.default is not dataclasses.MISSING:
            default = _always(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory
        keys = (field.name,) if field.init else ()
        yield DeclaredField(field.name, keys, hints[field.name], default, default is None)


def _of_attrs(kind: Any, origin: Any) -> Iterator[DeclaredField]:
    """Attrs need not be installed: what stands for no default, and what makes one, are known by their looks."""
    hints = _hints(kind, origin)
    for field in origin.__attrs_attrs__:
        default: Callable[[], Any] | None = None
        factory = getattr(field.default, "factory", None)
        if factory is not None and not field.default.takes_self:
            default = factory
        elif factory is None and repr(field.default) != "NOTHING":
            default = _always(field.default)
        required = factory is None and default is None
        yield DeclaredField(field.name, (field.name,), hints.get(field.name, Any), default, required)


def _hints(kind: Any, origin: Any) -> dict[str, Any]:
    """The annotations of a class, with a generic class's arguments in their places."""
    given = dict(zip(getattr(origin, "__parameters__", ()), get_args(kind), strict=False))
    return {name: _substitute(hint, given) for name, hint in get_type_hints(origin, include_extras=True).items()}


def _substitute(hint: Any, given: dict[Any, Any]) -> Any:
    if isinstance(hint, TypeVar):
        return given.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    if isinstance(hint, type) or not parameters:
        return hint
    return hint[tuple(given.get(parameter, parameter) for parameter in parameters)]


def _always(value: Any) -> Callable[[], Any]:
    return lambda: copy.copy(value) if type(value) in (list, dict, set) else value


def _model_maker(kind: Any) -> Make:
    new = kind.__new__
    put = object.__setattr__
    private = kind.__private_attributes__
    has_extra = kind.model_config.get("extra") == "allow"

    def make(values: dict[str, Any], received: set[str], extra: dict[str, Any]) -> Any:
        made = new(kind)
        defaults = {name: attribute.get_default() for name, attribute in private.items()} if private else None
        put(made, "__dict__", values)  # what its own __setstate__ sets
        put(made, "__pydantic_fields_set__", received.copy())
        put(made, "__pydantic_extra__", extra.copy() if has_extra else None)
        put(made, "__pydantic_private__", defaults)
        return made

    return make


def _struct_maker(kind: Any, fields: list[str]) -> Make:
    template = _unchecked_struct(kind, fields)
    twin = kind.__copy__
    put = msgspec.structs.force_setattr
    remove = {name: getattr(kind, name).__delete__ for name in fields}

    def make(values: dict[str, Any], _received: set[str], _extra: dict[str, Any]) -> Any:
        made = twin(template)
        for name, value in values.items():
            put(made, name, value)
        if len(values) < len(remove):
            for name in remove.keys() - values.keys():
                remove[name](made)
        return made

    return make


def _unchecked_struct(kind: Any, fields: list[str]) -> Any:
    """A struct made past its `__post_init__`, all None: one of a twin without that method, with its class put right."""
    plain: Any = type(kind)(kind.__name__, (kind,), {"__post_init__": lambda _self: None, "__annotations__": {}})
    made = plain(**dict.fromkeys(fields))
    vars(object)["__class__"].__set__(made, kind)
    return made


def _attribute_maker(kind: Any) -> Make:
    has_dict = not hasattr(kind, "__slots__") or "__dict__" in dir(kind)
    put = object.__setattr__

    def make(values: dict[str, Any], _received: set[str], _extra: dict[str, Any]) -> Any:
        made = kind.__new__(kind)
        if has_dict:
            made.__dict__.update(values)
        else:
            for name, value in values.items():
                put(made, name, value)
        return made

    return make
