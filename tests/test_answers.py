"""Calls or an answer that obeys a constraint, in every format: masks allow one of the two, and it is read as that."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec
import numpy as np
import pytest
from jsonschema import Draft202012Validator
from test_forced_formats import QWEN3, schema, tool, walked
from tokenizers import Tokenizer
from vocabularies import BYTES, ids

from greenroom import (
    Chunk,
    Event,
    GenerateParameters,
    Info,
    Reasoning,
    RejectedToolCall,
    Reply,
    Runtime,
    Sampler,
    Scripted,
    Snapshot,
    ToolCall,
)
from greenroom.constraints import (
    Bits,
    Choice,
    CompiledConstraint,
    Constraint,
    ConstraintCompiler,
    ConstraintState,
    JsonSchema,
    Lark,
    Lazy,
    Regex,
    Vocabulary,
)
from greenroom.errors import NotSupported
from greenroom.inputs.tools import Toolbox
from greenroom.parsing import formats
from greenroom.parsing.answers import answer_routes
from greenroom.parsing.channels import HarmonyReader
from greenroom.parsing.forced import forced_calls
from greenroom.parsing.formats import harmony
from greenroom.parsing.formats.format import AnswerMarks
from greenroom.parsing.message_reader import MessageReader, Piece
from greenroom.parsing.reader import Reader
from greenroom.parsing.thinking import Thinking

FORMATS = formats.names()
TOOLS = [tool(schema(["small", "color"], ["small"])), tool({"type": "object", "properties": {}}, "look")]
BOX = Toolbox(TOOLS)
THINKING = Thinking("<think>", "</think>")
ANSWER = JsonSchema(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 40}, "parameters": {"type": "integer"}},
        "required": ["name"],
        "additionalProperties": False,
    },
    separators=(", ", ": "),
)
"""As like a call of bare JSON as an answer may be."""
ANSWERS = ['{"name": "Ada"}', '{"name": "do_it", "parameters": 7}', '{"name": "<tool_call> </think> <|end|> [do_it("}']
WRONG = [
    '{"name": 1}',
    "Hello",
    '{"parameters": 7}',
    '{"name": "Ada"}.',
    "[1]",
    "<tool_call>Hello",
    "[do_it(x",
    "</think>",
]
"""What is neither a call nor an answer."""


@cache
def marked(tool_format: str) -> Vocabulary:
    """Bytes, and the markers of that format and of thoughts as special tokens; the last but one ends the turn."""
    form = formats.find(tool_format)
    texts = [marker.text for marker in form.opens if len(marker.text) > 1]
    names = {*texts, *form.closes, *form.inner, *form.drops, *THINKING}
    if tool_format == formats.HARMONY:
        names |= set(harmony.MARKS)
    marks = sorted(name for name in names if name.startswith(("<", "[")) and name.endswith((">", "]")))
    words = [*[bytes((byte,)) for byte in range(256)], *[name.encode() for name in marks], b"<eos>"]
    ends = [len(words) - 1, *([words.index(b"<|call|>")] if tool_format == formats.HARMONY else [])]
    special = range(256, len(words))
    return Vocabulary.from_tokens(words, special=special, n_vocab=len(words), eos=ends, encode=None)


def spelt(vocabulary: Vocabulary, text: str) -> list[int]:
    """Its tokens, markers as such."""
    ids: list[int] = []
    names = sorted(vocabulary.special_tokens, key=len, reverse=True)
    while text:
        name = next((name for name in names if text.startswith(name)), "")
        ids += [vocabulary.special_tokens[name]] if name else text[:1].encode()
        text = text[len(name) or 1 :]
    return ids


def routes(
    tool_format: str,
    answer: Constraint = ANSWER,
    *,
    box: Toolbox | None = BOX,
    is_thinking: bool = False,
    thinking: Thinking | None = THINKING,
) -> Constraint:
    """Of a prompt that opened nothing, or the thought."""
    form = formats.find(tool_format)
    thinking = None if tool_format == formats.HARMONY else thinking
    calls = None if box is None else forced_calls(tool_format, list(box))
    return answer_routes(form, box, calls, answer, thinking=thinking, is_thinking=is_thinking, opened="")


def thought(tool_format: str, text: str) -> str:
    """One, up to what follows it."""
    if tool_format == formats.HARMONY:
        return f"{harmony.THOUGHT.start}{text}{harmony.THOUGHT.end}{harmony.NEXT}"
    return f"<think>{text}</think>\n\n"


def answered(tool_format: str, text: str) -> str:
    """An answer between the markers of the format."""
    begin, end = formats.find(tool_format).around_answer
    return begin + text + end


def read(tool_format: str, text: str, *, box: Toolbox | None = BOX, size: int | None = None) -> list[Piece]:
    """What is told of it, fed in pieces of that size."""
    reader: MessageReader
    if tool_format == formats.HARMONY:
        reader = HarmonyReader(box, salt="", answers=True)
    else:
        form = formats.find(tool_format)
        reader = Reader(form, THINKING, box, salt="", answer=AnswerMarks.of(form, box))
    size = size or len(text)
    told = [piece for at in range(0, len(text), size) for piece in reader.feed(text[at : at + size])]
    return merged([*told, *reader.finish("stop")])


Told = TypeVar("Told", bound=Event)


def merged(events: Sequence[Told]) -> list[Told]:
    """With texts and thoughts that follow each other in one."""
    joined: list[Any] = []
    for piece in events:
        last = joined[-1] if joined else None
        if type(last) is type(piece) and isinstance(last, Chunk | Reasoning) and isinstance(piece, Chunk | Reasoning):
            joined[-1] = type(last)(last.text + piece.text)
        else:
            joined.append(piece)
    return joined


def walk(
    state: ConstraintState, vocabulary: Vocabulary, dice: random.Random, tokens: list[int], most: int = 600
) -> list[int] | None:
    """Tokens drawn at random from its masks behind `tokens`, to an end; None where that did not come."""
    tokens = list(tokens)
    state.consume(tokens)
    mask = np.empty(vocabulary.words, np.uint32)
    while len(tokens) < most:
        state.fill_mask(mask)
        assert state.error is None
        legal = ids(mask)
        assert legal
        assert bool(legal & set(vocabulary.eos)) is state.is_accepting
        if state.is_stopped or (state.is_accepting and dice.random() < 0.5):
            return tokens
        legal -= set(vocabulary.eos)
        likely = sorted(token for token in legal if 32 <= token < 127 or token >= 256)
        tokens.append(dice.choice(likely or sorted(legal)))
        assert state.validate(tokens[-1:]) == 1
        state.consume(tokens[-1:])
    return None


def reaches(compiled: CompiledConstraint, tokens: list[int]) -> bool:
    """Whether these are a whole output."""
    state = compiled.start()
    if state.validate(tokens) < len(tokens):
        return False
    state.consume(tokens)
    assert state.error is None
    return state.is_accepting and compiled.check(tokens) is None


@cache
def call_text(tool_format: str) -> str:
    """One legal call."""
    dice = random.Random(5)  # noqa: S311 - the same walk each time
    return walked(forced_calls(tool_format, TOOLS).grammar(BYTES), dice)


@pytest.mark.parametrize("tool_format", FORMATS)
def test_a_message_is_a_call_or_an_answer(tool_format: str) -> None:
    """Spelt by bytes and by special tokens, behind a thought or not; what is legal is read as what it is."""
    begin, end = formats.find(tool_format).around_answer
    is_harmony = tool_format == formats.HARMONY
    for vocabulary in (BYTES, marked(tool_format)):
        compiler = ConstraintCompiler(vocabulary)
        compiled = compiler.compile(routes(tool_format))
        for lead in ("", thought(tool_format, "Hm. {} 7\n")):
            told = [Reasoning("Hm. {} 7\n" if is_harmony else "Hm. {} 7")] if lead else []
            text = lead + call_text(tool_format)
            without_eos = text if vocabulary is BYTES else text.removesuffix("<|call|>")
            assert reaches(compiled, spelt(vocabulary, without_eos)), text
            events = read(tool_format, text)
            assert events == read(tool_format, text, size=1)
            assert events[: len(told)] == told
            calls = [event for event in events[len(told) :] if not isinstance(event, Chunk) or event.text.strip()]
            assert calls
            assert {type(call) for call in calls} == {ToolCall}
            for answer in ANSWERS:
                text = lead + begin + answer + end
                tokens = [*spelt(vocabulary, lead + begin), *answer.encode(), *spelt(vocabulary, end)]
                is_like_a_call = tool_format == "llama3_json" and "parameters" in answer
                assert reaches(compiled, tokens) is not is_like_a_call, text
                if not is_like_a_call:
                    assert read(tool_format, text) == [*told, Chunk(answer)] == read(tool_format, text, size=1)
            for wrong in WRONG:
                assert not reaches(compiled, spelt(vocabulary, lead + wrong))
                assert not reaches(compiled, spelt(vocabulary, lead + begin + wrong + end))


@pytest.mark.parametrize("tool_format", ["hermes", "llama3_json", "llama4_pythonic", "harmony", "command_r7b"])
def test_what_masks_allow_is_a_call_or_an_answer(tool_format: str) -> None:
    """At random, token by token, whatever the answer may be; masks, EOS and what is taken agree, forward and back."""
    dice, vocabulary = random.Random(3), marked(formats.ALIASES.get(tool_format, tool_format))  # noqa: S311
    fits = Draft202012Validator(json.loads(ANSWER.text)).is_valid
    seen: set[str] = set()
    for answer in (ANSWER, Regex(r"[\[{<].{0,30}")):
        compiled = ConstraintCompiler(vocabulary).compile(routes(tool_format, answer))
        for number in range(8):
            head = next(iter(AnswerMarks.of(formats.find(tool_format), BOX).openings)) if number % 2 else ""
            tokens = walk(compiled.start(), vocabulary, dice, spelt(vocabulary, head))
            if tokens is None:
                continue
            text = vocabulary.decode(tokens)
            events = [each for each in read(tool_format, text) if not isinstance(each, Reasoning)]
            kinds = {type(event) for event in events if not isinstance(event, Chunk) or event.text.strip()}
            seen |= {kind.__name__ for kind in kinds}
            if kinds == {Chunk}:
                (chunk,) = events
                assert isinstance(chunk, Chunk)
                assert answer is not ANSWER or fits(json.loads(chunk.text)), text
                assert answer is ANSWER or re.fullmatch(r"[\[{<].{0,30}", chunk.text), text
            else:
                assert kinds == {ToolCall}, (text, events)
            # The same place, by another way.
            state = compiled.start()
            state.consume(tokens)
            place = dice.randrange(len(tokens))
            twin = state.fork()
            twin.rollback(len(tokens) - place)
            twin.consume(tokens[place:])
            assert (twin.is_accepting, twin.error) == (True, None)
            twin.rollback(len(tokens) - place)
            fresh = compiled.start()
            fresh.consume(tokens[:place])
            assert ids(filled(twin, vocabulary)) == ids(filled(fresh, vocabulary))
            twin.reset()
            assert ids(filled(twin, vocabulary)) == ids(filled(compiled.start(), vocabulary))
    assert seen == {"Chunk", "ToolCall"}


def filled(state: ConstraintState, vocabulary: Vocabulary) -> Bits:
    """Its mask, written over a row of noise."""
    row = np.full(vocabulary.words, 0xDEADBEEF, np.uint32)
    state.fill_mask(row)
    return row


def test_a_thought_that_the_prompt_opened_comes_first() -> None:
    """Nothing is an answer, or the end, in front of its marker."""
    compiled = ConstraintCompiler(BYTES).compile(routes("hermes", is_thinking=True))
    state = compiled.start()
    assert not reaches(compiled, list(ANSWERS[0].encode()))
    assert not ids(filled(state, BYTES)) & set(BYTES.eos)
    for blank in ("", "\n", "\n\n"):
        assert reaches(compiled, list(f"Hm.</think>{blank}{ANSWERS[0]}".encode()))
    assert not reaches(compiled, list(f"Hm.</think>\n\n\n{ANSWERS[0]}".encode()))


def test_a_marker_that_the_prompt_opened_is_not_written_again() -> None:
    """Functionary's, behind which a name follows, or `all` and the answer."""
    form = formats.find("functionary_v3_2")
    calls = forced_calls(form.name, TOOLS, opened=">>>")
    given = answer_routes(form, BOX, calls, ANSWER, thinking=None, is_thinking=False, opened=">>>")
    compiled = ConstraintCompiler(BYTES).compile(given)
    assert reaches(compiled, list(f"all\n{ANSWERS[0]}".encode()))
    assert reaches(compiled, list(call_text("functionary_v3_2").removeprefix(">>>").encode()))
    assert not reaches(compiled, list(ANSWERS[0].encode()))


