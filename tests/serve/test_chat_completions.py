"""OpenAI's chat completions: each field has its effect, and each answer is what OpenAI's own client reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_type_hints

import pytest
from asgi_client import Whole, ask
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)

from greenroom import Runtime, Scripted
from greenroom.serve import app
from greenroom.serve.completions.requests import IGNORED, ChatRequest

CHAT = "/v1/chat/completions"
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
TEXT = "Hello, world: schön."


def chat(text: str = "Hello", /, **fields: Any) -> dict[str, Any]:
    """A request for a chat."""
    return {"messages": [{"role": "user", "content": text}], **fields}


async def answered(runtime: Runtime, /, **fields: Any) -> ChatCompletion:
    """The answer, read by OpenAI's own strict types, once from a stream and once whole: both say the same."""
    served = app(runtime)
    request = {**chat(), **fields}
    whole = await ask(served, CHAT, request)
    assert whole.status == 200, whole
    found = ChatCompletion.model_validate(whole.value, strict=True)
    streamed = await ask(served, CHAT, {**request, "stream": True, "stream_options": {"include_usage": True}})
    assert joined(streamed) == joined_whole(found)
    return found


def joined(stream: Whole) -> list[dict[str, Any]]:
    """A stream's chunks as one message a text; its usage is the last chunk's."""
    assert stream.headers["content-type"].startswith("text/event-stream")
    *data, usage, done = stream.data
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] > 0
    texts: dict[int, dict[str, Any]] = {}
    for each in data:
        chunk = ChatCompletionChunk.model_validate(each, strict=True)
        assert chunk.usage is None
        (choice,) = chunk.choices
        text = texts.setdefault(choice.index, {"content": "", "thought": "", "calls": [], "logprobs": 0})
        assert "end" not in text
        if not text["content"] and choice.delta.role is not None:
            assert choice.delta.role == "assistant"
        text["content"] += choice.delta.content or ""
        text["thought"] += getattr(choice.delta, "reasoning_content", None) or ""
        text["logprobs"] += len(choice.logprobs.content or ()) if choice.logprobs else 0
        for call in choice.delta.tool_calls or ():
            assert call.index == len(text["calls"])
            assert call.function is not None
            text["calls"].append((call.function.name, call.function.arguments))
        if choice.finish_reason is not None:
            text["end"] = choice.finish_reason
    return [texts[number] for number in sorted(texts)]


def joined_whole(found: ChatCompletion) -> list[dict[str, Any]]:
    """The same of a whole answer."""
    texts = []
    for choice in found.choices:
        calls = [call.function for call in choice.message.tool_calls or () if call.type == "function"]
        texts.append(
            {
                "content": choice.message.content or "",
                "thought": getattr(choice.message, "reasoning_content", None) or "",
                "calls": [(call.name, call.arguments) for call in calls],
                "logprobs": len(choice.logprobs.content or ()) if choice.logprobs else 0,
                "end": choice.finish_reason,
            }
        )
    return texts


async def refused(runtime: Runtime, fields: Mapping[str, Any], param: str | None, status: int = 400) -> str:
    """The message of a refusal that blames `param`."""
    found = await ask(app(runtime), CHAT, {**chat(), **fields})
    assert (found.status, found.error["param"]) == (status, param), found
    return str(found.error["message"])


async def test_an_answer_is_text_and_usage() -> None:
    """Whole and in chunks, with what it took."""
    async with Runtime(backend=Scripted(TEXT)) as runtime:
        found = await answered(runtime)
        assert found.choices[0].message.content == TEXT
        assert found.choices[0].finish_reason == "stop"
        assert found.usage is not None
        assert found.usage.completion_tokens == len(TEXT.encode())
        assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
        assert found.id.startswith("chatcmpl-")
        plain = await ask(app(runtime), CHAT, chat(stream=True))
        assert all(each == "[DONE]" or each["choices"] for each in plain.data)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_length_ends_the_text(name: str) -> None:
    """By both names; a wrong one is blamed by the name that was used."""
    async with Runtime(backend=Scripted(TEXT)) as runtime:
        found = await answered(runtime, **{name: 5})
        assert (found.choices[0].message.content, found.choices[0].finish_reason) == ("Hello", "length")
        await refused(runtime, {name: -1}, name)


async def test_a_stop_string_ends_the_text() -> None:
    """One or several, and no more than the server allows."""
    async with Runtime(backend=Scripted(TEXT)) as runtime:
        for stop in (",", ["xyz", ","]):
            found = await answered(runtime, stop=stop)
            assert (found.choices[0].message.content, found.choices[0].finish_reason) == ("Hello", "stop")
        await refused(runtime, {"stop": ["x"] * 17}, "stop")
        await refused(runtime, {"stop": [""]}, "stop")


