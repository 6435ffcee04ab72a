"""JSON records on request: the user describes a schema and states facts, the answer is the record."""

import json
from dataclasses import dataclass
from random import Random
from typing import Any, Final
from zlib import crc32

import names
import wordings
from dialogue import Dialogue
from phrasing import Phrasings, babble, options

__all__ = ["ORDINARY", "dialogue", "held_out_phrasings", "is_schema_held_out"]

_JOBS: Final = (
    "baker", "teacher", "nurse", "pilot", "farmer", "painter", "lawyer", "doctor", "singer", "writer", "engineer",
    "gardener",
    "driver", "cook", "builder", "sailor",
)  # fmt: skip
_COLOURS: Final = (
    "red",
    "blue",
    "green",
    "yellow",
    "black",
    "white",
    "purple",
    "orange",
    "brown",
    "grey",
    "pink",
    "silver",
)
_ITEMS: Final = (
    "lamp", "chair", "table", "kettle", "bicycle", "backpack", "umbrella", "notebook", "clock", "guitar", "camera",
    "blanket",
    "mirror", "basket", "jacket", "teapot",
)  # fmt: skip
_MATERIALS: Final = ("wood", "glass", "steel", "wool", "paper", "copper", "clay", "leather", "cotton", "stone")
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
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
_GATHERINGS: Final = ("Fair", "Festival", "Concert", "Market", "Dinner", "Meeting")
ORDINARY: Final = frozenset((*_DAYS, *_LANGUAGES))
"""Capitalised values that are neither names nor cities."""
_CHOICES: Final = {"job": _JOBS, "colour": _COLOURS, "material": _MATERIALS, "day": _DAYS, "language": _LANGUAGES}
_RANGES: Final = {"age": (4, 99), "height": (100, 999), "year": (1900, 2060)}

_BABBLE_AFTER: Final = 3
_BABBLE_SHARE: Final = 0.25


@dataclass(frozen=True)
class _Field:
    """A property: the names a schema may give it, its JSON type, its values, and sentences that state it."""

    keys: tuple[str, ...]
    type: str
    kind: str
    facts: Phrasings


def _field(keys: str, type_: str, kind: str, train: str, held_out: str = "") -> _Field:
    return _Field(options(keys), type_, kind, Phrasings(options(train), options(held_out)))


_PERSON: Final = (
    _field("age|years", "integer", "age", "{s} is {v} years old|{s} is {v}|{s} turned {v} this year"
    "|at {v} years of age",
           "{s} has lived for {v} years"),
    _field("city|home|town|location", "string", "city", "{s} lives in {v}|{s} comes from {v}|home is {v}"
    "|{s} moved to {v}|{v} is home",
           "{s} can be found in {v}"),
    _field("job|occupation|profession", "string", "job", "{s} works as a {v}|{s} is a {v}|by trade a {v}"
    "|the job is {v}",
           "{s} earns a living as a {v}"),
    _field("colour|color|favourite_color", "string", "colour", "{s} likes {v}|the favourite colour is {v}"
    "|{s} loves the colour {v}",
           "no colour pleases {s} more than {v}"),
    _field("friend|best_friend|partner", "string", "person", "{s} has a friend called {v}|the best friend is {v}"
    "|{v} is a friend",
           "{s} spends every weekend with {v}"),
    _field("active|member|is_active", "boolean", "bool:{s} is an active member|the account is active"
    "|{s} is still active"
           ":{s} is not active|the account is closed|{s} is no longer active", ""),
    _field("language|speaks", "string", "language", "{s} speaks {v}|the language is {v}|{s} talks in {v}",
           "{s} answers the phone in {v}"),
    _field("height|height_cm", "integer", "height", "{s} is {v} cm tall|the height is {v} cm|{s} measures {v} cm",
           "from head to toe {s} measures {v} cm"),
    _field("score|points", "integer", "count", "{s} scored {v} points|the score is {v}|{s} has {v} points",
           "{s} finished with {v} points"),
    _field("birth_city|birthplace", "string", "city", "{s} was born in {v}|the birthplace is {v}|born in {v}"),
)  # fmt: skip
_ITEM: Final = (
    _field("price|cost", "number", "price", "it costs {v} euros|the price is {v}|{s} costs {v}|sold for {v}",
           "you pay {v} for it"),
    _field("quantity|count|stock", "integer", "count", "we have {v} of them|there are {v} left|the quantity is {v}"
    "|{v} pieces",
           "the shelf holds {v} of them"),
    _field("colour|color", "string", "colour", "it is {v}|the colour is {v}|painted {v}", "it comes in {v}"),
    _field("material|made_of", "string", "material", "it is made of {v}|the material is {v}|made from {v}"),
    _field("maker|brand|seller", "string", "person", "made by {v}|the maker is {v}|{v} sells it",
    "it left the workshop of {v}"),
    _field("warehouse|city|origin", "string", "city", "stored in {v}|it is kept in {v}|it ships from {v}",
    "{v} is where it waits"),
    _field("in_stock|available", "boolean", "bool:it is in stock|it is available|you can buy it now"
           ":it is sold out|it is not available|it is out of stock", ""),
    _field("weight|weight_g", "integer", "height", "it weighs {v} grams|the weight is {v} grams|{v} grams in weight"),
)  # fmt: skip
_EVENT: Final = (
    _field("city|place|venue", "string", "city", "it takes place in {v}|it is held in {v}|the place is {v}"
    "|we meet in {v}",
           "everyone travels to {v} for it"),
    _field("day|weekday", "string", "day", "it is on {v}|the day is {v}|we meet on {v}|it starts on {v}",
    "keep {v} free for it"),
    _field("host|organizer|speaker", "string", "person", "{v} is the host|it is led by {v}|hosted by {v}",
    "{v} opens the doors"),
    _field("guests|seats|people", "integer", "count", "{v} people come|there are {v} seats|{v} guests are expected",
           "the room fits {v} people"),
    _field("year", "integer", "year", "the year is {v}|it happens in {v}|in the year {v}"),
    _field("price|fee", "number", "price", "the ticket costs {v}|entry is {v} euros|the fee is {v}"),
    _field("public|open", "boolean", "bool:it is open to all|everyone may come|it is public"
           ":it is private|it is for members only|it is not public", ""),
)  # fmt: skip
_FAMILIES: Final = (
    (("name", "full_name", "person"), "person", _PERSON),
    (("name", "item", "product"), "item", _ITEM),
    (("title", "event", "name"), "event", _EVENT),
)