def test_without_calls_there_is_the_answer() -> None:
    """Of tools that are only shown."""
    compiled = ConstraintCompiler(BYTES).compile(routes("hermes", box=None))
    assert reaches(compiled, list(f"<think>Hm.</think>{ANSWERS[0]}".encode()))
    assert not reaches(compiled, list(call_text("hermes").encode()))
    assert read("hermes", ANSWERS[0], box=None) == [Chunk(ANSWERS[0])]


@pytest.mark.parametrize("tool_format", ["json_tools", "harmony", "llama3_json"])
def test_forced_calls_may_be_thought_about(tool_format: str) -> None:
    """In the format's own way; there is no answer then."""
    form, calls = formats.find(tool_format), forced_calls(tool_format, TOOLS)
    thinking = None if tool_format == formats.HARMONY else THINKING
    given = answer_routes(form, BOX, calls, None, thinking=thinking, is_thinking=False, opened="")
    vocabulary = marked(tool_format)
    compiled = ConstraintCompiler(vocabulary).compile(given)
    for lead in ("", thought(tool_format, "Hm.")):
        assert reaches(compiled, spelt(vocabulary, lead + call_text(tool_format).removesuffix("<|call|>")))
        assert not reaches(compiled, spelt(vocabulary, lead + form.around_answer[0] + ANSWERS[0]))


