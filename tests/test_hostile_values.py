"""What no caller should give is refused with an error of greenroom's, whatever it is and wherever it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from greenroom import (
    Choice,
    GreenroomError,
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


HOSTILE: list[Any] = [5, 1.5, b"x", [HUGE], np.float32(0.5), np.array([1, 2]), object(), {"a": HUGE}, Unshown()]
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
