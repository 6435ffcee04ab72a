"""One type drives all: what may be written, how it is shown while it grows, and what it must be in the end."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest

from greenroom.backends.scripted import Scripted
from greenroom.constraints import Regex
from greenroom.errors import TruncatedJson, UnsupportedType
from greenroom.runtime import Runtime


class Order(msgspec.Struct):
    """What somebody wants."""

    customer: str
    priority: Literal["standard", "express"]
    quantity: int


SAID = '{"customer":"Ann Lee","priority":"express","quantity":7}'


async def test_an_object_grows_under_its_own_constraint() -> None:
    """The model would rather say something else in between; strings are seen growing; the last one is whole."""
    async with Runtime(backend=Scripted({"p": SAID})) as runtime:
        growing = runtime.stream(Order, "p", template=False, growing={"missing": "unset"})
        seen = [order async for order in growing]
    assert growing.is_complete
    assert seen[-1] == Order("Ann Lee", "express", 7)
    names = [getattr(order, "customer", None) for order in seen]
    names = [name for name in names if isinstance(name, str)]
    assert names[0] != names[-1] == "Ann Lee"
    assert growing.info is not None
    assert growing.info.forced_tokens > 0


async def test_one_call_gives_one_object() -> None:
    """On the bundled model, hot: it is an order, whatever it says."""
    async with Runtime() as runtime:
        order = await runtime.collect(
            Order, "Make a JSON record of this person: name, age. Anna is 31.", seed=3, frequency_penalty=1.0
        )
    assert isinstance(order, Order)
    assert order.priority in {"standard", "express"}


async def test_another_constraint_holds_too() -> None:
    """Both bind: of what the model would say, one digit is legal behind the one that is forced."""
    async with Runtime(backend=Scripted({"p": "17"})) as runtime:
        assert await runtime.collect(int, "p", template=False, constrain=Regex("2[0-9]")) == 21


async def test_an_object_that_ends_early_is_a_typed_error() -> None:
    """Never presented as whole."""
    async with Runtime(backend=Scripted({"p": SAID})) as runtime:
        with pytest.raises(TruncatedJson):
            await runtime.collect(Order, "p", template=False, max_tokens=20)


async def test_a_type_that_cannot_be_built_is_refused_before_anything_runs() -> None:
    """At the call."""
    backend = Scripted()
    async with Runtime(backend=backend) as runtime:
        with pytest.raises((UnsupportedType, ValueError)):
            runtime.stream(object(), "p")  # type: ignore[call-overload]
        assert backend.passes == 0
