"""Decoders: the text that leaves, the stops that show in it, and forks of both."""

from __future__ import annotations

from copy import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.actors.decoder import Stop
from greenroom.backends.protocol import Sampled
from greenroom.events import Chunk, Token, TopLogprob
from greenroom.request.decoders import TextDecoder, TokenDecoder

EOS = 256
OTHER = 257
SPECIAL = 258
"""Gives no text, and stops nothing."""


class Bytes:
    """A `TextStream` whose ids are bytes, and above them special tokens."""

    def __init__(self) -> None:
        self.held = b""

    def step(self, token: int) -> str:
        """See `TextStream.step`."""
        if token > 255:
            return ""
        self.held += bytes([token])
        try:
            text = self.held.decode()
        except UnicodeDecodeError:
            return ""
        self.held = b""
        return text

    def flush(self) -> str:
        """See `TextStream.flush`."""
        return self.held.decode(errors="replace")

    def fork(self) -> Bytes:
        """See `TextStream.fork`."""
        return copy(self)


class Pieces:
    """A `TextStream` whose ids are places in a list of texts; the last `tail` comes at the flush."""

    def __init__(self, pieces: list[str], tail: str = "") -> None:
        self.pieces = pieces
        self.tail = tail

    def step(self, token: int) -> str:
        """See `TextStream.step`."""
        return self.pieces[token]

    def flush(self) -> str:
        """See `TextStream.flush`."""
        return self.tail

    def fork(self) -> Pieces:
        """See `TextStream.fork`."""
        return self


def decoder(*stop_strings: str, keep_tokens: bool = False) -> TextDecoder:
    """A decoder of bytes."""
    return TextDecoder(
        Bytes(),
        stop_ids=frozenset({EOS, OTHER}),
        eos=frozenset({EOS}),
        stop_strings=stop_strings,
        keep_tokens=keep_tokens,
    )


def sampled(*tokens: int) -> list[Sampled]:
    """These tokens of some row."""
    return [Sampled(0, token) for token in tokens]


def run(made: TextDecoder, tokens: list[int], *, at_once: int = 1) -> tuple[str, Stop | None]:
    """Feed up to the first stop and finish; the text that came out, and that stop."""
    text = ""
    stop = None
    for start in range(0, len(tokens), at_once):
        decoded = made.feed(sampled(*tokens[start : start + at_once]))
        text += joined(decoded.events)
        stop = decoded.stop
        if stop is not None:
            break
    return text + joined(made.finish("stop")), stop


def joined(events: tuple[object, ...]) -> str:
    """The text of what must be one non-empty chunk at most."""
    assert len(events) <= 1
    chunks = [event for event in events if isinstance(event, Chunk)]
    assert len(chunks) == len(events)
    assert all(chunk.text for chunk in chunks)
    return "".join(chunk.text for chunk in chunks)


def first_stop(text: str, stop_strings: list[str]) -> tuple[str, str | None]:
    """The rule, spelled out: the string that is complete first, of those the longest."""
    for end in range(1, len(text) + 1):
        met = [stop for stop in stop_strings if text[:end].endswith(stop)]
        if met:
            longest = max(met, key=len)
            return text[: end - len(longest)], longest
    return text, None


def test_a_code_point_is_never_cut() -> None:
    """Its text comes with its last byte."""
    made = decoder()
    texts = [joined(made.feed(sampled(byte)).events) for byte in "aé€😀".encode()]
    assert texts == ["a", "", "é", "", "", "€", "", "", "", "😀"]
    assert made.finish("length") == ()


def test_what_is_incomplete_at_the_end_is_flushed() -> None:
    """As U+FFFD, whatever ended the row."""
    made = decoder()
    assert made.feed(sampled(*"a€".encode()[:3])).events == (Chunk("a"),)
    assert made.finish("cancelled") == (Chunk("\ufffd"),)


@pytest.mark.parametrize(("token", "detail"), [(EOS, "eos"), (OTHER, "stop_token")])
def test_a_stop_id_ends_the_row_and_is_not_counted(token: int, detail: str) -> None:
    """What came before it in the same feed is delivered, what comes behind it is not looked at."""
    decoded = decoder().feed(sampled(97, 98, token, 99))
    assert decoded.events == (Chunk("ab"),)
    assert decoded.stop == Stop("stop", detail, token, counted=False)  # type: ignore[arg-type]


def test_a_stop_string_over_several_tokens_is_never_emitted() -> None:
    """Its beginning is held back until it is known."""
    made = decoder("END")
    assert [made.feed(sampled(byte)).events for byte in b"xE"] == [(Chunk("x"),), ()]
    assert made.feed(sampled(*b"EN")).events == (Chunk("E"),)
    decoded = made.feed(sampled(*b"Dz"))
    assert decoded.events == ()
    assert decoded.stop == Stop("stop", "stop_string", "END", counted=True)
    assert made.finish("stop") == ()


def test_what_was_held_back_for_nothing_comes_at_the_end() -> None:
    """The text of a row that ends elsewhere is whole."""
    made = decoder("END")
    assert made.feed(sampled(*b"xEN")).events == (Chunk("x"),)
    assert made.finish("length") == (Chunk("EN"),)


