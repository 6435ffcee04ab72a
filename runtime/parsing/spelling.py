"""How a forced call's arguments are written, where not as JSON: one by one, between tags or as Python's.

Every format here is written so that its reader reads back what the schema allows. What a format cannot write (a name
with a space between tags, say) is left out where it may be, else the call is refused.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from greenroom.errors import NotSupported
from greenroom.parsing.literals import FUNCTION_GEMMA, GEMMA, PYTHON, Literals, Syntax, json_between
from greenroom.parsing.plain import Plain
from greenroom.parsing.rules import Item, Rules
from greenroom.parsing.schemas import alternatives, variants

__all__ = ["SPELLINGS", "Spelling"]

Value = Callable[[Rules, Any, Mapping[str, Any], str], str | None]
"""An argument's value with what ends it: rules, its schema, the schema that it is part of, the end. None: no way."""


class Spelling(msgspec.Struct, frozen=True, kw_only=True):
    """A format's way: the name goes into `begin`, each argument's into `key`, and `close` stands behind its value.

    `can_name` and `can_key` say which names can be written. `empty` is a call without arguments, where that is not
    `begin` and `end`.
    """

    begin: str
    key: str
    close: str
    end: str
    value: Value
    comma: str = ""
    empty: str | None = None
    can_name: Callable[[str], object] = re.compile(r"[^\s<>\"'=]+").fullmatch
    can_key: Callable[[str], object] = re.compile(r"[^\s<>\"'=]+").fullmatch

    def call(self, rules: Rules, name: str, schema: Mapping[str, Any], opened: str = "") -> str:
        """A call of the tool `name`, behind `opened`. Raises `NotSupported` where no call of it can be written."""
        begin, end = (
            rules.literal(self.begin.replace("{name}", name).removeprefix(opened)),
            rules.literal(self.end),
        )
        calls: list[str] = []
        for items in self._ways(rules, schema) if self.can_name(name) else ():
            sequence = rules.sequence(items, self.comma, some=self.empty is not None)
            if sequence is not None:
                calls.append(f"{begin} {sequence} {end}")
            if self.empty is not None and not any(is_required for _, is_required in items):
                calls.append(rules.literal(self.empty.replace("{name}", name)))
        if not calls:
            raise NotSupported(f"a forced call of {name!r}", "its format cannot write the name, or a required argument")
        return rules.rule(" | ".join(f"({call})" for call in calls))

    def _ways(self, rules: Rules, schema: Mapping[str, Any]) -> Iterator[list[Item]]:
        for variant in variants(schema):
            items: list[Item] = []
            for name, part in variant.properties.items():
                value = self.value(rules, part, schema, self.close) if self.can_key(name) else None
                if value is not None:
                    key = rules.literal(self.key.replace("{key}", name))
                    items.append((rules.rule(f"{key} {value}"), name in variant.required))
                elif name in variant.required:
                    break
            else:
                yield items


def _is_identifier(name: str) -> bool:
    """Whether Python reads it as a name, and as this one."""
    return name.isascii() and name.isidentifier() and not keyword.iskeyword(name)


def _is_dotted_name(name: str) -> bool:
    return all(map(_is_identifier, name.split(".")))


# Values.


def _json(rules: Rules, schema: Any, root: Mapping[str, Any], end: str, *, plain: Plain) -> str | None:
    """As JSON, strings in quotes."""
    value = Literals(rules, json_between(plain.marks), root).value(schema)
    return None if value is None else f"{value} {rules.literal(end)}"


def _literal(rules: Rules, schema: Any, root: Mapping[str, Any], end: str, *, syntax: Syntax) -> str | None:
    del end  # these have none
    return Literals(rules, syntax, root).value(schema)


def _text_by_type(rules: Rules, schema: Any, root: Mapping[str, Any], end: str, *, plain: Plain) -> str | None:
    """Strings as they are where the schema says `"type": "string"`, everything else as JSON."""
    if isinstance(schema, Mapping) and schema.get("type") == "string":
        body = plain.terminal(rules, schema)
        return None if body is None else rules.until(body, end)
    return _json(rules, schema, root, end, plain=plain)


def _text_or_json(
    rules: Rules, schema: Any, root: Mapping[str, Any], end: str, *, plain: Plain, guesses: bool
) -> str | None:
    """Strings as they are, everything else as JSON; a string that may be something else must not look like it.

    With `guesses`, the reader is sure of a string only where the schema says `"type": "string"`.
    """
    ways = list(alternatives(schema, root))
    texts = [way for way in ways if _is_text(way)]
    if not texts:
        return _json(rules, schema, root, end, plain=plain)
    others = [way for way in ways if not _is_text(way)]
    is_sure = isinstance(schema, Mapping) and schema.get("type") == "string" if guesses else not others
    plain = msgspec.structs.replace(plain, guessed=not is_sure)
    bodies = [plain.terminal(rules, way, _words(others)) for way in texts]
    found = [rules.until(body, end) for body in bodies if body is not None]
    structured = [way for way in others if way.get("type") not in ("boolean", "null")]
    values = _json(rules, {"anyOf": structured}, root, end, plain=plain) if structured else None
    found += [] if values is None else [values]
    return rules.rule(" | ".join(f"({way})" for way in found)) if found else None


