"""The checks of a loaded model: what it takes, what it draws, how fast, and by how many launches.

One copy of the weights serves both: ours runs first, and then, while no pass is under way, mlx-lm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any, NamedTuple

from greenroom.backends.host import physical_memory
from greenroom.backends.protocol import ModelInfo, Tokenizer
from greenroom.doctor.equality import compare, judge
from greenroom.doctor.findings import Figure, Finding
from greenroom.doctor.speed import OURS, Run, Times, judge_speed, measure, rows_named, time_ours
from greenroom.events import Token
from greenroom.request.streams import TokenStream

__all__ = ["FULL", "QUICK", "Opened", "Sizes", "check_equality", "check_launches", "check_memory", "check_speed"]

_TEXT = (
    "A small theatre stands at the harbour. Before each play the actors wait in a green room behind the stage, where "
    "somebody has left a chess board, two lamps and a piano that nobody plays. When the bell rings they rise, one "
    "after the other, and nobody looks back at the game, which has gone on for years; white is said to be winning. "
)
_PROMPT_TOKENS = 32
"""Where speed is measured: that of decoding."""


class Sizes(NamedTuple):
    """How much is run: prompts' lengths and tokens of each, rows side by side, rounds, and seconds of one run."""

    prompts: tuple[int, ...]
    tokens: int
    rows: tuple[int, ...]
    rounds: int
    seconds: float
    most_tokens: int

    @property
    def pieces(self) -> int:
        """Into which the checks of a model are cut for a progress bar: a part at a time, and each check's end."""
        runs = sum(3 if rows == 1 else 2 for rows in self.rows) * (self.rounds + 1)
        return 6 + len(self.prompts) + 1 + runs + len(self.rows)


FULL = Sizes(prompts=(9, 24, 60, 200), tokens=24, rows=(1, 4, 16), rounds=3, seconds=1.5, most_tokens=128)
QUICK = Sizes(prompts=(3, 20, 70), tokens=8, rows=(1, 4, 16), rounds=1, seconds=0.2, most_tokens=16)
"""Shows that everything runs; its speeds say little."""


class Opened(NamedTuple):
    """A runtime's `generate_tokens`, its backend, and what was found of the model."""

    generate: Callable[..., TokenStream]
    backend: Any
    info: ModelInfo


async def check_memory(opened: Opened) -> Finding:
    """What the weights leave for KV. Wrong is where all limits together are more than the machine has."""
    from greenroom.backends.mlx.diagnostics.hardware import describe_hardware, describe_holdings

    info = opened.info
    held = describe_holdings(opened.backend, info.memory_bytes, info.kv_bytes_per_token)
    hardware, physical = describe_hardware(), physical_memory()
    figures: dict[str, Figure] = {
        "weights_bytes": held.weights,
        "precision": held.precision,
        "kv_bytes": held.kv,
        "kv_tokens": held.kv // held.kv_per_token if held.kv_per_token else None,
        "prefix_bytes": held.prefixes,
        "cache_bytes": held.cache,
        "all_bytes": held.total,
        "recommended_bytes": hardware.recommended,
        "physical_bytes": physical,
    }
    summary = f"{held.precision} weights of {held.weights / 1e9:.2f} GB leave {held.kv / 1e9:.2f} GB for KV"
    if held.kv_per_token:
        summary += f" ({held.kv // held.kv_per_token:,} tokens)"
    summary += f"; with KV and freed buffers at most {held.total / 1e9:.2f} GB"
    status: Any = "ok"
    for name, limit, found in (("Metal recommends", hardware.recommended, "note"), ("there are", physical, "wrong")):
        if limit and held.total > limit:
            status = found
            summary += f", though {name} {limit / 1e9:.2f} GB"
    return Finding(check="memory", status=status, summary=summary, figures=figures)


def _ids(info: ModelInfo, first: int, count: int) -> list[int]:
    """Part of a text that goes on for ever."""
    ids = info.tokenizer.encode(_TEXT, add_special_tokens=False)
    return list(islice(cycle(ids), first, first + count))