async def test_parameters_reach_the_sampler() -> None:
    """What is drawn by is what was asked for; penalties look at all of the text."""
    backend = Scripted(TEXT)
    async with Runtime(backend=backend) as runtime:
        await answered(
            runtime,
            temperature=1,
            top_p=0.5,
            top_k=7,
            min_p=0.1,
            seed=-1,
            presence_penalty=0.5,
            frequency_penalty=-0.5,
            repetition_penalty=1.1,
            logit_bias={"65": -100},
            max_tokens=9,
        )
        drawn = backend.requests[-1].sampling
        assert (drawn.temperature, drawn.top_p, drawn.top_k, drawn.min_p) == (1.0, 0.5, 7, 0.1)
        assert (drawn.presence_penalty, drawn.frequency_penalty, drawn.repetition_penalty) == (0.5, -0.5, 1.1)
        assert min(drawn.presence_context, drawn.frequency_context) > 1_000_000
        assert (drawn.seed, drawn.logit_bias) == (2**64 - 1, ((65, -100.0),))
        wrong: dict[str, Any]
        for wrong in (
            {"temperature": -1},
            {"top_p": 0},
            {"top_k": -1},
            {"logit_bias": {"x": 1}},
            {"logit_bias": {"-1": 1}},
        ):
            await refused(runtime, wrong, next(iter(wrong)))
        await refused(runtime, {"temperature": "hot"}, "temperature")
        await refused(runtime, {"logit_bias": {str(token): 1 for token in range(10_001)}}, "logit_bias")


async def test_the_same_seed_draws_the_same() -> None:
    """And several texts behind one prompt are those of the seeds that follow it."""
    async with Runtime() as runtime:
        many = await answered(runtime, n=3, seed=5, max_tokens=20)
        assert [choice.index for choice in many.choices] == [0, 1, 2]
        alone = [await answered(runtime, seed=seed, max_tokens=20) for seed in (5, 6, 7)]
        assert [c.message.content for c in many.choices] == [each.choices[0].message.content for each in alone]


async def test_several_texts_run_their_prompt_once() -> None:
    """Each goes on in a copy of its KV. The usage has the prompt once."""
    async with Runtime(prefix_bytes=0) as runtime:
        found = await ask(app(runtime), CHAT, chat("word " * 60, n=4, max_tokens=3))
        usage, statistics = found.value["usage"], runtime.statistics()
        assert usage["prompt_tokens"] > 100
        assert usage["completion_tokens"] == 4 * 3
        assert usage["prompt_tokens"] <= statistics.prompt_tokens < usage["prompt_tokens"] + 4 * 3
        await refused(runtime, {"n": 0}, "n")
        await refused(runtime, {"n": 17}, "n")


@pytest.mark.parametrize("texts", [1, 3])
async def test_what_was_cached_of_a_prompt_is_told(texts: int) -> None:
    """In the usage, where OpenAI has it; not what several texts of one prompt take from each other."""
    text = "The same beginning, again and again. " * 20
    async with Runtime() as runtime:
        served = app(runtime)
        request = chat(text, max_tokens=2, n=texts)
        first, second = [(await ask(served, CHAT, request)).value["usage"] for _ in range(2)]
        assert first["prompt_tokens_details"]["cached_tokens"] == 0
        assert 100 < second["prompt_tokens_details"]["cached_tokens"] < second["prompt_tokens"]


async def test_log_probabilities_are_those_of_the_content() -> None:
    """With their bytes, and as many of the likeliest as asked for."""
    async with Runtime() as runtime:
        found = await answered(runtime, logprobs=True, top_logprobs=2, max_tokens=8, temperature=0, seed=1)
        (choice,) = found.choices
        assert choice.logprobs is not None
        content = choice.logprobs.content or []
        assert "".join([each.token for each in content]) == choice.message.content
        assert all(len(each.top_logprobs) == 2 and each.logprob <= 0 for each in content)
        assert [bytes(each.bytes or ()).decode() for each in content] == [each.token for each in content]
        bare = await answered(runtime, logprobs=True, max_tokens=3, seed=1)
        assert bare.choices[0].logprobs is not None
        assert not (bare.choices[0].logprobs.content or [])[0].top_logprobs
        await refused(runtime, {"logprobs": True, "top_logprobs": 21}, "top_logprobs")
        await refused(runtime, {"top_logprobs": 2}, "top_logprobs")


