"""What can be asked of a model, and how it becomes token ids.

`check` finds at once what is wrong without a tokenizer; `encode` does the rest and may take long, so it runs off the
loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from greenroom.backends.protocol import Tokenizer
from greenroom.errors import GreenroomError, InvalidPrompt, NotSupported, TemplateTimeout, shown
from greenroom.inputs.chat_template import adapt_messages
from greenroom.inputs.thinking_switch import switch_thinking
from greenroom.lifetimes import time_limit

__all__ = ["Prompt", "check", "encode", "render"]

RENDER_LIMIT = 30.0
"""Seconds for one conversation through a chat template, which takes milliseconds unless it never ends."""

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
"""A user's message, token ids that are taken as they are, or a conversation."""


def check(prompt: Prompt) -> None:
    """Raise `InvalidPrompt` for what no tokenizer could make good.

    That is: another type, no content, a mixture of ids and messages, an id below 0, a message without a role, calls in
    one that are none, a str that is not Unicode text (a lone surrogate).
    """
    _kind(prompt)


def encode(
    prompt: Prompt,
    tokenizer: Tokenizer,
    vocab_size: int,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    template: bool | None = None,
    template_options: Mapping[str, Any] | None = None,
    thinking: bool | None = None,
    is_known_to_think: bool = False,
) -> tuple[int, ...]:
    """The ids to run: at least one, each from 0 to `vocab_size` - 1.

    A str is a user message through the model's template where it has one; `template=False` takes it as raw text, with
    the model's leading special tokens, `template=True` insists on the template. A list of ints is taken as it is, a
    list of messages always goes through the template, with `tools` and the template's own variables in
    `template_options`; calls in messages are given in the way that the template wants. `thinking` turns the template's
    own switch: see `switch_thinking`.

    Raises `InvalidPrompt` for all that `check` finds, for no ids or an id outside of the vocabulary, where a template
    is needed and the model has none, where the template fails (with its error as the cause), and for `template`,
    `template_options` or `thinking` where no template is used: they would be ignored. Raises `NotSupported` for
    `thinking` where the template has no such switch.
    """
    kind = _kind(prompt)
    given: Any = prompt
    if _uses_template(kind, tokenizer, template):
        messages: Sequence[Mapping[str, Any]] = [{"role": "user", "content": given}] if kind is str else given
        if _checked_flag("thinking", thinking) is not None:
            messages, template_options = switch_thinking(
                messages, template_options, tokenizer, thinks=bool(thinking), is_known_to_think=is_known_to_think
            )
        ids = render(messages, tokenizer, template_options, tools=tools)
    else:
        if template_options or thinking is not None:
            name = "template_options were" if template_options else "thinking was"
            raise InvalidPrompt(f"{name} given, but this prompt goes through no chat template")
        ids = given if kind is int else tokenizer.encode(given)
    if not ids:
        raise InvalidPrompt("the prompt has no tokens")
    if min(ids) < 0 or max(ids) >= vocab_size:
        wrong = next(token for token in ids if not 0 <= token < vocab_size)
        raise InvalidPrompt(f"token ids must be from 0 to {vocab_size - 1}, got {shown(wrong)}")
    return tuple(ids)


def _uses_template(kind: type, tokenizer: Tokenizer, template: bool | None) -> bool:
    _checked_flag("template", template)
    if kind is int:
        if template:
            raise InvalidPrompt("token ids are run as they are, but template=True asks for the chat template")
        return False
    has_template = tokenizer.has_chat_template
    if kind is dict and template is False:
        raise InvalidPrompt("messages go through the chat template, but template=False forbids it")
    uses_template = kind is dict or template is True or (template is None and has_template)
    if uses_template and not has_template:
        raise InvalidPrompt("this model has no chat template: pass text or token ids")
    return uses_template


def _checked_flag(name: str, value: object) -> object:
    if value is not None and not isinstance(value, bool):
        raise NotSupported(f"{name}={shown(value)}", "it is None, True or False")
    return value


def _kind(prompt: object) -> type[str | int | dict[str, Any]]:
    """Which of the three kinds a prompt is: `str`, `int` for ids, `dict` for messages."""
    if isinstance(prompt, str):
        _check_text(prompt)
        return str
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray | memoryview):
        hint = ": put the message into a list" if isinstance(prompt, Mapping) else ""
        raise InvalidPrompt(
            f"a prompt is a str, a list of ints or a list of messages, not {type(prompt).__name__}{hint}"
        )
    if not prompt:
        raise InvalidPrompt("the prompt is empty")
    if isinstance(prompt[0], Mapping):
        _check_messages(prompt)
        return dict
    if set(map(type, prompt)) != {int}:  # one pass in C over what may be a hundred thousand ids
        for place, token in enumerate(prompt):
            if not isinstance(token, int) or isinstance(token, bool):
                raise InvalidPrompt(
                    f"item {place} of the prompt must be a token id like the others, got {shown(token)}"
                )
    if min(prompt) < 0:
        raise InvalidPrompt(f"token ids must be at least 0, got {shown(min(prompt))}")
    return int


def _check_text(prompt: str) -> None:
    if not prompt:
        raise InvalidPrompt("the prompt is empty")
    try:
        prompt.encode()
    except UnicodeEncodeError as cause:
        raise InvalidPrompt(f"the prompt is not Unicode text: {cause}") from cause


def _check_messages(prompt: Sequence[Any]) -> None:
    for place, message in enumerate(prompt):
        if not isinstance(message, Mapping):
            raise InvalidPrompt(f"item {place} of the prompt must be a message like the others, got {shown(message)}")
        role = message.get("role")
        if not isinstance(role, str) or not role:
            raise InvalidPrompt(f"message {place} must have a role, such as 'user'")
        if (calls := message.get("tool_calls")) is not None:
            _check_calls(f"message {place}", calls)


def _check_calls(where: str, calls: Any) -> None:
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        raise InvalidPrompt(f"{where} must have a list as its tool_calls, got {shown(calls)}")
    for number, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidPrompt(f"call {number} of {where} must have a function with a name, got {shown(call)}")
        arguments = function.get("arguments")
        if arguments is not None and not isinstance(arguments, str | Mapping):
            expected = "an object, or its JSON"
            raise InvalidPrompt(f"the arguments of call {number} of {where} must be {expected}, got {shown(arguments)}")


def render(
    messages: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    options: Mapping[str, Any] | None = None,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[int]:
    """The ids of `messages` through the chat template.

    Raises `InvalidPrompt` where the template fails. On a thread that prepares it raises `TemplateTimeout` where it does
    not end; on another one it may never return.
    """
    try:
        with time_limit(RENDER_LIMIT, TemplateTimeout(RENDER_LIMIT)):
            return tokenizer.render(adapt_messages(messages, tokenizer), tools=tools, **(options or {}))
    except GreenroomError:
        raise
    except Exception as cause:
        # A template is a program of the model's authors: it may raise anything over messages it does not like.
        raise InvalidPrompt(f"the chat template failed, {type(cause).__name__}: {cause}") from cause