async def check_equality(opened: Opened, sizes: Sizes, advance: Callable[[], None]) -> Finding:
    """Rows at once, each alone, and each by mlx-lm. See `equality` for what is wrong."""
    from greenroom.backends.mlx.diagnostics.hardware import is_exact
    from greenroom.backends.mlx.diagnostics.mlx_lm_runs import draw_alone

    count, exact = sizes.tokens, is_exact(opened.backend)
    prompts = [_ids(opened.info, 11 * place, length) for place, length in enumerate(sizes.prompts)]
    batch = await _draw(opened, prompts, count)
    advance()
    rows = []
    for prompt, together in zip(prompts, batch, strict=True):
        (alone,) = await _draw(opened, [prompt], count)
        theirs = draw_alone(opened.backend.model, prompt, count)
        rows.append(("rows of a batch are", compare(together, theirs, is_exact=exact)))
        rows.append(("rows alone are", compare(alone, theirs, is_exact=exact)))
        advance()
    return judge(rows, is_exact=exact)


async def _draw(opened: Opened, prompts: Sequence[Sequence[int]], count: int) -> list[list[Token]]:
    """What the prompts are gone on with, all at once."""
    options: dict[str, Any] = {"max_tokens": count, "temperature": 0.0, "default_stops": False, "logprobs": 0}
    streams = [opened.generate(list(prompt), **options) for prompt in prompts]
    return [[event async for event in stream if isinstance(event, Token)] for stream in streams]


async def check_speed(opened: Opened, sizes: Sizes, advance: Callable[[], None]) -> Finding:
    """Tokens a second beside mlx-lm's, in turns, for each number of rows."""
    found: dict[int, dict[str, float]] = {}
    for rows in sizes.rows:
        found[rows] = await measure(
            _runs(opened, rows), sizes.rounds, seconds=sizes.seconds, most=sizes.most_tokens, advance=advance
        )
    return judge_speed(found)


def _runs(opened: Opened, rows: int) -> dict[str, Run]:
    """The ways to run so many rows, each by its name."""
    from greenroom.backends.mlx.diagnostics.mlx_lm_runs import time_alone, time_batch

    model = opened.backend.model
    prompts = [_ids(opened.info, 7 * row, _PROMPT_TOKENS) for row in range(rows)]

    def start(prompt: Sequence[int], count: int) -> TokenStream:
        return opened.generate(list(prompt), max_tokens=count, temperature=0.0, default_stops=False)

    async def ours(count: int) -> Times:
        return await time_ours(start, prompts, count)

    async def batch(count: int) -> Times:
        return time_batch(model, prompts, count)

    async def alone(count: int) -> Times:
        return [time_alone(model, prompts[0], count)]

    runs: dict[str, Run] = {OURS: ours, "BatchGenerator": batch}
    return runs | {"generate_step": alone} if rows == 1 else runs


async def check_launches(
    model: Any, tokenizer: Tokenizer, profile: Any, rows: Sequence[int], advance: Callable[[], None]
) -> Finding:
    """Of a step of so many rows beside mlx-lm's. A note where ours are more."""
    from greenroom.backends.mlx.diagnostics.decode_step import launches_of_mlx_lm, launches_of_ours

    table: dict[str, Figure] = {}
    parts, is_more = [], False
    for number in rows:
        ours, theirs = launches_of_ours(model, tokenizer, profile, number), launches_of_mlx_lm(model, number)
        table[rows_named(number)] = {OURS: ours, "BatchGenerator": theirs}
        parts.append(f"{ours:,} at {number} (mlx-lm {theirs:,})")
        is_more |= ours > theirs
        advance()
    summary = f"of a step, estimated, profile {profile.name}: {', '.join(parts)}"
    return Finding(check="launches", status="note" if is_more else "ok", summary=summary, figures=table)
