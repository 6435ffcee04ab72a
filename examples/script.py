"""A plain script: text as it is written, an object of a type, a conversation.

python script.py "Tell me a story about a fox."
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from greenroom import Chunk, blocking


@dataclass
class Person:
    """What is to be found in a text."""

    name: str
    age: int


def main(prompt: str) -> None:
    """Ctrl-C ends it, and what runs for it."""
    with blocking.Runtime() as rt:
        with rt.generate(prompt, max_tokens=60) as stream:
            for event in stream:
                if isinstance(event, Chunk):
                    print(event.text, end="", flush=True)
        print()
        with blocking.fail_after(60):
            print(rt.collect(Person, "Alma is 34 years old.", max_tokens=60))
        session = blocking.ChatSession(rt, instructions="Be brief.")
        print(session.respond("Hello!", max_tokens=20))


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "Tell me a story about a fox.")
