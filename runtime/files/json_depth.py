"""How deep JSON nests, counted before a parser sees it: parsers recurse."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["MAX_HEADER_BYTES", "MAX_JSON_DEPTH", "check_json_depth", "read_json"]

MAX_JSON_DEPTH = 128
"""Of arrays and objects in a file: more than any schema that a person wrote, far less than what a stack holds."""
MAX_HEADER_BYTES = 100_000_000
"""Of a safetensors file's header, as the format's own library has it."""
# A string is matched to its end, or to the text's, so that no part of the text is looked at twice.
_BRACKET_OR_STRING = re.compile(rb'[\[{\]}]|"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)


def check_json_depth(text: bytes, most: int = MAX_JSON_DEPTH) -> None:
    """Raise `ValueError`, which says where, for arrays and objects in more than `most` others.

    Of what is no JSON, at least all is looked at that a parser reads before it says so.
    """
    depth = 0
    for found in _BRACKET_OR_STRING.finditer(text):
        if text[found.start()] in b"[{":
            depth += 1
            if depth > most:
                place = found.start()
                raise ValueError(f"arrays and objects nest deeper than {most} levels at byte {place}: flatten them")
        elif text[found.start()] in b"]}":
            depth -= 1


def read_json(text: str) -> Any:
    """The value of JSON text. Raises `ValueError` for what is none, what is no Unicode, and what nests too deeply."""
    check_json_depth(text.encode())
    return json.loads(text)
