"""Values for parameters, by seed: such as work, such at an edge, and such as no caller should give.

Each is made anew for each call, since a list may be kept. `value` draws one for a parameter's name; a name that has no
values of its own gets those that anything may get, so a parameter that is new is tried from its first day on.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from greenroom import Choice, GenerateParameters, Regex, Sampler, Tool

__all__ = ["anything", "message", "options", "path", "prompt", "small_count", "value"]

Rng = random.Random
Maker = Callable[[Rng], Any]


class _Unprintable:
    """Has no `repr`."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class _Uncomparable:
    """Equals nothing, and says so by raising; is neither true nor false."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")


class _Number(int):
    """An int by another name."""


class _Word(str):
    """A str by another name."""

    __slots__ = ()


class _Level(enum.IntEnum):
    """Ints of an enumeration."""

    LOW = 1
    HIGH = 2


class Person(msgspec.Struct):
    """A type to write."""

    name: str
    age: int = 0


def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: Its name.
    """
    return f"{city}: 7 degrees"


def fail(*_: object, **__: object) -> None:
    """A callback that fails."""
    raise RuntimeError("the callback fails")


def print_nothing(*_: object) -> None:
    """A callback that does nothing."""


def say_broken(*_: object) -> str:
    """What a tool, or its failure, is told as."""
    return "broken"


def _circle() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def _nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


NUMBERS: list[Maker] = [
    lambda _, each=each: each  # type: ignore[misc]
    for each in (0, -1, 1, 2, 7, 2**31, -(2**31) - 1, 2**63, 2**64 - 1, 2**64, 10**400, 10**5000, -(10**400))
] + [
    lambda _, each=each: each  # type: ignore[misc]
    for each in (0.0, -0.0, 1.0, 2.0, 0.5, 1.5, 5e-324, 1e-45, 1e308, 3.5e38, float("nan"), float("inf"), -float("inf"))
]
NUMPYS: list[Maker] = [
    lambda _: np.int32(3),
    lambda _: np.int64(-1),
    lambda _: np.uint8(1),
    lambda _: np.float32(0.5),
    lambda _: np.float64(0.5),
    lambda _: np.float64("nan"),
    lambda _: np.float16(1.0),
    lambda _: np.bool_(True),
    lambda _: np.str_("x"),
    lambda _: np.array(3),
    lambda _: np.array([1, 2]),
    lambda _: np.array([]),
    lambda _: np.array(["a"]),
    lambda _: np.array([None, 1], object),
]
TEXTS: list[Maker] = [
    lambda _, each=each: each  # type: ignore[misc]
    for each in ("", " ", "x", "auto", "1", "\ud800", "a\0b", "é" * 300, "{{ 7 }}", "<|im_end|>", "<think>", "../x")
]
BYTES: list[Maker] = [lambda _: b"", lambda _: b"x", lambda _: bytearray(b"xy"), lambda _: memoryview(b"xyz")]
HOLDERS: list[Maker] = [
    lambda _: [],
    lambda _: (),
    lambda _: {},
    lambda _: set(),
    lambda rng: [anything(rng)],
    lambda rng: (anything(rng), anything(rng)),
    lambda rng: {"a": anything(rng)},
    lambda rng: {rng.choice([1, 1.0, None, True, "type", "role", b"x"]): anything(rng)},
    lambda _: [1, 2, 3],
    lambda _: ["a", "b"],
    lambda _: [1, "a"],
    lambda _: range(3),
    lambda _: iter([1, 2]),
    lambda _: frozenset({1}),
    lambda _: _circle(),
    lambda _: _nested(2000),
]
OBJECTS: list[Maker] = [
    lambda _: object(),
    lambda _: int,
    lambda _: Person,
    lambda _: Person("a"),
    lambda _: fail,
    lambda _: len,
    lambda _: _Unprintable(),
    lambda _: [_Unprintable()],
    lambda _: _Uncomparable(),
    lambda _: _Number(3),
    lambda _: _Word("x"),
    lambda _: _Level.LOW,
    lambda _: Decimal("0.5"),
    lambda _: Fraction(1, 2),
    lambda _: 1 + 2j,
    lambda _: Ellipsis,
    lambda _: Path("x"),
    lambda _: ValueError("x"),
    lambda _: GenerateParameters(),
    lambda _: Sampler(),
]
SINGLES: list[Maker] = [lambda _: None, lambda _: True, lambda _: False]
KINDS = [SINGLES, NUMBERS, NUMPYS, TEXTS, BYTES, HOLDERS, OBJECTS]


