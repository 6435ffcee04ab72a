"""Prompts: a string, token ids, or messages, and the ids that they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from greenroom.backends.protocol import Tokenizer
from greenroom.errors import InvalidPrompt

__all__ = ["Prompt", "check", "encode"]

Messages = Sequence[Mapping[str, Any]]
Prompt = str | Sequence[int] | Messages
"""A str is a user message (through the model's template where it has one), ints are taken as they are."""


def check(prompt: Prompt) -> None:
    """What can be known without a tokenizer. Raises `InvalidPrompt`."""
    if isinstance(prompt, str):
        if not prompt:
            raise InvalidPrompt("the prompt is an empty string")
        return
    if isinstance(prompt, bytes | bytearray | Mapping) or not isinstance(prompt, Sequence):
        raise InvalidPrompt(f"a prompt is a str, a list of ids or a list of messages, not {type(prompt).__name__}")
    if not prompt:
        raise InvalidPrompt("the prompt is an empty list")
    if _is_messages(prompt):
        for i, message in enumerate(prompt):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise InvalidPrompt(f"message {i} is not a mapping with a role: {message!r}")
        return
    for i, token in enumerate(prompt):
        if isinstance(token, bool) or not isinstance(token, int):
            raise InvalidPrompt(f"the prompt's item {i} is neither an id nor a message: {token!r}")


def encode(
    prompt: Prompt,
    tokenizer: Tokenizer,
    vocab_size: int,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    template: bool | None = None,
    template_options: Mapping[str, Any] | None = None,
) -> tuple[int, ...]:
    """The ids of `prompt`. `template` False takes a str as raw text, True insists on a template.

    Raises `InvalidPrompt`: no ids, an id outside `vocab_size`, no template where one is needed, a template that fails.
    """
    check(prompt)
    if isinstance(prompt, str):
        if template is False or (template is None and not tokenizer.has_chat_template):
            return _checked(tokenizer.encode(prompt), vocab_size)
        messages: Messages = [{"role": "user", "content": prompt}]
    elif _is_messages(prompt):
        messages = cast("Messages", prompt)
    else:
        return _checked(cast("Sequence[int]", prompt), vocab_size)
    if not tokenizer.has_chat_template:
        raise InvalidPrompt("the model has no chat template: give a str with template=False, or ids")
    try:
        ids = tokenizer.render(messages, tools=tools, **(template_options or {}))
    except Exception as error:
        raise InvalidPrompt(f"the model's chat template refuses these messages: {error}") from error
    return _checked(ids, vocab_size)


def _is_messages(prompt: Sequence[Any]) -> bool:
    return not isinstance(prompt[0], int)


def _checked(ids: Sequence[int], vocab_size: int) -> tuple[int, ...]:
    if not ids:
        raise InvalidPrompt("the prompt has no tokens")
    worst = max(ids) if min(ids) >= 0 else min(ids)
    if not 0 <= worst < vocab_size:
        raise InvalidPrompt(f"the prompt holds id {worst}, the model's ids go from 0 to {vocab_size - 1}")
    return tuple(ids)
