"""Clients as their users use them, each behind the same few questions.

The packages are imported when a subject is made: a test of one that is not installed skips.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, ClassVar, NamedTuple

import pytest
from client_places import MODEL, Place
from pydantic import BaseModel

__all__ = ["SUBJECTS", "Person", "Said", "Subject"]

KEY = "none is needed"
TOOL = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Person(BaseModel):
    """What a structured answer is."""

    name: str
    age: int


class Said(NamedTuple):
    """An answer, and the tokens that it cost; pieces where it streamed."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    pieces: int = 1


class Refused(NamedTuple):
    """What a client makes of an error: its own class, the status that it found, and the text."""

    kind: str
    status: int | None
    message: str


def load(name: str) -> Any:
    """The package, or a skip; what it warns of while it is imported is not ours."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # which litellm would fetch from a network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, exc_type=ImportError)


class Subject:
    """A client. Its methods ask MODEL, but for `refusal`."""

    package: ClassVar[str]
    loops: ClassVar[tuple[str, ...]] = ("asyncio", "trio")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.http = place.http()
        self.module = load(self.package)

    async def aclose(self) -> None:
        """Give its connections back."""
        await self.http.aclose()

    def refused(self, error: Exception) -> Refused:
        """`error` in the form of a refusal."""
        return Refused(type(error).__name__, getattr(error, "status_code", None), str(error))

    async def chat(self, text: str, model: str = MODEL) -> Said:
        """The whole answer."""
        raise NotImplementedError

    async def stream(self, text: str) -> Said:
        """The answer, read piece by piece."""
        raise NotImplementedError

    async def tools(self, text: str, weather: Callable[..., str]) -> str:
        """The answer behind a call of the tool `weather`."""
        raise NotImplementedError

    async def structured(self, text: str) -> Person:
        """An object."""
        raise NotImplementedError

    async def leave(self, text: str) -> str:
        """The first piece of a stream, which is closed then."""
        raise NotImplementedError

    async def refusal(self, text: str, model: str) -> Refused:
        """The error that a chat ends in."""
        try:
            await self.chat(text, model)
        except Exception as error:  # noqa: BLE001 - each client has its own
            return self.refused(error)
        raise AssertionError("it was answered")


def user(text: str) -> dict[str, Any]:
    """A message."""
    return {"role": "user", "content": text}


class OpenAI(Subject):
    """openai's own client."""

    package = "openai"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.client = self.module.AsyncOpenAI(
            base_url=f"{place.url}/v1", api_key=KEY, http_client=self.http, max_retries=0
        )

    async def chat(self, text: str, model: str = MODEL) -> Said:
        """The whole answer."""
        found = await self.client.chat.completions.create(model=model, messages=[user(text)])
        return Said(found.choices[0].message.content, found.usage.prompt_tokens, found.usage.completion_tokens)

    async def stream(self, text: str) -> Said:
        """The answer, read piece by piece."""
        pieces, usage = [], None
        options: Any = {"stream": True, "stream_options": {"include_usage": True}}
        async for chunk in await self.client.chat.completions.create(model=MODEL, messages=[user(text)], **options):
            pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
            usage = chunk.usage or usage
        assert usage is not None
        return Said("".join(pieces), usage.prompt_tokens, usage.completion_tokens, len(pieces))

    async def tools(self, text: str, weather: Callable[..., str]) -> str:
        """The answer behind a call."""
        messages: list[Any] = [user(text)]
        options: Any = {"model": MODEL, "tools": [{"type": "function", "function": TOOL}]}
        first = await self.client.chat.completions.create(messages=messages, **options)
        assert first.choices[0].finish_reason == "tool_calls"
        messages.append(first.choices[0].message)
        for call in first.choices[0].message.tool_calls:
            result = weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        last = await self.client.chat.completions.create(messages=messages, **options)
        return str(last.choices[0].message.content)

    async def structured(self, text: str) -> Person:
        """By `parse`, which sends a strict schema."""
        found = await self.client.chat.completions.parse(model=MODEL, messages=[user(text)], response_format=Person)
        person: Person = found.choices[0].message.parsed
        return person

    async def leave(self, text: str) -> str:
        """The first piece."""
        async with await self.client.chat.completions.create(model=MODEL, messages=[user(text)], stream=True) as read:
            async for chunk in read:
                if chunk.choices[0].delta.content:
                    return str(chunk.choices[0].delta.content)
        raise AssertionError("it ended")


