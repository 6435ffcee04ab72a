"""Every annotation that libraries document: what its grammar allows is what its library reads, or it is refused."""

from __future__ import annotations

import collections
import datetime as dt
import random
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import annotated_types
import attrs
import msgspec
import numpy as np
import pydantic
import pytest
from annotations import TABLE, UNSUPPORTED, Differing, reads, same
from vocabularies import BYTES

from greenroom.constraints import ConstraintCompiler, ConstraintState, GrammarWarning, JsonSchema
from greenroom.constraints.structures import Snapshots
from greenroom.errors import UnsupportedType
from greenroom.runtime import Runtime

PROMPT = "Make a JSON record of this person: name, age. Anna is 31."
TEXTS = 3


def written(state: ConstraintState, dice: random.Random) -> str | None:
    """A text that masks allow, drawn byte by byte, mostly of ASCII, which ends sooner the longer it is."""
    row = np.zeros(BYTES.words, np.uint32)
    text = bytearray()
    while len(text) < 500:
        state.fill_mask(row)
        assert state.error is None
        legal = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist()
        ways = [token for token in legal if token < 256]
        if not ways or (state.is_accepting and dice.random() < 0.3):
            return text.decode()
        ends = [token for token in ways if token in b'"]}']
        usual = [token for token in ways if 32 < token < 127] or ways
        token = dice.choice(ends if ends and dice.random() < 0.05 + len(text) / 300 else usual)
        text.append(token)
        state.consume([token])
    return None


@pytest.mark.filterwarnings("ignore:Item 'a' on TypedDict:UserWarning")
@pytest.mark.timeout(120)
def test_what_a_grammar_allows_is_what_the_library_reads() -> None:
    """By the type's own library, by `check` and by growing objects alike."""
    compiler = ConstraintCompiler(BYTES, capacity=1)
    count = 0
    for name in TABLE.keys() - UNSUPPORTED.keys():
        dice = random.Random(name)  # noqa: S311 - no secret
        constraint = JsonSchema(TABLE[name])
        compiled = compiler.compile(constraint)
        for _ in range(TEXTS):
            text = written(compiled.start(), dice)
            if text is None:
                continue
            count += 1
            wanted = reads(name, text)
            assert constraint.check(text) is None, (name, text)
            growing: Snapshots[Any] = Snapshots(TABLE[name], validate="final")
            growing.feed(text)
            growing.finish()
            assert same(growing.snapshot(), wanted), (name, text, growing.snapshot(), wanted)
    assert count > 0.8 * TEXTS * len(TABLE)


def test_what_no_grammar_can_write_is_refused_with_its_place() -> None:
    """At most fifteen of them."""
    assert len(UNSUPPORTED) <= 15
    assert len(TABLE) >= 200
    for name, why in UNSUPPORTED.items():
        with pytest.raises(UnsupportedType, match=why):
            JsonSchema(TABLE[name])


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_a_model_writes_what_its_library_reads() -> None:
    """The bundled one, hot; `benchmarks/annotated.py` draws twelve outputs of every type."""
    names = random.Random(5).sample(sorted(TABLE.keys() - UNSUPPORTED.keys()), 6)  # noqa: S311 - no secret
    ended = 0
    async with Runtime() as runtime:
        for name in names:
            options: dict[str, Any] = {"seed": 3, "max_tokens": 200, "temperature": 1.2}
            result = await runtime.generate(PROMPT, constrain=TABLE[name], **options).collect()
            if result.info.stop_reason == "stop":
                ended += 1
                wanted = reads(name, result.text)
                assert same(await runtime.collect(TABLE[name], PROMPT, **options), wanted), (name, result.text)
    assert ended >= 4


def test_what_is_left_to_the_complete_text_is_warned_of_once() -> None:
    """When it is compiled; a validator is the user's own code, and expected."""
    half_day = Annotated[dt.timedelta, annotated_types.Lt(dt.timedelta(hours=12))]
    two = Annotated[dict[str, int], msgspec.Meta(min_length=2)]
    for kind, left in [(half_day, "lt of the type"), (list[half_day], r"lt of \[\]"), (two, "at least 2")]:
        with pytest.warns(GrammarWarning, match=left):
            ConstraintCompiler(BYTES).compile(JsonSchema(kind))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ConstraintCompiler(BYTES).compile(JsonSchema(Differing))


@attrs.define
class Even:
    """With a validator of the user's own."""

    number: int = attrs.field(validator=lambda _self, _field, _value: None)
    names: list[str] = attrs.field(factory=list)


class Queue(msgspec.Struct):
    """msgspec knows no deque, and pydantic no Struct."""

    waiting: dict[str, list[collections.deque[int]]]


class Folder(pydantic.BaseModel):
    """Of files that have to exist."""

    files: list[dict[str, pydantic.FilePath]]


class Calls(pydantic.BaseModel):
    """Of functions."""

    back: tuple[int, Callable[[int], int]]


class Noted(msgspec.Struct):
    """Whose library reads no note but its own."""

    ages: list[Annotated[int, annotated_types.Gt(0)]]
    name: Annotated[str, msgspec.Meta(max_length=3)] = ""


def test_a_note_that_the_library_of_a_type_does_not_read_is_warned_of() -> None:
    """In a Struct, whose fields nobody but msgspec reads; in a dataclass pydantic reads it, and so it holds."""
    with pytest.warns(GrammarWarning, match=r"a note of Noted\.ages, which msgspec does not read") as caught:
        ConstraintCompiler(BYTES).compile(JsonSchema(Noted))
    assert len(caught) == 1


def test_a_refusal_names_the_place_within_the_type() -> None:
    """As one would write it in Python."""
    places = {Queue: r"Queue\.waiting\[\]\[\] is", Folder: r"Folder\.files\[\]\[\]", Calls: r"Calls\.back\[\]"}
    for kind, place in places.items():
        with pytest.raises(UnsupportedType, match=place):
            JsonSchema(kind)


def test_an_attrs_class_grows_and_tells_of_validators_that_no_grammar_knows() -> None:
    """Its own validators, which libraries document, are enforced: see the table."""
    with pytest.warns(GrammarWarning, match=r"the validator of Even\.number"):
        ConstraintCompiler(BYTES).compile(JsonSchema(Even))
    growing: Snapshots[Any] = Snapshots(Even)
    seen = []
    for piece in ('{"number": 4', ', "names": ["a', 'b"]}'):
        growing.feed(piece)
        seen.append(growing.snapshot())
    assert seen == [Even(None, []), Even(4, ["a"]), Even(4, ["ab"])]  # type: ignore[arg-type]
    assert growing.is_complete
