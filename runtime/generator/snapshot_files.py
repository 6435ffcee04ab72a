"""Files of snapshots: the tokens, and all that a generation is besides.

A file has no KV: who opens it runs the tokens again, or takes what the prefix store has of them. It is a safetensors
file, whose metadata name the model and the tokenizer, so that tokens never meet a vocabulary that gives them another
meaning. A matcher and a decoder are in it by what they were made of; they are fed the tokens when it is read.

All of it is under a checksum, and is checked once, when it is read: what a file says beyond that is not trusted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors import numpy as tensors

from greenroom.actors.scheduler.ngram_drafter import NgramDrafter
from greenroom.backends.protocol import Sampled
from greenroom.errors import InvalidRequest, InvalidSnapshot, NotSupported, SnapshotMismatch
from greenroom.events import Chunk, Event, Finish, Info, Token
from greenroom.files.json_depth import check_json_depth
from greenroom.files.regular import read_file, replace_file
from greenroom.generator.cursor import Cursor, EventQueue
from greenroom.generator.speculation import Speculation
from greenroom.inputs.adapters import Adapter, version_of
from greenroom.inputs.parameters import GenerateParameters, validate, validate_kv
from greenroom.inputs.segments import Checkpoint
from greenroom.request.codec import Budget, Source, budget_from, budget_of, constraint_from, source_of
from greenroom.request.config import Calling, GenerationConfig
from greenroom.request.context_buffer import ContextBuffer
from greenroom.request.decoders import TextDecoder
from greenroom.request.generation import Generation
from greenroom.request.session import ContextRecord, Session
from greenroom.request.tool_calling import ToolCalling

__all__ = ["SavedGeneration", "SavedSnapshot", "read", "write"]

_FORMAT = "greenroom snapshot 5"
_MAX_BYTES = 1 << 30
"""Of a file: the tokens of a long context are some megabytes."""
_CHECKSUM = "checksum"


class SavedGeneration(NamedTuple):
    """A generation as it stands, and what its reader has not had."""

    generation: Generation
    unread: tuple[Event, ...]
    has_info: bool
    """Whether its reader has come to the `Info`, which may be among these."""
    guesses: bool
    """Whether the built-in drafter guesses for it."""

    @staticmethod
    def of(cursor: Cursor) -> SavedGeneration | None:
        """The generation of a cursor; None of one that has not begun."""
        if cursor.generation is None:
            return None
        events = cursor.events
        return SavedGeneration(
            cursor.generation, tuple(events.unread), events.has_info, cursor.speculation.engine is not None
        )

    def open(self, session: Session, context: ContextRecord) -> Cursor:
        """A cursor there, in a buffer of its own."""
        speculation = Speculation(engine=NgramDrafter() if self.guesses else None)
        events = EventQueue(self.unread, has_info=self.has_info)
        return Cursor(ContextBuffer(session, context), self.generation, speculation, events=events, owns_buffer=True)


class SavedSnapshot(NamedTuple):
    """What a file holds: of a context, and of a generation in it."""

    context: ContextRecord
    generation: SavedGeneration | None


class _Calls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which calls are looked for: the tools by their schemas, because nothing here calls them."""

    tools: tuple[dict[str, Any], ...]
    choice: str
    tool_format: str | None


