"""The runtime on real MLX: the bundled model, alone and in a batch, again and again."""

from __future__ import annotations

import anyio
import pytest
from models import llama, mx, sequential
from passlog import PassLog

from greenroom import Chunk, Info, Runtime, Token, generate
from greenroom.backends.mlx import MlxBackend
from greenroom.backends.protocol import ModelInfo
from greenroom.request.streams import Result

PROMPTS = [f"Tell me a short story about a {hero}." for hero in ("fox", "sailor", "owl", "baker", "robot", "cat")]


async def test_seeded_text_is_the_same_alone_and_in_any_batch() -> None:
    """Tokens depend on the seed and the position, not on who else is in the pass."""
    async with Runtime():
        alone = [await generate(p, max_tokens=40, temperature=0.9, top_p=0.9, seed=7).collect() for p in PROMPTS]
        together: dict[str, Result] = {}

        async def one(prompt: str) -> None:
            together[prompt] = await generate(prompt, max_tokens=40, temperature=0.9, top_p=0.9, seed=7).collect()

        async with anyio.create_task_group() as group:
            for prompt in PROMPTS:
                group.start_soon(one, prompt)
    assert [together[p].text for p in PROMPTS] == [result.text for result in alone]
    assert {result.info.seed for result in alone} == {7}


async def test_the_joined_chunks_are_the_decode_of_the_tokens() -> None:
    """With `logprobs`, every chunk carries its tokens, and their ids decode to the text."""
    async with Runtime() as runtime:
        events = [event async for event in generate(PROMPTS[0], max_tokens=30, temperature=0.0, logprobs=2)]
        chunks = [event for event in events if isinstance(event, Chunk)]
        ids = [token.id for chunk in chunks for token in chunk.tokens]
        assert runtime.tokenizer.decode(ids) == "".join([chunk.text for chunk in chunks])
        assert all(token.logprob is not None for chunk in chunks for token in chunk.tokens)
        assert all(len(token.top_logprobs) == 2 for chunk in chunks for token in chunk.tokens)
        info = events[-1]
        assert isinstance(info, Info)
        assert info.generation_tokens == len(ids)


async def test_a_stop_string_over_several_tokens_is_never_emitted() -> None:
    """It ends the text on its step, and says which string it was."""
    async with Runtime():
        whole = await generate(PROMPTS[1], max_tokens=40, temperature=0.0).text()
        stop = whole[12:20]
        result = await generate(PROMPTS[1], max_tokens=40, temperature=0.0, stop=stop).collect()
        assert result.text == whole[: whole.index(stop)]
        assert (result.info.stop_detail, result.info.stop_sequence) == ("stop_string", stop)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])
async def test_thousands_of_cancels_give_every_byte_back(anyio_backend: object) -> None:
    """Rows and KV bytes are back at the start, and the device's memory does not grow after the first five hundred.

    Nothing is kept of prompts here: that is bounded, but MLX gives each array up to two pages more than it needs.
    """
    del anyio_backend
    async with Runtime(max_rows=8, prefix_bytes=0) as runtime:
        held: list[int] = []
        for _ in range(10):
            for _ in range(20):
                streams = [runtime.generate("Hello!", max_tokens=50) for _ in range(25)]
                await anext(streams[0])
                for stream in streams:
                    stream.task.cancel()
                for stream in streams:
                    assert (await stream.task).stop_detail in {"handle", "eos"}
            statistics = runtime.statistics()
            assert (statistics.running, statistics.waiting, statistics.kv_bytes) == (0, 0, 0)
            held.append(mx.get_active_memory())
    assert max(held[1:]) <= held[0] + 4096


async def test_a_runtime_can_be_entered_again_and_gives_its_memory_back() -> None:
    """Weights leave with the runtime."""
    runtime = Runtime()
    sizes = []
    for _ in range(3):
        async with runtime:
            await runtime.generate("Hello!", max_tokens=3).text()
        sizes.append(mx.get_active_memory())
    assert sizes[1] <= sizes[0]
    assert sizes[2] <= sizes[0]


