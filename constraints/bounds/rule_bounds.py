"""How deep the rules of a grammar name each other."""

from __future__ import annotations

from collections.abc import Sequence

from greenroom.constraints.bounds.chains import MOST_LEVELS, longest_chain
from greenroom.constraints.bounds.lark_text import definitions
from greenroom.errors import InvalidConstraint

__all__ = ["check_chain", "check_lark"]


def check_lark(text: str) -> None:
    """Raise `InvalidConstraint` where rules or terminals of `text` name each other in chains that are too long."""
    rules = definitions(text)
    check_chain(
        [
            (rule.name, [part.text.lstrip("!?") for part in rule.body if part.kind in ("rule", "terminal")])
            for rule in rules
        ],
        MOST_LEVELS,
    )


def check_chain(rules: Sequence[tuple[str, Sequence[str]]], most: int) -> None:
    """Raise `InvalidConstraint` where `rules`, each with the names in it, name each other in longer chains."""
    numbers = {name: number for number, (name, _) in enumerate(rules, 1)}
    edges: list[list[int]] = [list(range(1, len(rules) + 1))]  # from whichever rule is the start
    edges += [[numbers[name] for name in names if name in numbers] for _, names in rules]
    length, last = longest_chain(edges)
    if length - 1 > most:
        raise InvalidConstraint(
            f"rules of the grammar name each other in a chain of {length - 1}, by way of {rules[last - 1][0]!r}; "
            f"at most {most} are possible: say it in fewer steps"
        )
