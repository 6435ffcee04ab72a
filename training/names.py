"""Invented names of people and cities, and which of them the corpus never shows.

Names are drawn from a space of millions of pronounceable strings, most of them seen once at most: a model can only get
them right by copying. A word is held out when its CRC-32 falls into one residue class, so the held-out set needs no
list, and no draw for the corpus can return a member.
"""

from random import Random
from typing import Final
from zlib import crc32

__all__ = ["city", "is_held_out", "person", "word"]

_HELD_OUT_CLASSES: Final = 8

_ONSETS: Final = (
    "b", "br", "c", "ch", "cl", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kr", "l", "m", "n", "p", "pr", "qu",
    "r",
    "s", "sh", "sk", "st", "t", "th", "tr", "v", "w", "y", "z", "", "", "",
)  # fmt: skip
_VOWELS: Final = ("a", "e", "i", "o", "u", "a", "e", "i", "o", "ai", "ea", "ia", "io", "ou", "ee", "y")
_CODAS: Final = ("", "", "", "", "l", "n", "r", "s", "m", "t", "nd", "rn", "x", "ck", "th", "k")
_CITY_ENDINGS: Final = (
    "",
    "",
    "",
    "",
    "ton",
    "ville",
    "burg",
    "ford",
    "stad",
    "grad",
    "port",
    "dale",
    "haven",
    "mouth",
)
_CITY_PREFIXES: Final = ("New", "Port", "San", "Old", "North", "East")

_FAMILIAR_PEOPLE: Final = (
    "Ada", "Alan", "Alice", "Amir", "Anna", "Ben", "Bob", "Carla", "Chen", "Clara", "David", "Elena", "Emma", "Eva",
    "Felix", "Grace", "Hana", "Ines", "Ivan", "Jack", "James", "Jane", "John", "Jonas", "Julia", "Kenji", "Lena", "Leo",
    "Linus", "Lucy", "Maria", "Mark", "Mary", "Max", "Mia", "Mina", "Nina", "Noah", "Nora", "Olga", "Omar", "Oscar",
    "Paul",
    "Peter", "Priya", "Rosa", "Ruth", "Sam", "Sara", "Sofia", "Tom", "Uma", "Vera", "Wei", "Yuki", "Zoe",
)  # fmt: skip
_FAMILIAR_CITIES: Final = (
    "Amsterdam", "Athens", "Austin", "Bangkok", "Barcelona", "Berlin", "Bern", "Boston", "Cairo", "Chicago", "Delhi",
    "Denver",
    "Dublin", "Geneva", "Hamburg", "Helsinki", "Istanbul", "Kyiv", "Lagos", "Lima", "Lisbon", "London", "Madrid",
    "Milan",
    "Moscow", "Munich", "Nairobi", "Oslo", "Paris", "Prague", "Rome", "Seattle", "Seoul", "Sydney", "Tokyo", "Toronto",
    "Vienna", "Warsaw", "Zurich",
)  # fmt: skip

_SURNAME_SHARES: Final = (0.15, 0.15, 0.5, 0.0, 0.0)
"""By stage of training. Where a name of two words may follow, a model this small cannot tell where one of one ends."""


def is_held_out(text: str) -> bool:
    """Whether `text` belongs to the evaluation alone."""
    return crc32(text.encode()) % _HELD_OUT_CLASSES == 0


def word(rng: Random, *, syllables: int | None = None) -> str:
    """A pronounceable lower-case word of one to four syllables."""
    count = syllables or rng.choice((2, 2, 2, 3, 3, 4))
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(count)) + rng.choice(_CODAS)


def person(rng: Random, *, held_out: bool = False, stage: int = 0) -> str:
    """A person's name, held out or not. In training it has two words now and then, often so in stage 2, later never."""
    count = 2 if rng.random() < _SURNAME_SHARES[stage] and not held_out else 1
    return " ".join(_draw(rng, _FAMILIAR_PEOPLE, held_out=held_out) for _ in range(count))


def city(rng: Random, *, held_out: bool = False) -> str:
    """A city's name of one or two words; the distinguishing word is held out, or is not."""
    prefix = rng.choice(_CITY_PREFIXES) + " " if rng.random() < 0.1 else ""
    return prefix + _draw(rng, _FAMILIAR_CITIES, held_out=held_out, endings=_CITY_ENDINGS)


def _draw(rng: Random, familiar: tuple[str, ...], *, held_out: bool, endings: tuple[str, ...] = ("",)) -> str:
    while True:
        if not held_out and rng.random() < 0.1:
            name = rng.choice(familiar)
        else:
            name = (word(rng) + rng.choice(endings)).capitalize()
        if 3 <= len(name) <= 14 and is_held_out(name) == held_out:
            return name
