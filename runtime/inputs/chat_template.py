"""What a chat template wants of a conversation, found by trying.

Templates disagree: some take a call's arguments as an object, some as JSON text; some write calls only where the
content is None, some fail over None; some take one call a message, ids of nine characters, or questions and answers in
turn alone. A conversation that holds what they may disagree about is rendered in each way, once a tokenizer, and the
first way in which it comes out right is the one that messages are given in.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from greenroom.backends.protocol import Tokenizer
from greenroom.inputs.histories import (
    Message,
    alternating,
    normalised,
    one_call_each,
    system_first,
    text_apart,
    with_short_ids,
    without_system,
)
from greenroom.inputs.rendering import once_a_tokenizer, rendered

__all__ = ["TemplateTraits", "adapt_messages", "template_traits"]

_log = logging.getLogger("greenroom")

_ABSENT = "absent"
_TEXT = "Let me see."
_NAME = "probe_tool"
_QUESTION = {"role": "user", "content": "Hello."}
_SYSTEM_MESSAGE = {"role": "system", "content": _TEXT}
_ARGUMENTS = {"probe_key": "probe_value"}
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "A tool.",
        "parameters": {
            "type": "object",
            "properties": {"probe_key": {"type": "string", "description": "A text."}},
            "required": ["probe_key"],
        },
    },
}
_ID = "probe0123"
_DONE = "done with "
_LONG_ID = "call_0123456789abcdef01234567"


class TemplateTraits(NamedTuple):
    """How calls are to be handed to one template. `empty` is the content where there is no text: "", None or absent."""

    writes_calls: bool = False
    """The template writes calls at all."""
    as_text: bool = False
    """Arguments as JSON text, not as an object."""
    empty: str | None = ""
    keeps_text: bool = True
    """Text and calls of one message both come out."""
    text_apart: bool = False
    """They do not, but come out as two messages."""
    shows_tools: bool = False
    """The template tells the model which tools there are."""
    one_call_each: bool = False
    """A message has one call; several are as many messages, each with its result."""
    short_ids: bool = False
    """Ids have nine characters."""


@once_a_tokenizer
def template_traits(tokenizer: Tokenizer) -> TemplateTraits:
    """What the tokenizer's template wants of calls. Renders up to a dozen small conversations, the first time."""
    found = _probe(tokenizer)
    if not found.shows_tools:
        _log.warning("this model's chat template does not show tools to it: describe them in a system message")
    return found


