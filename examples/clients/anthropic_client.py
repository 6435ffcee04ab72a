"""anthropic's client on a model of this process.

Needs `greenroom[serve]` and `anthropic`.
"""

from __future__ import annotations

import anyio
import httpx2
from anthropic import AsyncAnthropic

import greenroom
from greenroom.serve import app
from greenroom.serve.transports import Httpx2Transport


async def main() -> None:
    """A message, as a stream."""
    async with greenroom.Runtime() as runtime:
        http = httpx2.AsyncClient(transport=Httpx2Transport(app(runtime)))
        async with (
            AsyncAnthropic(http_client=http, base_url="http://localhost", api_key="none") as client,
            client.messages.stream(
                model="understudy",
                max_tokens=100,
                system="Be brief.",
                messages=[{"role": "user", "content": "Hello! Who are you?"}],
            ) as stream,
        ):
            async for text in stream.text_stream:
                print(text, end="", flush=True)
            message = await stream.get_final_message()
            print("\n", message.stop_reason, message.usage.output_tokens)


if __name__ == "__main__":
    anyio.run(main)
