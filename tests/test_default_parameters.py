"""What a request is drawn with where it does not say: ours, the runtime's, or what the model's authors suggest."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from greenroom import ChatSession, GenerateParameters, Runtime, Sampler
from greenroom.backends.protocol import Edit, EditResult, ModelInfo, Open, Sampling
from greenroom.backends.scripted import Reply, Scripted
from greenroom.errors import InvalidParameter, ModelLoadFailed, NotSupported

OURS = GenerateParameters()


class Listening(Scripted):
    """Remembers how each row was to be drawn; `suggested` is what its authors say."""

    def __init__(self, suggested: tuple[tuple[str, object], ...] = (), **options: Any) -> None:
        super().__init__({"*": Reply("abc", repeat=True)}, **options)
        self.suggested = suggested
        self.drawn: list[Sampling] = []

    def load(self) -> ModelInfo:
        """With the suggestions."""
        return msgspec.structs.replace(super().load(), suggested_sampling=self.suggested)

    def edit(self, edits: Any) -> EditResult:
        """Note how rows that are opened will be drawn."""
        given: list[Edit] = list(edits)
        self.drawn += [edit.sampling for edit in given if isinstance(edit, Open)]
        return super().edit(given)


async def test_a_runtimes_parameters_are_those_of_requests_that_bring_none() -> None:
    """What a request gives by name beats one of them, also with the value that is ours; its own struct beats all."""
    backend = Listening()
    own = GenerateParameters(temperature=0.25, top_k=7, max_tokens=3, seed=11)
    async with Runtime(backend=backend, parameters=own) as runtime:
        results = [
            await runtime.generate("x").collect(),
            await runtime.generate("x", temperature=OURS.temperature, max_tokens=2).collect(),
            await runtime.generate("x", GenerateParameters(max_tokens=1), top_p=0.5).collect(),
        ]
    seen = [(drawn.temperature, drawn.top_k, drawn.top_p) for drawn in backend.drawn]
    assert seen == [(0.25, 7, 1.0), (OURS.temperature, 7, 1.0), (OURS.temperature, 0, 0.5)]
    assert [result.info.generation_tokens for result in results] == [3, 2, 1]
    assert [result.info.seed == 11 for result in results] == [True, True, False]


async def test_every_way_to_generate_begins_with_them() -> None:
    """Raw tokens, generators and chats; a sampler of a generator's own takes their place."""
    backend = Listening()
    async with Runtime(backend=backend, parameters=GenerateParameters(top_k=9, max_tokens=2)) as runtime:
        assert len([event async for event in runtime.generate_tokens("x")]) == 3
        await ChatSession(runtime).respond("x")
        async with runtime.context() as ctx:
            ctx.fill("x")
            async for _ in ctx.generate().tokens():
                pass
            async for _ in ctx.generate(Sampler.greedy(), max_tokens=1).tokens():
                pass
    assert [drawn.top_k for drawn in backend.drawn if drawn.top_k] == [9] * 3


async def test_the_models_own_suggestions_are_taken_where_they_are_asked_for() -> None:
    """And nowhere else; what they leave out is ours."""
    suggested = (("temperature", 0.7), ("top_p", 0.8), ("top_k", 20), ("repetition_penalty", 1.05))
    backend = Listening(suggested)
    async with Runtime(backend=backend) as runtime:
        await runtime.generate("x", max_tokens=1).collect()
    async with Runtime(backend=backend, parameters="model") as runtime:
        await runtime.generate("x", max_tokens=1).collect()
        await runtime.generate("x", max_tokens=1, top_p=1.0).collect()
    seen = [(each.temperature, each.top_p, each.top_k, each.repetition_penalty) for each in backend.drawn]
    assert seen == [(OURS.temperature, 1.0, 0, None), (0.7, 0.8, 20, 1.05), (0.7, 1.0, 20, 1.05)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", "hot"), ("top_k", 20.5), ("top_p", 0), ("min_p", float("nan")), ("repetition_penalty", -1)],
)
async def test_a_suggestion_that_cannot_work_is_told_at_entry(name: str, value: object) -> None:
    """To who asks for it, with the file; to nobody else. Afterwards the runtime can be entered again."""
    backend = Listening(((name, value),))
    runtime = Runtime(backend=backend, parameters="model")
    for _ in range(2):
        with pytest.raises(ModelLoadFailed, match=rf"generation_config\.json of scripted .* {name} must be"):
            await runtime.__aenter__()
        assert not runtime.is_open
    async with Runtime(backend=backend) as fine:
        assert fine.is_open


async def test_parameters_that_cannot_work_are_told_at_entry() -> None:
    """Not request by request."""
    for parameters in (GenerateParameters(top_k=-1), GenerateParameters(stop=(99999,)), GenerateParameters(kv_bits=4)):
        with pytest.raises(InvalidParameter):
            await Runtime(backend=Scripted(), parameters=parameters).__aenter__()
    with pytest.raises(NotSupported):
        await Runtime(backend=Scripted(), parameters=GenerateParameters(prefill_step_size=5)).__aenter__()


@pytest.mark.parametrize("value", ["Model", "", b"model", {"temperature": 1.0}, 0.5, True, GenerateParameters])
def test_what_is_no_parameters_is_refused_at_once(value: Any) -> None:
    """With what would be some."""
    with pytest.raises(InvalidParameter, match="parameters must be GenerateParameters, 'model' or None"):
        Runtime(parameters=value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("trust_remote_code", value) for value in (1, "yes", None)] + [("revision", value) for value in (1, "", b"main")],
)
def test_ways_to_load_are_checked_at_once(name: str, value: Any) -> None:
    """By name, before anything is loaded."""
    options: dict[str, Any] = {name: value}
    with pytest.raises(InvalidParameter, match=name):
        Runtime("some/model", **options)


@pytest.mark.parametrize("options", [{"revision": "v1"}, {"context_length": 9}, {"trust_remote_code": True}])
def test_a_backend_of_ones_own_is_loaded_by_itself(options: dict[str, Any]) -> None:
    """What only a named model can be told is refused; so is a revision of the bundled one."""
    with pytest.raises(InvalidParameter, match=next(iter(options))):
        Runtime(backend=Scripted(), **options)
    if "revision" in options:
        with pytest.raises(InvalidParameter, match="None where no model is named"):
            Runtime(**options)


async def test_where_nothing_else_ends_an_output_4096_tokens_do() -> None:
    """Of a model whose context has no known length; who gives a number, and a model with a length, are not held."""
    async with Runtime(backend=Scripted({"*": Reply("abc", end=False, repeat=True)}, context_length=None)) as runtime:
        info = (await runtime.generate("x").collect()).info
        assert (info.stop_detail, info.generation_tokens) == ("max_tokens", 4096)
        assert (await runtime.generate("x", max_tokens=4200).collect()).info.generation_tokens == 4200
        async with runtime.context() as ctx:
            ctx.fill("x")
            assert len([token async for token in ctx.generate().tokens()]) == 4096
    async with Runtime(backend=Scripted({"*": Reply("abc", end=False, repeat=True)}, context_length=5000)) as runtime:
        assert (await runtime.generate("x").collect()).info.stop_detail == "context"
