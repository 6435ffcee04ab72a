"""Bytes as tokens, and seven special ones: text, ids and conversations without any files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from greenroom.backends.byte_stream import ByteStream
from greenroom.errors import NotSupported, shown

__all__ = ["END", "SPECIAL", "STOP", "ByteTokenizer"]

SPECIAL: dict[str, int] = {
    "<|end|>": 256,
    "<|im_start|>": 257,
    "<|im_end|>": 258,
    "<think>": 259,
    "</think>": 260,
    "<tool_call>": 261,
    "</tool_call>": 262,
}
"""Every special token's id."""

END = SPECIAL["<|end|>"]
STOP = frozenset({END, SPECIAL["<|im_end|>"]})
"""The ids that end a turn."""

_BYTES = [bytes((byte,)) for byte in range(256)]
"""By id; special tokens give no text."""
_MARKS = {token: mark.encode() for mark, token in SPECIAL.items()}
_SPLIT = re.compile("(" + "|".join(map(re.escape, SPECIAL)) + ")")
_USER = "user\n"


class ByteTokenizer:
    """Ids 0 to 255 are bytes of UTF-8, those above are `SPECIAL`; ids that are neither decode to nothing.

    Its chat template is ChatML's; variables of other templates have no effect. `chat_template=False` has none.
    """

    def __init__(self, *, chat_template: bool = True) -> None:
        self.vocab_size = 256 + len(SPECIAL)
        self.has_chat_template = chat_template

    def __repr__(self) -> str:
        return f"<ByteTokenizer vocab_size={self.vocab_size} has_chat_template={self.has_chat_template}>"

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:  # noqa: ARG002 - none leads a text
        """See `Tokenizer.encode`. A special token that is spelt out in `text` becomes its one id."""
        ids: list[int] = []
        for piece in _SPLIT.split(text):
            token = SPECIAL.get(piece)
            ids.extend(piece.encode() if token is None else (token,))
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """See `Tokenizer.decode`. Bytes that are not UTF-8 become U+FFFD."""
        marks = {} if skip_special_tokens else _MARKS
        parts = [bytes((token,)) if 0 <= token < 256 else marks.get(token, b"") for token in ids]
        return b"".join(parts).decode(errors="replace")

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **options: object,  # noqa: ARG002 - variables that this template does not have
    ) -> list[int]:
        """See `Tokenizer.render`. Raises `NotSupported` without a template, `ValueError` over content it cannot write.

        Tools are one JSON object a line in a system message of their own, before all others.
        """
        if not self.has_chat_template:
            raise NotSupported("a conversation", "this tokenizer was made without a chat template")
        turns = [("system", "\n".join(["# Tools", *[json.dumps(dict(tool)) for tool in tools]]))] if tools else []
        turns += [(str(message["role"]), _content(message)) for message in messages]
        text = "".join([f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns])
        return self.encode(text + ("<|im_start|>assistant\n" if add_generation_prompt else ""))

    def stream(self) -> ByteStream:
        """See `Tokenizer.stream`."""
        return ByteStream(_BYTES)

    def vocabulary(self) -> tuple[list[bytes], frozenset[int]]:
        """See `Tokenizer.vocabulary`."""
        return [*_BYTES, *_MARKS.values()], frozenset(_MARKS)

    def last_user_text(self, ids: Sequence[int]) -> str | None:
        """What the last user message of a rendered conversation says; None if `ids` are none."""
        marked = self.decode(ids, skip_special_tokens=False)
        for turn in reversed(marked.split("<|im_start|>")[1:]):
            if turn.startswith(_USER):
                return turn.removeprefix(_USER).split("<|im_end|>", 1)[0]
        return None


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or None
    if isinstance(content, list | tuple):
        if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
            raise ValueError(f"the parts of a message's content must be text, got {shown(content)}")
        content = "".join([part["text"] for part in content])
    if content is not None and not isinstance(content, str):
        raise ValueError(f"a message's content must be text, got {shown(content)}")
    calls = [json.dumps(_function(call)) for call in message.get("tool_calls") or ()]
    return "\n".join([*([content] if content else []), *[f"<tool_call>\n{call}\n</tool_call>" for call in calls]])


def _function(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {"name": function["name"], "arguments": function.get("arguments", {})}