def anything(rng: Rng) -> Any:
    """A value of any kind."""
    return rng.choice(rng.choice(KINDS))(rng)


def small_count(rng: Rng) -> Any:
    """How many there are to be: anything, but no number of them that would take all memory, as was asked."""
    found = rng.choice([1, 2, 3]) if rng.random() < 0.5 else anything(rng)
    return found if not isinstance(found, int) or found < 5 else 5


def path(rng: Rng) -> Any:
    """Of a file in this folder, or none."""
    return rng.choice(["a.file", Path("b.file"), "no folder/x", "."]) if rng.random() < 0.6 else anything(rng)


def message(rng: Rng) -> Any:
    """Of a conversation."""
    if rng.random() < 0.2:
        return anything(rng)
    role = rng.choice(["user", "assistant", "system", "tool", "user"]) if rng.random() < 0.9 else anything(rng)
    content = rng.choice(["Hi!", "", None, [{"type": "text", "text": "Hi!"}]]) if rng.random() < 0.8 else anything(rng)
    made = {"role": role, "content": content}
    if rng.random() < 0.2:
        call = {"function": {"name": "get_weather", "arguments": rng.choice([{"city": "x"}, '{"city": "x"}', "{"])}}
        made["tool_calls"] = [call] if rng.random() < 0.7 else anything(rng)
    if rng.random() < 0.1:
        made[rng.choice(["name", "tool_call_id", "thinking", "x"])] = anything(rng)
    return made


def prompt(rng: Rng) -> Any:
    """Of any shape."""
    match rng.randrange(8):
        case 0 | 1 | 2:
            return rng.choice(["Hello!", "Tell me about a fox.", "1 + 1", "é ☃ 🦊", "say: think", "say: call"])
        case 3:
            return [rng.randint(0, 255) for _ in range(rng.randint(1, 30))]
        case 4:
            return [rng.choice([rng.randint(0, 255), anything(rng)]) for _ in range(rng.randint(1, 3))]
        case 5:
            return [{"role": "user", "content": "Hi!"}]
        case 6:
            return [message(rng) for _ in range(rng.randint(1, 4))]
        case _:
            return anything(rng)


def _stop(rng: Rng) -> Any:
    return rng.choice(["x", 1, ["a", "\n"], (7, "é"), [], ["a", anything(rng)]])


def _bias(rng: Rng) -> Any:
    return rng.choice([{1: 2.0}, {255: -100, 3: 0}, {}, {rng.randint(-2, 400): anything(rng)}])


def _tools(rng: Rng) -> Any:
    schema = {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}}
    return rng.choice(
        [
            [get_weather],
            [Tool("look", "Look.")],
            [schema],
            [{"type": "function", "function": schema}],
            [get_weather, get_weather],
            [{**schema, "parameters": anything(rng)}],
            [anything(rng)],
        ]
    )


def _unit(rng: Rng) -> Any:
    return rng.choice([0.0, 1e-9, 0.3, 0.999, 1.0, 1, rng.random()])


def _length(rng: Rng) -> Any:
    return rng.choice([None, 0, 1, 2, 5, 12])


