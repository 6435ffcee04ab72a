"""Tool calls: functions with schemas, requests that fit one of them, requests that fit none, and answers to results."""

import json
from random import Random
from typing import Any, Final

import names
import wordings
from dialogue import Dialogue, Message
from phrasing import Phrasings, babble
from skills import SKILLS, Skill

__all__ = ["ORDINARY", "dialogue", "held_out_phrasings", "no_fit", "offer", "result"]

_Schema = dict[str, Any]

_MADE_UP: Final = Phrasings(
    ("Call {tool} with {arguments}.", "Use {tool} with {arguments}.", "Run {tool}: {arguments}.",
    "Please call {tool} with {arguments}.",
     "I need {tool} for {arguments}.", "Do {tool} with {arguments}.", "Use the tool {tool}: {arguments}."),
    ("Invoke {tool} using {arguments}.", "Let {tool} work on {arguments}."),
    wordings.BY_PURPOSE[""],
)  # fmt: skip
_NO_FIT: Final = (
    "None of my tools can do that.", "I have no tool for that.", "Sorry, my tools do not fit this request.",
)  # fmt: skip
_ROOMS: Final = ("kitchen", "bedroom", "bathroom", "hall", "office", "garage", "cellar", "attic", "garden", "library")
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "today", "tomorrow")
_LANGUAGES: Final = (
    "French",
    "German",
    "Spanish",
    "Italian",
    "Greek",
    "Polish",
    "Dutch",
    "Korean",
    "Turkish",
    "Swedish",
)
_WORDS: Final = (
    "the", "a", "my", "your", "dinner", "is", "ready", "call", "me", "back", "at", "home", "see", "you", "soon",
    "buy", "milk", "bread",
    "cheap", "tickets", "to", "red", "shoes", "how", "old", "water", "the", "plants", "late", "train", "good",
    "morning", "thank", "for",
    "book", "green", "tea", "best", "music", "of", "bring", "keys", "meeting", "starts", "now", "we", "need", "new",
    "lamp", "run",
)  # fmt: skip
_BABBLE_AFTER: Final = 3
_BABBLE_SHARE: Final = 0.3
_RESULT_KEYS: Final = (
    "temperature", "sky", "time", "status", "total", "city", "name", "price", "wind", "number", "ok", "sum", "unit",
    "result", "answer", "day",
)  # fmt: skip
_RESULT_WORDS: Final = ("sunny", "cloudy", "rain", "clear", "sent", "done", "late", "celsius")
ORDINARY: Final = frozenset((*_DAYS, *_LANGUAGES))
"""Capitalised values that are neither names nor cities."""
_CHOICES: Final = {"day": _DAYS, "room": _ROOMS, "language": _LANGUAGES}
_RANGES: Final = {"small": (1, 60), "id": (1000, 999999)}


def held_out_phrasings() -> tuple[str, ...]:
    """The templates of requests that only the evaluation uses."""
    return tuple(text for group in (*(skill.requests for skill in SKILLS), _MADE_UP) for text in group.held_out)


def dialogue(rng: Random, *, held_out: bool = False, stage: int = 0) -> Dialogue:
    """A request that one of one to three offered tools serves, and the call."""
    unseen = held_out and rng.random() < 0.5
    if rng.random() < 0.2:
        return _made_up(rng, held_out=held_out, unseen=unseen, stage=stage)
    skill, *others = rng.sample(SKILLS, rng.choice((1, 1, 2, 2, 3)))
    schema, keys = _schema(rng, skill)
    offered = [schema, *_distractors(rng, others, schema)]
    rng.shuffle(offered)
    arguments, texts = _fill(rng, skill, keys, held_out=held_out, stage=stage)
    request = skill.requests.choose(rng, held_out=unseen, stage=stage).format(*texts)
    request = wordings.dress(rng, request) if stage else request
    return _call(request, offered, schema, arguments, unseen=unseen)


def no_fit(rng: Random, *, stage: int = 0) -> Dialogue:
    """A request for something that no offered tool does, and a plain answer."""
    skill, *others = rng.sample(SKILLS, rng.choice((2, 2, 3, 4)))
    _, texts = _fill(rng, skill, tuple("" for _ in skill.parameters), held_out=False, stage=stage)
    request = skill.requests.choose(rng, stage=stage).format(*texts)
    offered = _distractors(rng, others, {})
    messages = ({"role": "user", "content": request}, {"role": "assistant", "content": rng.choice(_NO_FIT)})
    return Dialogue("no_fit", messages, tuple(offered))


def offer(rng: Random) -> tuple[dict[str, Any], ...]:
    """One or two tools to stand beside a request that needs none."""
    return tuple(_schema(rng, skill)[0] for skill in rng.sample(SKILLS, rng.choice((1, 2))))


def result(rng: Random, *, stage: int = 0) -> Dialogue:
    """A call, what the tool returned, and an answer that reports it."""
    asked = dialogue(rng, stage=stage)
    if rng.random() < 0.7:
        values: dict[str, Any] = {_result_key(rng): _result_value(rng) for _ in range(rng.choice((1, 2, 2, 3)))}
        content = json.dumps(values, ensure_ascii=False)
        told = ", ".join(f"{key} {_plain(value)}" for key, value in values.items())
    else:
        content = told = str(_result_value(rng))
    answer = f"The result is: {told}."
    messages: tuple[Message, ...] = (
        *asked.messages,
        {"role": "tool", "content": content},
        {"role": "assistant", "content": answer},
    )
    return Dialogue("result", messages, asked.tools)


