"""Forced calls over the functions of the Berkeley leaderboard: what compiles, what fits, what comes to an end.

Of each category's first hundred functions: the share whose schemas compile, of the calls that the bundled model makes
at temperature 1 with `tool_choice="required"` the share whose arguments fit, and of the runs the share that ends in a
complete call before `--max-tokens`. The model was made for other requests, so its strings ramble: penalties keep it
from repeating a syllable for ever.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from harness import Bench, Case, arguments, run
from jsonschema import Draft202012Validator

from greenroom import GenerateParameters, Runtime, ToolCall
from greenroom.errors import GreenroomError
from greenroom.parsing.forced import forced_calls
from greenroom.request.current import session_of

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # the table of type names is the tests'
import bfcl

FUNCTIONS = 100
MAX_TOKENS = 600
SPEAKING = GenerateParameters(
    temperature=1.0,
    frequency_penalty=1.5,
    frequency_context_size=128,
    repetition_penalty=1.2,
    repetition_context_size=64,
)
COMPILED, FITTING, COMPLETE = "schemas that compile", "calls that fit", "runs that end in a complete call"


class Tally(NamedTuple):
    """Of one category."""

    functions: int
    compiled: int
    calls: int
    fitting: int
    complete: int

    @classmethod
    def of(cls, tallies: list[Tally]) -> Tally:
        """All together."""
        return cls(*(sum(each) for each in zip(*tallies, strict=True)))

    def add(self, bench: Bench, case: str) -> None:
        """Its shares. A category without a call has none that does not fit."""
        bench.add(case, COMPILED, [self.compiled / self.functions])
        bench.add(case, FITTING, [self.fitting / self.calls if self.calls else 1.0])
        bench.add(case, COMPLETE, [self.complete / self.functions])
        bench.add(case, "functions", [self.functions], "")


async def category(bench: Bench, runtime: Runtime, name: str, functions: list[tuple[str, dict[str, Any]]]) -> Tally:
    """All of a category's functions side by side: the runtime batches them."""
    compiled: list[bool] = []
    ended: list[bool] = []
    fits: list[bool] = []
    told = bench.bar(name, len(functions))

    async def one(question: str, function: dict[str, Any], seed: int) -> None:
        tools = [{"type": "function", "function": function}]
        try:
            session_of(runtime).client.compile(forced_calls("hermes", tools))
            stream = runtime.generate(
                question[:600],
                SPEAKING,
                tools=tools,
                tool_choice="required",
                max_tokens=bench.options.max_tokens,
                seed=seed,
            )
            result = await stream.collect()
        except GreenroomError:
            compiled.append(False)
        else:
            compiled.append(True)
            calls = [event for event in result.events if isinstance(event, ToolCall)]
            valid = Draft202012Validator(function["parameters"]).is_valid
            fits.extend(call.function.name == function["name"] and valid(call.function.arguments) for call in calls)
            ended.append(bool(calls) and result.info.stop_reason == "stop")
        told()

    async with anyio.create_task_group() as group:
        for seed, (question, function) in enumerate(functions):
            group.start_soon(one, question, function, seed)
    return Tally(len(functions), sum(compiled), len(fits), sum(fits), sum(ended))


async def leaderboard(bench: Bench) -> None:
    """Every category that has functions, then all together."""
    folder: Path = bench.options.functions
    tallies: list[Tally] = []
    async with Runtime(max_waiting=FUNCTIONS) as runtime:
        for name in bfcl.categories(folder):
            functions = bfcl.functions(name, bench.sized(bench.options.count, 1), folder)
            tallies.append(await category(bench, runtime, name, functions))
            tallies[-1].add(bench, name.removeprefix("BFCL_v4_"))
    Tally.of(tallies).add(bench, "all")


CASES: dict[str, Case] = {"leaderboard": leaderboard}


def main() -> int:
    """See `arguments`."""
    parser = arguments(str(__doc__))
    parser.add_argument("--functions", type=Path, default=bfcl.FOLDER, help="the folder of BFCL_v4_*.jsonl.gz")
    parser.add_argument("--count", type=int, default=FUNCTIONS, help="functions of each category (default: 100)")
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS, help="of each run (default: 600)")
    options = parser.parse_args()
    if not bfcl.categories(options.functions):
        parser.error(f"there are no BFCL_v4_*.jsonl.gz in {options.functions}")
    return run("Forced calls", CASES, options)


if __name__ == "__main__":
    sys.exit(main())
