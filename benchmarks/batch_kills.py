"""`greenroom batch` killed at random moments: whether every line is answered once, in order, as by an undisturbed run.

The bundled model answers `--lines` requests at a temperature, half of them under a schema. A run that nobody disturbs
says what is wanted, and how long it takes; then runs over the same output are killed (SIGKILL) at random moments of
that time, `--kills` of them, each after the one before, and the last one goes on to the end. Run it:

    python benchmarks/batch_kills.py --kills 20 --seed 1
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

EARLY = 0.0005
"""How often, of each hundredth of a second, a run is killed before it has answered anything."""
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "person",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
            "required": ["name", "age"],
            "additionalProperties": False,
        },
    },
}


def request(number: int) -> dict[str, Any]:
    """One line."""
    has_schema = number % 2 == 1
    text = f"Make a JSON record of this person: name, age. Anna is {number}." if has_schema else f"Who is owl {number}?"
    body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "max_tokens": 60, "temperature": 0.8}
    if has_schema:
        body["response_format"] = SCHEMA
    return {"custom_id": f"line {number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def start(source: Path, target: Path) -> subprocess.Popen[bytes]:
    """A run of its own."""
    command = [sys.executable, "-m", "greenroom", "batch", str(source), str(target), "--json"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - our own


def size_of(path: Path) -> int:
    """In bytes; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def answers(path: Path) -> list[dict[str, Any]]:
    """Without the times at which they were made."""
    found = [json.loads(line) for line in path.read_bytes().splitlines()]
    for each in found:
        each["response"]["body"].pop("created")
    return found


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("kills", 20), ("lines", 400), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    rng = random.Random(given.seed)  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory() as folder:
        source, target, whole = (Path(folder) / name for name in ("in.jsonl", "out.jsonl", "whole.jsonl"))
        source.write_text("".join([json.dumps(request(number)) + "\n" for number in range(given.lines)]))
        began = time.monotonic()
        undisturbed = start(source, whole)
        while not size_of(whole):
            began = time.monotonic()
            time.sleep(0.01)
        if undisturbed.wait() != 0:
            print("the undisturbed run failed")
            return 1
        seconds = time.monotonic() - began
        wanted = answers(whole)
        killed = midway = 0
        for _ in range(given.kills):
            before = size_of(target)
            child = start(source, target)
            while rng.random() > EARLY and child.poll() is None and size_of(target) == before:
                time.sleep(0.01)
            with suppress(subprocess.TimeoutExpired):
                child.wait(rng.uniform(0.0, seconds / given.kills / 2))
            killed += child.poll() is None
            child.send_signal(signal.SIGKILL)
            child.wait()
            midway += 0 < size_of(target) < size_of(whole)
        status = start(source, target).wait()
        found = answers(target)
    is_equal = found == wanted and status == 0
    print(f"{killed} kills, {midway} with some of {given.lines} lines answered; an undisturbed run {seconds:.1f} s")
    print("every line once, in order, equal to an undisturbed run" if is_equal else "the answers differ")
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
