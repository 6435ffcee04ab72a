"""Ways to word a request, and which of them only the evaluation uses."""

from dataclasses import dataclass
from random import Random
from typing import Final

__all__ = ["Phrasings", "babble", "options"]


@dataclass(frozen=True)
class Phrasings:
    """Templates with `{slots}`: for all of training, for the evaluation alone, for the later part of training too."""

    train: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    later: tuple[str, ...] = ()

    def choose(self, rng: Random, *, held_out: bool = False, stage: int = 0) -> str:
        """One template, from stage 1 on of the later ones too; a group without held-out templates offers its others."""
        if held_out and self.held_out:
            return rng.choice(self.held_out)
        return rng.choice(self.train + self.later if stage else self.train)


def options(text: str) -> tuple[str, ...]:
    """The parts of `text` between bars, stripped; none for an empty text."""
    return tuple(part.strip() for part in text.split("|") if part.strip())


_FILLERS: Final = options(
    "with|over|for|from|every|spends|keeps|under|near|around|takes|needs|brings|holds|sends|after|while|finds|gives|"
    "stays|along|by|at|in|of|to|more|than|there|where|all|very|much|has|got|left|head|knows|sees|waits|can|be|is|was|"
    "each|day|week|line|time|let|drop|put|make|take|work|go|up|down|out|on|off|about"
)


def babble(rng: Random, most: int) -> str:
    """One to `most` common words without a meaning: what surrounds a value in a phrasing that nobody has heard."""
    return " ".join(rng.choice(_FILLERS) for _ in range(rng.randint(1, most)))