async def test_a_call_is_told_as_a_call() -> None:
    """With its id and its arguments as JSON; the tool was shown to the model, and its result goes on from there."""
    backend = Scripted([CALL, CALL, "It is 2."])
    async with Runtime(backend=backend) as runtime:
        found = await answered(runtime, tools=[ADD])
        (choice,) = found.choices
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        (call,) = choice.message.tool_calls or []
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 1})
        assert "Adds." in backend.requests[0].text
        said = choice.message.model_dump()
        result = {"role": "tool", "tool_call_id": call.id, "content": [{"type": "text", "text": "2"}]}
        history = [*chat()["messages"], said, result]
        end = await ask(app(runtime), CHAT, {"messages": history, "tools": [ADD]})
        assert end.value["choices"][0]["message"]["content"] == "It is 2."
        assert '{"name": "add", "arguments": {"a": 1}}' in backend.requests[-1].text


async def test_calls_in_one_answer_are_as_many_as_were_asked_for() -> None:
    """Several by default; with `parallel_tool_calls` false the text ends behind the first."""
    async with Runtime(backend=Scripted(CALL + "\n" + CALL)) as runtime:
        both = await answered(runtime, tools=[ADD])
        assert len(both.choices[0].message.tool_calls or []) == 2
        one = await answered(runtime, tools=[ADD], parallel_tool_calls=False)
        assert len(one.choices[0].message.tool_calls or []) == 1
        assert one.choices[0].finish_reason == "tool_calls"


async def test_a_call_that_cannot_be_used_is_text() -> None:
    """As the model wrote it: nothing of an answer is lost."""
    wrong = '<tool_call>\n{"name": "sub", "arguments": {}}\n</tool_call>'
    async with Runtime(backend=Scripted(wrong)) as runtime:
        found = await answered(runtime, tools=[ADD])
        assert "sub" in (found.choices[0].message.content or "")
        assert found.choices[0].finish_reason == "stop"


SUB = {"type": "function", "function": {"name": "sub"}}


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("required", "add"),
        ({"type": "function", "function": {"name": "add"}}, "add"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [SUB]}}, "sub"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [SUB]}}, None),
        ("auto", None),
        ("none", None),
    ],
    ids=str,
)
async def test_a_choice_of_tools_is_obeyed(choice: object, called: str | None) -> None:
    """Where a call is forced, nothing else can be written."""
    arguments: dict[str, int] = {} if called == "sub" else {"a": 1}
    call = f"<tool_call>\n{json.dumps({'name': called, 'arguments': arguments})}\n</tool_call>"
    for said in (call if called else "No.", "No."):
        async with Runtime(backend=Scripted(said)) as runtime:
            found = await ask(app(runtime), CHAT, chat(tools=[ADD, SUB], tool_choice=choice, max_tokens=300))
        if said == "No." and called is not None:
            assert found.status == 500  # the double is held to a call, and has none
        else:
            calls = found.value["choices"][0]["message"].get("tool_calls", [])
            assert [each["function"]["name"] for each in calls] == ([called] if called else [])


async def test_choices_that_name_nothing_are_refused() -> None:
    """As are tools that are no functions, and schemas that are none."""
    wrong = {"type": "function", "function": {"name": "sub"}}
    async with Runtime(backend=Scripted(TEXT)) as runtime:
        for choice in (wrong, "perhaps", {"type": "custom"}, {"type": "allowed_tools"}):
            await refused(runtime, {"tools": [ADD], "tool_choice": choice}, "tool_choice")
        await refused(runtime, {"tool_choice": "required"}, "tool_choice")
        await refused(runtime, {"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0]")
        await refused(runtime, {"tools": [ADD, ADD]}, "tools")
        bad = {"type": "function", "function": {"name": "f", "parameters": {"type": "no"}}}
        await refused(runtime, {"tools": [bad]}, "tools")
        await refused(runtime, {"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools")


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "form",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON, "strict": True}}},
        {"structured_outputs": {"json": PERSON}},
        {"structured_outputs": {"json": json.dumps(PERSON)}},
        {"structured_outputs": {"json_object": True}},
        {"structured_outputs": {"regex": r'\{"name": "[A-Z]da"\}'}},
        {"structured_outputs": {"choice": ['{"name": "Ada"}', "no"]}},
        {"structured_outputs": {"grammar": 'root ::= "{\\"name\\": \\"" [A-Z] "da\\"}"'}},
        {"structured_outputs": {"grammar": 'start: "{\\"name\\": \\"" /[A-Z]/ "da\\"}"'}},
    ],
    ids=str,
)
async def test_the_form_of_an_answer_is_enforced(form: dict[str, Any]) -> None:
    """The double says what it wants, and is held to it: outside of the form it fails."""
    async with Runtime(backend=Scripted('{"name": "Ada"}')) as runtime:
        found = await answered(runtime, **form)
        assert json.loads(found.choices[0].message.content or "") == {"name": "Ada"}
        other = Runtime(backend=Scripted("What?"))
        async with other:
            failed = await ask(app(other), CHAT, {**chat(), **form})
            assert failed.status == 500