class Even(msgspec.Struct):
    """Which no grammar knows."""

    number: int

    def __post_init__(self) -> None:
        """Refuse odd ones."""
        if self.number % 2:
            raise ValueError("odd")


def test_what_masks_cannot_enforce_is_checked_in_the_answer_alone() -> None:
    """What a type alone decides, behind a thought; a call has nothing to check."""
    compiled = ConstraintCompiler(BYTES).compile(routes("hermes", JsonSchema(Even, whitespace=False)))
    assert compiled.check(list(b'<think>{"number":7}</think>{"number":2}')) is None
    assert "odd" in (compiled.check(list(b'<think>Hm.</think>\n{"number":1}')) or "")
    assert compiled.check(list(call_text("hermes").encode())) is None


@pytest.mark.skipif(not QWEN3.is_file(), reason="no ../shared folder beside the repository")
def test_a_tokenizer_writes_it_in_its_own_tokens() -> None:
    """Qwen3's, in every format, though its tokens go from one part of a call into the next."""
    spelling = QWEN3.read_text()
    tokenizer = Tokenizer.from_str(spelling)
    vocabulary = Vocabulary.from_json(spelling, 151_936, [tokenizer.encode("<|im_end|>").ids[0]])
    compiler = ConstraintCompiler(vocabulary)

    def ids_of(*pieces: str) -> list[int]:
        """A leg begins with a token of its own, whatever the tokenizer makes of two."""
        return [token for piece in pieces for token in tokenizer.encode(piece).ids]

    for tool_format in FORMATS:
        compiled = compiler.compile(routes(tool_format))
        begin, end = formats.find(tool_format).around_answer
        whole, start, behind = thought(tool_format, "\nOkay, {so}.\n"), harmony.THOUGHT.start, harmony.NEXT
        legs = [start, whole.removeprefix(start).removesuffix(behind), behind]
        leads: list[list[str]] = [[], legs if tool_format == formats.HARMONY else [whole]]
        for lead in leads:
            assert reaches(compiled, ids_of(*lead, call_text(tool_format))), (tool_format, lead)
            assert reaches(compiled, ids_of(*lead, begin, ANSWERS[0], end)), (tool_format, lead)
            assert not reaches(compiled, ids_of(*lead, "Hello"))
            assert tool_format != "llama3_json" or not reaches(compiled, ids_of(*lead, ANSWERS[1]))


