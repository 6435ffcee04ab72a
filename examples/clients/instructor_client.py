"""instructor on a model of this process: an object that grows while the model writes it.

Needs `greenroom[serve]` and `instructor`.
"""

from __future__ import annotations

import anyio
import httpx2
import instructor
from openai import AsyncOpenAI
from pydantic import BaseModel

import greenroom
from greenroom.serve import app
from greenroom.serve.transports import Httpx2Transport


class Person(BaseModel):
    """What the question is answered with."""

    name: str
    age: int


async def main() -> None:
    """By a strict schema, so there is nothing to repair or to ask again for."""
    async with greenroom.Runtime() as runtime:
        http = httpx2.AsyncClient(transport=Httpx2Transport(app(runtime)))
        async with AsyncOpenAI(http_client=http, base_url="http://localhost/v1", api_key="none") as openai:
            client = instructor.from_openai(openai, mode=instructor.Mode.JSON_SCHEMA)
            question = {"role": "user", "content": "Make a JSON record of this person: name, age. Ada is 36."}
            async for person in client.create_partial(model="understudy", messages=[question], response_model=Person):
                print(person)


if __name__ == "__main__":
    anyio.run(main)  # instructor knows asyncio alone
