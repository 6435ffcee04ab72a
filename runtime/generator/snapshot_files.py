"""Files of snapshots: the tokens, and all that a generation is besides.

A file has no KV: who opens it runs the tokens again, or takes what the prefix store has of them. It is a safetensors
file, whose metadata name the model and the tokenizer, so that tokens never meet a vocabulary that gives them another
meaning. A matcher and a decoder are in it by what they were made of; they are fed the tokens when it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as tensors

from greenroom.actors.client import EngineClient
from greenroom.errors import GreenroomError, InvalidRequest, InvalidSnapshot, NotSupported, SnapshotMismatch
from greenroom.events import Event, Info, Token
from greenroom.files import replace_file
from greenroom.inputs.parameters import GenerateParameters, validate, validate_kv
from greenroom.inputs.segments import Checkpoint
from greenroom.request.codec import Budget, Source, budget_from, budget_of, constraint_from, source_of
from greenroom.request.config import GenerationConfig
from greenroom.request.decoders import TextDecoder
from greenroom.request.generation import Ending, Generation, replayed
from greenroom.request.tool_calling import ToolCalling

__all__ = ["Found", "Going", "read", "write"]

_FORMAT = "greenroom snapshot 3"


class Going(NamedTuple):
    """A generation as it stands: what it is made with, where it is, and what its reader has not had."""

    course: GenerationConfig
    state: Generation
    unread: tuple[Event, ...]
    has_told_end: bool
    guesses: bool
    """Whether the built-in drafter guesses for it."""


class Found(NamedTuple):
    """What a file holds: of a generation, or of a context."""

    tokens: tuple[int, ...]
    marks: tuple[Checkpoint, ...]
    going: Going | None


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
    ending: Ending | None
    counts: Info
    unread: tuple[Event, ...]
    has_told_end: bool
    held: tuple[Token, ...]
    guesses: bool
    calls: _Calls


_GENERATION = msgspec.json.Decoder(_Generation | None)
_MARKS = msgspec.json.Decoder(tuple[Checkpoint, ...])


def write(path: Path, house: EngineClient, found: Found) -> None:
    """Write a file; an older one is replaced once all is written. Raises `NotSupported` for what is code."""
    metadata = {
        "format": _FORMAT,
        "marks": msgspec.json.encode(found.marks).decode(),
        "generation": msgspec.json.encode(None if found.going is None else _described(found.going)).decode(),
        **fingerprints(house),
    }
    replace_file(path, tensors.save({"tokens": np.array(found.tokens, np.int64)}, metadata))


def _described(going: Going) -> _Generation:
    course, state = going.course, going.state
    return _Generation(
        start=state.start,
        seed=state.seed,
        forks=state.forks,
        parameters=course.parameters,
        constraint=None if course.constraint is None else source_of(course.constraint),
        budget=None if course.budget is None else budget_of(course.budget),
        ending=state.ending,
        counts=state.counts,
        unread=going.unread,
        has_told_end=going.has_told_end,
        held=state.decoder.held if isinstance(state.decoder, TextDecoder) else (),
        guesses=going.guesses,
        calls=_Calls(
            tools=tuple([dict(schema) for schema in course.calling.schemas or ()]),
            choice=course.calling.choice,
            tool_format=course.calling.tool_format,
        ),
    )


def read(path: Path, house: EngineClient) -> Found:
    """Read a file for the model of `house`. Compiles and feeds: not on the event loop.

    Raises `InvalidSnapshot`, `SnapshotMismatch`, `OSError`.
    """
    data = path.read_bytes()
    try:
        tokens = tuple(tensors.load(data)["tokens"].tolist())
        length = int.from_bytes(data[:8], "little")
        metadata = msgspec.json.decode(data[8 : 8 + length]).get("__metadata__", {})
        if metadata.get("format") != _FORMAT:
            raise InvalidSnapshot(f"{path} is a safetensors file of {metadata.get('format')!r}, not of {_FORMAT!r}")
        _compare(path, metadata, fingerprints(house))
        marks = _MARKS.decode(metadata["marks"])
        generation = _GENERATION.decode(metadata["generation"])
    except GreenroomError:
        raise
    except (SafetensorError, msgspec.MsgspecError, KeyError, ValueError, TypeError, AttributeError) as cause:
        raise InvalidSnapshot(f"{path} is no snapshot, or not all of one: {cause}") from cause
    if any(not 0 <= token < house.model.vocab_size for token in tokens):
        raise InvalidSnapshot(f"{path} has token ids that the model does not have")
    if not marks or any(not 0 <= place <= len(tokens) for place, _ in marks):
        raise InvalidSnapshot(f"{path} has notes about tokens that are not there")
    return Found(tokens, marks, None if generation is None else _going(path, house, generation, tokens))


def _going(path: Path, house: EngineClient, saved: _Generation, tokens: tuple[int, ...]) -> Going:
    """The generation, its matcher and its decoder fed with the tokens."""
    if not 0 < saved.start <= len(tokens) or saved.seed < 0 or saved.forks < 0:
        raise InvalidSnapshot(f"{path} begins its generation at token {saved.start} of {len(tokens)}")
    try:
        validate(saved.parameters, vocab_size=house.model.vocab_size)
        validate_kv(saved.parameters, house.model)
        constraint = None if saved.constraint is None else constraint_from(saved.constraint)
        budget = None if saved.budget is None else budget_from(saved.budget)
        calling = ToolCalling.of(saved.calls.tools, saved.calls.choice, saved.calls.tool_format)
        course = GenerationConfig(house, saved.parameters, constraint, calling=calling, budget=budget)
        decoder = course.decoder(tokens[: saved.start], saved.seed)
        compiled = None if course.whole is None else house.compile(course.whole)
    except (InvalidRequest, NotSupported) as cause:
        raise InvalidSnapshot(f"{path} has a generation that cannot go on here: {cause}") from cause
    matcher = None if compiled is None else compiled.start()
    began = Generation(tokens[: saved.start], saved.start, saved.seed, decoder, matcher)
    state = replayed(began, tokens[saved.start :], vocab_size=house.model.vocab_size)
    if isinstance(decoder, TextDecoder):
        decoder.hold(saved.held)
    if state.constraint is not None and state.constraint.error is not None:
        raise InvalidSnapshot(f"{path} has tokens that its constraint does not allow: {state.constraint.error}")
    state = replace(state, ending=saved.ending, counts=saved.counts, forks=saved.forks)
    return Going(replace(course, compiled=compiled), state, saved.unread, saved.has_told_end, saved.guesses)


def _compare(path: Path, saved: Mapping[str, Any], ours: Mapping[str, str]) -> None:
    for what in ours:
        if saved.get(what) != ours[what]:
            raise SnapshotMismatch(f"{path} was saved with another {what}: {saved.get(what)!r}, not {ours[what]!r}")


def fingerprints(house: EngineClient) -> dict[str, str]:
    """What tells a model and a tokenizer from others. Takes up to a second for a large tokenizer, once."""
    if house.fingerprints is None:
        model = house.model
        digest = hashlib.blake2b(digest_size=16)
        try:
            spelled = model.tokenizer.vocabulary()
        except NotSupported:  # a slow tokenizer: what it makes of every id
            spelled = "\n".join([model.tokenizer.decode([token]) for token in range(model.tokenizer.vocab_size)])
        parts = [spelled] if isinstance(spelled, str) else [*map(repr, spelled[0]), *map(str, sorted(spelled[1]))]
        for part in parts:
            digest.update(part.encode() + b"\0")
        weights = model.fingerprint or f"{model.vocab_size}/{model.context_length}/{model.kv_bytes_per_token}"
        house.fingerprints = {"model": weights, "tokenizer": digest.hexdigest()}
    return house.fingerprints