def _plain(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _result_key(rng: Random) -> str:
    return rng.choice((*_RESULT_KEYS, names.word(rng)))


def _result_value(rng: Random) -> object:
    draws = (
        lambda: rng.randint(-9, 99),
        lambda: rng.choice(_RESULT_WORDS),
        lambda: names.city(rng),
        lambda: names.person(rng),
        lambda: rng.randint(100, 99999),
        lambda: rng.random() < 0.5,
        lambda: round(rng.uniform(1, 99), 1),
        lambda: f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}",
    )
    return rng.choice(draws)()


def _call(
    request: str, offered: list[_Schema], schema: _Schema, arguments: dict[str, Any], *, unseen: bool
) -> Dialogue:
    name = schema["function"]["name"]
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    content = f"<tool_call>\n{body}\n</tool_call>"
    messages = ({"role": "user", "content": request}, {"role": "assistant", "content": content})
    return Dialogue("tool", messages, tuple(offered), facts={"name": name, "arguments": arguments, "unseen": unseen})


def _made_up(rng: Random, *, held_out: bool, unseen: bool, stage: int) -> Dialogue:
    """A tool whose names are invented words, so that only the list in the prompt can tell how it is called."""
    offered = [_made_up_schema(rng) for _ in range(rng.choice((1, 2, 2, 3)))]
    schema = offered[0]
    properties: dict[str, dict[str, str]] = schema["function"]["parameters"]["properties"]
    kinds = {"string": ("city", "person", "word"), "integer": ("number", "small")}
    drawn = ((key, rng.choice(kinds[spec["type"]])) for key, spec in properties.items())
    arguments = {key: _value(rng, kind, held_out=held_out, stage=stage) for key, kind in drawn}
    told = " and ".join(f"{key} {value}" for key, value in arguments.items())
    request = _MADE_UP.choose(rng, held_out=unseen, stage=stage)
    if stage > _BABBLE_AFTER and rng.random() < _BABBLE_SHARE:
        request = f"{babble(rng, 2)} {{tool}} {babble(rng, 2)} {{arguments}}.".capitalize()
    request = request.format(tool=schema["function"]["name"], arguments=told)
    rng.shuffle(offered)
    return _call(request, offered, schema, arguments, unseen=unseen)


def _made_up_schema(rng: Random) -> dict[str, Any]:
    name = "_".join(names.word(rng) for _ in range(rng.choice((1, 2, 2))))
    keys = {names.word(rng): {"type": rng.choice(("string", "integer"))} for _ in range(rng.choice((1, 2, 2)))}
    return _function(rng, name, f"Run {name}", keys)


def _schema(rng: Random, skill: Skill) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A schema for the skill under one of its names, and the parameter names chosen."""
    keys = tuple(rng.choice(options) for options, _, _ in skill.parameters)
    if rng.random() < 0.1:
        keys = tuple(names.word(rng) for _ in keys)
    properties = {key: {"type": type_} for key, (_, type_, _) in zip(keys, skill.parameters, strict=True)}
    return _function(rng, rng.choice(skill.names), skill.purpose, properties), keys


def _function(rng: Random, name: str, purpose: str, properties: dict[str, dict[str, str]]) -> dict[str, Any]:
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    style = rng.random()
    if style < 0.8:
        parameters["required"] = list(properties)
    if style < 0.15:
        parameters["additionalProperties"] = False
    function: dict[str, Any] = {"name": name}
    if rng.random() < 0.75:
        function["description"] = purpose + rng.choice(("", "."))
    function["parameters"] = parameters
    return {"type": "function", "function": function}


def _distractors(rng: Random, skills: list[Skill], chosen: dict[str, Any]) -> list[dict[str, Any]]:
    taken = chosen["function"]["name"] if chosen else None
    schemas = [_schema(rng, skill)[0] for skill in skills]
    return [schema for schema in schemas if schema["function"]["name"] != taken]


def _fill(
    rng: Random, skill: Skill, keys: tuple[str, ...], *, held_out: bool, stage: int
) -> tuple[dict[str, Any], list[str]]:
    """Arguments by parameter name, and the same values as the request words them."""
    values = [_value(rng, kind, held_out=held_out, stage=stage) for _, _, kind in skill.parameters]
    texts = [("on" if value else "off") if isinstance(value, bool) else str(value) for value in values]
    return dict(zip(keys, values, strict=True)), texts


def _value(rng: Random, kind: str, *, held_out: bool, stage: int) -> object:  # noqa: PLR0911  one return per kind
    match kind:
        case "city":
            return names.city(rng, held_out=held_out)
        case "person":
            return names.person(rng, held_out=held_out, stage=stage)
        case "phrase":
            return _phrase(rng)
        case "word":
            return names.word(rng)
        case "number":
            return rng.choice((rng.randint(1, 99), rng.randint(100, 9999)))
        case "switch":
            return rng.random() < 0.5
        case _ if kind in _RANGES:
            return rng.randint(*_RANGES[kind])
        case _:
            return rng.choice(_CHOICES[kind])


def _phrase(rng: Random) -> str:
    """Two to six words without a meaning, some of them invented."""
    count = rng.randint(2, 6)
    return " ".join(rng.choice((rng.choice(_WORDS), rng.choice(_WORDS), names.word(rng))) for _ in range(count))
