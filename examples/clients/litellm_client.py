"""LiteLLM on a model of this process, by openai's client.

Needs `greenroom[serve]` and `litellm`.
"""

from __future__ import annotations

import anyio
import httpx2
from litellm import acompletion
from openai import AsyncOpenAI

import greenroom
from greenroom.serve import app
from greenroom.serve.transports import Httpx2Transport


async def main() -> None:
    """A completion, as a stream."""
    async with greenroom.Runtime() as runtime:
        http = httpx2.AsyncClient(transport=Httpx2Transport(app(runtime)))
        async with AsyncOpenAI(http_client=http, base_url="http://localhost/v1", api_key="none") as client:
            stream = await acompletion(
                model="openai/understudy",
                messages=[{"role": "user", "content": "Hello! Who are you?"}],
                client=client,
                stream=True,
            )
            async for chunk in stream:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
            print()


if __name__ == "__main__":
    anyio.run(main)  # LiteLLM knows asyncio alone