WORKING: Mapping[str, Maker] = {
    "max_tokens": _length,
    "max_kv_size": lambda rng: rng.choice([None, 8, 64]),
    "kv_bits": lambda rng: rng.choice([None, 4, 8]),
    "kv_group_size": lambda rng: rng.choice([32, 64]),
    "quantized_kv_start": lambda rng: rng.choice([0, 5]),
    "temperature": lambda rng: rng.choice([0, 0.0, 1e-40, 0.7, 1, 100.0]),
    "top_p": _unit,
    "min_p": _unit,
    "top_k": lambda rng: rng.choice([0, 1, 5, 300, 320]),
    "seed": lambda rng: rng.choice([None, 0, rng.getrandbits(64)]),
    "repetition_penalty": lambda rng: rng.choice([None, 1.0, 1.3, 2, 1e-30]),
    "presence_penalty": lambda rng: rng.choice([None, 0.5, -2, 1e30]),
    "frequency_penalty": lambda rng: rng.choice([None, 0.5, -2, 1e30]),
    "repetition_context_size": lambda rng: rng.choice([1, 20, 10**6]),
    "presence_context_size": lambda rng: rng.choice([1, 20, 10**6]),
    "frequency_context_size": lambda rng: rng.choice([1, 20, 10**6]),
    "stop": _stop,
    "stop_in_thinking": lambda rng: rng.random() < 0.5,
    "default_stops": lambda rng: rng.random() < 0.5,
    "min_tokens": _length,
    "logit_bias": _bias,
    "logprobs": lambda rng: rng.choice([None, 0, 3, 20]),
    "timeout": lambda rng: rng.choice([None, 1e-9, 0.001, 5]),
    "force_tokens": lambda rng: rng.random() < 0.5,
    "reasoning": lambda rng: rng.choice(["events", "text", "drop"]),
    "thinking_tokens": lambda rng: rng.choice([None, 0, 3]),
    "constrain": lambda rng: rng.choice([Person, int, list[int], Regex("[a-z ]+"), Choice("a", "b")]),
    "template": lambda rng: rng.choice([None, True, False]),
    "template_options": lambda rng: rng.choice([None, {}, {"a": 1}, {"add_generation_prompt": False}]),
    "thinking": lambda rng: rng.choice([None, True, False]),
    "context": lambda _: None,
    "progress": lambda rng: rng.choice([None, fail, print_nothing]),
    "tools": _tools,
    "tool_choice": lambda rng: rng.choice(["auto", "none", "required", "get_weather", "look"]),
    "tool_format": lambda rng: rng.choice([None, "hermes", "mistral", "xml"]),
    "include_stop_token": lambda rng: rng.random() < 0.5,
    "sampler": lambda rng: rng.choice([None, Sampler(), Sampler.multinomial(1.0, 3), GenerateParameters(top_k=3)]),
    "system_speculation": lambda rng: rng.random() < 0.5,
    "instructions": lambda rng: rng.choice([None, "", "Be brief."]),
    "history": lambda rng: [message(rng) for _ in range(rng.randint(0, 3))],
    "max_rounds": lambda rng: rng.choice([1, 2, 3]),
    "on_tool_error": lambda rng: rng.choice(["tell", "raise", say_broken]),
    "on_cancel": lambda rng: rng.choice(["rollback", "keep_partial"]),
    "when_busy": lambda rng: rng.choice(["wait", "raise", "stop"]),
    "context_overflow": lambda rng: rng.choice(["error", "drop_oldest"]),
    "tool_dispatch": lambda rng: rng.choice([None, say_broken, fail]),
    "missing": lambda rng: rng.choice(["unset", "default", "omit"]),
    "partial_strings": lambda rng: rng.random() < 0.5,
    "validate": lambda rng: rng.choice(["closed", "final", "never"]),
    "truncated": lambda rng: rng.choice(["raise", "mark"]),
}


def value(rng: Rng, name: str) -> Any:
    """For the parameter `name`: as often one that works as one of any kind."""
    working = WORKING.get(name)
    return working(rng) if working is not None and rng.random() < 0.6 else anything(rng)


def options(rng: Rng, names: list[str], most: int = 4) -> dict[str, Any]:
    """Some of `names` with values, and at times a name that is none."""
    chosen = rng.sample(names, min(len(names), rng.randint(0, most)))
    made = {name: value(rng, name) for name in chosen}
    if rng.random() < 0.01:
        made[rng.choice(["temprature", "x", "max_token"])] = anything(rng)
    return made
