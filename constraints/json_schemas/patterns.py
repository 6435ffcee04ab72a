"""Texts against the patterns of JSON schemas, in time that grows with the text: jsonschema with another `pattern`.

jsonschema asks Python's `re`, which tries one way after the other: over `^(a+)+$` a text of forty characters, which a
model may write, takes years, and nothing interrupts it. llguidance follows all ways at once, and reads patterns as a
constraint does that enforces them. It knows no look-around, no back-references and no word boundaries: a pattern with
those is not checked, and whoever made the schema is warned.

The names that `patternProperties` has patterns for are looked up before jsonschema sees them: it is given patterns that
spell out the names which match.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import jsonschema
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from greenroom.constraints.json_schemas.keywords import objects_in
from greenroom.constraints.json_schemas.unions import UNIONS, each_once, takes
from greenroom.constraints.watch import Watched
from greenroom.errors import InvalidConstraint

__all__ = ["PatternTimeout", "PatternValidator"]

_BUDGET = 0.25
"""Seconds for all patterns of one value, and for each byte of the texts so much more:"""
_PER_BYTE = 1e-5
_PATIENCE = 0.5
"""Seconds, and seconds of this process's computing, for compiling all patterns of one schema."""
_CHUNK = 64
"""Bytes between two looks at the clock."""
_LIMITS = LLParserLimits(
    verbose_errors=False, max_lexer_states=20_000, initial_lexer_fuel=300_000, step_lexer_fuel=100_000
)
_OPTIONS = {"whitespace_flexible": False}
_DEADLINE: ContextVar[list[float]] = ContextVar("deadline")
"""When the value at hand is given up, in seconds of its thread: one number, which grows with what is looked at."""


class PatternTimeout(Exception):
    """The patterns of a schema took too long over a value, or needed more than they may: it is not known to fit."""


class PatternValidator:
    """A jsonschema validator of `schema` whose patterns cost what their text is long.

    `unchecked` has the patterns that are not checked, with the reason of each. Raises `InvalidConstraint` where the
    patterns cannot be compiled in half a second.
    """

    def __init__(self, schema: Mapping[str, Any], kind: Any, **options: Any) -> None:
        self.unchecked = _compile_all(dict.fromkeys(_patterns(schema)))
        self._schema = schema
        self._has_names = _has_names(schema)
        self._validator: Any = _checking_patterns(kind)(schema, **options)

    def __repr__(self) -> str:
        return f"<PatternValidator {type(self._validator).__name__} unchecked={len(self.unchecked)}>"

    def best_error(self, value: Any, part: Any = None) -> Any:
        """The error of jsonschema that says most; None where `value` fits the schema, or `part` of it.

        Raises `PatternTimeout`.
        """
        with _deadline():
            validator, names = self._of(value, self._schema if part is None else part)
            error = jsonschema.exceptions.best_match(validator.iter_errors(value))
        if error is not None:
            for spelt, pattern in names.items():
                error.message = error.message.replace(repr(spelt), repr(pattern))
        return error

    def errors(self, value: Any) -> list[jsonschema.ValidationError]:
        """Every error, as jsonschema says it. Raises `PatternTimeout`."""
        with _deadline():
            return list(self._of(value, self._schema)[0].iter_errors(value))

    def takes(self, value: Any, part: Any) -> bool:
        """Whether `value` fits `part` of the schema. Raises `PatternTimeout`."""
        with _deadline():
            return takes(self._of(value, part)[0], value)

    def _of(self, value: Any, part: Any) -> tuple[Any, dict[str, str]]:
        """A validator of `value` by `part`, and the patterns that it has in the place of others."""
        if not self._has_names:
            return (self._validator if part is self._schema else self._validator.evolve(schema=part)), {}
        spelling = _Spelling(value)
        whole = self._validator.evolve(schema=spelling.of(self._schema))
        return (whole if part is self._schema else whole.evolve(schema=spelling.of(part))), spelling.patterns


@lru_cache(maxsize=16)
def _checking_patterns(kind: Any) -> Any:
    """The validators of `kind` with our patterns and unions: a class, of which one is enough."""
    extend: Any = jsonschema.validators.extend
    unions = {word: check for word, check in UNIONS.items() if word in kind.VALIDATORS}
    return extend(kind, {"pattern": _check_pattern, **unions})


