"""One model over two processes of this machine: its tokens are those of one process, whatever is asked at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from rank_groups import worker, write_hostfile, write_model

from greenroom import GenerateParameters, GreenroomError, JsonSchema, NotSupported, Regex, Runtime, Sampler, Token

PERSON = {"type": "object", "properties": {"age": {"type": "integer"}, "ok": {"type": "boolean"}}, "required": ["age"]}
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]


async def everything(runtime: Runtime) -> dict[str, Any]:
    """What a mixture of requests gives that are made at once, each by its name."""
    found: dict[str, Any] = {}

    async def plain(number: int) -> None:
        parameters = GenerateParameters(
            max_tokens=6 + 4 * number, temperature=0.9 * (number % 2), seed=number, logprobs=2 if number == 3 else None
        )
        stream = runtime.generate_tokens([5 + number % 3] * (9 * (number + 1)), parameters)
        found[f"plain {number}"] = [each.id async for each in stream if isinstance(each, Token)]

    async def constrained(name: str, constraint: Any) -> None:
        stream = runtime.generate(
            "Hello", max_tokens=20, temperature=0.7, seed=4, constrain=constraint, repetition_penalty=1.1
        )
        found[name] = await stream.text()

    async def cancelled() -> None:
        async with runtime.generate_tokens([9] * 30, max_tokens=400) as stream:
            async for _ in stream:
                break

    async def forked() -> None:
        async with runtime.context() as context:
            context.fill([7] * 80)
            trunk = context.generate(Sampler.multinomial(0.9), constrain=JsonSchema(PERSON), seed=1, max_tokens=20)
            async for token in trunk.tokens():
                del token
                if trunk.tokens_generated == 5:
                    break
            async with trunk.fork_many(3) as branches:
                found["branches"] = [await branch.collect_tokens() for branch in branches]
            await trunk.rewind(2)
            found["trunk"] = await trunk.collect_tokens()

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(plain, number)
        tasks.start_soon(constrained, "regex", Regex("[a-f]{5,20}"))
        tasks.start_soon(constrained, "schema", JsonSchema(PERSON))
        tasks.start_soon(cancelled)
        tasks.start_soon(forked)
    return found


@pytest.mark.parametrize(
    ("anyio_backend", "kind", "split"),
    [
        (("asyncio", {}), "qwen3", "tensor"),
        (("trio", {}), "qwen2", "pipeline"),
        (("asyncio", {}), "gpt_oss", "tensor"),  # with several forwards in a pass
    ],
)
async def test_two_ranks_give_the_tokens_of_one(tmp_path: Path, kind: str, split: str) -> None:
    """Greedy and drawn, constrained, forked, rewound, beside one that is cancelled."""
    model, hostfile = write_model(tmp_path / kind, kind, num_hidden_layers=2), write_hostfile(tmp_path)
    async with Runtime(model) as runtime:
        wanted = await everything(runtime)
    with worker(model, hostfile) as process:
        async with Runtime(model, distributed=hostfile, pipeline=split == "pipeline") as runtime:
            found = await everything(runtime)
            with pytest.raises(GreenroomError):
                await runtime.generate([5, 6], kv_bits=4).collect()
            with pytest.raises(NotSupported, match="adapter="):
                await runtime.load_adapter(model)
        assert process.wait(30) == 0
    assert found == wanted
