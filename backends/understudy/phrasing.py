"""Ways to word a request, and which of them only the evaluation uses."""

from dataclasses import dataclass
from random import Random

__all__ = ["Phrasings", "options"]


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
