"""Parts of a message's content, as OpenAI's APIs have them: a model of texts is given texts."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from greenroom.errors import shown
from greenroom.serve.faults import invalid

__all__ = ["ContentPart", "joined_text"]

_TEXTS = ("text", "input_text", "output_text", "reasoning_text", "summary_text")


class ContentPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a message's content. Parts of other types are known by their type, and refused by it."""

    type: str
    text: str | None = None
    refusal: str | None = None


def joined_text(content: str | Sequence[ContentPart], where: str) -> str:
    """The text of a content at the place `where` of a request. Raises `RequestRefused` for parts that are none."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for place, part in enumerate(content):
        text = part.refusal if part.type == "refusal" else part.text if part.type in _TEXTS else None
        if text is None:
            message = f"a part of the type {shown(part.type)} cannot be given to this model, which reads text"
            raise invalid(message, f"{where}[{place}]", code="unsupported_value")
        texts.append(text)
    return "".join(texts)
