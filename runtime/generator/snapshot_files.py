"""Files of snapshots: the tokens, and all that a generation is besides.

A file has no KV: who opens it runs the tokens again, or takes what the prefix store has of them. It is a safetensors
file, whose metadata name the model and the tokenizer, so that tokens never meet a vocabulary that gives them another
meaning. A matcher and a decoder are in it by what they were made of; they are fed the tokens when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as tensors

from greenroom.actors.scheduler.ngram_drafter import NgramDrafter
from greenroom.backends.protocol import Sampled
from greenroom.errors import GreenroomError, InvalidRequest, InvalidSnapshot, NotSupported, SnapshotMismatch
from greenroom.events import Event, Finish, Info, Token
from greenroom.files import replace_file
from greenroom.generator.cursor import Cursor, EventQueue
from greenroom.generator.speculation import Speculation
from greenroom.inputs.parameters import GenerateParameters, validate, validate_kv
from greenroom.inputs.segments import Checkpoint
from greenroom.request.codec import Budget, Source, budget_from, budget_of, constraint_from, source_of
from greenroom.request.config import Calling, GenerationConfig
from greenroom.request.context_buffer import ContextBuffer
from greenroom.request.decoders import TextDecoder
from greenroom.request.generation import Generation
from greenroom.request.session import Client, ContextRecord, Session
from greenroom.request.tool_calling import ToolCalling

__all__ = ["SavedGeneration", "SavedSnapshot", "read", "write"]

_FORMAT = "greenroom snapshot 3"


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


_GENERATION = msgspec.json.Decoder(_Generation | None)
_CHECKPOINTS = msgspec.json.Decoder(tuple[Checkpoint, ...])


def write(path: Path, session: Session, saved: SavedSnapshot) -> None:
    """Write a file; an older one is replaced once all is written. Raises `NotSupported` for what is code."""
    generation = None if saved.generation is None else _describe(saved.generation)
    metadata = {
        "format": _FORMAT,
        "marks": msgspec.json.encode(saved.context.checkpoints).decode(),
        "generation": msgspec.json.encode(generation).decode(),
        **session.fingerprints(),
    }
    replace_file(path, tensors.save({"tokens": np.array(saved.context.tokens, np.int64)}, metadata))


def _describe(saved: SavedGeneration) -> _Generation:
    generation, config = saved.generation, saved.generation.config
    return _Generation(
        start=generation.start,
        seed=generation.seed,
        forks=generation.forks,
        parameters=config.parameters,
        constraint=None if config.constraint is None else source_of(config.constraint),
        budget=None if config.budget is None else budget_of(config.budget),
        ending=generation.ending,
        counts=generation.counts,
        unread=saved.unread,
        has_told_end=saved.has_info,
        held=generation.decoder.held if isinstance(generation.decoder, TextDecoder) else (),
        guesses=saved.guesses,
        calls=_describe_calls(config.calling),
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
    data = path.read_bytes()
    try:
        tokens = tuple(tensors.load(data)["tokens"].tolist())
        length = int.from_bytes(data[:8], "little")
        metadata = msgspec.json.decode(data[8 : 8 + length]).get("__metadata__", {})
        if metadata.get("format") != _FORMAT:
            raise InvalidSnapshot(f"{path} is a safetensors file of {metadata.get('format')!r}, not of {_FORMAT!r}")
        _compare(path, metadata, session.fingerprints())
        checkpoints = _CHECKPOINTS.decode(metadata["marks"])
        described = _GENERATION.decode(metadata["generation"])
    except GreenroomError:
        raise
    except (SafetensorError, msgspec.MsgspecError, KeyError, ValueError, TypeError, AttributeError) as cause:
        raise InvalidSnapshot(f"{path} is no snapshot, or not all of one: {cause}") from cause
    if any(not 0 <= token < session.client.model.vocab_size for token in tokens):
        raise InvalidSnapshot(f"{path} has token ids that the model does not have")
    if not checkpoints or any(not 0 <= place <= len(tokens) for place, _ in checkpoints):
        raise InvalidSnapshot(f"{path} has notes about tokens that are not there")
    generation = None if described is None else _restore(path, session.client, described, tokens)
    return SavedSnapshot(ContextRecord(tokens, checkpoints), generation)


def _restore(path: Path, client: Client, described: _Generation, tokens: tuple[int, ...]) -> SavedGeneration:
    """The generation, its matcher and its decoder fed with the tokens."""
    start, seed = described.start, described.seed
    if not 0 < start <= len(tokens) or seed < 0 or described.forks < 0:
        raise InvalidSnapshot(f"{path} begins its generation at token {start} of {len(tokens)}")
    try:
        validate(described.parameters, vocab_size=client.model.vocab_size)
        validate_kv(described.parameters, client.model)
        constraint = None if described.constraint is None else constraint_from(described.constraint)
        budget = None if described.budget is None else budget_from(described.budget)
        calls = described.calls
        calling = None if calls is None else ToolCalling.of(calls.tools, calls.choice, calls.tool_format)
        config = GenerationConfig(client, described.parameters, constraint, calling=calling, budget=budget)
        decoder = config.decoder(tokens[:start], seed)
        config = config.compile()
    except (InvalidRequest, NotSupported) as cause:
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


def _compare(path: Path, saved: Mapping[str, Any], ours: Mapping[str, str]) -> None:
    for what in ours:
        if saved.get(what) != ours[what]:
            raise SnapshotMismatch(f"{path} was saved with another {what}: {saved.get(what)!r}, not {ours[what]!r}")
