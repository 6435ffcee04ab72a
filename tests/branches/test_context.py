"""Contexts: what is put into them, what is copied, cut and saved, and streams that go on from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from branch_models import KINDS, opened
from models import ByteTokenizer as Bytes
from models import llama

from greenroom import AnyJson, Regex, Reply, Runtime, Sampler, Scripted, Snapshot, Token
from greenroom.backends.mlx import MlxBackend
from greenroom.errors import (
    BackendFailed,
    ContextClosed,
    ContextInUse,
    InvalidParameter,
    InvalidPrompt,
    InvalidSnapshot,
    PromptTooLong,
    RuntimeClosed,
    SnapshotMismatch,
    TokenRefused,
    UnknownContext,
)

MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Good day."},
    {"role": "user", "content": "And you are?"},
]


@pytest.mark.parametrize("kind", ["scripted", "understudy"])
async def test_roles_give_the_tokens_that_the_template_gives(kind: str) -> None:
    """At once, or one by one with the tokens asked for in between; a generated reply is sealed."""
    async with opened(kind) as runtime:
        expected = await runtime.prepare(MESSAGES)
        for asks in (False, True):
            ctx = runtime.context()
            for message in MESSAGES:
                getattr(ctx, message["role"])(message["content"])
                if asks:
                    assert ctx.tokens == expected[: len(ctx.tokens)]
            ctx.cue()
            assert ctx.tokens == expected
            if asks:
                await ctx.flush()
            g = ctx.generate(Sampler.greedy(), max_tokens=8)
            reply = await g.collect_tokens()
            assert ctx.tokens == expected + reply
            sealed = await ctx.fork()
            sealed.seal().user("More").cue()
            ctx.user("More").cue()
            assert ctx.tokens == sealed.tokens
            text = runtime.tokenizer.decode(reply, skip_special_tokens=False)
            whole = [*MESSAGES, {"role": "assistant", "content": text}, {"role": "user", "content": "More"}]
            if kind == "scripted":
                assert ctx.tokens == await runtime.prepare(whole)


async def test_what_cannot_be_filled_in_is_refused() -> None:
    """At the call, or where tokens are needed; a model without a template takes text and ids."""
    async with opened("scripted") as runtime, runtime.context() as ctx:
        for wrong in ("", [], 3, [1, "a"], [{"role": "user", "content": "x"}], [-1]):
            with pytest.raises(InvalidPrompt):
                ctx.fill(wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidPrompt):
            ctx.user(3)  # type: ignore[arg-type]
        assert ctx.fill("ab").fill([99]).fill("d").tokens == list(b"abcd")
        with pytest.raises(InvalidPrompt):
            _ = runtime.context().fill([10**6]).tokens
        with pytest.raises(PromptTooLong):
            await runtime.context().fill([1] * 5000).generate().collect_text()
        await ctx.aclose()
        await ctx.aclose()
        with pytest.raises(ContextClosed):
            ctx.fill("x")
        with pytest.raises(ContextClosed):
            await ctx.fork()
    async with Runtime(backend=Scripted(chat_template=False)) as runtime:
        ctx = runtime.context().user("x")
        with pytest.raises(InvalidPrompt):
            await ctx.flush()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cut_context_goes_on_like_a_fresh_one(kind: str) -> None:
    """On every kind of cache, flushed or not; a fork keeps what the other drops."""
    async with opened(kind) as runtime:
        prompt = await runtime.prepare("Tell me a story.")
        ctx = runtime.context().fill(prompt)
        options: dict[str, Any] = {"max_tokens": 6, "default_stops": False}
        first = await ctx.generate(Sampler.greedy(), **options).collect_tokens()
        twin = await ctx.fork()
        await ctx.truncate(len(first) + 2)
        assert ctx.tokens == prompt[:-2]
        await ctx.flush()
        assert ctx.fill(prompt[-2:]).tokens == prompt
        assert await ctx.generate(Sampler.greedy(), **options).collect_tokens() == first
        assert twin.tokens == prompt + first
        for count in (-1, 10**6, True):
            with pytest.raises(InvalidParameter):
                await ctx.truncate(count)
        assert len({id(each) for each in await twin.fork_many(3)}) == 3


@pytest.mark.parametrize("kind", KINDS)
async def test_scores_are_the_probabilities_of_the_steps(kind: str) -> None:
    """In one pass where guesses are possible, else token by token: the same numbers, and nothing is added."""
    async with opened(kind) as runtime, runtime.context() as ctx:
        ids = await runtime.prepare("Some forty tokens of text that are to be judged, one and all.")
        ctx.fill([65, 66])
        found = await ctx.score(ids)
        assert ctx.tokens == [65, 66]
        if kind != "scripted":  # its logits are made up, and so are its log-probabilities
            options: dict[str, Any] = {"max_tokens": 1, "logprobs": 0, "logit_bias": {ids[0]: 1e9}}
            event = (await runtime.generate_tokens([65, 66], temperature=0.0, **options).collect()).events[0]
            assert isinstance(event, Token)
            assert event.id == ids[0]
            assert event.logprob == pytest.approx(found[0], abs=1e-3)
        assert len(found) == len(ids)
        parts = await ctx.score(ids[:5])
        np.testing.assert_allclose(parts, found[:5], rtol=1e-3, atol=1e-3)
        ctx.fill(ids[:5])
        np.testing.assert_allclose(await ctx.score(ids[5:9]), found[5:9], rtol=1e-3, atol=1e-3)
        with pytest.raises(InvalidPrompt):
            await ctx.score([])


async def test_contexts_are_saved_by_name_and_in_files(tmp_path: Path) -> None:
    """A saved one is opened as often as one likes; a file belongs to its model and its tokenizer."""
    path = tmp_path / "a.safetensors"
    async with opened("llama") as runtime:
        ctx = runtime.context().fill("Once upon a time")
        g = ctx.generate(Sampler.greedy(), max_tokens=12)
        await anext(g.tokens())
        await g.save("begun")
        begun = ctx.tokens
        rest = await g.collect_tokens()
        for _ in range(2):
            async with runtime.open_context("begun") as other:
                assert other.tokens == begun
                assert await other.generate(Sampler.greedy(), max_tokens=11).collect_tokens() == rest[1:]
        await runtime.open_context("begun").delete("begun")
        for gone in ("begun", "other"):
            with pytest.raises(UnknownContext):
                runtime.open_context(gone)
        with pytest.raises(UnknownContext):
            await runtime.delete_context("begun")
        snapshot = await ctx.snapshot()
        await snapshot.save(path)
        loaded = await Snapshot.load(path)
        assert loaded.open().tokens == ctx.tokens == list(loaded.tokens)
        assert runtime.open_context(loaded).tokens == ctx.tokens
    whole = path.read_bytes()
    async with opened("llama") as runtime:
        assert (await Snapshot.load(path, runtime)).tokens == snapshot.tokens
        for length in (0, 7, 30, len(whole) - 3):
            path.write_bytes(whole[:length])
            with pytest.raises(InvalidSnapshot):
                await Snapshot.load(path, runtime)
        for foreign in (b"{}" * 99, whole.replace(b"greenroom snapshot", b"somebody's snapsho")):
            path.write_bytes(foreign)
            with pytest.raises(InvalidSnapshot):
                await Snapshot.load(path, runtime)
        path.write_bytes(whole)
        with pytest.raises(OSError, match="missing"):
            await Snapshot.load(tmp_path / "missing", runtime)
    async with opened("qwen3") as runtime:
        with pytest.raises(SnapshotMismatch, match="model"):
            await Snapshot.load(path, runtime)

    class Other(Bytes):
        def vocabulary(self) -> tuple[list[bytes], frozenset[int]]:
            return [bytes((255 - number,)) for number in range(256)], frozenset({256})

    async with Runtime(backend=MlxBackend.from_model(lambda: (llama()[0], Other()), name="llama")) as runtime:
        with pytest.raises(SnapshotMismatch, match="tokenizer"):
            await Snapshot.load(path, runtime)


async def test_a_stream_goes_on_from_a_context() -> None:
    """Prompt and reply are in it once the stream has ended; until then the context is in use."""
    async with Runtime(backend=Scripted({"Hi": "Hello!", "Bye": "Farewell."})) as runtime, runtime.context() as ctx:
        ctx.system("Be kind.")
        stream = runtime.generate("Hi", context=ctx)
        with pytest.raises(ContextInUse):
            ctx.fill("x")
        assert await stream.text() == "Hello!"
        assert await runtime.generate("Bye", context=ctx).text() == "Farewell."
        expected = await runtime.prepare(
            [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello!"},
                {"role": "user", "content": "Bye"},
            ]
        )
        assert ctx.tokens == [*expected, *b"Farewell."]
        before = ctx.tokens
        with pytest.raises(InvalidPrompt):
            await runtime.generate([10**6], context=ctx).text()
        assert ctx.tokens == before
        async with runtime.generate("Hi", context=ctx, max_tokens=3) as cut:
            await anext(cut)
        assert ctx.tokens[: len(before)] == before
        stream, task = await runtime.generate_task("Bye", context=ctx)
        await task
        assert bytes(ctx.tokens[-9:]) == b"Farewell."
        del stream
        async with Runtime(backend=Scripted()) as other:
            with pytest.raises(InvalidParameter):
                other.generate("Hi", context=ctx)


@pytest.mark.parametrize("kind", ["scripted", "understudy", "mamba2"])
async def test_a_generator_is_handed_to_a_token_task(kind: str) -> None:
    """The stream has its tokens, stop token included; the generator stands behind them."""
    async with opened(kind) as runtime, runtime.context() as ctx:
        ctx.fill(await runtime.prepare("Hello!"))
        g = ctx.generate(Sampler.greedy(), max_tokens=10)
        plain = await (await g.fork()).collect_tokens()
        await anext(g.tokens())
        stream, task = await runtime.generate_token_task(g)
        found = [event.id for event in (await stream.collect()).events if isinstance(event, Token)]
        assert [plain[0], *found][: len(plain)] == plain
        assert (await task).stop_reason in ("stop", "length")
        assert await g.collect_tokens() == plain
        assert await g.collect_text() == await (await g.fork()).collect_text()
        with pytest.raises(InvalidParameter):
            await runtime.generate_token_task(g, max_tokens=3)


async def test_who_waits_for_a_stream_and_is_cancelled_leaves_it_alone() -> None:
    """A fork of a generator that a stream reads waits for the stream; giving up that wait ends nothing."""
    async with Runtime(backend=Scripted({"*": Reply("abc", repeat=True)})) as runtime, runtime.context() as ctx:
        g = ctx.fill("x").generate(Sampler.greedy(), max_tokens=50)
        stream, _ = await runtime.generate_token_task(g)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await g.fork()
        assert scope.cancelled_caught
        result = await stream.collect()
        assert (result.info.stop_detail, result.info.generation_tokens) == ("max_tokens", 50)
        assert (await g.fork()).tokens_generated == 50


async def test_a_failure_that_a_stream_has_told_does_not_stay() -> None:
    """The generator stands behind what was recorded, and goes on."""
    backend = Scripted({"*": Reply("abcdefgh")})
    async with Runtime(backend=backend) as runtime, runtime.context() as ctx:
        g = ctx.fill("x").generate(Sampler.greedy())
        await anext(g.tokens())
        await g.fork()  # nothing runs ahead
        backend.fail_next("read", RuntimeError("the device is gone"))
        stream, _ = await runtime.generate_token_task(g)
        with pytest.raises(BackendFailed):
            await stream.collect()
        assert (await g.fork()).output == g.output
        assert await g.collect_text() == "abcdefgh"


async def test_asking_for_tokens_while_they_are_made_elsewhere_adds_nothing() -> None:
    """A long text is tokenized on another thread; who looks meanwhile has it at once, and it is there once."""
    async with Runtime(backend=Scripted({"*": Reply("abc")})) as runtime, runtime.context() as ctx:
        g = ctx.fill("a" * 3000).generate(Sampler.greedy())
        async with anyio.create_task_group() as group:
            group.start_soon(g.collect_tokens)
            await anyio.lowlevel.checkpoint()
            assert bytes(ctx.tokens[:3000]) == b"a" * 3000
        assert bytes(ctx.tokens) == b"a" * 3000 + b"abc"


async def test_a_matcher_serves_a_loop_of_ones_own() -> None:
    """Masks over numpy, clones that go apart, and tokens that are refused."""
    async with opened("scripted") as runtime:
        matcher = await runtime.matcher(Regex("ab|ac"))
        row = np.zeros(runtime.model.vocab_size, np.float32)
        assert np.flatnonzero(np.isfinite(matcher.mask(row))).tolist() == [ord("a")]
        with pytest.raises(TokenRefused):
            matcher.accept(ord("b"))
        matcher.accept(ord("a"))
        twin = matcher.clone()
        twin.accept([ord("c")])
        assert (twin.is_stopped, matcher.is_stopped) == (True, False)
        assert np.flatnonzero(np.isfinite(matcher.mask(row))).tolist() == list(b"bc")
        with pytest.raises(InvalidParameter):
            matcher.mask(row[:5])
        assert not (await runtime.matcher(AnyJson())).is_accepting


async def test_leaving_the_runtime_ends_what_lives_in_it() -> None:
    """A generator of a runtime that was left raises, whatever it is asked for."""
    async with Runtime(backend=Scripted({"*": Reply("abc", repeat=True)})) as runtime:
        ctx = runtime.context().fill("x")
        g = ctx.generate(Sampler.greedy())
        await anext(g.tokens())

    with anyio.fail_after(5), pytest.raises(RuntimeClosed):
        await g.collect_text()
    with pytest.raises(RuntimeClosed):
        runtime.context()