async def test_cancelling_a_row_changes_no_other_rows_text_on_mlx() -> None:
    """Neighbours are what they are alone; no pass holds the row after its settlement."""
    from greenroom.backends import understudy
    from greenroom.backends.mlx import MlxBackend

    log = PassLog(MlxBackend(understudy.path()))
    async with Runtime(backend=log) as runtime:
        alone = await runtime.generate(PROMPTS[2], max_tokens=30, temperature=0.0).text()
        victim = runtime.generate(PROMPTS[3], max_tokens=500, temperature=0.9, min_tokens=400)
        neighbour = runtime.generate(PROMPTS[2], max_tokens=30, temperature=0.0)
        await anext(victim)
        victim.task.cancel()
        await victim.task
        settled = len(log.passes)
        assert await neighbour.text() == alone
        assert not any(1 in rows for rows in log.passes[settled:])


async def test_prompts_that_begin_alike_are_run_once() -> None:
    """Eight at once share 200 tokens: one runs them, the others wait and reuse them, whatever is kept of others."""
    shared = [(7 * i + i * i) % 300 for i in range(200)]
    prompts = [[*shared, 301 + i, i] for i in range(8)]
    tokens: dict[int | None, list[list[int]]] = {}
    reused: dict[int | None, list[int]] = {}
    for kept in (0, None):
        async with Runtime(backend=MlxBackend.from_model(llama, prefix_bytes=kept), max_step_tokens=64) as runtime:
            streams = [runtime.generate_tokens(p, max_tokens=6, temperature=0.0, default_stops=False) for p in prompts]
            results = [await stream.collect() for stream in streams]
            tokens[kept] = [[event.id for event in result.events if isinstance(event, Token)] for result in results]
            reused[kept] = [result.info.cached_prompt_tokens for result in results]
            assert runtime.statistics().kv_bytes == 0
            assert (runtime.statistics().prefix_bytes > 0) == (kept is None)
            statistics = runtime.statistics()
            assert statistics.prefix_hits == sum(count > 0 for count in reused[kept])
            assert statistics.reused_tokens == sum(reused[kept])
            assert statistics.generated_tokens == 8 * 6
            assert min(statistics.times.forward, statistics.times.sample, statistics.times.host) > 0
            assert statistics.tokens_per_second > 0
    model, _ = llama()
    assert tokens[0] == tokens[None] == [sequential(model, prompt, 6)[0] for prompt in prompts]
    for kept in (0, None):
        assert reused[kept][0] == 0
        assert min(reused[kept][1:]) > 100


async def test_what_is_kept_is_used_before_it_is_lost() -> None:
    """Two kinds of prompts take turns in one row, and one prompt can be kept: those that begin alike go together."""
    kinds = [[(kind * i + i * i) % 300 for i in range(192)] for kind in (7, 11)]
    prompts = [[*kinds[number % 2], 301 + number] for number in range(6)]
    kept = 256 * (await _model()).kv_bytes_per_token
    async with Runtime(backend=MlxBackend.from_model(llama, prefix_bytes=kept), max_rows=1) as runtime:
        streams = [runtime.generate_tokens(p, max_tokens=3, temperature=0.0, default_stops=False) for p in prompts]
        results = [await stream.collect() for stream in streams]
    assert [result.info.cached_prompt_tokens >= 128 for result in results] == [False, False, True, True, True, True]
    model, _ = llama()
    for prompt, result in zip(prompts, results, strict=True):
        assert [event.id for event in result.events if isinstance(event, Token)] == sequential(model, prompt, 3)[0]


async def _model() -> ModelInfo:
    async with Runtime(backend=MlxBackend.from_model(llama)) as runtime:
        return runtime.model


async def test_a_conversation_goes_on_from_what_was_run() -> None:
    """The next prompt is the last one, its reply and more: only what is new is run."""
    async with Runtime(backend=MlxBackend.from_model(llama)) as runtime:
        prompt = [(5 * i + i * i) % 300 for i in range(100)]
        first = await runtime.generate_tokens(prompt, max_tokens=60, temperature=0.0, default_stops=False).collect()
        reply = [event.id for event in first.events if isinstance(event, Token)]
        second = await runtime.generate_tokens([*prompt, *reply, 1, 2, 3], max_tokens=3, default_stops=False).collect()
        assert second.info.cached_prompt_tokens == 100 + 60 - 1  # the last token drawn was never run
