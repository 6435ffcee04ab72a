"""A grammar in lexemes as llguidance's Lark."""

from __future__ import annotations

from collections.abc import Mapping

from greenroom.constraints.gbnf.expressions import (
    EMPTY,
    Alternatives,
    CharSet,
    Expression,
    Piece,
    Repeated,
    RuleName,
    Series,
    TokenName,
)
from greenroom.constraints.grammar_text import literal

__all__ = ["lark_of"]

_PLAIN = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def lark_of(rules: Mapping[str, Expression]) -> str:
    """`rules` in Lark, `root` as its `start`."""
    if set(rules) == {"root"} and isinstance(rules["root"], Piece):
        return f"start: {_lexeme(rules['root'].body)}\n"
    writer = _Writer(rules)
    return "".join(f"{writer.names[name]}: {writer.rule(body)}\n" for name, body in rules.items()) + "".join(
        f"{name}: {text}\n" for text, name in writer.lexemes.items()
    )


class _Writer:
    def __init__(self, rules: Mapping[str, Expression]) -> None:
        others = [name for name in rules if name != "root"]
        self.names = {"root": "start", **{name: f"r{number}" for number, name in enumerate(others)}}
        self.lexemes: dict[str, str] = {}
        """The name of each lexeme by its text."""

    def rule(self, expression: Expression) -> str:
        if isinstance(expression, Piece):
            text = _lexeme(expression.body)
            return self.lexemes.setdefault(text, f"T{len(self.lexemes)}")
        if isinstance(expression, RuleName):
            return self.names[expression.name]
        if isinstance(expression, TokenName):
            return f"<[{'^' if expression.is_negated else ''}{','.join(map(str, expression.tokens))}]>"
        if isinstance(expression, Series):
            return " ".join(map(self.rule, expression.members)) or '""'
        if isinstance(expression, Alternatives):
            return "(" + " | ".join(map(self.rule, expression.members)) + ")"
        assert isinstance(expression, Repeated)  # noqa: S101 - there is no other
        inner = self.rule(expression.inner)
        return f"({inner}){_times(expression)}"


def _times(expression: Repeated) -> str:
    least, most = expression.least, expression.most
    short = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
    return short or (f"{{{least}}}" if least == most else f"{{{least},{'' if most is None else most}}}")


def _lexeme(body: Expression) -> str:
    text = _only_text(body)
    return f"/{_regex(body)}/" if text is None else literal(text)


def _only_text(body: Expression) -> str | None:
    """The text that it is, where it is but one."""
    if isinstance(body, CharSet):
        return chr(body.ranges[0][0]) if _is_one(body) else None
    if not isinstance(body, Series):
        return None
    texts = [_only_text(part) for part in body.members]
    return None if None in texts else "".join(text for text in texts if text is not None)


def _regex(expression: Expression) -> str:
    """It in the syntax of Rust's regex crate, between slashes."""
    if isinstance(expression, CharSet):
        return _class(expression)
    if isinstance(expression, Series):
        return "".join(_group(part) if _is_open(part) else _regex(part) for part in expression.members)
    if isinstance(expression, Alternatives):
        rest = Alternatives(tuple(part for part in expression.members if part != EMPTY))
        if len(rest.members) < len(expression.members):
            return f"{_group(rest)}?"
        return "|".join(map(_regex, rest.members))
    assert isinstance(expression, Repeated)  # noqa: S101 - there is no other
    inner = expression.inner
    return (_regex(inner) if isinstance(inner, CharSet) else _group(inner)) + _times(expression)


def _group(expression: Expression) -> str:
    return f"(?:{_regex(expression)})"


def _is_open(expression: Expression) -> bool:
    """Whether what stands beside it would become a part of it."""
    return isinstance(expression, Alternatives) and EMPTY not in expression.members


def _is_one(chars: CharSet) -> bool:
    return len(chars.ranges) == 1 and chars.ranges[0][0] == chars.ranges[0][1]


def _class(chars: CharSet) -> str:
    if _is_one(chars):
        return _char(chars.ranges[0][0])
    if sum(last - first + 1 for first, last in chars.ranges) > 0x80000:
        return "[^" + "".join(map(_span, _gaps(chars))) + "]" if _gaps(chars) else "(?s:.)"
    return "[" + "".join(map(_span, chars.ranges)) + "]"


def _gaps(chars: CharSet) -> list[tuple[int, int]]:
    """The ranges between those of `chars`, but for surrogates, which are of no text."""
    starts = [0, *[last + 1 for _, last in chars.ranges]]
    ends = [*[first - 1 for first, _ in chars.ranges], 0x10FFFF]
    return [
        (first, last)
        for first, last in zip(starts, ends, strict=True)
        if first <= last and (first, last) != (0xD800, 0xDFFF)
    ]


def _span(span: tuple[int, int]) -> str:
    first, last = span
    if last - first < 2:
        return "".join(map(_char, range(first, last + 1)))
    return f"{_char(first)}-{_char(last)}"


def _char(code: int) -> str:
    text = chr(code)
    if text in _PLAIN:
        return _PLAIN[text]
    if code < 0x20 or 0x7F <= code < 0xA0:
        return f"\\x{code:02x}"
    return "\\" + text if text in "\\/.+*?()|[]{}^$#&~-" else text