class OpenAIResponses(OpenAI):
    """openai's own client, on its newer API."""

    async def chat(self, text: str, model: str = MODEL) -> Said:
        """The whole answer."""
        found = await self.client.responses.create(model=model, input=text)
        return Said(found.output_text, found.usage.input_tokens, found.usage.output_tokens)

    async def stream(self, text: str) -> Said:
        """The answer, read piece by piece; the usage comes with the last event."""
        pieces, usage = [], None
        async with self.client.responses.stream(model=MODEL, input=text) as events:
            async for event in events:
                if event.type == "response.output_text.delta":
                    pieces.append(event.delta)
                elif event.type == "response.completed":
                    usage = event.response.usage
        assert usage is not None
        return Said("".join(pieces), usage.input_tokens, usage.output_tokens, len(pieces))

    async def tools(self, text: str, weather: Callable[..., str]) -> str:
        """The answer behind a call; the server remembers the question."""
        tools: list[Any] = [{"type": "function", "strict": False, **TOOL}]
        first = await self.client.responses.create(model=MODEL, input=text, tools=tools)
        results: list[Any] = [
            {"type": "function_call_output", "call_id": item.call_id, "output": weather(**json.loads(item.arguments))}
            for item in first.output
            if item.type == "function_call"
        ]
        last = await self.client.responses.create(
            model=MODEL, input=results, tools=tools, previous_response_id=first.id
        )
        return str(last.output_text)

    async def structured(self, text: str) -> Person:
        """By `parse`, which sends a strict schema."""
        person: Person = (await self.client.responses.parse(model=MODEL, input=text, text_format=Person)).output_parsed
        return person

    async def leave(self, text: str) -> str:
        """The first piece."""
        async with await self.client.responses.create(model=MODEL, input=text, stream=True) as events:
            async for event in events:
                if event.type == "response.output_text.delta":
                    return str(event.delta)
        raise AssertionError("it ended")


class Anthropic(Subject):
    """anthropic's own client."""

    package = "anthropic"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.client = self.module.AsyncAnthropic(
            base_url=place.url, api_key=KEY, http_client=self.http, max_retries=0
        ).messages
        self.options: dict[str, Any] = {"model": MODEL, "max_tokens": 1000}

    async def chat(self, text: str, model: str = MODEL) -> Said:
        """The whole answer."""
        found = await self.client.create(**{**self.options, "model": model}, messages=[user(text)])
        return Said(found.content[0].text, found.usage.input_tokens, found.usage.output_tokens)

    async def stream(self, text: str) -> Said:
        """The answer, read piece by piece."""
        async with self.client.stream(**self.options, messages=[user(text)]) as stream:
            pieces = [piece async for piece in stream.text_stream]
            usage = (await stream.get_final_message()).usage
        return Said("".join(pieces), usage.input_tokens, usage.output_tokens, len(pieces))

    async def tools(self, text: str, weather: Callable[..., str]) -> str:
        """The answer behind a call."""
        messages: list[Any] = [user(text)]
        tool = {"name": TOOL["name"], "description": TOOL["description"], "input_schema": TOOL["parameters"]}
        first = await self.client.create(**self.options, messages=messages, tools=[tool])
        assert first.stop_reason == "tool_use"
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": weather(**block.input)}
            for block in first.content
            if block.type == "tool_use"
        ]
        messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
        return str((await self.client.create(**self.options, messages=messages, tools=[tool])).content[0].text)

    async def structured(self, text: str) -> Person:
        """By `parse`, which sends a schema."""
        person: Person = (
            await self.client.parse(**self.options, messages=[user(text)], output_format=Person)
        ).parsed_output
        return person

    async def leave(self, text: str) -> str:
        """The first piece."""
        options: Any = {**self.options, "max_tokens": 1_000_000}
        async with await self.client.create(**options, messages=[user(text)], stream=True) as events:
            async for event in events:
                if event.type == "content_block_delta":
                    return str(event.delta.text)
        raise AssertionError("it ended")