class _Generation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A generation in a file, beside its tokens."""

    start: int
    seed: int
    forks: int
    parameters: GenerateParameters
    constraint: Source | None
    budget: Budget | None
    ending: Finish | None
    counts: Info
    unread: tuple[Event, ...]
    has_told_end: bool
    held: tuple[Token, ...]
    guesses: bool
    calls: _Calls | None
    adapter: str | None
    """What tells its weights, which are not in the file."""


class _Header(msgspec.Struct, frozen=True):
    """What is read of a safetensors header."""

    metadata: dict[str, str] = msgspec.field(name="__metadata__")


_Decoded = TypeVar("_Decoded")
_Tokens = npt.NDArray[np.int64]
_HEADER = msgspec.json.Decoder(_Header)
_GENERATION = msgspec.json.Decoder(_Generation | None)
_CHECKPOINTS = msgspec.json.Decoder(tuple[Checkpoint, ...])


def write(path: Path, session: Session, saved: SavedSnapshot) -> None:
    """Write a file; an older one is replaced once all is written.

    Raises `NotSupported` for what is code, or nests deeper than a file may; `UnusablePath`, `OSError`.
    """
    tokens = np.array(saved.context.tokens, np.int64)
    metadata = {
        "format": _FORMAT,
        "marks": msgspec.json.encode(saved.context.checkpoints).decode(),
        "generation": _generation_text(saved.generation),
        **session.fingerprints(),
    }
    replace_file(path, tensors.save({"tokens": tokens}, {**metadata, _CHECKSUM: checksum(tokens, metadata)}))


def checksum(tokens: _Tokens, metadata: Mapping[str, str]) -> str:
    """Of the tokens and of all else that a file says."""
    said = {name: text for name, text in metadata.items() if name != _CHECKSUM}
    digest = hashlib.blake2b(msgspec.json.encode(said, order="sorted"), digest_size=32)
    digest.update(tokens.astype("<i8").tobytes())
    return digest.hexdigest()


def _generation_text(saved: SavedGeneration | None) -> str:
    try:
        text = msgspec.json.encode(None if saved is None else _describe(saved), enc_hook=_plain)
        check_json_depth(text)
    except (RecursionError, TypeError, ValueError) as cause:
        raise NotSupported("a file of this generation", f"its constraint, its tools or their calls: {cause}") from cause
    return text.decode()


def _plain(value: object) -> object:
    """An int, a float or a text of a caller's own class, an enum's say, as what it is one of."""
    match value:
        case int():
            return int(value)
        case float():
            return float(value)
        case str():
            return str.__str__(value)
        case _:
            raise NotImplementedError


def _describe(saved: SavedGeneration) -> _Generation:
    generation, config = saved.generation, saved.generation.config
    return _Generation(
        start=generation.start,
        seed=generation.seed,
        forks=generation.forks,
        parameters=msgspec.structs.replace(config.parameters, adapter=None),
        constraint=None if config.constraint is None else source_of(config.constraint),
        budget=None if config.budget is None else budget_of(config.budget),
        ending=generation.ending,
        counts=generation.counts,
        unread=saved.unread,
        has_told_end=saved.has_info,
        held=generation.decoder.held if isinstance(generation.decoder, TextDecoder) else (),
        guesses=saved.guesses,
        calls=_describe_calls(config.calling),
        adapter=None if config.adapter is None else config.adapter.fingerprint,
    )


def _describe_calls(calling: Calling | None) -> _Calls | None:
    if not isinstance(calling, ToolCalling):
        return None
    schemas = tuple([dict(schema) for schema in calling.schemas or ()])
    return _Calls(tools=schemas, choice=calling.choice, tool_format=calling.tool_format)


def read(path: Path, session: Session) -> SavedSnapshot:
    """Read a file for the model of `session`. Compiles and feeds: not on the event loop.

    Raises `InvalidSnapshot`, `SnapshotMismatch`, `OSError`.
    """
    array, metadata = _open(path, read_file(path, _MAX_BYTES))
    _compare(path, metadata, session.fingerprints())
    checkpoints = _decode(path, metadata, "marks", _CHECKPOINTS)
    described = _decode(path, metadata, "generation", _GENERATION)
    vocab_size = session.client.model.vocab_size
    if array.size and not 0 <= array.min() <= array.max() < vocab_size:
        raise InvalidSnapshot(f"{path}: tokens from {array.min()} to {array.max()}, the model's are below {vocab_size}")
    tokens = tuple(array.tolist())
    places = [place for place, _ in checkpoints]
    if not places or places != sorted(places) or not 0 <= places[0] <= places[-1] <= len(tokens):
        raise InvalidSnapshot(f"{path}: marks should be places among {len(tokens)} tokens in their order, not {places}")
    generation = None if described is None else _restore(path, session, described, tokens)
    return SavedSnapshot(ContextRecord(tokens, checkpoints), generation)


def _open(path: Path, data: bytes) -> tuple[_Tokens, dict[str, str]]:
    """The tokens and the metadata, as they were written."""
    try:
        found = tensors.load(data)
        header = data[8 : 8 + int.from_bytes(data[:8], "little")]
        check_json_depth(header)
        metadata = _HEADER.decode(header).metadata
    except (SafetensorError, ValueError, KeyError, TypeError, ImportError) as cause:
        raise InvalidSnapshot(f"{path} is no snapshot, or not all of one: {cause}") from cause
    if metadata.get("format") != _FORMAT:
        raise InvalidSnapshot(f"{path} is a safetensors file of {metadata.get('format')!r}, not of {_FORMAT!r}")
    tokens = found.get("tokens")
    if tokens is None or tokens.dtype != np.int64 or tokens.ndim != 1:
        what = "missing" if tokens is None else f"{tokens.dtype} of the shape {tokens.shape}"
        raise InvalidSnapshot(f"{path}: tokens should be one row of int64, they are {what}")
    if metadata.get(_CHECKSUM) != checksum(tokens, metadata):
        raise InvalidSnapshot(f"{path} is damaged: its checksum is wrong")
    return tokens, metadata


def _decode(path: Path, metadata: Mapping[str, str], name: str, decoder: msgspec.json.Decoder[_Decoded]) -> _Decoded:
    try:
        text = metadata[name].encode()
        check_json_depth(text)
        return decoder.decode(text)
    except (ValueError, KeyError) as cause:
        raise InvalidSnapshot(f"{path}: {name} cannot be used: {cause}") from cause


def _restore(path: Path, session: Session, described: _Generation, tokens: tuple[int, ...]) -> SavedGeneration:
    """The generation, its matcher and its decoder fed with the tokens."""
    client, start, seed = session.client, described.start, described.seed
    if not 0 < start <= len(tokens):
        raise InvalidSnapshot(f"{path} begins its generation at token {start} of {len(tokens)}")
    for name, number in (("seed", seed), ("forks", described.forks)):
        if not 0 <= number < 2**64:
            raise InvalidSnapshot(f"{path}: {name} should be from 0 to 2**64 - 1, it is {number}")
    for what, wrong in _misfits(described, client.model.vocab_size):
        raise InvalidSnapshot(f"{path} has {wrong!r} for {what} in its events, which no generation of this model has")
    try:
        validate(described.parameters, vocab_size=client.model.vocab_size)
        validate_kv(described.parameters, client.model)
        constraint = None if described.constraint is None else constraint_from(described.constraint)
        budget = None if described.budget is None else budget_from(described.budget)
        calls = described.calls
        calling = None if calls is None else ToolCalling.of(calls.tools, calls.choice, calls.tool_format)
        adapter = _find_adapter(path, session, described)
        parameters = msgspec.structs.replace(described.parameters, adapter=adapter)
        version = None if adapter is None else version_of(adapter, client, parameters.zo_seed)
        config = GenerationConfig(client, parameters, constraint, calling=calling, budget=budget, adapter=version)
        decoder = config.decoder(tokens[:start], seed)
        config = replace(config.for_prompt(tokens[:start]), budget=budget).compile()
    except (InvalidRequest, NotSupported, RecursionError) as cause:
        raise InvalidSnapshot(f"{path} has a generation that cannot go on here: {cause}") from cause
    matcher = None if config.compiled is None else config.compiled.start()
    generation = Generation(config, tokens[:start], start, seed, decoder, matcher)
    generation = generation.feed([Sampled(0, token) for token in tokens[start:]], by_masks=True)
    if isinstance(decoder, TextDecoder):
        decoder.hold(described.held)
    if matcher is not None and matcher.error is not None:
        raise InvalidSnapshot(f"{path} has tokens that its constraint does not allow: {matcher.error}")
    generation = replace(generation, ending=described.ending, counts=described.counts, forks=described.forks)
    return SavedGeneration(generation, described.unread, described.has_told_end, described.guesses)


def _find_adapter(path: Path, session: Session, described: _Generation) -> Adapter | None:
    """The handle of the weights, under the noise, with which it was made."""
    if described.adapter is None:
        return None
    base, _, noise = described.adapter.partition("~")
    adapter = session.find_adapter(base)
    if adapter is None:
        raise SnapshotMismatch(f"{path} was saved with an adapter that is not loaded ({base}): load_adapter() it")
    if noise and adapter.version(described.parameters.zo_seed).fingerprint != described.adapter:
        raise SnapshotMismatch(f"{path} was saved with other noise ({noise}): sigma is {adapter.sigma} here")
    return adapter


def _misfits(described: _Generation, vocab_size: int) -> Iterator[tuple[str, int]]:
    """Ids and counts of what its reader has had, or is yet to have, that no generation gives."""
    events = described.unread
    tokens = [*described.held, *[token for event in events if isinstance(event, Chunk) for token in event.tokens]]
    for token in tokens:
        for id_ in (token.id, *[top.id for top in token.top_logprobs]):
            if not 0 <= id_ < vocab_size:
                yield "a token", id_
    for info in (described.counts, *[event for event in events if isinstance(event, Info)]):
        for name, value in msgspec.structs.asdict(info).items():
            if isinstance(value, int) and not 0 <= value < 2**64:
                yield name, value


def _compare(path: Path, saved: Mapping[str, Any], ours: Mapping[str, str]) -> None:
    for what in ours:
        if saved.get(what) != ours[what]:
            raise SnapshotMismatch(f"{path} was saved with another {what}: {saved.get(what)!r}, not {ours[what]!r}")
