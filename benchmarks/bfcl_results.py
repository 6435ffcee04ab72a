"""Raw outputs of real models through the readers: nothing raises, nothing is lost, no cut changes anything.

    python benchmarks/bfcl_results.py CLONE [--sample 200]

`CLONE` is a clone of github.com/HuanzhiMao/BFCL-Result: what models answered to the function-calling leaderboard of
2024, of which the newest results are taken. Looked at are the models that answered with text: Hermes, in its own
format, and those that were asked to write `[f(a=1), g(b=2)]`. Which tools a question had is known from the models that
answered with calls. Prints what is wrong and the counts, and with `--sample` so many outputs, drawn evenly from the
models, with what was read, to be judged by hand.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from greenroom import ChatParser, RejectedToolCall, Scripted, ToolCall
from greenroom.parsing import formats
from greenroom.parsing.message_reader import MessageReader

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # where losses are accounted for
from accounting import unaccounted
from callcorpus import merged, shape

__all__ = ["Output", "outputs", "read"]

_DECODED = re.compile(r"-FC\b|-fc$|Nexusflow|xLAM|glm-4|granite-20b|gorilla")
"""Models whose results are calls that an API read, or texts in formats that no model of mlx-lm writes."""
_NAMES = re.compile(r"""[A-Za-z_][\w.]*(?=\()|(?<="name": ")[\w.\-]+|(?<='name': ')[\w.\-]+""")
_NAME = re.compile(r"[\w.\-]{1,64}", re.ASCII)
_CUTS = 3
MODEL = Scripted().load()


class Output(NamedTuple):
    """What a model answered to one question, and the names of the question's tools that it may mean."""

    model: str
    format: str
    place: str
    text: str
    names: tuple[str, ...]


def outputs(clone: Path) -> Iterator[Output]:
    """Every text once."""
    results = list(_results(clone))
    named: dict[str, set[str]] = defaultdict(set)
    for _, place, result in results:
        if isinstance(result, list):
            named[place] |= {
                name for call in result if isinstance(call, dict) for name in call if _NAME.fullmatch(name)
            }
    seen = set()
    for model, place, result in results:
        if not isinstance(result, str) or _DECODED.search(model) or (model, result) in seen:
            continue
        seen.add((model, result))
        form = formats.find("json_tools" if "Hermes" in model else "llama4_pythonic")
        known = named[place]
        names = known | {name for name in _NAMES.findall(result) if name.replace(".", "_") in known}
        takes = form.name_rule.takes if form.name_rule is not None else bool
        yield Output(model, form.name, place, result, tuple(sorted(filter(takes, names))))


def _results(clone: Path) -> Iterator[tuple[str, str, Any]]:
    """The model, the question's place, and the result."""
    for path, content in _files(clone):
        for number, line in enumerate(content.splitlines()):
            try:
                result = json.loads(line)["result"]
            except (ValueError, KeyError, TypeError):
                continue
            yield Path(path).parts[-2], f"{Path(path).name}:{number}", result


def _files(clone: Path) -> Iterator[tuple[str, str]]:
    """The text of each file of the newest results: of the work tree, or of a clone that has none."""
    found = sorted(clone.glob("*/result/*/*_result.json"))
    newest = max((path.parts[-4] for path in found), default="")
    for path in (path for path in found if path.parts[-4] == newest):
        yield str(path.relative_to(clone)), path.read_text(errors="replace")
    git = ["git", "-C", str(clone)]
    listed = "" if found else _said([*git, "ls-tree", "-r", "HEAD"])
    blobs = re.findall(r"blob (\w+)\t(([^/\n]+)/result/[^/\n]+/[^/\n]+_result\.json)$", listed, re.MULTILINE)
    newest = max((date for _, _, date in blobs), default="")
    for name, there, _ in (blob for blob in blobs if blob[2] == newest):
        yield there, _said([*git, "cat-file", "blob", name])  # nothing where the clone lacks the file


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - git over the caller's folder
    return done.stdout.decode(errors="replace")


def reader_of(output: Output) -> MessageReader:
    """One that nothing was fed; the tools take any arguments."""
    tools = [
        {"type": "function", "function": {"name": name, "description": "", "parameters": {"type": "object"}}}
        for name in output.names
    ]
    return ChatParser(MODEL, tools=tools, tool_format=output.format, salt="")._reader  # noqa: SLF001 - texts, no ids


def read(reader: MessageReader, text: str, cuts: list[int]) -> list[Any]:
    """The events of a text, fed in pieces."""
    events = []
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        events += reader.feed(text[begin:end])
    return merged([*events, *reader.finish("stop")])


def _check(output: Output, dice: random.Random) -> tuple[list[Any], str]:
    """What is read, and what is wrong with that: an exception, something lost, or a cut that changes it."""
    try:
        reader = reader_of(output)
        events = read(reader.fork(), output.text, [])
        problem = unaccounted(output.text, events, formats.find(output.format), ("<think>", "</think>"))
        places = sorted(dice.sample(range(len(output.text)), min(_CUTS, len(output.text))))
        if read(reader, output.text, places) != events:
            problem = problem or f"cut at {places} it is read otherwise"
    except Exception as error:  # noqa: BLE001 - that none comes is what is looked for
        return [], f"{type(error).__name__}: {error}"
    return events, problem


def _main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    arguments.add_argument("clone", type=Path)
    arguments.add_argument("--sample", type=int, default=0, help="outputs to print with what is read, for judging")
    arguments.add_argument("--each", type=int, default=0, help="at most so many outputs of each model; 0 is all")
    given = arguments.parse_args()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    by_model: dict[str, list[tuple[Output, list[Any]]]] = defaultdict(list)
    for output in outputs(given.clone):
        if given.each and len(by_model[output.model]) == given.each:
            continue
        events, problem = _check(output, random.Random(zlib.crc32(output.text.encode())))  # noqa: S311
        count = counts[output.format]
        count["outputs"] += 1
        count["calls"] += sum(isinstance(event, ToolCall) for event in events)
        count["rejections"] += sum(isinstance(event, RejectedToolCall) for event in events)
        count["text alone"] += not any(isinstance(event, ToolCall | RejectedToolCall) for event in events)
        count.update(f"  {event.reason}" for event in events if isinstance(event, RejectedToolCall))
        if problem:
            count["wrong"] += 1
            print(json.dumps({"wrong": problem, **output._asdict()}))
        by_model[output.model].append((output, events))
    for name, count in counts.items():
        models = sum(each[0][0].format == name for each in by_model.values())
        print(f"{name}: {models} models, {dict(count)}")
    dice = random.Random(1)  # noqa: S311
    for number in range(given.sample):
        model = sorted(by_model)[number % len(by_model)]
        output, events = dice.choice(by_model[model])
        print(json.dumps({**output._asdict(), "read": shape(events)}, ensure_ascii=False))


if __name__ == "__main__":
    _main()
