"""What of a transcript a model is shown once its context is too small for all of it: whole turns go, the oldest first.

So many go at once that half of the context is free again: were it one turn each time, every prompt would begin in
another way, and no KV of the one before it could be reused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from greenroom.chat.messages import Message
from greenroom.errors import PromptTooLong

__all__ = ["Count", "Overflow", "first_shown", "naming_the_option", "shown"]

Overflow = Literal["error", "drop_oldest"]
Count = Callable[[list[Message]], Awaitable[int]]
"""How many tokens the prompt of these messages has."""


def shown(transcript: Sequence[Message], first: int) -> list[Message]:
    """`transcript` from the message `first` on, behind the system messages before it."""
    return [*(message for message in transcript[:first] if message["role"] == "system"), *transcript[first:]]


async def first_shown(
    transcript: Sequence[Message], new: Sequence[Message], first: int, most: int, count: Count
) -> int:
    """Where the shortest part to drop ends so that the rest and `new` have at most `most` tokens; `first` went before.

    Where no part is enough, all of it goes.
    """
    # A turn is a question, whatever is in it, and all that follows up to the next one.
    places = [
        place
        for place, message in enumerate(transcript)
        if place > first and message["role"] == "user" and transcript[place - 1]["role"] != "user"
    ]
    places.append(len(transcript))
    low, high = 0, len(places) - 1
    while low < high:  # what is left gets shorter from place to place
        middle = (low + high) // 2
        if await count([*shown(transcript, places[middle]), *new]) <= most:
            high = middle
        else:
            low = middle + 1
    return places[low]


def naming_the_option(error: PromptTooLong) -> PromptTooLong:
    """The same error, with what a session can do about it."""
    found = PromptTooLong(error.num_tokens, error.limit)
    found.args = (f"{error}, or let the session forget its oldest turns: context_overflow='drop_oldest'",)
    return found