class _Spelling:
    """Schemas with patterns that spell out which of a value's names they match."""

    def __init__(self, value: Any) -> None:
        self._names = sorted({str(name) for part in objects_in(value) for name in part})
        self.patterns: dict[str, str] = {}
        """What stands in the schema, and what stood there."""

    def of(self, schema: Any) -> Any:
        """`schema` for that value."""
        if isinstance(schema, list | tuple):
            return [self.of(part) for part in schema]
        if not isinstance(schema, Mapping):
            return schema
        given = {key: self.of(part) for key, part in schema.items()}
        if isinstance(patterns := given.get("patternProperties"), Mapping):
            given["patternProperties"] = {self._spelt(pattern): part for pattern, part in patterns.items()}
        return given

    def _spelt(self, pattern: str) -> str:
        found = [re.escape(name) for name in self._names if _matches(pattern, name)]
        number = f"(?#{len(self.patterns)})"  # two patterns that match the same names stay two
        spelt = f"^(?:{'|'.join(found)})\\Z{number}" if found else f"(?!){number}"
        self.patterns[spelt] = pattern
        return spelt


def _compile_all(patterns: Mapping[str, None]) -> dict[str, str]:
    """Compile `patterns`; those that cannot be, with the reason."""
    if not patterns:
        return {}
    compiling = Watched("the patterns of a schema", lambda: [_compiled(pattern) for pattern in patterns])
    if not compiling.wait(_PATIENCE):
        raise InvalidConstraint(f"its patterns were not compiled within {_PATIENCE:g} s: make them simpler")
    return {pattern: each for pattern, each in zip(patterns, compiling.result(), strict=True) if isinstance(each, str)}


@contextmanager
def _deadline() -> Iterator[None]:
    token = _DEADLINE.set([time.thread_time() + _BUDGET])
    try:
        with each_once():
            yield
    finally:
        _DEADLINE.reset(token)


def _check_pattern(validator: Any, pattern: str, value: Any, _schema: Any) -> Iterator[jsonschema.ValidationError]:
    if validator.is_type(value, "string") and not _matches(pattern, value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _matches(pattern: str, text: str) -> bool:
    """Whether `pattern` is found in `text`; True of one that cannot be checked."""
    compiled = _compiled(pattern)
    if isinstance(compiled, str):
        return True
    matcher = compiled.deep_copy()
    spelt = json.dumps(text, ensure_ascii=False).encode(errors="replace")
    deadline = _DEADLINE.get()
    deadline[0] += len(spelt) * _PER_BYTE
    for at in range(0, len(spelt), _CHUNK):
        if time.thread_time() > deadline[0]:
            raise PatternTimeout(f"the pattern {pattern!r} took too long")
        chunk = list(spelt[at : at + _CHUNK])
        legal = matcher.validate_tokens(chunk)
        if legal < len(chunk) and not matcher.is_error():
            return False
        if matcher.is_error() or not matcher.consume_tokens(chunk):
            raise PatternTimeout(f"the pattern {pattern!r} needs more states than it may: {matcher.get_error()[:200]}")
    return bool(matcher.is_accepting())


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> LLMatcher | str:
    """A matcher of JSON strings at the start, or why there is none."""
    try:
        text = json.dumps({"type": "string", "pattern": pattern})
        grammar = LLMatcher.grammar_from_json_schema(text, overrides=_OPTIONS)
        matcher = LLMatcher(_tokenizer(), grammar, log_level=0, limits=_LIMITS)
    except ValueError as error:
        return str(error)
    return _reason(matcher.get_error()) if matcher.is_error() else matcher


def _reason(error: str) -> str:
    """The last line of an error that shows the pattern first."""
    return error.strip().splitlines()[-1].removeprefix("error: ")


@lru_cache(maxsize=1)
def _tokenizer() -> LLTokenizer:
    return LLTokenizer("byte")


def _patterns(schema: Any) -> Iterator[str]:
    """What may be a pattern in `schema`, at any place."""
    for part in objects_in(schema):
        if isinstance(part.get("pattern"), str):
            yield part["pattern"]
        if isinstance(names := part.get("patternProperties"), Mapping):
            yield from names


def _has_names(schema: Any) -> bool:
    return any(part.get("patternProperties") for part in objects_in(schema))