_OPENINGS: Final = Phrasings(
    (
        "Make a JSON record with {schema}: {facts}", "Create a JSON record with {schema}. {facts}",
        "Write a JSON object with {schema}: {facts}", "Give me JSON with {schema}. {facts}",
        "JSON with {schema}: {facts}",
        "Return a JSON record with the fields {schema}. {facts}", "{facts} Make a JSON record with {schema}.",
        "{facts} Write this as JSON with {schema}.", "Extract {schema} as JSON: {facts}",
        "{facts} Return JSON with {schema}.",
        "Fill this schema: {schema}. Text: {facts}", "Please produce a record with {schema} from this text: {facts}",
        "Schema: {schema}. {facts}", "I need a JSON record. The fields are {schema}. {facts}",
        "Read the text and answer in JSON with {schema}. {facts}", "As JSON, with {schema}: {facts}",
        "Generate a JSON object for this: {facts} Fields: {schema}.",
        "Text: {facts} Keys: {schema}. Answer with JSON only.",
    ),
    (
        "Turn this into a JSON record having {schema}: {facts}", "{facts} Could I have that as JSON? Use {schema}.",
        "Build me a JSON entry out of {schema}. {facts}", "Put the following into JSON using {schema}: {facts}",
        "{facts} From this, fill in {schema} as a JSON object.", "Kindly prepare JSON containing {schema}. {facts}",
    ),
    wordings.RECORD_OPENINGS,
)  # fmt: skip


def is_schema_held_out(keys: tuple[str, ...]) -> bool:
    """Whether records with this set of keys, in any order, are left to the evaluation."""
    return crc32(",".join(sorted(keys)).encode()) % 6 == 0


def held_out_phrasings() -> tuple[str, ...]:
    """The templates of requests and of facts that only the evaluation uses."""
    fields = (field for _, _, pool in _FAMILIES for field in pool)
    return (*_OPENINGS.held_out, *(text for field in fields for text in field.facts.held_out))


def dialogue(rng: Random, *, held_out: bool = False, stage: int = 0) -> Dialogue:
    """A request for a record and the record, its keys in the order of the schema."""
    unseen = held_out and rng.random() < 0.5
    subject, fields = _draw_schema(rng, held_out=held_out)
    values: dict[str, Any] = {}
    facts: list[str] = []
    who = "he" if rng.random() < 0.15 else ""
    groups = [_group(field) for _, field in fields]
    for key, field in fields:
        values[key], fact = _draw_value(rng, field, held_out=held_out, unseen=unseen, stage=stage)
        is_clear = bool(_group(field)) and groups.count(_group(field)) == 1
        if stage > _BABBLE_AFTER and is_clear and rng.random() < _BABBLE_SHARE:
            fact = f"{{s}} {babble(rng, 4)} {values[key]}" + rng.choice(("", "", " " + babble(rng, 2)))
        if field.kind == "subject":
            who = str(values[key]) if rng.random() < 0.5 or not who else who
        facts.append(fact)
    text = _tell(rng, facts, subject, who, values)
    if rng.random() < (0.0 if held_out else 0.12):
        text = ", ".join(f"{key} {_plain(value)}" for key, value in rng.sample(list(values.items()), len(values))) + "."
    request = _OPENINGS.choose(rng, held_out=unseen, stage=stage).format(schema=_describe(rng, fields), facts=text)
    content = json.dumps(values, ensure_ascii=False)
    messages = ({"role": "user", "content": request}, {"role": "assistant", "content": content})
    return Dialogue("record", messages, facts={"record": values, "keys": tuple(values), "unseen": unseen})


