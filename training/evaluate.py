"""Measure the understudy on held-out requests: `python training/evaluate.py`.

Names, cities and schemas are ones that the corpus never contains, in every second item the phrasing too; `overlap`
walks over the whole corpus and says so. Answers come from mlx-lm's own batched generation in float32, greedy but for
stories, without a constraint.
"""

import argparse
import contextlib
import ctypes
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

# On Linux mlx links a slow reference BLAS; loading OpenBLAS first takes its place. On macOS there is none to load.
with contextlib.suppress(OSError):
    ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)

import corpus
import mlx.core as mx
import mlx_lm
import names
import records
import stories
import tools
from dialogue import Dialogue
from mlx_lm.generate import BatchGenerator
from mlx_lm.sample_utils import make_sampler
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from greenroom.backends import understudy

__all__ = ["SKILLS", "Answer", "Model", "evaluate", "is_right", "items", "load", "main", "overlap"]

SKILLS: Final = ("tool", "tool, thinking", "record", "story", "no tool fits")
CORPUS_POOLS: Final = 230
_BATCH: Final = 32
_MAX_TOKENS: Final = 500
_STORY_TEMPERATURE: Final = 0.7
_MIN_SENTENCES: Final = 3
_CALL: Final = re.compile(r"<tool_call>\n?(.*?)\n?</tool_call>", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """What the model wrote, without the end mark, and whether it ended by itself."""

    text: str
    finished: bool


@dataclass(frozen=True)
class Model:
    """The network in float32 and its tokenizer."""

    network: Any
    tokenizer: Any

    def answer(self, dialogues: Sequence[Dialogue], *, temperature: float = 0.0) -> Iterator[tuple[int, Answer]]:
        """The index of each dialogue with the model's own last turn, in the order in which they end."""
        prompts = [self.tokenizer.encode(corpus.prompt(item), add_special_tokens=False) for item in dialogues]
        stops = [[token] for token in self.tokenizer.eos_token_ids]
        sampler = make_sampler(temp=temperature)
        generator = BatchGenerator(self.network, stop_tokens=stops, sampler=sampler, completion_batch_size=_BATCH)
        index = {uid: position for position, uid in enumerate(generator.insert(prompts, [_MAX_TOKENS] * len(prompts)))}
        written: dict[int, list[int]] = {uid: [] for uid in index}
        while responses := generator.next_generated():
            for response in responses:
                if response.finish_reason != "stop":
                    written[response.uid].append(response.token)
                if response.finish_reason is not None:
                    text = self.tokenizer.decode(written[response.uid])
                    yield index[response.uid], Answer(text, response.finish_reason == "stop")
        generator.close()


def load(folder: Path | None = None) -> Model:
    """The model in `folder`, or the bundled one, computed in float32."""
    network, tokenizer = mlx_lm.load(str(folder or understudy.path()))[:2]
    network.set_dtype(mx.float32)
    return Model(network, tokenizer)


def items(skill: str, n: int, seed: int) -> list[Dialogue]:
    """`n` dialogues of a skill that the corpus cannot contain; their last turn is the expected answer."""
    rng = Random(f"evaluate {skill} {seed}")  # noqa: S311
    draws: dict[str, Callable[[], Dialogue]] = {
        "tool": lambda: tools.dialogue(rng, held_out=True),
        "tool, thinking": lambda: corpus.think(tools.dialogue(rng, held_out=True)),
        "record": lambda: records.dialogue(rng, held_out=True),
        "story": lambda: stories.dialogue(rng, held_out=True),
        "no tool fits": lambda: tools.no_fit(rng),
    }
    return [draws[skill]() for _ in range(n)]


def is_right(item: Dialogue, answer: Answer) -> bool:
    """Whether the answer is what the item asks for; a story must have several sentences and an end."""
    if not answer.finished:
        return False
    text = answer.text.split("</think>")[-1].strip()
    match item.kind:
        case "tool":
            found = _CALL.findall(text)
            return len(found) == 1 and _same(found[0], {key: item.facts[key] for key in ("name", "arguments")})
        case "record":
            return _same(text, item.facts["record"])
        case "story":
            return len(re.findall(r"[.!?]", text)) >= _MIN_SENTENCES
        case _:
            return bool(text) and "<tool_call>" not in text


def evaluate(
    model: Model, skill: str, n: int, seed: int, progress: Progress | None = None
) -> tuple[list[Dialogue], list[Answer]]:
    """Items of a skill and the model's answers to them, in order."""
    mx.random.seed(seed)
    asked = items(skill, n, seed)
    answers: dict[int, Answer] = {}
    task = progress.add_task(skill, total=n) if progress else None
    for index, answer in model.answer(asked, temperature=_STORY_TEMPERATURE if skill == "story" else 0.0):
        answers[index] = answer
        if progress and task is not None:
            progress.advance(task)
    return asked, [answers[index] for index in range(n)]


def overlap(asked: Sequence[Dialogue], seed: int = 0, pools: int = CORPUS_POOLS) -> set[str]:
    """Held-out names, cities, schemas and phrasings of `asked` that the corpus contains after all."""
    words: set[str] = set()
    schemas: set[frozenset[str]] = set()
    found: set[str] = set()
    templates = {text: _literals(text) for text in (*tools.held_out_phrasings(), *records.held_out_phrasings())}
    for item in corpus.dialogues(seed, pools):
        for message in item.messages:
            words.update(re.findall(r"\w+", message["content"]))
        if item.kind == "record":
            schemas.add(frozenset(item.facts["keys"]))
        if item.kind in {"record", "tool"}:
            request = item.messages[0]["content"]
            found.update(text for text, literals in templates.items() if all(part in request for part in literals))
    for item in asked:
        held_out = {word for word in re.findall(r"\w+", json.dumps(item.facts, ensure_ascii=False)) if _is_name(word)}
        found |= held_out & words
        if item.kind == "record" and frozenset(item.facts["keys"]) in schemas:
            found.add(", ".join(item.facts["keys"]))
    return found


def corpus_stories(seed: int = 0, pools: int = CORPUS_POOLS) -> set[str]:
    """Every story that the model was trained on."""
    return {item.answer for item in corpus.dialogues(seed, pools) if item.kind == "story"}


def _is_name(word: str) -> bool:
    ordinary = tools.ORDINARY | records.ORDINARY
    return word[0].isupper() and names.is_held_out(word) and word not in ordinary


def _literals(template: str) -> list[str]:
    return [part for part in re.split(r"\{\w+\}", template) if part.strip(" .,:?")]


def _same(text: str, expected: object) -> bool:
    """Equal as JSON; comparing the encodings keeps `1` and `true` apart."""
    try:
        return json.dumps(json.loads(text), sort_keys=True) == json.dumps(expected, sort_keys=True)
    except json.JSONDecodeError:
        return False


def _share(right: Sequence[bool]) -> str:
    return f"{100 * sum(right) / len(right):.1f} %" if right else "-"


def _row(skill: str, item: Dialogue, answer: Answer, right: bool) -> dict[str, Any]:
    asked = {"prompt": corpus.prompt(item), "expected": item.answer}
    return {"skill": skill, "right": right, **asked, "answer": answer.text, "finished": answer.finished}


def main() -> None:
    """Evaluate every skill and print a table."""
    parser = argparse.ArgumentParser(description="Measure the understudy on held-out requests.")
    parser.add_argument("--model", type=Path, help="an mlx-lm folder; without it the bundled one")
    parser.add_argument("--n", type=int, default=300, help="items of each skill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--skill", choices=SKILLS, action="append", help="only this skill; may be repeated")
    parser.add_argument("--output", type=Path, help="write items and answers as JSON lines")
    parser.add_argument("--skip-overlap", action="store_true", help="do not walk over the corpus")
    arguments = parser.parse_args()
    model, console = load(arguments.model), Console()
    table = Table("skill", "right", "of", "share", "in a phrasing unseen in training")
    rows: list[dict[str, Any]] = []
    asked: list[Dialogue] = []
    with Progress(console=console) as progress:
        for skill in arguments.skill or SKILLS:
            part, answers = evaluate(model, skill, arguments.n, arguments.seed, progress)
            right = [is_right(item, answer) for item, answer in zip(part, answers, strict=True)]
            new = [ok for item, ok in zip(part, right, strict=True) if item.facts.get("unseen")]
            table.add_row(skill, str(sum(right)), str(len(right)), _share(right), f"{_share(new)} of {len(new)}")
            asked += part
            rows += [_row(skill, *row) for row in zip(part, answers, right, strict=True)]
    console.print(table)
    told = [row["answer"] for row in rows if row["skill"] == "story"]
    if told:
        least = min(len(set(told[start : start + 20])) for start in range(0, len(told), 20))
        console.print(f"distinct stories: {len(set(told))} of {len(told)}; fewest in a group of 20: {least}")
    if not arguments.skip_overlap:
        console.print(f"stories that are in the corpus: {len(set(told) & corpus_stories())}")
        console.print(f"held-out names, schemas and phrasings found in the corpus: {sorted(overlap(asked)) or 'none'}")
    if arguments.output:
        arguments.output.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    main()
