"""What a chat template wants of messages with tool calls, found by trying.

Templates disagree: some take a call's arguments as an object, some as JSON text; some write calls only where the
content is None, some fail over None. A conversation that holds a call is rendered in each way, once a tokenizer, and
the first way in which the call comes out right is the one that messages are given in.
"""

from __future__ import annotations

import itertools
import json
import logging
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from greenroom.backends.protocol import Tokenizer
from greenroom.errors import InvalidPrompt
from greenroom.files.json_depth import read_json

__all__ = ["TemplateTraits", "adapt_messages", "template_traits"]

_log = logging.getLogger("greenroom")

_ABSENT = "absent"
_TEXT = "Let me see."
_NAME = "probe_tool"
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
_ID = "probe0123"  # nine letters and digits: some templates insist


class TemplateTraits(NamedTuple):
    """How calls are to be handed to one template. `empty` is the content where there is no text: "", None or absent."""

    writes_calls: bool = False
    """The template writes calls at all."""
    as_text: bool = False
    """Arguments as JSON text, not as an object."""
    empty: str | None = ""
    keeps_text: bool = True
    """Text and calls of one message both come out."""
    shows_tools: bool = False
    """The template tells the model which tools there are."""


_KNOWN: WeakKeyDictionary[Tokenizer, TemplateTraits] = WeakKeyDictionary()


def template_traits(tokenizer: Tokenizer) -> TemplateTraits:
    """What the tokenizer's template wants of calls. Renders up to eight small conversations, the first time."""
    known = _KNOWN.get(tokenizer)
    if known is None:
        known = _KNOWN[tokenizer] = _probe(tokenizer)
        if not known.shows_tools:
            _log.warning("this model's chat template does not show tools to it: describe them in a system message")
    return known


def adapt_messages(messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> Sequence[Mapping[str, Any]]:
    """The messages as the template wants them; those without calls as they are.

    Raises `InvalidPrompt` for arguments in JSON, which the template wants as an object, that are none.
    """
    if not any(message.get("tool_calls") for message in messages):
        return messages
    known = template_traits(tokenizer)
    return [
        _adapt(message, known, f"message {place}") if message.get("tool_calls") else message
        for place, message in enumerate(messages)
    ]


def _adapt(message: Mapping[str, Any], known: TemplateTraits, where: str) -> dict[str, Any]:
    adapted = dict(message)
    adapted["tool_calls"] = [
        _call(call, f"call {number} of {where}", as_text=known.as_text)
        for number, call in enumerate(message["tool_calls"])
    ]
    if not adapted.get("content") or not known.keeps_text:
        adapted.pop("content", None)
        if known.empty != _ABSENT:
            adapted["content"] = known.empty
    return adapted


def _call(call: Mapping[str, Any], where: str, *, as_text: bool) -> dict[str, Any]:
    function = dict(call["function"])
    arguments = function.get("arguments")
    if as_text and not isinstance(arguments, str):
        function["arguments"] = json.dumps(arguments if arguments is not None else {}, ensure_ascii=False)
    elif not as_text and isinstance(arguments, str):
        function["arguments"] = _object(arguments, where)
    elif arguments is None:  # a call of no arguments, which templates write as they find them
        function["arguments"] = {}
    return {**call, "function": function}


def _object(arguments: str, where: str) -> dict[str, Any]:
    try:
        value = read_json(arguments)
    except ValueError as error:
        raise InvalidPrompt(f"the arguments of {where} must be a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise InvalidPrompt(f"the arguments of {where} must be a JSON object, got {reprlib.repr(arguments)}")
    return value


def _probe(tokenizer: Tokenizer) -> TemplateTraits:
    shows = _shows_tools(tokenizer)
    for as_text, empty in itertools.product((False, True), ("", None, _ABSENT)):
        found = TemplateTraits(True, as_text, empty, shows_tools=shows)
        if _is_right(_render_call(tokenizer, found, ""), as_text=as_text):
            text = _render_call(tokenizer, found, _TEXT)
            return found._replace(keeps_text=_is_right(text, as_text=as_text) and _TEXT in (text or ""))
    return TemplateTraits(shows_tools=shows)


def _shows_tools(tokenizer: Tokenizer) -> bool:
    messages = [{"role": "user", "content": "Hello."}]
    try:
        return _NAME in tokenizer.decode(tokenizer.render(messages, tools=[_TOOL]), skip_special_tokens=False)
    except Exception:  # noqa: BLE001 - a template is a program: it may raise anything
        return False


def _render_call(tokenizer: Tokenizer, known: TemplateTraits, text: str) -> str | None:
    """The text of the assistant's call and of the result, as the template writes them; None where it fails."""
    call = {"id": _ID, "type": "function", "function": {"name": _NAME, "arguments": _ARGUMENTS}}
    asked: list[Mapping[str, Any]] = [{"role": "user", "content": "Hello."}]
    messages = [
        *asked,
        _adapt({"role": "assistant", "content": text, "tool_calls": [call]}, known, "message 1"),
        {"role": "tool", "tool_call_id": _ID, "name": _NAME, "content": "done"},
    ]
    try:
        ids = tokenizer.render(messages)  # without tools: their list has the same words
    except Exception:  # noqa: BLE001 - a template is a program: it may raise anything
        try:
            ids = tokenizer.render(messages, tools=[_TOOL])
        except Exception:  # noqa: BLE001
            return None
    return tokenizer.decode(ids, skip_special_tokens=False)


def _is_right(text: str | None, *, as_text: bool) -> bool:
    """Whether name and arguments came out, neither as Python's repr nor as JSON inside of a JSON string."""
    if text is None or _NAME not in text or "probe_value" not in text:
        return False
    wrong = ("{'probe_key'", '\\"probe_key', "None")
    return not any(each in text for each in wrong) and (as_text or '"{' not in text)