def _group(field: _Field) -> str:
    """Fields of one group cannot be told apart by their values; the subject and a yes or no are never babbled about."""
    if field.kind == "subject" or field.kind.startswith("bool:"):
        return ""
    return "number" if field.type in {"integer", "number"} else field.kind


def _draw_schema(rng: Random, *, held_out: bool) -> tuple[str, list[tuple[str, _Field]]]:
    while True:
        subjects, kind, pool = rng.choice(_FAMILIES)
        subject = _Field(subjects, "string", "subject", Phrasings((kind,)))
        chosen = [subject, *rng.sample(pool, rng.choice((1, 2, 2, 2, 3, 3, 4)))]
        if rng.random() < 0.25:
            rng.shuffle(chosen)
        keys = tuple(rng.choice(field.keys) for field in chosen)
        if len(set(keys)) == len(keys) and is_schema_held_out(keys) == held_out:
            return kind, list(zip(keys, chosen, strict=True))


def _draw_value(rng: Random, field: _Field, *, held_out: bool, unseen: bool, stage: int) -> tuple[object, str]:
    """A value and the sentence that states it, with the subject still open as `{s}`."""
    if field.kind.startswith("bool:"):
        _, yes, no = field.kind.split(":")
        value = rng.random() < 0.5
        return value, rng.choice((yes if value else no).split("|"))
    drawn = _draw_scalar(rng, field, held_out=held_out, stage=stage)
    if field.kind == "subject":
        return drawn, ""
    return drawn, field.facts.choose(rng, held_out=unseen and rng.random() < 0.5).replace("{v}", str(drawn))


def _draw_scalar(rng: Random, field: _Field, *, held_out: bool, stage: int) -> object:  # noqa: PLR0911  one return per kind
    match field.kind:
        case "subject":
            return _draw_subject(rng, field.facts.train[0], held_out=held_out, stage=stage)
        case "person":
            return names.person(rng, held_out=held_out, stage=stage)
        case "city":
            return names.city(rng, held_out=held_out)
        case "price":
            return round(rng.choice((rng.uniform(1, 99), rng.uniform(100, 900))), rng.choice((1, 2)))
        case "count":
            return rng.choice((rng.randint(1, 99), rng.randint(100, 9999)))
        case kind if kind in _RANGES:
            return rng.randint(*_RANGES[kind])
        case kind:
            return rng.choice(_CHOICES[kind])


def _draw_subject(rng: Random, family: str, *, held_out: bool, stage: int) -> str:
    if family == "person":
        return names.person(rng, held_out=held_out, stage=stage)
    if family == "item":
        return rng.choice((rng.choice(_ITEMS), f"{rng.choice(_COLOURS)} {rng.choice(_ITEMS)}"))
    return names.city(rng, held_out=held_out) + " " + rng.choice(_GATHERINGS)


def _tell(rng: Random, facts: list[str], family: str, who: str, values: dict[str, Any]) -> str:
    """The facts as one or more sentences; the first names the subject."""
    name = next(str(value) for value, fact in zip(values.values(), facts, strict=True) if not fact)
    rest = [fact for fact in facts if fact]
    rng.shuffle(rest)
    first, others = rest[0], rest[1:]
    pronoun = {"person": rng.choice(("she", "he", who or "she")), "item": "it", "event": "it"}[family]
    if family == "person" and first.startswith("{s}"):
        opening = first.replace("{s}", name)
    elif family == "person":
        opening = rng.choice(("This is {n}: ", "{n}: ", "The name is {n}, ", "Meet {n}, ")).format(n=name) + first
    else:
        lead = ("The {n}: ", "This is the {n}, ", "About the {n}: ", "Here is the {n}: ")
        opening = rng.choice(lead).format(n=name) + first
    opening = opening.replace("{s}", name if family == "person" else "it")
    joined = [fact.replace("{s}", pronoun) for fact in others]
    return _join(rng, [opening, *joined])


def _join(rng: Random, parts: list[str]) -> str:
    if len(parts) > 1 and rng.random() < 0.5:
        text = ", ".join(parts[:-1]) + " and " + parts[-1] + "."
        return text[0].upper() + text[1:]
    return " ".join(part[0].upper() + part[1:] + "." for part in parts)


def _plain(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _describe(rng: Random, fields: list[tuple[str, _Field]]) -> str:
    """The schema in words: keys with or without their types."""
    style = rng.randrange(5)
    if style == 0:
        return json.dumps({key: field.type for key, field in fields})
    if style in (1, 2):
        parts = [f"{key} ({field.type})" for key, field in fields]
        return ", ".join(parts)
    keys = [key for key, _ in fields]
    if style == 3:
        return ", ".join(keys)
    return ", ".join(keys[:-1]) + " and " + keys[-1]
