"""Annotations that pydantic, msgspec, dataclasses, typing and attrs document: the types that output may have."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import pathlib
import re
import typing
import uuid
import zoneinfo
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, Optional, TypeVar, Union

import annotated_types as at
import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import typing_extensions
from msgspec import Meta, Struct
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import ReadOnly, TypeAliasType, TypedDict

__all__ = ["TABLE", "UNSUPPORTED", "Differing", "reads", "same"]

T = TypeVar("T")
B = TypeVar("B", bound=int)


class Color(enum.Enum):
    RED = "red"
    GREEN = "green"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 30


class Word(enum.StrEnum):
    YES = "yes"
    NO = "no"


class Mixed(enum.Enum):
    ONE = 1
    TWO = "two"
    HALF = 0.5
    NONE = None


class Corner(enum.Enum):
    LOW = (0, 0)
    NAME = "high"


class Day(enum.Enum):
    FIRST = dt.date(2020, 1, 1)


class Flags(enum.IntFlag):
    READ = 1
    WRITE = 2


# Classes of each library.


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    name: str
    tags: tuple[str, ...] = ()


@dataclasses.dataclass
class Ranged:
    age: Annotated[int, Field(ge=0, le=150)]
    name: Annotated[str, Field(max_length=8)] = ""


@dataclasses.dataclass
class Made:
    x: int
    double: int = dataclasses.field(init=False, default=0)
    many: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Tree:
    name: Literal["leaf", "twig"]
    children: list[Tree] = dataclasses.field(default_factory=list)


@pydantic.dataclasses.dataclass
class Checked:
    age: int = Field(gt=0, lt=10)
    name: str = Field(default="", pattern="^[a-z]{0,5}$")


@attrs.define
class Attrs:
    x: int
    y: float | None = None


@attrs.frozen
class AttrsFrozen:
    name: str
    size: Size = Size.SMALL


@attrs.define
class AttrsDefaults:
    items: list[int] = attrs.field(factory=list)
    when: dt.date | None = attrs.field(default=None, kw_only=True)


@attrs.define
class AttrsValidated:
    age: int = attrs.field(validator=[attrs.validators.ge(3), attrs.validators.lt(150)])
    name: str = attrs.field(validator=attrs.validators.and_(attrs.validators.max_len(4), attrs.validators.min_len(1)))
    code: str = attrs.field(default="a", validator=attrs.validators.matches_re("[a-z]{1,3}"))
    level: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.in_([1, 2])))
    score: float = attrs.field(default=0.0, validator=[attrs.validators.instance_of(float), attrs.validators.le(1)])
    tags: list[int] = attrs.field(factory=list, validator=attrs.validators.max_len(2))


class Pair(NamedTuple):
    left: int
    right: bool = False


class Movie(TypedDict):
    title: str
    year: int


class Loose(TypedDict, total=False):
    a: int
    b: bool


class Partly(TypedDict):
    a: int
    b: NotRequired[bool]


class Sealed(TypedDict):
    a: ReadOnly[int]


class Closed(TypedDict):
    a: int
    b: Annotated[int, Field(gt=2, le=9)]


class Cat(Struct, tag=True):
    name: str


class Dog(Struct, tag=True):
    good: bool


class Numbered(Struct, tag=7, tag_field="kind"):
    good: bool


class Row(Struct, array_like=True):
    a: int
    b: bool
    c: bool = False


class TaggedRow(Struct, array_like=True, tag="row"):
    a: int


class Strict(Struct, forbid_unknown_fields=True, rename="camel"):
    first_name: str
    last_one: int = 0


class Sparse(Struct, omit_defaults=True, kw_only=True, frozen=True):
    a: int | msgspec.UnsetType = msgspec.UNSET
    b: bool


class Renamed(Struct):
    inner: int = msgspec.field(name="outer")


class Box(Struct, Generic[T]):
    value: T


class Linked(Struct):
    value: bool
    next: Optional[Linked] = None  # noqa: UP045 - a name that is not there yet


class Person(BaseModel):
    name: str
    age: int


class Aliased(BaseModel):
    inner: int = Field(alias="outer")
    choice: bool = Field(validation_alias=pydantic.AliasChoices("choice", "other"))


class PathAliased(BaseModel):
    deep: int = Field(validation_alias=pydantic.AliasPath("a", 0))


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Extras(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int]
    a: int


class Forbid(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    a: int
    when: dt.date
    color: Color


class Many(BaseModel):
    a: int = 1
    b: float | None = None
    c: list[bool] = Field(default_factory=list, max_length=3)
    d: Literal["x", "y"] = "x"


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Generics(BaseModel, Generic[T]):
    value: T


class Validated(BaseModel):
    name: str

    @pydantic.field_validator("name")
    @classmethod
    def upper(cls, value: str) -> str:
        return value.upper()


class Counted(BaseModel):
    a: int

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.a * 2


class Household(BaseModel):
    pets: list[CatModel | DogModel] = Field(max_length=3)
    tree: Node | None = None


class CatModel(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=0, le=9)]


class DogModel(BaseModel):
    kind: Literal["dog"]
    good: bool


class BirdModel(BaseModel):
    kind: Literal["bird"]
    size: Size


class Node(BaseModel):
    value: bool
    next: Node | None = None


def kind_of(value: Any) -> str:
    return str(value.get("kind") if isinstance(value, dict) else value.kind)


def differing(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError("the items must differ")
    return values


Differing = Annotated[list[int], pydantic.AfterValidator(differing)]
"""No grammar knows of it."""

UserId = NewType("UserId", int)
Alias = TypeAliasType("Alias", dict[str, int])
Recursive = TypeAliasType("Recursive", "list[Recursive] | int")
Lists = TypeAliasType("Lists", list[T], type_params=(T,))

_STANDARD: dict[str, Any] = {
    "None": type(None),
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "bytes": bytes,
    "bytearray": bytearray,
    "Any": Any,
    "object": object,
    "list": list,
    "list[int]": list[int],
    "typing.List[str]": typing.List[str],  # noqa: UP006
    "tuple": tuple,
    "tuple[int, ...]": tuple[int, ...],
    "tuple[int, bool, str]": tuple[int, bool, str],
    "tuple[()]": tuple[()],
    "set[int]": set[int],
    "set[bool]": set[bool],
    "frozenset[Literal]": frozenset[Literal["a", "b"]],
    "dict": dict,
    "dict[str, int]": dict[str, int],
    "dict[str, Any]": dict[str, Any],
    "dict[int, bool]": dict[int, bool],
    "dict[float, bool]": dict[float, bool],
    "dict[bool, int]": dict[bool, int],
    "dict[date, int]": dict[dt.date, int],
    "dict[datetime, int]": dict[dt.datetime, int],
    "dict[UUID, int]": dict[uuid.UUID, int],
    "dict[Decimal, int]": dict[decimal.Decimal, int],
    "dict[Enum, int]": dict[Color, int],
    "dict[IntEnum, int]": dict[Size, int],
    "dict[Literal, int]": dict[Literal["a", "b"], int],
    "dict[Literal[1, 2], int]": dict[Literal[1, 2], int],
    "dict[int | str, bool]": dict[int | str, bool],
    "dict[time, bool]": dict[dt.time, bool],
    "collections.deque[int]": collections.deque[int],
    "collections.defaultdict[str, int]": collections.defaultdict[str, int],
    "collections.OrderedDict[str, int]": collections.OrderedDict[str, int],
    "collections.Counter[str]": collections.Counter[str],
    "collections.abc.Sequence[int]": collections.abc.Sequence[int],
    "collections.abc.MutableSequence[int]": collections.abc.MutableSequence[int],
    "collections.abc.Iterable[int]": collections.abc.Iterable[int],
    "collections.abc.Collection[int]": collections.abc.Collection[int],
    "collections.abc.Set[int]": collections.abc.Set[int],
    "collections.abc.MutableSet[int]": collections.abc.MutableSet[int],
    "collections.abc.Mapping[str, int]": collections.abc.Mapping[str, int],
    "collections.abc.MutableMapping[str, bool]": collections.abc.MutableMapping[str, bool],
    "int | str": int | str,
    "int | None": int | None,
    "Optional[bool]": Optional[bool],  # noqa: UP045
    "Union[int, float, None]": Union[int, float, None],  # noqa: UP007
    "list[int] | dict[str, int]": list[int] | dict[str, int],
    "Literal": Literal["a", "b", 3],
    "Literal[None, True]": Literal[None, True, 1],  # noqa: PYI061 - as it is documented
    "Enum": Color,
    "IntEnum": Size,
    "StrEnum": Word,
    "Enum of mixed values": Mixed,
    "IntFlag": Flags,
    "Enum of tuples and texts": Corner,
    "Enum of dates": Day,
    "Literal of an Enum": Literal[Color.RED],
    "Literal of a StrEnum": Literal[Word.YES],
    "datetime": dt.datetime,
    "date": dt.date,
    "time": dt.time,
    "timedelta": dt.timedelta,
    "Decimal": decimal.Decimal,
    "UUID": uuid.UUID,
    "complex": complex,
    "Fraction": fractions.Fraction,
    "ZoneInfo": zoneinfo.ZoneInfo,
    "Path": pathlib.Path,
    "PurePosixPath": pathlib.PurePosixPath,
    "re.Pattern[str]": re.Pattern[str],
    "IPv4Address": ipaddress.IPv4Address,
    "IPv4Interface": ipaddress.IPv4Interface,
    "IPv4Network": ipaddress.IPv4Network,
    "IPv6Address": ipaddress.IPv6Address,
    "IPv6Interface": ipaddress.IPv6Interface,
    "IPv6Network": ipaddress.IPv6Network,
    "NewType": UserId,
    "type alias": Alias,
    "recursive alias": Recursive,
    "generic alias": Lists[int],
    "TypeVar bound": B,
    "LiteralString": typing_extensions.LiteralString,
    "Annotated, a text beside": Annotated[int, "a number"],
    "Hashable": collections.abc.Hashable,
    "Callable": collections.abc.Callable[[int], int],
    "type[int]": type[int],
    "Generator[int]": collections.abc.Generator[int, None, None],
}

_CLASSES: dict[str, Any] = {
    "dataclass": Point,
    "dataclass, frozen": Frozen,
    "dataclass, Field": Ranged,
    "dataclass, init=False": Made,
    "dataclass, recursive": Tree,
    "dataclasses in a union": Point | Frozen,
    "pydantic dataclass": Checked,
    "attrs": Attrs,
    "attrs, frozen": AttrsFrozen,
    "attrs, factory": AttrsDefaults,
    "attrs, validators": AttrsValidated,
    "list[attrs]": list[Attrs],
    "NamedTuple": Pair,
    "dict[str, NamedTuple]": dict[str, Pair],
    "TypedDict": Movie,
    "TypedDict, total=False": Loose,
    "TypedDict, NotRequired": Partly,
    "TypedDict, Field": Closed,
    "TypedDict, ReadOnly": Sealed,
    "Struct, tagged": Cat | Dog,
    "Struct, tagged by int": Numbered,
    "Struct, array-like": Row,
    "list[Struct, array-like]": list[Row],
    "Struct, array-like with a tag": TaggedRow,
    "Struct, renamed": Strict,
    "Struct, UNSET": Sparse,
    "Struct, field name": Renamed,
    "Struct, generic": Box[int],
    "Struct, recursive": Linked,
    "Struct | None": Cat | None,
    "dict[str, Struct]": dict[str, Linked],
    "msgspec.Raw": msgspec.Raw,
    "model": Person,
    "list[model]": list[Person],
    "model, aliases": Aliased,
    "model, a path as alias": PathAliased,
    "model, extra=allow": Open,
    "model, typed extra": Extras,
    "model, strict": Forbid,
    "model, defaults": Many,
    "RootModel": Numbers,
    "model, generic": Generics[bool],
    "model, validator": Validated,
    "model, computed field": Counted,
    "models in models": Household,
    "model, recursive": Node,
    "models, discriminator": Annotated[CatModel | DogModel | BirdModel, Field(discriminator="kind")],
    "models, callable discriminator": Annotated[
        Annotated[CatModel, pydantic.Tag("cat")] | Annotated[DogModel, pydantic.Tag("dog")],
        pydantic.Discriminator(kind_of),
    ],
    "models, nested discriminators": Annotated[
        Annotated[CatModel | DogModel, Field(discriminator="kind")] | BirdModel, Field(discriminator="kind")
    ],
    "models in a union": CatModel | Person | None,
    "dict[str, model]": dict[str, CatModel],
}

_META: dict[str, Any] = {
    "Meta(ge, le)": Annotated[int, Meta(ge=1, le=5)],
    "Meta(gt, lt)": Annotated[int, Meta(gt=-3, lt=4)],
    "Meta(multiple_of)": Annotated[int, Meta(multiple_of=5)],
    "Meta(ge=-2**63)": Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)],
    "Meta(ge) float": Annotated[float, Meta(ge=0.5, lt=2.5)],
    "Meta(gt) float": Annotated[float, Meta(gt=0)],
    "Meta(min_length, max_length)": Annotated[str, Meta(min_length=2, max_length=4)],
    "Meta(pattern)": Annotated[str, Meta(pattern="^[a-f]{3}$")],
    "Meta(pattern), within": Annotated[str, Meta(pattern="[0-9]{2}", max_length=9)],
    "Meta(max_length) bytes": Annotated[bytes, Meta(min_length=1, max_length=4)],
    "Meta(max_length) list": Annotated[list[int], Meta(min_length=1, max_length=3)],
    "Meta(max_length) tuple": Annotated[tuple[bool, ...], Meta(max_length=2)],
    "Meta(min_length) set": Annotated[set[int], Meta(min_length=1)],
    "Meta(max_length) dict": Annotated[dict[str, int], Meta(min_length=1, max_length=2)],
    "Meta(tz=True)": Annotated[dt.datetime, Meta(tz=True)],
    "Meta(tz=False)": Annotated[dt.datetime, Meta(tz=False)],
    "Meta(tz=True) time": Annotated[dt.time, Meta(tz=True)],
    "Meta(tz=False) time": Annotated[dt.time, Meta(tz=False)],
    "Meta(title)": Annotated[int, Meta(title="Age", description="in years", examples=[3])],
    "dict, keys of a pattern": dict[Annotated[str, Meta(pattern="^[a-z]{2}$")], int],
    "dict, keys of a length": dict[Annotated[str, Meta(min_length=1, max_length=3)], int],
    "dict, keys in a range": dict[Annotated[int, Meta(ge=3, le=12)], bool],
    "dict, keys from 100 on": dict[Annotated[int, Meta(ge=100)], bool],
}

_PYDANTIC: dict[str, Any] = {
    "StrictInt": pydantic.StrictInt,
    "StrictStr": pydantic.StrictStr,
    "StrictBool": pydantic.StrictBool,
    "StrictFloat": pydantic.StrictFloat,
    "StrictBytes": pydantic.StrictBytes,
    "PositiveInt": pydantic.PositiveInt,
    "NegativeInt": pydantic.NegativeInt,
    "NonNegativeInt": pydantic.NonNegativeInt,
    "NonPositiveInt": pydantic.NonPositiveInt,
    "PositiveFloat": pydantic.PositiveFloat,
    "NegativeFloat": pydantic.NegativeFloat,
    "NonNegativeFloat": pydantic.NonNegativeFloat,
    "FiniteFloat": pydantic.FiniteFloat,
    "AllowInfNan": Annotated[float, pydantic.AllowInfNan(False)],
    "conint": pydantic.conint(ge=2, lt=8, multiple_of=3),
    "confloat": pydantic.confloat(ge=0, le=1),
    "constr": pydantic.constr(min_length=1, max_length=5, pattern="^[A-Z]+$"),
    "constr, stripped": pydantic.constr(strip_whitespace=True, min_length=2, to_lower=True),
    "conbytes": pydantic.conbytes(min_length=1, max_length=3),
    "conlist": pydantic.conlist(int, min_length=1, max_length=2),
    "conset": pydantic.conset(int, min_length=1, max_length=3),
    "confrozenset": pydantic.confrozenset(bool, max_length=2),
    "condecimal": pydantic.condecimal(max_digits=5, decimal_places=2),
    "condecimal, bounds": pydantic.condecimal(ge=0, le=100, decimal_places=1),
    "condate": pydantic.condate(gt=dt.date(2020, 1, 1)),
    "StringConstraints": Annotated[str, pydantic.StringConstraints(pattern="^[a-z]+-[0-9]{1,3}$")],
    "UUID1": pydantic.UUID1,
    "UUID3": pydantic.UUID3,
    "UUID4": pydantic.UUID4,
    "UUID5": pydantic.UUID5,
    "UUID6": pydantic.UUID6,
    "UUID7": pydantic.UUID7,
    "UUID8": pydantic.UUID8,
    "PastDate": pydantic.PastDate,
    "FutureDate": pydantic.FutureDate,
    "AwareDatetime": pydantic.AwareDatetime,
    "NaiveDatetime": pydantic.NaiveDatetime,
    "PastDatetime": pydantic.PastDatetime,
    "FutureDatetime": pydantic.FutureDatetime,
    "Base64Bytes": pydantic.Base64Bytes,
    "Base64Str": pydantic.Base64Str,
    "Base64UrlBytes": pydantic.Base64UrlBytes,
    "Base64UrlStr": pydantic.Base64UrlStr,
    "SecretStr": pydantic.SecretStr,
    "SecretBytes": pydantic.SecretBytes,
    "Secret[int]": pydantic.Secret[int],
    "ByteSize": pydantic.ByteSize,
    "JsonValue": pydantic.JsonValue,
    "Json": pydantic.Json,
    "Json[list[int]]": pydantic.Json[list[int]],
    "ImportString": pydantic.ImportString,
    "FilePath": pydantic.FilePath,
    "DirectoryPath": pydantic.DirectoryPath,
    "NewPath": pydantic.NewPath,
    "AnyUrl": pydantic.AnyUrl,
    "AnyHttpUrl": pydantic.AnyHttpUrl,
    "HttpUrl": pydantic.HttpUrl,
    "FileUrl": pydantic.FileUrl,
    "FtpUrl": pydantic.FtpUrl,
    "WebsocketUrl": pydantic.WebsocketUrl,
    "PostgresDsn": pydantic.PostgresDsn,
    "RedisDsn": pydantic.RedisDsn,
    "MongoDsn": pydantic.MongoDsn,
    "KafkaDsn": pydantic.KafkaDsn,
    "AmqpDsn": pydantic.AmqpDsn,
    "IPvAnyAddress": pydantic.IPvAnyAddress,
    "IPvAnyInterface": pydantic.IPvAnyInterface,
    "IPvAnyNetwork": pydantic.IPvAnyNetwork,
    "OnErrorOmit": list[pydantic.OnErrorOmit[int]],
    "SkipValidation": pydantic.SkipValidation[int],
    "FailFast": Annotated[list[int], pydantic.FailFast()],
    "InstanceOf": pydantic.InstanceOf[Person],
    "Field in a list": list[Annotated[int, Field(gt=0, lt=5)]],
    "Field in a dict": dict[str, Annotated[str, Field(max_length=3)]],
    "keys of a pattern": dict[Annotated[str, Field(pattern="^[a-z]{1,3}$")], Annotated[int, Field(ge=0)]],
    "keys in a range": dict[Annotated[int, Field(ge=1, le=9)], bool],
    "keys of UUID4": dict[pydantic.UUID4, bool],
    "keys of IPv4Address": dict[ipaddress.IPv4Address, bool],
    "BeforeValidator": Annotated[int, pydantic.BeforeValidator(lambda value: value)],
    "AfterValidator": Annotated[int, pydantic.AfterValidator(lambda value: value + 1)],
    "PlainValidator": Annotated[int, pydantic.PlainValidator(lambda value: value, json_schema_input_type=int)],
    "WrapValidator": Annotated[int, pydantic.WrapValidator(lambda value, handler: handler(value))],
    "Gt, Le": Annotated[int, at.Gt(3), at.Le(9)],
    "Interval": Annotated[float, at.Interval(ge=0, lt=1)],
    "MultipleOf": Annotated[int, at.MultipleOf(4)],
    "MinLen": Annotated[list[bool], at.MinLen(2), at.MaxLen(4)],
    "Len": Annotated[str, at.Len(1, 3)],
    "Timezone(...)": Annotated[dt.datetime, at.Timezone(...)],
    "Timezone(None)": Annotated[dt.datetime, at.Timezone(None)],
    "LowerCase": at.LowerCase[str],
    "IsDigit": at.IsDigit[str],
    "IsFinite": at.IsFinite[float],
    "MaxLen of a dict": Annotated[dict[str, bool], at.MaxLen(2)],
    "list[AwareDatetime]": list[pydantic.AwareDatetime],
    "Struct beside a model": list[Cat | None],
}

TABLE: dict[str, Any] = {**_STANDARD, **_CLASSES, **_META, **_PYDANTIC}
"""By what they are called."""

UNSUPPORTED: dict[str, str] = {
    "LiteralString": "not supported",
    "Callable": "no text is a function",
    "type[int]": "no text is a class",
    "Generator[int]": "read while it is used",
    "collections.abc.Iterable[int]": "read while it is used",
    "Enum of dates": "none of its values is one of JSON",
    "Literal of an Enum": "none of its values is one of JSON",
    "model, a path as alias": "PathAliased.deep has no JSON that a grammar could write: its alias is a path",
    "Json": "JSON within a text",
    "Json[list[int]]": "JSON within a text",
    "ImportString": "what can be imported",
    "FilePath": "whether a path exists",
    "DirectoryPath": "whether a path exists",
    "NewPath": "whether a path exists",
}
"""Those that are refused, with what the reason says."""

_PYDANTIC_S = {
    *(_PYDANTIC.keys() - {"Struct beside a model"}),
    *[
        name
        for name in _CLASSES
        if name.startswith(("model", "RootModel", "pydantic", "list[model", "dict[str, model"))
    ],
    *["dataclass, Field", "TypedDict, Field", "dataclasses in a union", "dict[bool, int]", "collections.deque[int]"],
    *["collections.defaultdict[str, int]", "collections.OrderedDict[str, int]", "collections.Counter[str]"],
    *[
        "Enum of tuples and texts",
        "Literal of a StrEnum",
        "Enum of mixed values",
        "complex",
        "Fraction",
        "ZoneInfo",
        "Path",
        "PurePosixPath",
        "re.Pattern[str]",
    ],
    *[name for name in _STANDARD if name.startswith("IPv")],
    *["type alias", "recursive alias", "generic alias", "Hashable", "object", "TypedDict, ReadOnly"],
}


def reads(name: str, text: str) -> Any:
    """What the library of a type reads from `text`. Raises `ValueError`."""
    kind = TABLE[name]
    if name in _PYDANTIC_S:
        return pydantic.TypeAdapter(kind).validate_json(text)
    return msgspec.json.decode(text, type=kind)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same: of one type, and equal, or shown alike where a class knows no equality."""
    if isinstance(one, msgspec.Raw) and isinstance(other, msgspec.Raw):
        return bytes(one) == bytes(other)
    return type(one) is type(other) and (bool(one == other) or repr(one) == repr(other))
