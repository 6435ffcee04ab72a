"""Short stories from a small grammar: a hero, a place, a want, a trouble, a helper, a turn, an end."""

from random import Random
from typing import Final

import names
from dialogue import Dialogue

__all__ = ["dialogue", "story"]

ANIMALS: Final = (
    "fox", "cat", "dog", "owl", "bear", "mouse", "rabbit", "frog", "horse", "crow", "hedgehog", "turtle", "duck",
    "goat", "wolf",
    "squirrel", "robot", "dragon", "lion", "bee",
)  # fmt: skip
_TRAITS: Final = (
    "small",
    "brave",
    "quiet",
    "old",
    "curious",
    "clever",
    "shy",
    "hungry",
    "gentle",
    "proud",
    "tired",
    "young",
)
_PLACES: Final = (
    "a deep forest", "a green valley", "a small village", "an old mill", "a windy hill", "a busy harbour",
    "a quiet garden",
    "a stone tower", "a wide field", "a snowy mountain", "a little boat", "a sleepy town",
)  # fmt: skip
_WANTS: Final = (
    ("find a red lantern", "the red lantern"), ("see the sea", "the sea"), ("learn to sing", "a song"),
    ("bake a big cake", "the cake"), ("build a warm house", "the house"), ("cross the river", "the other side"),
    ("catch a star", "the star"), ("plant an apple tree", "the apple tree"), ("find a lost key", "the key"),
    ("paint the old door", "the door"), ("read the old map", "the map"), ("ring the silver bell", "the bell"),
)  # fmt: skip
_TIMES: Final = (
    "One morning",
    "One evening",
    "On a cold day",
    "In the spring",
    "One rainy night",
    "Early one day",
    "Late in summer",
)
_TROUBLES: Final = (
    "But the path was long and dark.", "But a storm came over the hills.", "But nobody knew the way.",
    "But the bridge was broken.", "But the wind blew everything away.", "But the night was cold.",
    "But the gate was closed.", "But it was too heavy for one alone.",
)  # fmt: skip
_FEELINGS: Final = (
    "{n} felt sad and sat down under a tree.", "{n} did not give up.", "{n} took a deep breath and went on.",
    "{n} was afraid, but only a little.", "{n} thought about it for a long time.", "{n} began to sing a quiet song.",
)  # fmt: skip
_MEETINGS: Final = (
    "Then {n} met {a} called {m}.", "Soon {a} named {m} came along.",
    "Just then {a} with the name {m} looked out of a window.",
    "After a while {n} heard the voice of {m}, {a}.",
)  # fmt: skip
_SPEECH: Final = (
    '"I can help you," said {m}.', '"Do not worry," said {m}. "We will go together."',
    '"Follow me," said {m} with a smile.',
    '"What are you looking for?" asked {m}.', '"I know a better way," said {m}.',
)  # fmt: skip
_TURNS: Final = (
    "Together they walked until the sun came up.", "They worked all day and all night.",
    "{m} held the light and {n} looked around.",
    "{n} pushed and {m} pulled, and at last it moved.", "They shared some bread and made a plan.",
    "Step by step they came closer.", "They laughed so much that they forgot to be afraid.",
)  # fmt: skip
_RESULTS: Final = (
    "And there it was: {g}.", "In the end they found what they wanted: {g}.", "At last {n} stood before {g}.",
    "Before the moon was up, {n} had {g}.",
)  # fmt: skip
_MORE: Final = (
    "The birds sang in the trees.", "The stars came out one by one.", "The air smelled of rain.",
    "A soft wind moved the grass.",
    "Far away a bell rang.", "The snow began to melt.", "Warm light fell on the road.",
    "Everyone in the village came to look.",
    "It was a very good day.", "{n} told the story to everyone.", "{m} danced with joy.",
    "They drank hot tea by the fire.",
)  # fmt: skip
_ENDS: Final = (
    "From that day on {n} and {m} were friends.", "{n} went home happy.", "And {n} never forgot {m}.",
    "That night {n} slept very well.", "And that is how {n} learned to ask for help.",
    "They still meet there every year.",
)  # fmt: skip
_REQUESTS: Final = (
    "Tell me a story.", "Tell me a short story.", "Write a story.", "Write a short story.", "A story, please.",
    "Can you tell me a story?",
    "I would like to hear a story.", "Tell me a bedtime story.", "Story time!", "Make up a story for me.",
    "Once upon a time",
)  # fmt: skip
_ABOUT: Final = (
    "Tell me a story about {x}.", "Tell me a short story about {x}.", "Write a story about {x}.",
    "Write a short story about {x}.",
    "Can you tell me a story about {x}?", "A story about {x}, please.", "Please tell a story about {x}.",
    "Make up a story about {x}.",
)  # fmt: skip
_LONG: Final = ("Tell me a long story about {x}.", "Write a long story about {x}.", "I want a long story about {x}.")


def with_article(noun: str) -> str:
    """The noun with its indefinite article."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def story(rng: Random, animal: str, name: str, *, long: bool = False) -> str:
    """A story of five to eight sentences, or of nine to fifteen when `long`."""
    friend, helper = names.person(rng).split()[0], rng.choice(ANIMALS)
    want, goal = rng.choice(_WANTS)
    fill = {"n": name, "m": friend, "a": with_article(rng.choice(_TRAITS) + " " + helper), "g": goal}
    hero = with_article(f"{rng.choice(_TRAITS)} {animal}")
    opening = rng.choice(
        (
            f"Once there was {hero} called {name} who lived in {rng.choice(_PLACES)}.",
            f"In {rng.choice(_PLACES)} lived {hero} named {name}.",
            f"{name} was {hero} from {rng.choice(_PLACES)}.",
        )
    )
    lines = [opening, f"{rng.choice(_TIMES)} {name} wanted to {want}.", rng.choice(_TROUBLES)]
    if long or rng.random() < 0.5:
        lines.append(rng.choice(_FEELINGS))
    lines += [rng.choice(_MEETINGS), rng.choice(_SPEECH)]
    if long or rng.random() < 0.6:
        lines.append(rng.choice(_TURNS))
    lines += [rng.choice(_RESULTS), rng.choice(_ENDS)]
    extra = rng.sample(_MORE, rng.randint(3, 6) if long else rng.choice((0, 0, 1)))
    for line in extra:
        lines.insert(rng.randint(6, len(lines) - 1) if long else len(lines) - 1, line)
    return " ".join(line.format(**fill) for line in lines)


def dialogue(rng: Random, *, held_out: bool = False) -> Dialogue:
    """A request for a story, often with its hero, and the story. `held_out` takes names that the corpus never shows."""
    animal = rng.choice(ANIMALS) if rng.random() < 0.9 else names.word(rng)
    name, long = names.person(rng, held_out=held_out).split()[0], rng.random() < 0.2
    if long:
        request = rng.choice(_LONG).format(x=with_article(animal))
    elif rng.random() < 0.25:
        request = rng.choice(_REQUESTS)
    else:
        about = rng.choice((with_article(animal), with_article(animal), f"{with_article(animal)} called {name}"))
        request = rng.choice(_ABOUT).format(x=about)
    told = story(rng, animal, name, long=long)
    return Dialogue("story", ({"role": "user", "content": request}, {"role": "assistant", "content": told}))