def look() -> str:
    """What there is to see."""
    return "fog"


CALL = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'


async def told(runtime: Runtime, prompt: str, **options: Any) -> list[Event]:
    """What is told of it, without its counts."""
    events = [event async for event in runtime.generate(prompt, tools=[look], seed=1, **options)]
    return merged([event for event in events if not isinstance(event, Info)])


async def test_a_generation_calls_or_answers() -> None:
    """As the model would; what is neither is not legal. A choice takes calls, or the answer, away."""
    replies: dict[str, str | Reply] = {
        "call": CALL,
        "answer": ANSWERS[0],
        "think": f"<think>Hm.</think>\n\n{ANSWERS[0]}",
        "prose": "Well, let me look: " + CALL,
        "no call": CALL,
        "bends": Reply("maybe", bends=True),
    }
    async with Runtime(backend=Scripted(replies)) as runtime:
        for choice in ("auto", "required", "look"):
            (call,) = await told(runtime, "call", constrain=ANSWER, tool_choice=choice)
            assert isinstance(call, ToolCall)
        for choice in ("auto", "none"):
            options: dict[str, Any] = {"constrain": ANSWER, "tool_choice": choice}
            assert await told(runtime, "answer", **options) == [Chunk(ANSWERS[0])]
            assert await told(runtime, "think", **options) == [Reasoning("Hm."), Chunk(ANSWERS[0])]
        assert await told(runtime, "bends", constrain=Choice("no", "yes")) == [Chunk("yes")]
        (call,) = await told(runtime, "prose", constrain=ANSWER)
        assert isinstance(call, ToolCall)  # without what it would have said in front of it
        assert await told(runtime, "no call", constrain=Regex("[a-z]{8}"), tool_choice="none") == [Chunk("namelook")]
        # A call that was cut is rejected, an answer that was cut is text.
        (cut,) = await told(runtime, "call", constrain=ANSWER, max_tokens=30)
        assert isinstance(cut, RejectedToolCall)
        assert await told(runtime, "answer", constrain=ANSWER, max_tokens=5) == [Chunk(ANSWERS[0][:5])]


