"""Outputs of every annotation that a library documents, drawn hot: whether each is what its library reads of the text.

The types are those of `tests/annotations.py`. The bundled model writes `--samples` outputs of each at temperature 1.2;
one that is cut off by `--tokens` is drawn again with another seed, up to eleven times, with more and more of a bias
towards what closes a string, a list or an object: a small model at that temperature may not think of it. Each text is
read by the type's own library, and by `runtime.collect`, `collect_json` and `structures`, which have to agree. Run it:

    python benchmarks/annotated.py --samples 12 --seed 7
    python benchmarks/annotated.py --only datetime
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from pathlib import Path

import anyio

from greenroom import GenerateParameters, JsonSchema, structures, testing
from greenroom.errors import GreenroomError, TruncatedJson, UnsupportedType
from greenroom.inputs.parameters import ParameterOptions
from greenroom.runtime import Runtime

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # where the table is
from annotations import TABLE, reads, same

CLOSERS = ('"', "]", "}", '"]', '"}', "=", "-")
"""Of base64, which may only end behind four characters, and of the patterns of the table too."""
PROMPT = "Make a JSON record of this person: name, age. Anna is 31."


async def sample(runtime: Runtime, name: str, seed: int, tokens: int, bias: float) -> tuple[str, str]:
    """How one output went, and its text; "cut" where it did not end, "equal" where all is well."""
    kind = TABLE[name]
    options: ParameterOptions = {"seed": seed, "max_tokens": tokens, "temperature": 1.2, "frequency_penalty": 0.5}
    if bias:
        ends = [*[runtime.tokenizer.encode(mark)[-1] for mark in CLOSERS], *runtime.model.stop_tokens]
        options["logit_bias"] = dict.fromkeys(ends, bias)
    ways: dict[str, bool] = {}
    # 1. The text by itself, read by the library and, piece by piece, as an object that grows.
    result = await runtime.generate(PROMPT, constrain=kind, **options).collect()
    if result.info.stop_reason != "stop":
        return "cut", result.text
    wanted = reads(name, result.text)
    growing = [moment async for moment in structures(testing.simulate(result.text), kind)][-1]
    ways["structures"] = same(growing, wanted)
    # 2. The object alone. Among other rows rounding may draw another text: then it is of the type, and that is all.
    collected = await runtime.collect(kind, PROMPT, **options)
    again = await runtime.generate(PROMPT, constrain=kind, **options).collect()
    texts = {each.text for each in (result, again) if each.info.stop_reason == "stop"}
    ways["collect"] = any(same(collected, reads(name, text)) for text in texts)
    # 3. A generator's.
    context = runtime.context().fill(PROMPT)
    generator = context.generate(GenerateParameters(**options), constrain=kind)
    try:
        ways["collect_json"] = same(await generator.collect_json(kind), reads(name, generator.text))
    except GreenroomError:
        if generator.stop_reason == "stop":
            raise
        return "cut", result.text  # among other rows it drew another text, and that did not end
    unlike = [way for way, is_same in ways.items() if not is_same]
    return (f"unlike: {', '.join(unlike)}" if unlike else "equal"), result.text


async def draw(runtime: Runtime, name: str, seed: int, tokens: int, room: anyio.CapacityLimiter) -> Counter[str]:
    """How an output of a type went; one that was cut off is drawn again."""
    ends: Counter[str] = Counter()
    for attempt in range(12):
        async with room:
            try:
                how, text = await sample(runtime, name, seed + 1000 * attempt, tokens, attempt * 2.0)
            except TruncatedJson:
                how, text = "cut", ""
            except (GreenroomError, ValueError) as error:
                how, text = f"{type(error).__name__}: {str(error)[:160]}", ""
        ends[how] += 1
        if how not in ("cut", "equal"):
            print(f"{name}: {how!r} of {text[:120]!r}", flush=True)
        if how != "cut":
            break
    return ends


async def main() -> None:
    """Draw, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("samples", 12), ("seed", 7), ("tokens", 300), ("rows", 48)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    ends, refused = supported([name for name in TABLE if given.only in name])
    room = anyio.CapacityLimiter(given.rows)
    left = dict.fromkeys(ends, given.samples)
    async with Runtime() as runtime, anyio.create_task_group() as group:

        async def add(name: str, number: int) -> None:
            ends[name] += await draw(runtime, name, given.seed + number, given.tokens, room)
            left[name] -= 1
            if not left[name]:
                print(f"{name}: {dict(ends[name])}", flush=True)

        for name in ends:
            for number in range(given.samples):
                group.start_soon(add, name, number)
    for name, why in refused.items():
        print(f"refused: {name}: {why}")
    print(f"{len(refused)} types refused; outputs of {len(ends)}: {dict(sum(ends.values(), Counter()))}")


def supported(names: list[str]) -> tuple[dict[str, Counter[str]], dict[str, str]]:
    """The types that can be written, with nothing counted yet, and those that cannot, with the reason."""
    ends: dict[str, Counter[str]] = {}
    refused: dict[str, str] = {}
    for name in names:
        try:
            JsonSchema(TABLE[name])
            ends[name] = Counter()
        except UnsupportedType as error:
            refused[name] = str(error)
    return ends, refused


if __name__ == "__main__":
    anyio.run(main)
