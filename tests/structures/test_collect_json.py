"""`Generator.collect_json` and `Runtime.collect` make the same object of one text, whatever the type."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, TypedDict

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, FilePath

from greenroom import Reply, Runtime, Sampler, Scripted
from greenroom.errors import InvalidStructure, MalformedJson, TruncatedJson, UnsupportedType


@dataclass
class Point:
    """A dataclass."""

    x: int
    y: int = 0


class Order(msgspec.Struct):
    """A Struct."""

    item: str
    tags: list[str] = []


class Address(BaseModel):
    """A pydantic model."""

    city: str


class Birth(BaseModel):
    """Strict: of Python values only a `date` is one, of JSON the text of it."""

    model_config = ConfigDict(strict=True)
    day: date


class Movie(TypedDict):
    """A TypedDict."""

    name: str


@dataclass
class Cat:
    """One of a union that msgspec alone does not take."""

    lives: int


@dataclass
class Dog:
    """The other one."""

    tricks: list[str]


class Ping(msgspec.Struct, tag=True):
    """One of a tagged union."""

    at: int


class Pong(msgspec.Struct, tag=True):
    """The other one."""

    at: int


CASES: list[tuple[Any, str, Any]] = [
    (Point, '{"x":1,"y":2}', Point(1, 2)),
    (Order, '{"item":"tea","tags":["hot"]}', Order("tea", ["hot"])),
    (Address, '{"city":"Rome"}', Address(city="Rome")),
    (Movie, '{"name":"Alien"}', Movie(name="Alien")),
    (list[Point], '[{"x":1,"y":2},{"x":3,"y":4}]', [Point(1, 2), Point(3, 4)]),
    (list[Order], '[{"item":"tea","tags":[]}]', [Order("tea", [])]),
    (list[Address], '[{"city":"Rome"},{"city":"Oslo"}]', [Address(city="Rome"), Address(city="Oslo")]),
    (list[Movie], '[{"name":"Alien"}]', [Movie(name="Alien")]),
    (dict[str, Point], '{"a":{"x":1,"y":2}}', {"a": Point(1, 2)}),
    (dict[str, Address], '{"home":{"city":"Rome"}}', {"home": Address(city="Rome")}),
    (Cat | Dog, '{"tricks":["sit"]}', Dog(["sit"])),
    (Ping | Pong, '{"type":"Pong","at":3}', Pong(3)),
    (Address | None, '{"city":"Rome"}', Address(city="Rome")),
    (dict[int, bool], '{"1":true,"20":false}', {1: True, 20: False}),
    (Birth, '{"day":"1912-06-23"}', Birth(day=date(1912, 6, 23))),
    (set[int], "[1,2]", {1, 2}),
    ({"type": "array", "items": {"type": "integer"}}, "[1,2]", [1, 2]),
]


@pytest.mark.parametrize(
    ("kind", "said", "expected"), CASES, ids=lambda part: str(part) if isinstance(part, str) else ""
)
async def test_one_text_makes_one_object(kind: Any, said: str, expected: Any) -> None:
    """By the library that the type belongs to, so that the value, its class and its keys are the type's own."""
    async with Runtime(backend=Scripted({"*": Reply(said)})) as runtime:
        g = runtime.context().fill("x").generate(Sampler.greedy())
        found = await g.collect_json(schema=kind)
        assert found == expected
        assert type(found) is type(expected)
        assert found == await runtime.collect(kind, "x", temperature=0)


async def test_faults_are_told_apart() -> None:
    """A text that was cut, one that ended and is no JSON, and JSON that is not the type's."""
    async with Runtime(backend=Scripted({"*": Reply('{"n":718}')})) as runtime:
        ctx = runtime.context().fill("x")
        with pytest.raises(TruncatedJson) as cut:
            await (await ctx.fork()).generate(Sampler.greedy(), max_tokens=6).collect_json(dict[str, int])
        assert cut.value.position == 6
        assert cut.value.partial == {}
        with pytest.raises(MalformedJson):
            await (await ctx.fork()).generate(Sampler.greedy(), stop=["18"]).collect_json(dict[str, int])
        g = (await ctx.fork()).generate(Sampler.greedy(), max_tokens=6)
        assert await g.collect_json(dict[str, int], parse=len) == 6
    async with Runtime(backend=Scripted({"*": Reply("718")})) as runtime:
        with pytest.raises(InvalidStructure, match="100"):
            await (
                runtime.context()
                .fill("x")
                .generate(Sampler.greedy(), max_tokens=2)
                .collect_json(Annotated[int, msgspec.Meta(ge=100)])
            )


async def test_a_type_that_no_grammar_can_write_is_refused_before_anything_runs() -> None:
    """Whether a path exists, only the file system knows."""
    backend = Scripted({"*": Reply('"a.txt"')})
    async with Runtime(backend=backend) as runtime:
        g = runtime.context().fill("x").generate(Sampler.greedy())
        with pytest.raises(UnsupportedType):
            await g.collect_json(FilePath)
        assert backend.passes == 0
