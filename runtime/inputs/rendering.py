"""A chat template tried on a few messages: what it writes, and what was found by it, once a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from greenroom.backends.protocol import Tokenizer

__all__ = ["once_a_tokenizer", "rendered"]

T = TypeVar("T")


def rendered(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """The prompt of `messages`; nothing where the template fails over them, or where there is none."""
    try:
        return tokenizer.decode(tokenizer.render(messages, **options), skip_special_tokens=False)
    except Exception:  # noqa: BLE001 - a template is a program: it may raise anything
        return ""


def once_a_tokenizer(probe: Callable[[Tokenizer], T]) -> Callable[[Tokenizer], T]:
    """`probe`, whose answer is kept for as long as its tokenizer is there."""
    known: WeakKeyDictionary[Tokenizer, T] = WeakKeyDictionary()

    @wraps(probe)
    def answer(tokenizer: Tokenizer) -> T:
        if tokenizer not in known:
            known[tokenizer] = probe(tokenizer)
        return known[tokenizer]

    return answer
