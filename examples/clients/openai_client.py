"""openai's client on a model of this process: no port, no second process.

Needs `greenroom[serve]` and `openai`.
"""

from __future__ import annotations

import anyio
import httpx2
from openai import AsyncOpenAI
from pydantic import BaseModel

import greenroom
from greenroom.serve import app
from greenroom.serve.transports import Httpx2Transport


class Person(BaseModel):
    """What the last question is answered with."""

    name: str
    age: int


async def main() -> None:
    """Chat completions as a stream, responses, and an object by `parse`."""
    async with greenroom.Runtime() as runtime:
        http = httpx2.AsyncClient(transport=Httpx2Transport(app(runtime)))
        async with AsyncOpenAI(http_client=http, base_url="http://localhost/v1", api_key="none") as client:
            (model,) = (await client.models.list()).data
            stream = await client.chat.completions.create(
                model=model.id, messages=[{"role": "user", "content": "Hello! Who are you?"}], stream=True
            )
            async for chunk in stream:
                print(chunk.choices[0].delta.content or "", end="", flush=True)

            response = await client.responses.create(model=model.id, input="Hello!")
            print("\n", response.output_text, response.usage and response.usage.output_tokens)

            parsed = await client.chat.completions.parse(
                model=model.id,
                messages=[{"role": "user", "content": "Make a JSON record of this person: name, age. Ada is 36."}],
                response_format=Person,
            )
            print(parsed.choices[0].message.parsed)


if __name__ == "__main__":
    anyio.run(main)
