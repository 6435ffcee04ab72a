"""How many JSON schemas of a folder compile, and whether each refusal says what to do: keyword, place and advice.

    python benchmarks/schemas.py schemastore/src/schemas/json
    python benchmarks/schemas.py schemas.jsonl.gz --show 20

Schemas are files of one each, or lines of JSON that are schemas or hold one as `schema`. Each is checked in a process
beside, which a schema that takes too long ends. Nothing is fetched.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

Found = dict[str, Any]


def texts(path: Path) -> Iterator[tuple[str, str]]:
    """Each schema's name and JSON text."""
    if path.is_dir():
        yield from ((each.name, each.read_text("utf-8-sig")) for each in sorted(path.rglob("*.json")))
        return
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for number, line in enumerate(lines):
            content = json.loads(line)
            yield f"{path.name}:{number}", json.dumps(content.get("schema", content))


def check(text: str, *, lenient: bool) -> Found:
    """What becomes of one schema."""
    import warnings

    from greenroom import JsonSchema
    from greenroom.errors import GreenroomError

    started = time.perf_counter()
    found: Found = {"error": None}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            JsonSchema(text, lenient=lenient).validate()
    except GreenroomError as error:
        told = {word: getattr(error, word, None) for word in ("keyword", "pointer", "advice")}
        found = {"error": type(error).__name__, "message": str(error), **told}
    return found | {"seconds": time.perf_counter() - started, "bytes": len(text)}


def work(args: argparse.Namespace) -> None:
    """Check the schemas from `--start` on, a line for each; end behind one whose checking still runs."""
    for number, (name, text) in enumerate(texts(args.schemas)):
        if number >= args.start and (args.most is None or number < args.most):
            found = check(text, lenient=args.lenient)
            print(json.dumps({"name": name, **found}), flush=True)
            if found["error"] in ("CompilationTimeout", "CompilersBusy"):
                return


def collect(args: argparse.Namespace, count: int) -> Iterator[Found]:
    """Of each schema in order what became of it."""
    done = 0
    while done < count:
        command = [sys.executable, __file__, str(args.schemas), "--start", str(done), "--most", str(count)]
        command += ["--lenient"] if args.lenient else []
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ourselves
        assert worker.stdout is not None  # noqa: S101 - it is a pipe
        lines = [json.loads(line) for line in worker.stdout]
        worker.wait()
        yield from lines
        done += len(lines)
        if done < count and worker.returncode != 0:
            yield {"name": f"schema {done}", "error": "crash", "message": f"exit {worker.returncode}", "seconds": 0.0}
            done += 1


def report(found: list[Found], show: int) -> None:
    """The counts, and some of the refusals."""
    refused = [each for each in found if each["error"] is not None]
    told = [each for each in refused if each.get("keyword") and each.get("pointer") is not None and each.get("advice")]
    took = sorted(each["seconds"] for each in found)
    print(f"{len(found)} schemas, {len(found) - len(refused)} compile ({1 - len(refused) / len(found):.1%})")
    print(f"{len(told)} of {len(refused)} refusals have keyword, place and advice")
    print(f"checking takes {median(took):.3f} s at the median, {took[int(0.99 * (len(took) - 1))]:.2f} s at p99")
    for (kind, keyword), count in Counter((each["error"], each.get("keyword")) for each in refused).most_common():
        print(f"{count:5} {kind} {keyword or ''}")
    for each in refused[:show]:
        print(f"  {each['name']}: {each['message'][:300]}")


def main() -> None:
    """Count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("schemas", type=Path)
    parser.add_argument("--lenient", action="store_true")
    parser.add_argument("--show", type=int, default=0, help="so many refusals in full")
    parser.add_argument("--json", type=Path, help="where to write what became of each")
    parser.add_argument("--start", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--most", type=int, help="of the first ones alone")
    args = parser.parse_args()
    if args.start is not None:
        work(args)
        return
    count = sum(1 for _ in texts(args.schemas))
    found = list(collect(args, count if args.most is None else min(count, args.most)))
    report(found, args.show)
    if args.json is not None:
        args.json.write_text("\n".join(map(json.dumps, found)))


if __name__ == "__main__":
    main()
