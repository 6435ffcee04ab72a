"""Calls and thinking in what models write: found in every format, at every cut, and nothing lost."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from callcorpus import CORPUS, TOOLS, Sample, merged, shape
from hypothesis import given
from hypothesis import strategies as st

from greenroom import ChatParser, Reasoning, ReasoningParser, RejectedToolCall, Scripted, ToolCall, ToolParser
from greenroom.backends.protocol import ModelInfo
from greenroom.errors import InvalidParameter
from greenroom.parsing import formats
from greenroom.parsing.calls import PREVIEW

SAMPLES = [pytest.param(sample, id=f"{sample.format}-{number}") for number, sample in enumerate(CORPUS)]
MODEL = Scripted().load()
MARKS = re.compile(
    r"</?(?:seed:)?think>|\[/?THINK\]|<\|(?:START|END)_(?:THINKING|RESPONSE)\|>|<\|python_(?:start|end)\|>|>>>all\n"
    r"|<\|(?:open|close)\|>response<\|sep\|>"
    r"|<\|start\|>(?:assistant)?|<\|channel\|>(?:\s*\w+)?|<\|(?:constrain|message|end|return|call)\|>"
)


def model(sample: Sample) -> ModelInfo:
    """The double, with the markers of thinking that the sample's model has."""
    known = (
        ("seed", "<seed:think>", "</seed:think>"),
        ("mistral", "[THINK]", "[/THINK]"),
        ("r7b", "<|START_THINKING|>", "<|END_THINKING|>"),
    )
    thinking = next(((start, end) for name, start, end in known if name in sample.format), None)
    return msgspec.structs.replace(MODEL, thinking=thinking)


def parser(sample: Sample, **options: Any) -> ChatParser:
    """A parser of the sample's format; ids of calls follow from the salt."""
    return ChatParser(model(sample), tools=TOOLS, tool_format=sample.format, salt="test", **options)


def parsed(sample: Sample, cuts: list[int], reason: Any = "stop") -> list[Any]:
    """The events of the sample's text, fed to the reader in pieces."""
    reader = parser(sample)._reader
    events = []
    for begin, end in zip([0, *cuts], [*cuts, len(sample.text)], strict=True):
        events += reader.feed(sample.text[begin:end])
    return [*events, *reader.finish(reason)]


@pytest.mark.parametrize("sample", SAMPLES)
def test_what_a_model_wrote_is_told_apart(sample: Sample) -> None:
    """Calls by name and arguments, rejected ones by reason, in their order with text and thinking."""
    if "!i" in sample.found and formats.ALIASES.get(sample.format, sample.format) != "harmony":
        assert shape(parsed(sample, [], "length")) == sample.found
    found = ["!m" if word == "!i" else word for word in sample.found]
    assert shape(parsed(sample, [])) == found


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_cut_between_two_characters_gives_the_same_events(sample: Sample) -> None:
    """One cut at each place, and a cut at every place at once."""
    whole = merged(parsed(sample, []))
    places = range(1, len(sample.text))
    for place in places if len(sample.text) < 1000 else (1, 11, 12, 4000):
        assert merged(parsed(sample, [place])) == whole
    assert merged(parsed(sample, list(places))) == whole


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_call_has_its_own_text(sample: Sample) -> None:
    """Also where mlx-lm reads several out of one frame; together with the text they are what the model wrote."""
    events = parsed(sample, [])
    for event in events:
        if isinstance(event, ToolCall):
            assert event.raw.count(event.function.name) >= 1
            assert all(str(value) in event.raw for value in event.function.arguments.values())
    assert "" not in [event.raw for event in events if isinstance(event, ToolCall | RejectedToolCall)]
    assert _bare(_told(events)) == _bare(sample.text)