async def test_a_format_that_nothing_writes_is_refused_at_the_call() -> None:
    """And so is a tool that its format cannot write: a constraint must be able to say what calls are."""
    odd = [{"name": "odd", "parameters": {"type": "object", "properties": {"a b": {}}, "required": ["a b"]}}]
    async with Runtime(backend=Scripted("x")) as runtime:
        with pytest.raises(NotSupported, match="odd"):
            runtime.generate("x", tools=odd, constrain=ANSWER, tool_format="glm47")


@pytest.mark.parametrize("tool_format", ["hermes", "llama3_json"])
async def test_a_small_model_calls_or_answers_wherever_it_is_forked(tool_format: str, tmp_path: Path) -> None:
    """At a high temperature, many side by side and each alone; in copies, from files, and after a step back."""
    fits = Draft202012Validator(json.loads(ANSWER.text)).is_valid
    options: dict[str, Any] = {"tools": TOOLS, "constrain": ANSWER, "tool_format": tool_format}
    found: dict[int, list[Event]] = {}
    plain: list[str] = []

    async def one(runtime: Runtime, seed: int) -> None:
        stream = runtime.generate("Do it.", temperature=1.0, max_tokens=90, seed=seed, **options)
        found[seed] = [event async for event in stream]

    async def beside(runtime: Runtime) -> None:
        plain.append((await runtime.generate("Tell me a story.", temperature=0.0, max_tokens=40).collect()).text)

    async with Runtime() as runtime:
        await beside(runtime)
        async with anyio.create_task_group() as group:
            for seed in range(6):
                group.start_soon(one, runtime, seed)
            group.start_soon(beside, runtime)
        assert len(set(plain)) == 1
        for told_so in found.values():
            info = told_so[-1]
            assert isinstance(info, Info)
            kinds = {type(event) for event in told_so[:-1] if not isinstance(event, Reasoning)}
            if info.stop_reason == "stop":
                assert kinds <= {ToolCall, Chunk}
                text = "".join([event.text for event in told_so if isinstance(event, Chunk)])
                assert (ToolCall in kinds) is not bool(text.strip())
                assert ToolCall in kinds or fits(json.loads(text))
        async with runtime.context() as ctx:
            ctx.fill(await runtime.prepare("Do it.", tools=TOOLS))
            parameters = GenerateParameters(temperature=1.0, max_tokens=90, seed=2)
            g = (await ctx.fork()).generate(parameters, **options)
            whole = await (await g.fork()).collect_tokens()
            for place in (2, len(whole) // 2):
                while g.tokens_generated < place:
                    await anext(g.tokens())
                await (await g.snapshot()).save(tmp_path / "g")
                loaded = await (await Snapshot.load(tmp_path / "g")).restore()
                back = await g.fork()
                await back.rewind(1)
                for each in (await g.fork(), loaded, back):
                    await each.collect_text()
                    assert each.output == tuple(whole)


async def test_a_bound_on_thoughts_holds_beside_calls_and_answers() -> None:
    """The thought is ended, then comes what would."""
    replies = {"call": f"<think>Hm, hm, hm.</think>\n\n{CALL}", "answer": f"<think>Hm, hm, hm.</think>\n\n{ANSWERS[0]}"}
    async with Runtime(backend=Scripted(replies)) as runtime:
        thought, call = await told(runtime, "call", constrain=ANSWER, thinking_tokens=3)
        assert (thought, type(call)) == (Reasoning("Hm,"), ToolCall)
        assert await told(runtime, "answer", constrain=ANSWER, thinking_tokens=3) == [
            Reasoning("Hm,"),
            Chunk(ANSWERS[0]),
        ]


async def test_guesses_change_nothing_of_it() -> None:
    """What the engine guesses from what was said before is checked against all legs under way."""
    text = f"<think>the name, the name, the name</think>\n\n{ANSWERS[0]}"
    async with Runtime(backend=Scripted({"*": text})) as runtime, runtime.context() as ctx:
        ctx.user("x").cue()
        texts = []
        for guesses in (False, True):
            g = (await ctx.fork()).generate(
                Sampler.greedy(), tools=[look], constrain=ANSWER, max_tokens=200, system_speculation=guesses
            )
            texts.append(await g.collect_text())
        assert texts == [ANSWERS[0]] * 2


async def test_any_kind_of_constraint_may_be_the_answers() -> None:
    """A grammar, several ANDed, one that begins free; and however the answer begins, a call is one."""
    kinds: list[tuple[Any, str]] = [
        (Regex("[A-Z][a-z ]{3,30}"), "Hello world"),
        ([Regex("[a-z ]+"), Choice("hello world", "bye")], "hello world"),
        (Lazy("so: ", Choice("yes", "no")), "Well, so: yes"),
        (Lazy("</think>", Choice("yes", "no")), "yes"),  # the thought is in front of it as it is
        (Lark('start: "a" start | "b"'), "aaab"),
        (Regex("(?s:.*)"), "Anything [at] all"),
    ]
    for constrain, text in kinds:
        async with Runtime(backend=Scripted({"call": CALL, "answer": text})) as runtime:
            (call,) = await told(runtime, "call", constrain=constrain)
            assert isinstance(call, ToolCall), constrain
            assert await told(runtime, "answer", constrain=constrain) == [Chunk(text)], constrain
