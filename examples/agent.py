"""An agent with three tools: it asks the model until there is nothing left to call.

python agent.py "What is the weather in Tarnok?"
"""

from __future__ import annotations

import datetime as dt
import sys
from typing import Literal

import anyio
import anyio.lowlevel

import greenroom
from greenroom import ChatSession, Chunk, Info, Reasoning, RejectedToolCall, ToolCall, ToolResult

REMINDERS: list[str] = []


async def get_weather(city: str) -> dict[str, object]:
    """Get the current weather for a city.

    Args:
        city: where
    """
    await anyio.lowlevel.checkpoint()  # a real one would ask a service
    return {"city": city, "sky": "clear", "temperature": 21}


def get_time(city: str) -> str:
    """Get the current time in a city."""
    del city
    return dt.datetime.now(tz=dt.UTC).strftime("%H:%M")


def remind(text: str, day: Literal["today", "tomorrow"] = "today") -> str:
    """Set a reminder."""
    REMINDERS.append(f"{day}: {text}")
    return "done"


async def ask(session: ChatSession, question: str) -> Info:
    """One question, with everything that happens on the way; the sum of all rounds."""
    async with session.stream_events(question, max_tokens=200, temperature=0.0) as turn:
        async for event in turn:
            match event:
                case Chunk(text=text):
                    print(text, end="", flush=True)
                case Reasoning(text=text):
                    print(f"\033[2m{text}\033[0m", end="", flush=True)
                case ToolCall(function=call):
                    print(f"→ {call.name}({call.arguments})")
                case Info() as info:
                    print(f"\n[{info.rounds} rounds, {info.cached_prompt_tokens} prompt tokens reused]")
                case ToolResult(name=name, result=result, error=error):
                    print(f"← {name}: {result or error}")
                case RejectedToolCall(reason=reason, detail=detail):
                    print(f"\n✗ {reason}: {detail}")
    return info


async def main(*questions: str) -> ChatSession:
    """The questions, in one conversation."""
    async with greenroom.Runtime() as runtime:
        session = ChatSession(runtime, tools=[get_weather, get_time, remind], max_rounds=4)
        for question in questions:
            await ask(session, question)
    return session


if __name__ == "__main__":
    anyio.run(main, *(sys.argv[1:] or ["What is the weather in Tarnok?"]))
