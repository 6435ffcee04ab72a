"""Whether a model thinks before it answers, by whatever its chat template calls that: found by trying.

Templates have a variable for it (`enable_thinking`, `thinking`), an effort (gpt-oss), a budget (Seed-OSS), or a word in
the system message (Nemotron). A question is rendered with each of them, once a tokenizer, and the first one that
changes what the model is given is the switch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from greenroom.backends.protocol import Tokenizer
from greenroom.errors import InvalidParameter, InvalidPrompt, NotSupported
from greenroom.inputs.rendering import once_a_tokenizer, rendered

__all__ = ["switch_thinking"]

Messages = Sequence[Mapping[str, Any]]


class _Switch(NamedTuple):
    """What turns thinking on and off: a variable of the template, or words in the system message (`name` is None)."""

    name: str | None
    on: Any
    off: Any

    def value(self, *, thinks: bool) -> Any:
        return self.on if thinks else self.off


_SWITCHES = (
    _Switch("enable_thinking", True, False),
    _Switch("thinking", True, False),
    _Switch("enable_reasoning", True, False),
    _Switch("reasoning", True, False),
    _Switch("thinking_budget", None, 0),
    _Switch("reasoning_effort", None, "low"),
    _Switch(None, "/think", "/no_think"),
)
_UNSET: Mapping[str, Any] = {"thinking_budget": 512, "reasoning_effort": "high"}
"""Where on is the template's own default, a value that is not off: it may look like no value at all."""
_QUESTION: Messages = ({"role": "user", "content": "Hello."},)
_NOTHING: Mapping[str, Any] = {}


def switch_thinking(
    messages: Messages,
    options: Mapping[str, Any] | None,
    tokenizer: Tokenizer,
    *,
    thinks: bool,
    is_known_to_think: bool,
) -> tuple[Messages, Mapping[str, Any]]:
    """The messages, and the variables of the template, with which the model thinks, or does not.

    An effort has no off: it is then low. `is_known_to_think` says that the model marks thoughts, and so thinks wherever
    nothing turns that off. Raises `NotSupported` where the template has no switch, unless a model that always thinks is
    asked to; `InvalidParameter` where `options` set the switch too.
    """
    options = options or _NOTHING
    found = _find(tokenizer)
    if found is None:
        if thinks and is_known_to_think:
            return messages, options
        why = "this model's chat template has no switch for it"
        raise NotSupported(f"thinking={thinks}", why if is_known_to_think else f"{why}, and it marks no thoughts")
    value = found.value(thinks=thinks)
    if found.name is None:
        return _with_word(messages, value), options
    if found.name in options:
        given = f"not given beside thinking={thinks}, which sets it"
        raise InvalidParameter(f"template_options[{found.name!r}]", options[found.name], given)
    return messages, options if value is None else {**options, found.name: value}


@once_a_tokenizer
def _find(tokenizer: Tokenizer) -> _Switch | None:
    return next((switch for switch in _SWITCHES if _works(switch, tokenizer)), None)


def _works(switch: _Switch, tokenizer: Tokenizer) -> bool:
    if switch.name is not None:
        on = switch.on if switch.on is not None else _UNSET[switch.name]
        both = [rendered(tokenizer, _QUESTION, **{switch.name: value}) for value in (on, switch.off)]
        return both[0] != both[1]
    # A template that knows the word acts on it, and most take it away; one that does not writes it as it stands.
    words = ("/other", switch.on, switch.off)
    texts = [rendered(tokenizer, _with_word(_QUESTION, word)) for word in words]
    plain, on, off = [text.replace(word, words[0]) for text, word in zip(texts, words, strict=True)]
    return all(texts) and off not in {plain, on}


def _with_word(messages: Messages, word: str) -> Messages:
    """`word` behind the system message, which is made where there is none."""
    first = messages[0]
    if first["role"] != "system":
        return [{"role": "system", "content": word}, *messages]
    content = first.get("content")
    if not isinstance(content, str):
        raise InvalidPrompt("thinking is switched in the system message here, whose content must be a text")
    return [{**first, "content": f"{content}\n{word}" if content else word}, *messages[1:]]
