"""Texts as parts of a grammar: literals of llguidance's Lark, regular expressions, and grammars inside of others."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["literal", "nested_grammar", "regex_escape", "regex_unescape", "token_literal"]


class _Named(Protocol):
    """What a `Vocabulary` is here."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The id of each special token."""


def literal(text: str) -> str:
    """`text` in Lark."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def token_literal(text: str, vocabulary: _Named) -> str:
    """`text` in Lark, special tokens in it as such; nothing for an empty one."""
    ids = vocabulary.special_tokens
    names = sorted(ids, key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, names)) + ")", text) if names else [text]
    return " ".join([f"<[{ids[part]}]>" if part in ids else literal(part) for part in parts if part])


def nested_grammar(grammar: str, name: str) -> dict[str, Any]:
    """A grammar as a part of a larger one, which refers to it as `@name`."""
    if not grammar.lstrip().startswith("{"):
        return {"name": name, "lark_grammar": grammar}
    [only] = json.loads(grammar)["grammars"]
    return {**only, "name": name}


def regex_escape(text: str) -> str:
    """A regular expression of Rust's that matches `text` alone."""
    return re.sub(r"([\\.+*?()|\[\]{}^$#&~/-])", r"\\\1", text)


def regex_unescape(pattern: str) -> str:
    """The text that a regular expression of `regex_escape` matches."""
    return re.sub(r"\\(.)", r"\1", pattern)