def _is_text(way: Mapping[str, Any]) -> bool:
    """Whether it is a string, or anything: then a string will do."""
    values = way["enum"] if "enum" in way else [way["const"]] if "const" in way else None
    if values is not None:
        return any(isinstance(value, str) for value in values)
    return way.get("type") == "string" or not {"type", "properties", "items"}.intersection(way)


def _words(others: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The values of these kinds that are words."""
    kinds = {way.get("type") for way in others if "enum" not in way and "const" not in way}
    return (*(["true", "false"] if "boolean" in kinds else []), *(["null"] if "null" in kinds else []))


# Formats.


def _xml(tag: str) -> Spelling:
    marks = ("</parameter>", "<parameter=", "</function>", "<function=", f"<{tag}>", f"</{tag}>")
    return Spelling(
        begin=f"<{tag}>\n<function={{name}}>\n",
        key="<parameter={key}>\n",
        close="\n</parameter>\n",
        end=f"</function>\n</{tag}>",
        value=partial(_text_or_json, plain=Plain(marks=marks), guesses=True),
    )


def _pairs(tag: str, prefix: str = "", line: str = "", empty: str | None = None) -> Spelling:
    marks = tuple(f"<{slash}{prefix}{word}>" for slash in ("", "/") for word in ("arg_key", "arg_value"))
    return Spelling(
        begin=f"<{tag}>{{name}}{line}",
        key=f"<{prefix}arg_key>{{key}}</{prefix}arg_key>{line}<{prefix}arg_value>",
        close=f"</{prefix}arg_value>{line}",
        end=f"</{tag}>",
        value=partial(_text_by_type, plain=Plain(marks=(*marks, f"<{tag}>", f"</{tag}>"), strips=True)),
        empty=empty,
    )


def _attributes(opening: str, call: str, argument: str, closing: str, line: str = "") -> Spelling:
    marks = (f"<{call} name=", f"</{call}>", f"<{argument} name=", f"</{argument}>", "<![CDATA[")
    around = tuple(mark.strip() for mark in (opening, closing) if mark)
    return Spelling(
        begin=f'{opening}<{call} name="{{name}}">{line}',
        key=f'<{argument} name="{{key}}">',
        close=f"</{argument}>{line}",
        end=f"</{call}>{closing}",
        value=partial(_text_or_json, plain=Plain(marks=marks + around, strips=True), guesses=False),
    )


def _python(opening: str, closing: str) -> Spelling:
    return Spelling(
        begin=f"{opening}[{{name}}(",
        key="{key}=",
        close="",
        end=f")]{closing}",
        value=partial(_literal, syntax=PYTHON),
        comma=", ",
        can_name=_is_dotted_name,
        can_key=_is_identifier,
    )


def _gemma(opening: str, closing: str, syntax: Syntax, names: str) -> Spelling:
    return Spelling(
        begin=f"{opening}call:{{name}}{{",
        key="{key}:",
        close="",
        end=f"}}{closing}",
        value=partial(_literal, syntax=syntax),
        comma=",",
        can_name=re.compile(names).fullmatch,
        can_key=re.compile(r"\w+").fullmatch,
    )


_LONGCAT_EMPTY = '<longcat_tool_call>{"name": "{name}", "arguments": {}}</longcat_tool_call>'
_ATEM = _attributes("<atem:function_calls>\n", "atem:invoke", "atem:parameter", "\n</atem:function_calls>", line="\n")
_ATEM_MARKS = ("<atem:invoke", "</atem:invoke>", "<atem:parameter", "</atem:parameter>", "atem:function_calls>")
SPELLINGS: Mapping[str, Spelling] = {
    "function_gemma": _gemma("<start_function_call>", "<end_function_call>", FUNCTION_GEMMA, r"\w+"),
    "gemma4": _gemma("<|tool_call>", "<tool_call|>", GEMMA, r"[\w-]+"),
    "glm47": _pairs("tool_call"),
    "laguna": _pairs("tool_call"),
    "llama4_pythonic": _python("", ""),
    "longcat": _pairs("longcat_tool_call", "longcat_", "\n", _LONGCAT_EMPTY),
    "minicpm5": _attributes("", "function", "param", ""),
    "minimax_m2": _attributes("<minimax:tool_call>\n", "invoke", "parameter", "\n</minimax:tool_call>", line="\n"),
    "muse_spark": msgspec.structs.replace(_ATEM, value=partial(_json, plain=Plain(marks=_ATEM_MARKS))),
    "pythonic": _python("<|tool_call_start|>", "<|tool_call_end|>"),
    "qwen3_coder": _xml("tool_call"),
    "seed_oss": _xml("seed:tool_call"),
}