def test_a_tail_that_completes_a_stop_string_is_cut() -> None:
    """The stop string is not emitted even where it ended nothing."""
    made = TextDecoder(Pieces(["a!"], "?b"), stop_ids=frozenset(), eos=frozenset(), stop_strings=("!?",))
    assert made.feed(sampled(0)).events == (Chunk("a"),)
    assert made.finish("length") == ()


def test_the_stop_string_that_is_complete_first_wins() -> None:
    """However the text was cut; of two that end together, the longer."""
    for pieces in (["abcd"], ["ab", "cd"], list("abcd")):
        made = TextDecoder(Pieces(pieces), stop_ids=frozenset(), eos=frozenset(), stop_strings=("bcd", "c", "abc"))
        text, stop = run(made, list(range(len(pieces))))
        assert (text, stop) == ("", Stop("stop", "stop_string", "abc"))


@given(
    text=st.text("ab€", max_size=30),
    stop_strings=st.lists(st.text("ab€", min_size=1, max_size=5), max_size=4, unique=True),
    at_once=st.integers(1, 7),
)
def test_the_chunks_are_the_text_before_the_first_stop_string(text: str, stop_strings: list[str], at_once: int) -> None:
    """Whatever the strings, byte by byte or several at once."""
    before, met = first_stop(text, stop_strings)
    got, stop = run(decoder(*stop_strings), list(text.encode()), at_once=at_once)
    assert got == before
    assert (None if stop is None else stop.sequence) == met


@given(
    pieces=st.lists(st.text("ab", max_size=6), max_size=12),
    stop_strings=st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4),
    at=st.integers(0, 12),
)
def test_a_fork_goes_on_like_its_source(pieces: list[str], stop_strings: list[str], at: int) -> None:
    """With the text held back, and without either seeing what the other is fed."""
    made = TextDecoder(Pieces(pieces), stop_ids=frozenset(), eos=frozenset(), stop_strings=tuple(stop_strings))
    tokens = list(range(len(pieces)))
    text = ""
    for token in tokens[:at]:
        decoded = made.feed(sampled(token))
        text += joined(decoded.events)
        if decoded.stop is not None:
            return
    twin = made.fork()
    rest = run(made, tokens[at:])
    assert run(twin, tokens[at:]) == rest
    assert text + rest[0] == first_stop("".join(pieces), stop_strings)[0]


def test_a_fork_holds_its_own_bytes_and_tokens() -> None:
    """Each goes its own way from there."""
    made = decoder(keep_tokens=True)
    made.feed(sampled(0xC3))
    twin = made.fork()
    assert made.feed(sampled(0xA9)).events == (Chunk("é", (Token(0xC3), Token(0xA9))),)
    assert twin.feed(sampled(0xA8)).events == (Chunk("è", (Token(0xC3), Token(0xA8))),)


def test_chunks_carry_their_tokens_where_asked() -> None:
    """Those without text of their own too; the stop token, which is not emitted, is in none."""
    made = decoder("!?", keep_tokens=True)
    top = ((97, -0.5), (98, -1.5))
    tops = (TopLogprob(97, -0.5), TopLogprob(98, -1.5))
    decoded = made.feed([Sampled(0, SPECIAL, -0.25), Sampled(0, 97, -0.5, top)])
    assert decoded.events == (Chunk("a", (Token(SPECIAL, -0.25), Token(97, -0.5, tops))),)
    assert made.feed([Sampled(0, ord("!"), -1.0)]).events == ()
    assert made.feed([Sampled(0, EOS, -2.0)]).events == ()
    assert made.finish("stop") == (Chunk("!", (Token(ord("!"), -1.0),)),)
    assert decoder().feed([Sampled(0, 97, -0.5)]).events == (Chunk("a"),)


def test_long_stop_strings_cost_a_step_a_character() -> None:
    """A text that always nearly matches takes no time that grows with the stop string."""
    made = TextDecoder(
        Pieces(["a" * 2000]), stop_ids=frozenset(), eos=frozenset(), stop_strings=("a" * 1999 + "b", "a" * 5000)
    )
    text = "".join(joined(made.feed(sampled(0)).events) for _ in range(2))
    assert joined(made.finish("length")) + text == "a" * 4000


def test_raw_tokens_come_as_they_are() -> None:
    """With the log-probabilities that the backend gave."""
    made = TokenDecoder(stop_ids=frozenset({EOS}), eos=frozenset({EOS}))
    decoded = made.feed([Sampled(0, 5), Sampled(0, 6, -0.5, ((6, -0.5),))])
    assert decoded.events == (Token(5), Token(6, -0.5, (TopLogprob(6, -0.5),)))
    assert decoded.stop is None
    assert made.fork().feed(sampled(5)).events == (Token(5),)
    assert made.finish("length") == ()


@pytest.mark.parametrize("include", [False, True])
def test_the_stop_token_is_yielded_and_counted_where_asked(include: bool) -> None:
    """Both or neither."""
    made = TokenDecoder(stop_ids=frozenset({EOS, OTHER}), eos=frozenset({EOS}), include_stop_token=include)
    decoded = made.fork().feed(sampled(1, OTHER, 2))
    assert decoded.events == ((Token(1), Token(OTHER)) if include else (Token(1),))
    assert decoded.stop == Stop("stop", "stop_token", OTHER, counted=include)
    assert made.feed(sampled(EOS)).stop == Stop("stop", "eos", EOS, counted=include)
