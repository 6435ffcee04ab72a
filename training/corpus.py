"""The training text: dialogues drawn from the skills, rendered as ChatML with the spans to learn marked.

The corpus is a sequence of pools, each a function of (seed, number) alone, so training can resume at any pool and the
evaluation can walk over everything the model has seen. Early pools are mostly repetition: copying is learnt first.
`python training/corpus.py` prints a sample.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Final

import records
import smalltalk
import stories
import tools
from dialogue import Dialogue, Message

__all__ = ["POOL_SIZE", "Span", "dialogues", "generation_prompt", "pool", "prompt", "render", "spans", "think"]

POOL_SIZE: Final = 512
Span = tuple[str, bool]
"""A piece of text and whether the model learns to write it."""

_KINDS: Final = ("repeat", "tool", "record", "no_fit", "result", "story", "talk")
_FIRST: Final = (0.5, 0.25, 0.25, 0.0, 0.0, 0.0, 0.0)
_MIXTURES: Final = {
    0: (0.04, 0.33, 0.33, 0.06, 0.06, 0.09, 0.09),
    36: (0.02, 0.42, 0.38, 0.05, 0.03, 0.05, 0.05),
    80: (0.01, 0.40, 0.32, 0.14, 0.03, 0.05, 0.05),
    118: (0.01, 0.40, 0.34, 0.16, 0.02, 0.04, 0.03),
    178: (0.01, 0.41, 0.36, 0.13, 0.02, 0.04, 0.03),
}
"""Shares of the kinds from a pool on. Late in training the skills that must be exact get the most: a story has five
times their tokens."""
_STAGES: Final = (28, 80, 118, 178)
"""From the first of these pools on requests are worded more freely and tools may stand beside a request that needs
none; from the second on every other person has two names, from the third on none; from the fourth on some phrasings are
babble around the values."""
_CURRICULUM_POOLS: Final = 10
_THINKING_SHARE: Final = 0.12
_THOUGHTS: Final = {
    "no_fit": "I look at the tools. None of them fits, so I say so.",
    "result": "The tool has answered. I report the result.",
    "story": "The user wants a story. I tell one.",
    "repeat": "The user wants me to repeat the text.",
    "talk": "The user talks to me. I answer briefly.",
}
_PLAIN: Final = {"repeat": smalltalk.repetition, "story": stories.dialogue, "talk": smalltalk.dialogue}
_WORDED: Final = {"tool": tools.dialogue, "record": records.dialogue, "no_fit": tools.no_fit, "result": tools.result}
_BYSTANDERS: Final = 0.25


def pool(seed: int, number: int) -> list[Dialogue]:
    """The dialogues of pool `number`."""
    rng = Random(f"{seed}:{number}")  # noqa: S311
    share = min(1.0, number / _CURRICULUM_POOLS)
    later = _MIXTURES[max(start for start in _MIXTURES if start <= number)]
    weights = [(1 - share) * first + share * last for first, last in zip(_FIRST, later, strict=True)]
    stage = sum(number >= start for start in _STAGES)
    kinds = rng.choices(_KINDS, weights, k=POOL_SIZE)
    return [_with_thought(rng, _draw(rng, kind, stage)) for kind in kinds]


def dialogues(seed: int, pools: int) -> Iterator[Dialogue]:
    """Everything in the first `pools` pools."""
    for number in range(pools):
        yield from pool(seed, number)


def render(dialogue: Dialogue) -> str:
    """The whole document as the chat template writes it."""
    return "".join(text for text, _ in spans(dialogue))


def prompt(dialogue: Dialogue) -> str:
    """The document up to the answer, generation prompt included."""
    return "".join(text for text, _ in spans(dialogue)[:-1])


def generation_prompt(*, thinking: bool) -> str:
    """What the chat template appends for the model to continue."""
    return "<|im_start|>assistant\n" + ("<think>\n" if thinking else "")


def spans(dialogue: Dialogue) -> list[Span]:
    """The document in pieces; the last piece is the final answer with its end mark."""
    parts: list[Span] = []
    messages = list(dialogue.messages)
    system = str(messages.pop(0)["content"]) if messages[0]["role"] == "system" else ""
    if dialogue.tools:
        listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in dialogue.tools)
        system += ("\n\n" if system else "") + f"<tools>\n{listed}\n</tools>"
    if system:
        parts.append((f"<|im_start|>system\n{system}<|im_end|>\n", False))
    for message in messages[:-1]:
        parts += _turn(message)
    answer = dialogue.answer
    if dialogue.thinking:
        answer = f"{_thought(dialogue)}\n</think>\n\n{answer}"
    parts += [(generation_prompt(thinking=dialogue.thinking), False), (answer + "<|im_end|>", True)]
    return parts


def think(dialogue: Dialogue) -> Dialogue:
    """The same dialogue with a thought before its answer."""
    return replace(dialogue, thinking=True)


def _turn(message: Message) -> list[Span]:
    content = str(message["content"])
    if message["role"] == "assistant":
        return [(generation_prompt(thinking=False), False), (content + "<|im_end|>", True), ("\n", False)]
    if message["role"] == "tool":
        content = f"<tool_response>\n{content}\n</tool_response>"
    return [(f"<|im_start|>user\n{content}<|im_end|>\n", False)]


def _draw(rng: Random, kind: str, stage: int) -> Dialogue:
    if kind in _WORDED:
        return _WORDED[kind](rng, stage=stage)
    dialogue = _PLAIN[kind](rng)
    if stage and kind != "repeat" and rng.random() < _BYSTANDERS:
        return replace(dialogue, tools=tools.offer(rng))
    return dialogue


def _with_thought(rng: Random, dialogue: Dialogue) -> Dialogue:
    return replace(dialogue, thinking=rng.random() < _THINKING_SHARE)


def _thought(dialogue: Dialogue) -> str:
    """One or two short sentences that fit the skill."""
    if dialogue.kind == "tool":
        return f"The tool {dialogue.facts['name']} fits. I call it."
    if dialogue.kind == "record":
        return f"The user wants a JSON record. The keys are {', '.join(dialogue.facts['keys'])}."
    return _THOUGHTS[dialogue.kind]


def main() -> None:
    """Print dialogues of one pool."""
    parser = argparse.ArgumentParser(description="Print a sample of the training corpus.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pool", type=int, default=_CURRICULUM_POOLS)
    parser.add_argument("--n", type=int, default=20, help="how many dialogues")
    arguments = parser.parse_args()
    for dialogue in pool(arguments.seed, arguments.pool)[: arguments.n]:
        sys.stdout.write(render(dialogue) + "\n\n")


if __name__ == "__main__":
    main()