class LiteLLM(Subject):
    """litellm, whose `client=` is openai's."""

    package = "litellm"
    loops = ("asyncio",)

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        client = load("openai").AsyncOpenAI(
            base_url=f"{place.url}/v1", api_key=KEY, http_client=self.http, max_retries=0
        )
        self.options: dict[str, Any] = {"client": client, "max_retries": 0}

    def ask(self, model: str = MODEL, **options: Any) -> Any:
        """A completion."""
        return self.module.acompletion(model=f"openai/{model}", **self.options, **options)

    async def chat(self, text: str, model: str = MODEL) -> Said:
        """The whole answer."""
        found = await self.ask(model, messages=[user(text)])
        return Said(found.choices[0].message.content, found.usage.prompt_tokens, found.usage.completion_tokens)

    async def stream(self, text: str) -> Said:
        """The answer, read piece by piece."""
        pieces, usage = [], None
        stream = await self.ask(messages=[user(text)], stream=True, stream_options={"include_usage": True})
        async for chunk in stream:
            pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
            usage = getattr(chunk, "usage", None) or usage
        assert usage is not None
        return Said("".join(pieces), usage.prompt_tokens, usage.completion_tokens, len(pieces))

    async def tools(self, text: str, weather: Callable[..., str]) -> str:
        """The answer behind a call."""
        messages: list[Any] = [user(text)]
        tools = [{"type": "function", "function": TOOL}]
        first = await self.ask(messages=messages, tools=tools)
        messages.append(first.choices[0].message.model_dump())
        for call in first.choices[0].message.tool_calls:
            result = weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        return str((await self.ask(messages=messages, tools=tools)).choices[0].message.content)

    async def structured(self, text: str) -> Person:
        """By a type as the format."""
        found = await self.ask(messages=[user(text)], response_format=Person)
        return Person.model_validate_json(found.choices[0].message.content)

    async def leave(self, text: str) -> str:
        """The first piece."""
        stream = await self.ask(messages=[user(text)], stream=True)
        try:
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    return str(chunk.choices[0].delta.content)
        finally:
            await stream.aclose()
        raise AssertionError("it ended")


class LangChain(Subject):
    """LangChain's chat model for OpenAI's API."""

    package = "langchain_openai"
    loops = ("asyncio",)

    def model(self, model: str = MODEL) -> Any:
        """A chat model."""
        return self.module.ChatOpenAI(
            model=model,
            base_url=f"{self.place.url}/v1",
            api_key=KEY,
            http_async_client=self.http,
            max_retries=0,
            stream_usage=True,
        )

    async def chat(self, text: str, model: str = MODEL) -> Said:
        """The whole answer."""
        found = await self.model(model).ainvoke(text)
        return Said(found.content, found.usage_metadata["input_tokens"], found.usage_metadata["output_tokens"])

    async def stream(self, text: str) -> Said:
        """Chunks of messages, which are added up."""
        whole, pieces = None, 0
        async for chunk in self.model().astream(text):
            whole = chunk if whole is None else whole + chunk
            pieces += bool(chunk.content)
        assert whole is not None
        usage = whole.usage_metadata
        return Said(whole.content, usage["input_tokens"], usage["output_tokens"], pieces)

    async def tools(self, text: str, weather: Callable[..., str]) -> str:
        """The answer behind a call."""
        bound = self.model().bind_tools([{"type": "function", "function": TOOL}])
        messages: list[Any] = [user(text)]
        messages.append(await bound.ainvoke(messages))
        messages += [
            {"role": "tool", "tool_call_id": call["id"], "content": weather(**call["args"])}
            for call in messages[-1].tool_calls
        ]
        return str((await bound.ainvoke(messages)).content)

    async def structured(self, text: str) -> Person:
        """By a strict schema."""
        found = await self.model().with_structured_output(Person, method="json_schema").ainvoke(text)
        person: Person = found
        return person

    async def leave(self, text: str) -> str:
        """The first piece."""
        async with aclosing(self.model().astream(text)) as chunks:
            async for chunk in chunks:
                if chunk.content:
                    return str(chunk.content)
        raise AssertionError("it ended")


