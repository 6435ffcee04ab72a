"""LangChain on a model of this process.

Needs `greenroom[serve]` and `langchain-openai`.
"""

from __future__ import annotations

import anyio
import httpx2
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

import greenroom
from greenroom.serve import app
from greenroom.serve.transports import Httpx2Transport


class Person(BaseModel):
    """What the last question is answered with."""

    name: str
    age: int


async def main() -> None:
    """A chat model: a stream of messages, and an object."""
    async with (
        greenroom.Runtime() as runtime,
        httpx2.AsyncClient(transport=Httpx2Transport(app(runtime))) as http,
    ):
        model = ChatOpenAI(model="understudy", base_url="http://localhost/v1", api_key="none", http_async_client=http)
        async for chunk in model.astream("Hello! Who are you?"):
            print(chunk.content, end="", flush=True)
        structured = model.with_structured_output(Person, method="json_schema")
        print("\n", await structured.ainvoke("Make a JSON record of this person: name, age. Ada is 36."))


if __name__ == "__main__":
    anyio.run(main)  # LangChain knows asyncio alone