@given(st.data())
def test_any_cuts_give_the_same_events(data: st.DataObject) -> None:
    """Several cuts, and an end for any reason."""
    sample = data.draw(st.sampled_from([each for each in CORPUS if len(each.text) < 1000]))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(sample.text)), max_size=12)))
    reason = data.draw(st.sampled_from(["stop", "length", "cancelled"]))
    assert merged(parsed(sample, cuts, reason)) == merged(parsed(sample, [], reason))


@given(st.data())
def test_nothing_is_lost_and_nothing_raises_wherever_a_message_ends(data: st.DataObject) -> None:
    """Texts and calls joined are what the model wrote, less the markers of chat and thinking and space around them."""
    sample = data.draw(st.sampled_from(CORPUS))
    sample = sample._replace(text=sample.text[: data.draw(st.integers(0, len(sample.text)))])
    events = parsed(sample, [], data.draw(st.sampled_from(["stop", "length", "cancelled"])))
    assert _bare(_told(events)) == _bare(sample.text)


def _told(events: list[Any]) -> str:
    return "".join([each.raw if isinstance(each, ToolCall | RejectedToolCall) else each.text for each in events])


def _bare(text: str) -> str:
    return "".join(MARKS.sub("", text).split())


@given(
    st.text(alphabet='<|>[]{}"\\ \n:;,abtool_callTOOL_CALLSARGS/=think', max_size=60), st.sampled_from(formats.names())
)
def test_garbage_raises_nothing_and_no_cut_changes_it(text: str, name: str) -> None:
    """Pieces of markers in any order."""
    sample = Sample(name, text, [])
    assert merged(parsed(sample, list(range(1, len(text))))) == merged(parsed(sample, []))


def test_every_token_boundary_gives_the_same_events() -> None:
    """Through ids: markers that are one special token, and characters of several tokens."""
    text = '<think>ja 🎭</think>\n<tool_call>{"name": "get_weather", "arguments": {"city": "Łódź"}}</tool_call> 🎭'
    ids = MODEL.tokenizer.encode(text)
    whole = ChatParser(MODEL, tools=TOOLS, salt="")
    expected = merged([*whole.feed(ids), *whole.finish()])
    assert shape(expected) == ["~ja 🎭", "get_weather(city='Łódź')", " 🎭"]
    for place in range(len(ids)):
        one = ChatParser(MODEL, tools=TOOLS, salt="")
        assert merged([*one.feed(ids[:place]), *one.feed(ids[place:]), *one.finish()]) == expected


def test_a_fork_goes_on_by_itself() -> None:
    """In the midst of a call."""
    sample = CORPUS[0]
    ids = MODEL.tokenizer.encode(sample.text)
    for place in range(len(ids)):
        one = parser(sample)
        before = one.feed(ids[:place])
        twin = one.fork()
        one.feed(b"x")
        one.finish()
        assert shape([*before, *twin.feed(ids[place:]), *twin.finish()]) == sample.found


def test_thinking_that_the_prompt_opened_is_thinking() -> None:
    """No start marker comes from the model then."""
    prompt = MODEL.tokenizer.encode("<|im_start|>assistant\n<think>\n")
    one = ChatParser(MODEL, prompt=prompt)
    events = [*one.feed(list(b"hm\n\n")), *one.feed(MODEL.tokenizer.encode("</think>\n\nYes.")), *one.finish()]
    assert shape(events) == ["~hm", "Yes."]
    closed = ChatParser(MODEL, prompt=MODEL.tokenizer.encode("<think>\n\n</think>\n\n"))
    assert shape([*closed.feed(list(b"Yes.")), *closed.finish()]) == ["Yes."]


@pytest.mark.parametrize(
    ("style", "expected"),
    [("events", ["~hm", "Yes."]), ("text", ["<think>\nhm\n</think>\n\nYes."]), ("drop", ["Yes."])],
)
def test_what_becomes_of_thinking(style: Any, expected: list[str]) -> None:
    """Events, text as the model wrote it, or nothing."""
    ids = MODEL.tokenizer.encode("<think>\nhm\n</think>\n\nYes.")
    one = ReasoningParser(MODEL, reasoning=style)
    assert shape([*one.feed(ids), *one.finish()]) == expected