def adapt_messages(messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> list[Message]:
    """The messages as the template wants them. Raises `InvalidPrompt` for what cannot be said to a model of texts."""
    found = normalised(messages)
    if any(message.get("tool_calls") for message in found):
        found = _with_calls(found, template_traits(tokenizer))
    roles = [message["role"] for message in found]
    if "system" in roles and not _takes_system(tokenizer):
        found = without_system(found)
    elif "system" in roles[1:] and not _takes_late_system(tokenizer):
        found = system_first(found)
    return alternating(found) if _needs_turns(found) and _alternates(tokenizer) else found


def _with_calls(messages: list[Message], known: TemplateTraits) -> list[Message]:
    if known.text_apart:
        messages = text_apart(messages)
    if known.one_call_each:
        messages = one_call_each(messages)
    if known.short_ids:
        messages = with_short_ids(messages)
    return [_adapt(message, known) if message.get("tool_calls") else message for message in messages]


def _adapt(message: Message, known: TemplateTraits) -> Message:
    adapted = dict(message)
    if known.as_text:
        adapted["tool_calls"] = [_as_text(call) for call in message["tool_calls"]]
    if not adapted.get("content") or not known.keeps_text:
        adapted.pop("content", None)
        if known.empty != _ABSENT:
            adapted["content"] = known.empty
    return adapted


def _as_text(call: Mapping[str, Any]) -> Message:
    function = dict(call["function"])
    function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": function}


def _probe(tokenizer: Tokenizer) -> TemplateTraits:
    found = _probe_one_call(tokenizer, TemplateTraits(shows_tools=_shows_tools(tokenizer)))
    if not found.writes_calls:
        return found
    if not _is_right(_render(tokenizer, found, "", [_LONG_ID]), as_text=found.as_text):
        found = found._replace(short_ids=True)
    two = ["one012345", "two012345"]
    if not _is_right(_render(tokenizer, found, "", two), as_text=found.as_text, calls=2):
        apart = found._replace(one_call_each=True)
        if _is_right(_render(tokenizer, apart, "", two), as_text=found.as_text, calls=2):
            return apart
    return found


def _probe_one_call(tokenizer: Tokenizer, none: TemplateTraits) -> TemplateTraits:
    for as_text, empty in itertools.product((False, True), ("", None, _ABSENT)):
        found = none._replace(writes_calls=True, as_text=as_text, empty=empty)
        if _is_right(_render(tokenizer, found, "", [_ID]), as_text=as_text):
            if _keeps(tokenizer, found):
                return found
            apart = found._replace(keeps_text=False, text_apart=True)
            return apart if _keeps(tokenizer, apart) else found._replace(keeps_text=False)
    return none


def _keeps(tokenizer: Tokenizer, known: TemplateTraits) -> bool:
    """Whether the text of a message with calls comes out too."""
    text = _render(tokenizer, known, _TEXT, [_ID])
    return _is_right(text, as_text=known.as_text) and _TEXT in text


def _shows_tools(tokenizer: Tokenizer) -> bool:
    return _NAME in rendered(tokenizer, [_QUESTION], tools=[_TOOL])


def _render(tokenizer: Tokenizer, known: TemplateTraits, text: str, ids: Sequence[str]) -> str:
    """The text of an assistant's calls and of their results, as the template writes them; nothing where it fails."""
    calls = [
        {"id": each, "type": "function", "function": {"name": _NAME, "arguments": dict(_ARGUMENTS)}} for each in ids
    ]
    said: Message = {"role": "assistant", "content": text, "tool_calls": calls}
    results = [{"role": "tool", "tool_call_id": each, "name": _NAME, "content": f"{_DONE}{each}"} for each in ids]
    answer = {"role": "assistant", "content": "Done."}
    messages = _with_calls([_QUESTION, said, *results, answer, _QUESTION], known)
    return _text_of(tokenizer, messages)  # without tools, where that works: their list has the same words


def _is_right(text: str, *, as_text: bool, calls: int = 1) -> bool:
    """Whether names and arguments came out, neither as Python's repr nor as JSON inside of a JSON string."""
    if text.count(_NAME) < calls or text.count("probe_value") < calls or text.count(_DONE) < calls:
        return False
    wrong = ("{'probe_key'", '\\"probe_key', "None")
    return not any(each in text for each in wrong) and (as_text or '"{' not in text)


# System messages in front, questions and answers in turn.


@once_a_tokenizer
def _takes_system(tokenizer: Tokenizer) -> bool:
    """Whether a system message in front comes out, or fails no more than a question by itself."""
    return _TEXT in _text_of(tokenizer, [_SYSTEM_MESSAGE, _QUESTION]) or not _text_of(tokenizer, [_QUESTION])


@once_a_tokenizer
def _takes_late_system(tokenizer: Tokenizer) -> bool:
    """Whether a system message that is not the first one comes out."""
    messages = [_QUESTION, {"role": "assistant", "content": "Done."}, _SYSTEM_MESSAGE, _QUESTION]
    return _TEXT in _text_of(tokenizer, messages)


def _needs_turns(messages: Sequence[Message]) -> bool:
    """Whether two questions, or two answers, stand in a row, calls and results left out."""
    said = [m["role"] for m in messages if m["role"] in {"user", "assistant"} and not m.get("tool_calls")]
    return any(a == b for a, b in itertools.pairwise(said))


@once_a_tokenizer
def _alternates(tokenizer: Tokenizer) -> bool:
    """Whether the template fails over two questions in a row, and not over one."""
    return bool(_text_of(tokenizer, [_QUESTION])) and not _text_of(tokenizer, [_QUESTION, _QUESTION])


def _text_of(tokenizer: Tokenizer, messages: Sequence[Message]) -> str:
    """The prompt, with a tool where the template fails without one; nothing where it fails with it too."""
    return rendered(tokenizer, messages) or rendered(tokenizer, messages, tools=[_TOOL])
