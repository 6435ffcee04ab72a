"""An agent of pydantic-ai on a model of this process.

Needs `greenroom[serve]` and `pydantic-ai-slim[openai]`.
"""

from __future__ import annotations

import anyio
import httpx2
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import greenroom
from greenroom.serve import app
from greenroom.serve.transports import Httpx2Transport


class Person(BaseModel):
    """What the agent answers with."""

    name: str
    age: int


async def main() -> None:
    """Text as a stream, and an object that the schema holds the model to."""
    async with greenroom.Runtime() as runtime:
        http = httpx2.AsyncClient(transport=Httpx2Transport(app(runtime)))
        async with AsyncOpenAI(http_client=http, base_url="http://localhost/v1", api_key="none") as client:
            model = OpenAIChatModel("understudy", provider=OpenAIProvider(openai_client=client))
            async with Agent(model).run_stream("Hello! Who are you?") as result:
                async for text in result.stream_text(delta=True):
                    print(text, end="", flush=True)
            agent = Agent(model, output_type=NativeOutput(Person))
            print("\n", (await agent.run("Make a JSON record of this person: name, age. Ada is 36.")).output)


if __name__ == "__main__":
    anyio.run(main)