async def test_forms_that_cannot_be_enforced_are_refused() -> None:
    """Before anything is generated, with the field to blame."""
    unsupported = {"type": "string", "not": {"pattern": "^a"}, "$dynamicRef": "#x"}
    strict = {"type": "json_schema", "json_schema": {"name": "x", "schema": unsupported, "strict": True}}
    async with Runtime(backend=Scripted(TEXT)) as runtime:
        await refused(runtime, {"response_format": strict}, "response_format")
        await refused(runtime, {"response_format": {"type": "json_schema"}}, "response_format.json_schema")
        await refused(runtime, {"response_format": {"type": "yaml"}}, "response_format.type")
        await refused(runtime, {"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs")
        await refused(runtime, {"structured_outputs": {"structural_tag": "a"}}, "structured_outputs")
        both = {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}
        await refused(runtime, both, "response_format")
        assert (await ask(app(runtime), CHAT, chat(response_format={"type": "text"}))).status == 200


async def test_a_thought_is_apart_from_the_answer() -> None:
    """As `reasoning_content`, which other servers call it too."""
    async with Runtime(backend=Scripted("<think>Hm.</think>Yes.")) as runtime:
        found = await answered(runtime)
        message = found.choices[0].message
        assert (message.content, getattr(message, "reasoning_content", None)) == ("Yes.", "Hm.")


async def test_effort_turns_thinking_on_and_off() -> None:
    """By the template's own switch; a model that has none says so."""
    async with Runtime() as runtime:
        thoughts = []
        for effort in ("none", "high"):
            found = await answered(runtime, reasoning_effort=effort, temperature=0, max_tokens=60)
            thoughts.append(getattr(found.choices[0].message, "reasoning_content", None))
        assert thoughts[0] is None
        assert thoughts[1]
        options = await answered(runtime, chat_template_kwargs={"enable_thinking": True}, temperature=0, max_tokens=60)
        assert getattr(options.choices[0].message, "reasoning_content", None) == thoughts[1]
        template = {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}
        await refused(runtime, template, "chat_template_kwargs.chat_template")
    async with Runtime(backend=Scripted(TEXT)) as runtime:
        await refused(runtime, {"reasoning_effort": "none"}, "reasoning_effort")


async def test_messages_reach_the_model_as_they_were_meant() -> None:
    """A developer's message is a system's, parts of text are joined, and what is no text is refused with its place."""
    backend = Scripted(TEXT)
    async with Runtime(backend=backend) as runtime:
        parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
        messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts, "name": "Ada"}]
        await answered(runtime, messages=messages)
        assert "<|im_start|>system\nBe brief.<|im_end|>" in backend.requests[-1].text
        assert backend.requests[-1].message == "Hello"
        image = {"type": "image_url", "image_url": {"url": "data:,"}}
        await refused(runtime, {"messages": [{"role": "user", "content": [*parts, image]}]}, "messages[0].content[2]")
        await refused(runtime, {"messages": []}, "messages")
        await refused(runtime, {"messages": [{"role": "user"}]}, "messages")
        await refused(runtime, {"messages": [{"role": "function", "content": "x"}]}, "messages[0].role")
        await refused(runtime, {"messages": [{"role": "assistant", "audio": {"id": "x"}}]}, "messages[0].audio")


async def test_a_prompt_over_the_context_is_refused_before_the_first_byte() -> None:
    """Also of a stream: the status says it."""
    async with Runtime(backend=Scripted(TEXT, context_length=50)) as runtime:
        for streams in (True, False):
            for n in (1, 2):
                fields = {"messages": chat("x" * 100)["messages"], "stream": streams, "n": n}
                assert "shorten" in await refused(runtime, fields, "messages")


def known_fields() -> list[str]:
    """Every field that OpenAI's own client can send."""
    hints = get_type_hints(CompletionCreateParamsNonStreaming) | get_type_hints(CompletionCreateParamsStreaming)
    return sorted(hints)


REFUSED = {
    "audio": "is not generated",
    "function_call": "tool_choice took its place",
    "functions": "tools took their place",
    "moderation": "nothing is moderated",
    "prediction": "drafts are the server's own",
    "verbosity": "no template has it",
    "web_search_options": "nothing is searched",
}
"""Fields of OpenAI's that would change the answer, and are not built."""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("name", known_fields())
async def test_each_field_of_openai_s_is_known_ignored_or_refused(name: str) -> None:
    """Nothing that would change the answer is passed over; a null says nothing."""
    if name in ChatRequest.__struct_encode_fields__:
        return
    async with Runtime(backend=Scripted(TEXT)) as runtime:
        found = await ask(app(runtime), CHAT, chat(**{name: {"x": "y"}}))
        assert (found.status == 200) == (name in IGNORED)
        assert name in IGNORED or (name in REFUSED and found.error["param"] == name)
        assert (await ask(app(runtime), CHAT, chat(**{name: None}))).status == 200
