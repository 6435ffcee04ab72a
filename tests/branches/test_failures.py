"""A pass that fails: every row of it raises, none ends as if it were well, and each goes on when it is asked again."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from branch_models import backend_of, freed, halved, idle, opened

from greenroom import Generator, Regex, Reply, Runtime, Sampler, Scripted
from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.rows import SubmittedPass as Submitted
from greenroom.backends.protocol import ForwardPlan
from greenroom.backends.scripted.failures import Method
from greenroom.errors import BackendFailed, DeadEnd

LETTERS = Regex("[A-Za-z ]{20}")


async def rows_of(runtime: Runtime) -> list[tuple[Generator, str]]:
    """Rows of several kinds, one token each behind a common prompt, and how they are to go on."""
    made: list[tuple[Generator, str]] = []
    for way, options in (
        ("step", {"constrain": LETTERS}),
        ("step", {}),
        ("collect", {"constrain": LETTERS}),
        ("collect", {"system_speculation": runtime.model.can_draft}),
        ("read", {"constrain": LETTERS}),
    ):
        more: dict[str, Any] = {"default_stops": False, **options}
        g = runtime.context().fill("abcabc").generate(Sampler.multinomial(1.0), seed=3, max_tokens=20, **more)
        async for step in g:
            await step.execute()
            break
        made.append((g, way))
    return made


async def gone_on(g: Generator, way: str) -> None:
    """A step, a token, or all."""
    if way == "step":
        await (await anext(g)).execute()
    elif way == "read":
        await anext(g.tokens())
    else:
        await g.collect_tokens()


async def failing(rows: list[tuple[Generator, str]]) -> None:
    """All go on at once; all raise, and stand where they stood."""
    before = [g.output for g, _ in rows]
    raised: list[Generator] = []

    async def go(g: Generator, way: str) -> None:
        with pytest.raises(BackendFailed):
            await gone_on(g, way)
        raised.append(g)

    async with anyio.create_task_group() as group:
        for g, way in rows:
            group.start_soon(go, g, way)
    assert len(raised) == len(rows)
    assert [g.output for g, _ in rows] == before
    assert not any(g.is_done for g, _ in rows)


async def ended(rows: list[tuple[Generator, str]]) -> list[list[int]]:
    """What they say in the end, all at once; they are closed."""
    for g, _ in rows:
        await g.rewind(0)  # gives up a step that failed
    async with anyio.create_task_group() as group:
        for g, _ in rows:
            group.start_soon(g.collect_tokens)
    said = [list(g.output) for g, _ in rows]
    for g, _ in rows:
        await g.context.aclose()
    return said


@pytest.mark.parametrize("method", ["forward", "sample", "read"])
async def test_of_the_double(method: Method) -> None:
    """Wherever it fails."""
    backend = Scripted({"*": Reply("The quick brown fox jumps over it")})
    async with Runtime(backend=backend) as runtime:
        expected = await ended(await rows_of(runtime))
        rows = await rows_of(runtime)
        backend.fail_next(method, RuntimeError("the device is gone"))
        await failing(rows)
        assert await ended(rows) == expected
        await freed(runtime)


@pytest.mark.parametrize("kind", ["understudy", "llama", "gemma2", "gemma3", "mamba2", "jamba"])
async def test_of_models(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that is not built, or whose numbers do not come: all rows stay as they were."""
    plain, forward = Submitted.numbers, MlxBackend.forward
    failures: dict[str, list[Exception]] = {"forward": [], "read": []}

    def numbers(step: Submitted) -> list[int]:
        if failures["read"] and step.values is None:
            raise failures["read"].pop()
        return plain(step)

    def built(backend: MlxBackend, plan: ForwardPlan) -> None:
        if failures["forward"]:
            raise failures["forward"].pop()
        forward(backend, plan)

    monkeypatch.setattr(Submitted, "numbers", numbers)
    monkeypatch.setattr(MlxBackend, "forward", built)
    async with opened(kind) as runtime:
        expected = await ended(await rows_of(runtime))
        for method in halved(kind, [*failures]):
            rows = await rows_of(runtime)
            await idle(runtime)
            failures[method].append(RuntimeError("the device is gone"))
            await failing(rows)
            assert await ended(rows) == expected
        await freed(runtime)


@pytest.mark.parametrize("guesses", [False, True], ids=["plain", "guessing"])
@pytest.mark.parametrize("kind", ["scripted", "understudy", "llama"])
async def test_constraints_that_contradict_each_other(kind: str, guesses: bool) -> None:
    """At once or half-way, stepped or collected: a typed dead end; those that agree end together."""
    backend = backend_of(kind)
    async with Runtime(backend=backend) if backend is not None else Runtime() as runtime:

        def made(*patterns: str) -> Generator:
            constrain = [Regex(pattern) for pattern in patterns]
            ctx = runtime.context().fill("abababab")
            return ctx.generate(Sampler.multinomial(1.0), seed=1, constrain=constrain, system_speculation=guesses)

        for patterns in (("b", "c"), ("(ab){3}c", "(ab){3}d"), ("[ab]{4}", "[ab]{5}")):
            g, stepped, well = made(*patterns), made(*patterns), made("[ab]{6}", "(ab|b|a){6}", "[^c]{6}")
            async with anyio.create_task_group() as group:
                group.start_soon(well.collect_tokens)
                with pytest.raises(DeadEnd):
                    await g.collect_text()
            with pytest.raises(DeadEnd):
                await _stepped(stepped)
            assert not g.is_done
            assert (well.stop_detail, len(well.text)) == ("constraint", 6)
            with pytest.raises(DeadEnd):
                await g.collect_text()
            for each in (g, stepped, well):
                await each.context.aclose()
        await freed(runtime)


async def _stepped(g: Generator) -> None:
    async for step in g:
        await step.execute()