def test_thinking_that_is_empty_is_no_event() -> None:
    """As templates without thinking write it."""
    one = ReasoningParser(MODEL)
    assert shape([*one.feed(MODEL.tokenizer.encode("<think>\n\n</think>\n\nYes.")), *one.finish()]) == ["Yes."]


def test_calls_are_looked_for_only_where_tools_were_given() -> None:
    """Without them a JSON answer streams as text, piece by piece; special tokens give no text."""
    one = ChatParser(MODEL)
    events = one.feed(list(b'{"name": "get_weather", "arguments": {}'))
    assert shape(events) == ['{"name": "get_weather", "arguments": {}']
    none = ChatParser(MODEL, tools=[])
    call = MODEL.tokenizer.encode('<tool_call>{"name": "add", "arguments": {}}</tool_call>')
    assert shape([*none.feed(call), *none.finish()]) == ["!u"]


def test_a_tool_parser_looks_into_no_thought() -> None:
    """A call that was only thought of is text."""
    one = ToolParser(MODEL, tools=TOOLS)
    text = "<think><tool_call>{}</tool_call></think>"
    ids = list(text.replace("<think>", "").replace("</think>", "").encode())
    ids = [*MODEL.tokenizer.encode("<think>"), *ids, *MODEL.tokenizer.encode("</think>")]
    assert shape([*one.feed(ids), *one.finish()]) == [text]


def test_a_call_cut_off_is_rejected_though_it_could_be_read() -> None:
    """By its length or a cancel: a call that lacks its end is not run."""
    sample = Sample("hermes", CORPUS[0].text[: -len("\n</tool_call> Done.")], [])
    assert shape(parsed(sample, [], "stop"))[1] == "get_weather(city='Łódź')"
    for reason in ("length", "cancelled"):
        (_, rejected) = parsed(sample, [], reason)
        assert rejected.reason == "incomplete_output"
        assert rejected.raw == sample.text.removeprefix("Let me see. ")


def test_a_rejected_call_has_all_of_its_text_and_a_bounded_preview() -> None:
    """The preview is fit for a log line."""
    long = "{" + "x" * 10_000
    (event,) = parsed(Sample("hermes", f"<tool_call>{long}</tool_call>", []), [])
    assert event.raw == f"<tool_call>{long}</tool_call>"
    assert len(event.preview) < PREVIEW + 10
    assert event.detail


def test_ids_of_calls_are_unique_and_follow_from_the_salt() -> None:
    """The model's own are kept where they mean something; Mistral's have nine letters and digits."""
    twice = Sample("hermes", CORPUS[1].text, [])
    one, two = parsed(twice, [])
    assert one.id != two.id
    assert [one.id, two.id] == [each.id for each in parsed(twice, [])]
    mistral = next(each for each in CORPUS if "CALL_ID" in each.text)
    own, made = parsed(mistral, [])
    assert own.id == "abc123def"
    assert re.fullmatch(r"[a-z0-9]{9}", made.id)


def test_an_unknown_format_or_style_is_named() -> None:
    """At once."""
    with pytest.raises(InvalidParameter, match="hermez"):
        ChatParser(MODEL, tools=TOOLS, tool_format="hermez")
    with pytest.raises(InvalidParameter, match="loud"):
        ChatParser(MODEL, reasoning="loud")  # type: ignore[arg-type]


def test_the_corpus_has_every_format() -> None:
    """Whatever mlx-lm adds shows up here."""
    assert {formats.ALIASES.get(each.format, each.format) for each in CORPUS} == set(formats.names())


def test_reasoning_is_never_empty() -> None:
    """At any cut."""
    for sample in CORPUS[:10]:
        for event in parsed(sample, list(range(1, len(sample.text)))):
            assert not isinstance(event, Reasoning) or event.text
