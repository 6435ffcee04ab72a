"""Llguidance's Python objects behind callbacks: the exported engine where the wheel exports no C functions."""

from __future__ import annotations

from ctypes import Array, addressof, c_char, c_uint32, create_string_buffer
from itertools import count

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from greenroom.constraints.cbison import layout
from greenroom.constraints.cbison.guards import callback
from greenroom.constraints.cbison.provider import put, put_tokens
from greenroom.constraints.cbison.spelling import Writer, spellings
from greenroom.constraints.cbison.tokens import LLTokens, TokenSource, can_tokenize
from greenroom.constraints.compiled_grammar import without_forcing
from greenroom.errors import InvalidConstraint

# Messages without the parser's state and the tokens before; ten times the usual fuel, which clones share and only masks
# fill up again.
_QUIET = LLParserLimits(verbose_errors=False, step_lexer_fuel=2_000_000)


class CallbackEngine:
    """Matchers are llguidance's Python objects, known to C by numbers."""

    native_slots: frozenset[str] = frozenset()

    def __init__(self, source: TokenSource) -> None:
        self._tokenizer = _ll_tokenizer(source)
        self._forces = can_tokenize(source)
        self.slots = _SLOTS

    def validate(self, kind: bytes, text: bytes, out: int | None, room: int) -> int:
        """See `ExportedEngine`."""
        try:
            is_error, said = LLMatcher.validate_grammar_with_warnings(
                self._grammar(kind, text), self._tokenizer, limits=_QUIET
            )
        except ValueError as error:
            is_error, said = True, [str(error)]
        message = "\n".join(said).encode()[: max(room - 1, 0)]
        put(message + b"\0", 1, out, room)
        return -1 if is_error else int(bool(said))

    def new(self, kind: bytes, text: bytes) -> int:
        """See `ExportedEngine`."""
        try:
            return _keep(_Record(LLMatcher(self._tokenizer, self._grammar(kind, text), log_level=0, limits=_QUIET)))
        except ValueError as error:
            return _keep(_Record(None, str(error)))

    def clone(self, matcher: int) -> int:
        """See `ExportedEngine`."""
        record = _RECORDS[matcher]
        return _keep(_Record(record.matcher and record.matcher.deep_copy(), record.refusal))

    def free(self, matcher: int) -> None:
        """See `ExportedEngine`."""
        del _RECORDS[matcher]

    def fill(self, matcher: int, out: int, size: int) -> int:
        """See `ExportedEngine`."""
        return _fill(matcher, out, size)

    def close(self) -> None:
        """See `ExportedEngine`."""

    def _grammar(self, kind: bytes, text: bytes) -> str:
        grammar = _compile(kind.decode(), text.decode())
        # An LLTokenizer over a Python object always takes itself to be able to tokenize.
        return grammar if self._forces else without_forcing(grammar)


class _Record:
    """A matcher, or why there is none, and the memory that its error's text lies in."""

    def __init__(self, matcher: LLMatcher | None, refusal: str = "") -> None:
        self.matcher = matcher
        self.refusal = refusal
        self._said: Array[c_char] | None = None

    def live(self) -> LLMatcher:
        """The matcher. Raises `ValueError` where there is none."""
        if self.matcher is None:
            raise ValueError(self.refusal)
        return self.matcher

    def error(self) -> int:
        """The address of the error's text, the same each time; 0 without an error."""
        if self._said is None:
            text = self.refusal if self.matcher is None else self.matcher.get_error()
            if not text:
                return 0
            self._said = create_string_buffer(text.replace("\0", "\\0").encode())
        return addressof(self._said)


_RECORDS: dict[int, _Record] = {}
_numbers = count(1)


def _keep(record: _Record) -> int:
    number = next(_numbers)
    _RECORDS[number] = record
    return number


def _ids(address: int | None, size: int) -> list[int]:
    return list((c_uint32 * size).from_address(address)) if address and size else []


def _fill(matcher: int, out: int, size: int) -> int:
    live = _RECORDS[matcher].live()
    live.unsafe_compute_mask_ptr(out, size)  # raises for a wrong size
    return -1 if live.is_error() else 0


@callback(layout.GET_ERROR, 0)
def _get_error(matcher: int) -> int:
    return _RECORDS[matcher].error()


@callback(layout.COMPUTE_MASK, -1)
def _compute_mask(matcher: int, out: int, size: int) -> int:
    return _fill(matcher, out, size)


@callback(layout.TOKENS, -1)
def _consume_tokens(matcher: int, tokens: int | None, size: int) -> int:
    return 0 if _RECORDS[matcher].live().consume_tokens(_ids(tokens, size)) else -1


@callback(layout.IS, False)
def _is_accepting(matcher: int) -> bool:
    found = _RECORDS[matcher].matcher
    return found is not None and found.is_accepting()


# A matcher that cannot answer stops, as one in error does.
@callback(layout.IS, True)
def _is_stopped(matcher: int) -> bool:
    found = _RECORDS[matcher].matcher
    return found is None or found.is_stopped()


@callback(layout.TOKENS, -1)
def _validate_tokens(matcher: int, tokens: int | None, size: int) -> int:
    live = _RECORDS[matcher].live()
    legal = live.validate_tokens(_ids(tokens, size))
    return -1 if live.is_error() else legal


@callback(layout.TOKENS, -1)
def _compute_ff_tokens(matcher: int, out: int | None, room: int) -> int:
    return min(put_tokens(_RECORDS[matcher].live().compute_ff_tokens(), out, room), room)


@callback(layout.ROLLBACK, -1)
def _rollback(matcher: int, num_tokens: int) -> int:
    return 0 if _RECORDS[matcher].live().rollback(num_tokens) else -1


@callback(layout.RESET, -1)
def _reset(matcher: int) -> int:
    return 0 if _RECORDS[matcher].live().reset() else -1


_SLOTS = {
    "get_error": _get_error,
    "compute_mask": _compute_mask,
    "consume_tokens": _consume_tokens,
    "is_accepting": _is_accepting,
    "is_stopped": _is_stopped,
    "validate_tokens": _validate_tokens,
    "compute_ff_tokens": _compute_ff_tokens,
    "rollback": _rollback,
    "reset": _reset,
}


def _compile(kind: str, text: str) -> str:
    """A grammar in llguidance's own form, from CBISON's kinds. Raises `ValueError`."""
    match kind:
        case "regex":
            return str(LLMatcher.grammar_from_regex(text))
        case "json" | "json_schema":
            return str(LLMatcher.grammar_from_json_schema(text))
        case "json_object":
            return str(LLMatcher.grammar_from_json_schema('{"type":"object"}'))
        case "lark" | "llguidance" | "guidance":
            return text
        case _:
            raise ValueError(f"unknown grammar type: {kind}")


class _Words:
    """What `LLTokenizer` asks of a tokenizer object; nothing of it may raise, which llguidance takes for a panic."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids: tuple[int, ...] = ()  # they are marked

    def __init__(self, source: TokenSource) -> None:
        self.tokens = spellings(source)
        self.eos_token_id = source.eos_ids[0]
        self._write = Writer(source, self.tokens)

    def __call__(self, text: str) -> list[int]:
        return self._write(text.encode())


def _ll_tokenizer(source: TokenSource) -> LLTokenizer:
    if isinstance(source, LLTokens):
        return source.ll_tokenizer
    try:
        return LLTokenizer(_Words(source), eos_token=list(source.eos_ids))
    except ValueError as error:
        raise InvalidConstraint(f"llguidance refused the vocabulary: {error}") from error
