"""What no caller should give is refused with an error of greenroom's, whatever it is and wherever it is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from greenroom import (
    ChatSession,
    Choice,
    Entropy,
    GreenroomError,
    InvalidParameter,
    InvalidPrompt,
    JsonSchema,
    Lazy,
    Regex,
    Reply,
    Runtime,
    Scripted,
    StructTag,
    Tag,
    structures,
)
from greenroom.inputs.parameters import merge_parameters

HUGE = 10**5000


class Unshown:
    """Nobody can look at it."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Uncompared:
    """It is like nothing."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")


HOSTILE: list[Any] = [
    5,
    1.5,
    b"x",
    [HUGE],
    np.float32(0.5),
    np.array([1, 2]),
    object(),
    {"a": HUGE},
    Unshown(),
    Uncompared(),
]
GROW: Any = structures
MADE: dict[str, Callable[[Any], object]] = {
    "parameters": lambda value: merge_parameters(value, {}),
    "choice": Choice,
    "tag begin": lambda value: Tag(value, Regex("a")),
    "tag content": lambda value: Tag("a", value),
    "tag end": lambda value: Tag("a", Regex("b"), value),
    "tag trigger": lambda value: Tag("a", Regex("b"), "", value),
    "tags": StructTag,
    "required": lambda value: StructTag(Tag("a", Regex("b")), required=value),
    "trigger": lambda value: Lazy([value], Regex("a")),  # type: ignore[arg-type]
    "schema": JsonSchema,
    "type": lambda value: JsonSchema(list[value]),  # type: ignore[valid-type]
    "whitespace": lambda value: JsonSchema(True, whitespace=value),
    "separators": lambda value: JsonSchema(True, separators=value),
    "lenient": lambda value: JsonSchema(True, lenient=value),
    "truncated": lambda value: GROW(None, list, truncated=value),
    "every_chunk": lambda value: GROW(None, list, every_chunk=value),
    "missing": lambda value: GROW(None, list, missing=value),
    "max_size": lambda value: GROW(None, list, max_size=[value]),
    "kind": lambda value: GROW(None, np.array([value], object)),
    "reply": lambda _: Reply(repeat=True),
}


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("made", MADE)
def test_a_value_of_another_type_is_refused_by_name(made: str, value: Any) -> None:
    """An int of thousands of digits has no text, an array no truth: neither hides the error."""
    with pytest.raises(GreenroomError):
        MADE[made](value)


async def test_handles_refuse_what_is_none() -> None:
    """A matcher's tokens and logits, a generator's kin."""
    async with Runtime(backend=Scripted("Hello.")) as runtime:
        matcher = await runtime.matcher(Regex("[a-z]+"))
        hostile: list[Any] = ["a", [1.5], None, [HUGE], [-1], object(), np.array([0.5])]
        for value in hostile:
            with pytest.raises(GreenroomError):
                matcher.accept(value)
            with pytest.raises(GreenroomError):
                matcher.mask(value)
        for count in (-1, 3, None, 0.5):
            with pytest.raises(GreenroomError):
                matcher.rollback(count)  # type: ignore[arg-type]
        ids: Any = np.array([97, 98])
        matcher.accept(ids)
        async with runtime.context() as context:
            generator = context.fill("a").generate(max_tokens=1)
            with pytest.raises(GreenroomError):
                await generator.retain_only(5)  # type: ignore[arg-type]


async def test_a_probe_of_no_row_is_refused() -> None:
    """A step has a row for the next token and one behind each guess, of which there are few."""
    async with Runtime(backend=Scripted("Hello.")) as runtime, runtime.context() as context:
        generator = context.fill("a").generate(max_tokens=2)
        step = await anext(generator)
        for index in (-1, 10**400, 33, True, 0.0, "0", None):
            with pytest.raises(InvalidParameter, match="index"):
                step.probe(index, Entropy())  # type: ignore[arg-type]
            with pytest.raises(InvalidParameter, match="index"):
                generator.probe_each_step(index, Entropy())  # type: ignore[arg-type]


class Uncopied:
    """What no copy is made of."""

    def __deepcopy__(self, memo: object) -> Uncopied:
        raise RuntimeError("no copy")


@pytest.mark.parametrize("content", [b"x", bytearray(b"x"), memoryview(b"x"), [Uncopied()]])
async def test_a_message_that_cannot_be_kept_is_refused_before_it_is(content: Any) -> None:
    """Bytes are a sequence of ints and no parts; a transcript is copied for whoever looks at it."""
    async with Runtime(backend=Scripted("Hello.")) as runtime:
        session = ChatSession(runtime)
        with pytest.raises(InvalidPrompt):
            await session.respond({"role": "user", "content": content, "more": content})
        with pytest.raises(InvalidPrompt):
            ChatSession(runtime, history=[{"role": "user", "content": "a", "more": [memoryview(b"x")]}])
        assert session.history == []
        assert await session.respond("Hi") == "Hello."


async def test_a_snapshot_of_numbers_by_another_name_is_a_file_of_numbers(tmp_path: Path) -> None:
    """One of a class of the caller's is an int all the same, or a text."""

    class Few(int):
        """An int by another name."""

    class Word(str):
        """A text by another name."""

        __slots__ = ()

    async with Runtime(backend=Scripted("Hello.")) as runtime, runtime.context() as context:
        generator = context.fill("a").generate(max_tokens=Few(2), seed=Few(3), stop=[Word("zz")])
        await generator.collect_text()
        snapshot = await generator.snapshot()
        await snapshot.save(tmp_path / "snapshot")
        assert (tmp_path / "snapshot").exists()


async def test_what_bears_no_comparison_is_refused_where_it_stands_inside() -> None:
    """In a schema, and as the style of thoughts where the text is to be an object."""
    with pytest.raises(GreenroomError):
        JsonSchema({"type": Uncompared()})
    style: Any = Uncompared()
    async with Runtime(backend=Scripted("5")) as runtime:
        with pytest.raises(InvalidParameter, match="reasoning"):
            await runtime.collect(int, "x", reasoning=style)
        with pytest.raises(InvalidParameter, match="reasoning"):
            await ChatSession(runtime).respond("x", into=int, reasoning=style)
        assert await runtime.collect(int, "x", reasoning="text") == 5
