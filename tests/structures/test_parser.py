"""The parser's tree and its changes are right at every moment, however the text is cut."""

from __future__ import annotations

import json
import re
from typing import Any

import jiter
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structures_documents import SMALL, cuts, json_values, pieces

from greenroom.constraints.structures import MISSING, Change, JsonParser
from greenroom.errors import JsonTooLarge, MalformedJson, StructureFailed, TruncatedJson

RUNNING = re.compile(r"(-?[0-9][-+.0-9eE]*|-|t|tr|tru|true|f|fa|fal|fals|false|n|nu|nul|null)\Z")


def in_string(text: str) -> bool:
    """Whether a text ends inside a string."""
    return re.sub(r"\\.", "", text, flags=re.DOTALL).count('"') % 2 == 1


def expected(text: str) -> Any:
    """What jiter makes of a text that is cut off, without the number or the literal that it ends in."""
    if not in_string(text):
        text = RUNNING.sub("", text)
    return jiter.from_json(text.encode(), partial_mode="trailing-strings") if text.strip() else MISSING


def rebuilt(changes: list[Change], tree: Any) -> Any:
    """Apply changes to a tree: what a consumer of events has."""
    for path, operation, value in changes:
        if operation == "close":
            continue
        taken = type(value)() if operation == "open" else value
        if not path:
            tree = taken
            continue
        inner = tree
        for key in path[:-1]:
            inner = inner[key]
        if isinstance(inner, list) and len(inner) == path[-1]:
            inner.append(taken)
        else:
            inner[path[-1]] = taken
    return tree


def no_constant(name: str) -> None:
    """NaN and the infinities are no JSON."""
    raise ValueError(name)


def fed(parser: JsonParser, chunks: list[str]) -> list[Change]:
    """Every change."""
    return [change for chunk in chunks for change in parser.feed(chunk)]


def same(one: Any, other: Any) -> bool:
    """Equal, and of equal types: 1 is not 1.0, and not True."""
    return repr(one) == repr(other)


@pytest.mark.parametrize("text", SMALL)
def test_every_way_to_cut_gives_the_prefix_s_value(text: str) -> None:
    """Exhaustively, up to three characters a chunk; jiter, parsing each prefix anew, is the oracle."""
    wanted = {end: expected(text[:end]) for end in range(len(text) + 1)}
    for chunks in cuts(text):
        parser = JsonParser()
        tree: Any = MISSING
        place = 0
        for chunk in chunks:
            tree = rebuilt(parser.feed(chunk), tree)
            place += len(chunk)
            assert same(parser.value, wanted[place]), (chunks, place)
            assert same(tree, wanted[place]), (chunks, place)
        parser.finish()
        assert same(parser.value, json.loads(text))


@pytest.mark.parametrize("text", SMALL)
def test_bytes_are_cut_anywhere_too(text: str) -> None:
    """In the middle of a character."""
    data = text.encode()
    for size in (1, 2, 3):
        parser = JsonParser()
        for place in range(0, len(data), size):
            parser.feed(data[place : place + size])
        parser.finish()
        assert same(parser.value, json.loads(text))


