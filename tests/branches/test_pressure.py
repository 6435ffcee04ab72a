"""Branches where memory is short: they wait, lose their KV, run again, and say the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from branch_models import opened
from silent import Silent

from greenroom import Sampler
from greenroom.actors.messages import Submit
from greenroom.actors.scheduler.admission import Limits
from greenroom.actors.scheduler.scheduler import Scheduler
from greenroom.backends.protocol import Close, Edit, ForwardPlan, Sampling
from greenroom.backends.scripted import Reply, Scripted


@pytest.mark.parametrize("kind", ["scripted", "llama", "mamba2"])
async def test_more_branches_than_memory_holds_all_finish(kind: str) -> None:
    """Ten forks where three fit: the same tokens as with room for all, stepped in turns and by themselves."""
    found: list[list[list[int]]] = []
    per_row = 0
    for scarce in (False, True):
        options: dict[str, Any] = {"kv_bytes": 3 * per_row} if scarce else {}
        async with opened(kind, **options) as runtime:
            model = runtime.model
            per_row = 50 * model.kv_bytes_per_token + model.kv_bytes_per_row
            async with runtime.context() as ctx:
                g = ctx.fill("abcdefgh").generate(Sampler.multinomial(1.0), max_tokens=30, seed=1, default_stops=False)
                step = await anext(g)
                await step.execute()
                async with g.fork_many(10) as kids:
                    for _ in range(3):
                        for kid in kids:
                            await (await anext(kid)).execute()
                            assert runtime.statistics().kv_bytes <= (3 if scarce else 99) * per_row
                    async with anyio.create_task_group() as group:
                        for kid in kids:
                            group.start_soon(kid.collect_tokens)
                    found.append([list(kid.output) for kid in kids])
                    assert all(kid.kv_bytes > 0 for kid in kids)
    assert found[0] == found[1]
    assert all(len(tokens) == 30 for tokens in found[0])


def victims() -> list[Edit]:
    """The rows that open and close while contexts and requests outgrow the budget."""
    backend = Scripted({"*": Reply("abc", repeat=True)}, kv_bytes_per_token=16)
    scheduler = Scheduler(backend.load(), Limits(rows=8, step_tokens=64, kv_bytes=16 * 100))
    edits: list[Edit] = []
    more: dict[str, Any] = {"sampling": Sampling(), "submitted": 0.0}
    for request in range(12):
        context_id = request % 5 if request % 3 else None
        prompt = tuple(range(1, 12 + request))
        scheduler.submit(
            Submit(
                request=request, prompt=prompt, context_id=context_id, max_tokens=9 + request, decoder=Silent(), **more
            )
        )
        for now in range(40):
            plan = scheduler.plan(float(now))
            edits += plan.edits
            scheduler.record_edits(backend.edit(plan.edits))
            feeds = scheduler.build_batch(float(now))
            if not feeds:
                break
            backend.forward(ForwardPlan(feeds))
            backend.sample()
            scheduler.mark_submitted(feeds)
            scheduler.apply(tuple([feed.row for feed in feeds]), backend.read(), float(now))
            if now == 3 and request % 4 < 3:
                break  # the next one comes while this one runs
    backend.close()
    return edits


def test_who_loses_its_row_is_the_same_every_time() -> None:
    """A hundred runs of one course of events: the same rows open and close, in the same order."""
    first = victims()
    assert sum(isinstance(edit, Close) for edit in first) > 4  # four have no context

    for _ in range(99):
        assert victims() == first


def test_who_loses_its_row_does_not_depend_on_the_process() -> None:
    """Nor on how it hashes."""
    script = "import importlib.util, sys; spec = importlib.util.spec_from_file_location('pressure', sys.argv[1])\n"
    script += "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
    script += "print(module.victims())"
    folders = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    found = subprocess.run(
        [sys.executable, "-c", script, __file__],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": folders},
    )
    assert found.stdout == f"{victims()}\n".encode()