class PydanticAI(Subject):
    """pydantic-ai's agents."""

    package = "pydantic_ai"
    loops = ("asyncio",)

    def agent(self, model: str = MODEL, **options: Any) -> Any:
        """An agent."""
        models, providers = load("pydantic_ai.models.openai"), load("pydantic_ai.providers.openai")
        client = load("openai").AsyncOpenAI(
            base_url=f"{self.place.url}/v1", api_key=KEY, http_client=self.http, max_retries=0
        )
        provider = providers.OpenAIProvider(openai_client=client)
        return self.module.Agent(models.OpenAIChatModel(model, provider=provider), **options)

    def said(self, result: Any, text: str, pieces: int = 1) -> Said:
        """A result's text and usage."""
        return Said(text, result.usage.input_tokens, result.usage.output_tokens, pieces)

    async def chat(self, text: str, model: str = MODEL) -> Said:
        """The whole answer."""
        result = await self.agent(model).run(text)
        return self.said(result, result.output)

    async def stream(self, text: str) -> Said:
        """The answer, read piece by piece."""
        async with self.agent().run_stream(text) as result:
            pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
            return self.said(result, "".join(pieces), len(pieces))

    async def tools(self, text: str, weather: Callable[..., str]) -> str:
        """The agent calls the tool by itself."""
        agent = self.agent()
        agent.tool_plain(weather)
        return str((await agent.run(text)).output)

    async def structured(self, text: str) -> Person:
        """By a strict schema."""
        result = await self.agent(output_type=self.module.NativeOutput(Person)).run(text)
        person: Person = result.output
        return person

    async def leave(self, text: str) -> str:
        """The first piece."""
        async with (
            self.agent().run_stream(text) as result,
            aclosing(result.stream_text(delta=True, debounce_by=None)) as pieces,
        ):
            async for piece in pieces:
                return str(piece)
        raise AssertionError("it ended")


class Instructor(Subject):
    """instructor, whose answers are objects."""

    package = "instructor"
    loops = ("asyncio",)

    def client(self, mode: str) -> Any:
        """A client that gets its objects in that way."""
        openai = load("openai").AsyncOpenAI(
            base_url=f"{self.place.url}/v1", api_key=KEY, http_client=self.http, max_retries=0
        )
        return self.module.from_openai(openai, mode=getattr(self.module.Mode, mode))

    async def chat(self, text: str, model: str = MODEL) -> Said:
        """Without a type: openai's answer as it is."""
        found = await self.client("TOOLS").create(model=model, messages=[user(text)], response_model=None)
        return Said(found.choices[0].message.content, found.usage.prompt_tokens, found.usage.completion_tokens)

    async def stream(self, text: str) -> Said:
        """An object that grows; its text is the last one's, and it says nothing of what it cost."""
        made = self.client("JSON_SCHEMA").create_partial(model=MODEL, messages=[user(text)], response_model=Person)
        people = [person async for person in made]
        return Said(people[-1].model_dump_json(), 0, 0, len(people))

    async def tools(self, text: str, weather: Callable[..., str]) -> str:
        """A call that is forced becomes an object; the answer is another question's."""

        class Weather(BaseModel):
            """The weather of a city."""

            city: str

        Weather.__name__ = "weather"
        found = await self.client("TOOLS").create(model=MODEL, messages=[user(text)], response_model=Weather)
        said = await self.chat(f"It is so: {weather(found.city)}")
        return said.text

    async def structured(self, text: str) -> Person:
        """By a strict schema."""
        found = await self.client("JSON_SCHEMA").create(model=MODEL, messages=[user(text)], response_model=Person)
        return Person.model_validate(found.model_dump())  # of a class that it made of ours

    async def leave(self, text: str) -> str:
        """Openai's stream, which it hands on."""
        client = self.client("TOOLS")
        stream = await client.create(model=MODEL, messages=[user(text)], response_model=None, stream=True)
        async with stream:
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    return str(chunk.choices[0].delta.content)
        raise AssertionError("it ended")


SUBJECTS: dict[str, type[Subject]] = {
    "openai": OpenAI,
    "openai responses": OpenAIResponses,
    "anthropic": Anthropic,
    "litellm": LiteLLM,
    "langchain": LangChain,
    "pydantic-ai": PydanticAI,
    "instructor": Instructor,
}