@given(value=json_values, sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), ascii_only=st.booleans())
def test_a_large_document_is_right_at_every_chunk(value: Any, sizes: list[int], ascii_only: bool) -> None:
    """Against jiter at every prefix; at the end against the value itself."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    parser = JsonParser()
    tree: Any = MISSING
    before = ""
    for chunk in pieces(text, sizes):
        tree = rebuilt(parser.feed(chunk), tree)
        before += chunk
        assert same(parser.value, expected(before))
        assert same(parser.value, tree)
    parser.finish()
    assert same(parser.value, value)


@given(value=json_values, sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), data=st.data())
def test_a_fork_goes_its_own_way(value: Any, sizes: list[int], data: st.DataObject) -> None:
    """Both sides finish as if there had been no other, one after the other and in turns."""
    chunks = pieces(json.dumps([value, value]), sizes)
    at = data.draw(st.integers(0, len(chunks)))
    parser = JsonParser()
    for chunk in chunks[:at]:
        parser.feed(chunk)
        _ = parser.value
    twin = parser.fork()
    sides = [(parser, chunk) for chunk in chunks[at:]], [(twin, chunk) for chunk in chunks[at:]]
    in_turns = [side for pair in zip(*sides, strict=True) for side in pair]
    for side, chunk in in_turns if data.draw(st.booleans()) else sides[0] + sides[1]:
        side.feed(chunk)
    parser.finish()
    twin.finish()
    assert same(parser.value, [value, value])
    assert same(twin.value, [value, value])


def test_a_fork_does_not_see_what_the_other_wrote() -> None:
    """Open containers are copied, and stay linked to each other."""
    parser = JsonParser()
    parser.feed('{"a":[1,{"b":"x')
    twin = parser.fork()
    parser.feed('y"}]}')
    twin.feed('z"},2]}')
    assert parser.value == {"a": [1, {"b": "xy"}]}
    assert twin.value == {"a": [1, {"b": "xz"}, 2]}


def test_the_changes_of_a_document() -> None:
    """Open, partial, done and close, with paths and values; `added` is what a chunk brought."""
    parser = JsonParser()
    told = [change for chunk in ('{"a":["x', "y", 'z", 1', "2]}") for change in parser.feed(chunk)]
    assert [(change.path, change.operation) for change in told] == [
        ((), "open"),
        (("a",), "open"),
        (("a", 0), "partial"),
        (("a", 0), "partial"),
        (("a", 0), "done"),
        (("a", 1), "done"),
        (("a",), "close"),
        ((), "close"),
    ]
    assert [change.value for change in told[2:]] == ["x", "xy", "xyz", 12, ["xyz", 12], {"a": ["xyz", 12]}]
    assert [change.added for change in told[2:4]] == ["x", "y"]
    assert [change.position for change in told] == [0, 5, 8, 9, 11, 15, 16, 17]


def test_numbers_and_literals_count_when_they_are_delimited() -> None:
    """A running number is not shown: 1 would become 12."""
    parser = JsonParser()
    assert [change.operation for change in parser.feed("[1")] == ["open"]
    assert parser.feed("2") == []
    assert parser.value == []
    assert [change.value for change in parser.feed(",")] == [12]
    assert parser.feed("true") == []
    parser.feed("]")
    assert parser.value == [12, True]


def test_a_number_alone_ends_with_the_text() -> None:
    """Only `finish` delimits it."""
    parser = JsonParser()
    parser.feed("12")
    assert not parser.is_complete
    assert [tuple(change) for change in parser.finish()] == [((), "done", 12)]
    assert parser.value == 12


MALFORMED = {
    "": 0,
    "{": 1,
    '"': 1,
    "[1": 2,
    '{"a"': 4,
    '{"a":': 5,
    "tru": 3,
    "-": 1,
    "1.": 2,
    '"\\ud83d': 7,
}
BROKEN = {
    "}": 0, "[1,]": 3, '{"a":1,}': 7, "{,": 1, "[1 2": 3, "01": 1, "1.x": 2, "[1.]": 3, "nul!": 3, "truex": 4,
    "[truex]": 5, "NaN": 0, "[-Infinity]": 2, '"\n"': 1, '"\\x"': 1, '"\\ud83dx"': 1, '"\\ude00"': 1,
    '"\ud800"': 1, "{} x": 3, "{}{}": 2, "{a:1}": 1, "{'a':1}": 1, '{"a" 1}': 5, "[1}": 2, '{"a":1]': 6,
    "Sure! {}": 0, "```json": 0, "\ufeff{}": 0, "1 2": 2, "[+1]": 1, "[.5]": 1, "[1e]": 3, '"\\u12g4"': 1,
    '"\x7f\x00"': 2, "[\u00a01]": 1, "[\u0661]": 1,
}  # fmt: skip


@pytest.mark.parametrize(("text", "position"), BROKEN.items())
def test_malformed_text_names_the_place(text: str, position: int) -> None:
    """The same place whether it comes whole or a character at a time; afterwards the parser stays failed."""
    for chunks in ([text], list(text)):
        parser = JsonParser()
        with pytest.raises(MalformedJson) as caught:
            fed(parser, chunks)
        assert caught.value.position == position
        with pytest.raises(MalformedJson):
            parser.feed("")
        with pytest.raises(MalformedJson):
            parser.finish()


@pytest.mark.parametrize(("text", "position"), MALFORMED.items())
def test_a_text_that_ends_early_is_truncated(text: str, position: int) -> None:
    """Never complete, never silent."""
    parser = JsonParser()
    parser.feed(text)
    assert not parser.is_complete
    with pytest.raises(TruncatedJson) as caught:
        parser.finish()
    assert caught.value.position == position


@given(st.text(alphabet='{}[]",:0123456789.eE+-truefalsn \\u\n', max_size=12))
def test_it_accepts_what_json_accepts(text: str) -> None:
    """Python's parser is the oracle for which texts are documents; it takes lone surrogates and NaN, we do not."""
    parser = JsonParser()
    try:
        for chunk in text:
            parser.feed(chunk)
        parser.finish()
    except StructureFailed:
        with pytest.raises((ValueError, UnicodeEncodeError)):
            json.dumps(json.loads(text, parse_constant=no_constant), ensure_ascii=False).encode()
    else:
        assert same(parser.value, json.loads(text))


def test_bytes_that_are_no_utf_8_are_malformed() -> None:
    """And so is text in the middle of a character's bytes."""
    with pytest.raises(MalformedJson) as caught:
        JsonParser().feed(b'"ab\xff"')
    assert caught.value.position == 0
    parser = JsonParser()
    parser.feed('"é'.encode()[:-1])
    with pytest.raises(MalformedJson):
        parser.feed("x")


def test_depth_meets_the_bound_and_never_python_s_recursion() -> None:
    """A hundred thousand containers, paths included, in linear time."""
    deep = 100_000
    parser = JsonParser(max_depth=deep)
    opened = parser.feed("[" * deep)
    assert len(opened[-1].path) == deep - 1
    closed = parser.feed("]" * deep)
    assert closed[-1].path == ()
    parser.finish()
    with pytest.raises(JsonTooLarge) as caught:
        JsonParser(max_depth=3).feed('{"a":[[[')
    assert caught.value.position == 7


def test_size_is_bounded() -> None:
    """In characters, of the whole document; so are an integer's digits."""
    parser = JsonParser(max_size=10)
    parser.feed('"12345678')
    with pytest.raises(JsonTooLarge):
        parser.feed('9"')
    with pytest.raises(JsonTooLarge):
        JsonParser().feed("[" + "9" * 5000 + "]")


def test_of_a_key_that_comes_twice_the_last_counts() -> None:
    """As in Python's own parser."""
    parser = JsonParser()
    parser.feed('{"a":[1],"a":"x')
    assert parser.value == {"a": "x"}
    parser.feed('y"}')
    assert parser.value == {"a": "xy"}


def test_a_chunk_costs_its_own_length() -> None:
    """Steps are counted, not seconds: a string of many chunks is joined once, when it is whole."""
    parser = JsonParser()
    parser.feed('"')
    told = [parser.feed("abcd") for _ in range(5000)]
    assert {len(changes) for changes in told} == {1}
    assert len(told[-1][0].value) == 20_000
    assert told[-1][0].added == "abcd"
    assert "failed" not in repr(parser)
