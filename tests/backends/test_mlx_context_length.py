"""How long a row may be: by published configurations, by every model file's class, and by who says it."""

from __future__ import annotations

import dataclasses
import importlib
from types import SimpleNamespace
from typing import Any

import pytest
from model_files import build, model_files
from models import MODELS, VOCAB, mamba2

# isort: split
from mlx import nn
from mlx_lm.models.cache import ArraysCache, KVCache

from greenroom import Runtime
from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.context_length import find_context_length
from greenroom.errors import InvalidParameter, PromptTooLong

ATTENTION = (KVCache(),)
"""Caches of a model that has positions."""
FILES = [name for name, failure in model_files().items() if failure is None]
LENGTHS = {
    "max_position_embeddings",
    "max_seq_len",
    "max_sequence_length",
    "model_max_length",
    "n_positions",
    "n_ctx",
    "block_size",
}

QWEN_25_7B = {"model_type": "qwen2", "max_position_embeddings": 32768, "rope_theta": 1000000.0}
QWEN_25_7B_YARN = {
    **QWEN_25_7B,
    "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"},
}
QWEN_3_8B_YARN = {
    "model_type": "qwen3",
    "max_position_embeddings": 40960,
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "max_position_embeddings": 163840,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
}
GPT_OSS_20B = {
    "model_type": "gpt_oss",
    "initial_context_length": 4096,
    "max_position_embeddings": 131072,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
}
LLAMA_31_8B = {
    "model_type": "llama",
    "max_position_embeddings": 131072,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
}
GEMMA_3_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "mm_tokens_per_image": 256,
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
}
GEMMA_3_27B = {
    **GEMMA_3_4B,
    "text_config": {
        "head_dim": 128,
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "model_type": "gemma3_text",
        "num_attention_heads": 32,
        "num_hidden_layers": 62,
        "num_key_value_heads": 16,
        "query_pre_attn_scalar": 168,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
}
GEMMA_3_1B = {"model_type": "gemma3_text", "max_position_embeddings": 32768, "sliding_window": 512}
OPENELM = {"model_type": "openelm", "max_context_length": 2048, "rope_freq_constant": 10000, "rope_max_length": 4096}
OLMO_3_7B = {
    "model_type": "olmo3",
    "max_position_embeddings": 65536,
    "rope_scaling": {
        "attention_factor": 1.2079441541679836,
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "yarn",
    },
}
KINDS_OF_LAYERS = {
    "model_type": "no_such_kind",
    "max_position_embeddings": 4096,
    "rope_parameters": {
        "full_attention": {"rope_type": "yarn", "factor": 16, "original_max_position_embeddings": 4096},
        "sliding_attention": {"rope_type": "default"},
    },
}


class Bare(nn.Module):  # type: ignore[name-defined, misc]
    """A model of which only its arguments are known."""

    def __init__(self, args: object = None, language_model: object = None) -> None:
        super().__init__()
        self.args = args
        if language_model is not None:
            self.language_model = language_model


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (QWEN_25_7B, 32768),
        (QWEN_25_7B_YARN, 131072),
        (QWEN_3_8B_YARN, 131072),
        (DEEPSEEK_V3, 163840),
        (GPT_OSS_20B, 131072),
        (LLAMA_31_8B, 131072),
        (GEMMA_3_4B, 131072),
        (GEMMA_3_27B, 131072),
        (GEMMA_3_1B, 32768),
        (OPENELM, 2048),
        (OLMO_3_7B, 65536),
        (KINDS_OF_LAYERS, 65536),
        ({"model_type": "kimi_linear", "model_max_length": 1048576}, 1048576),
        ({"model_type": "gpt2", "n_ctx": 1024, "n_positions": 1024}, 1024),
        ({"model_type": "no_such_kind", "llm_config": {"max_position_embeddings": 777}}, 777),
    ],
)
def test_published_configurations_say_their_models_lengths(config: dict[str, Any], length: int) -> None:
    """As they say it, as YaRN stretches it, and as a configuration means it that leaves its class's default out."""
    assert find_context_length(config, Bare(), ATTENTION) == length


NO_LENGTHS: list[object] = [None, 0, -1, True, "4096", 4096.5, [4096], int(1e30), float("inf")]
NO_STRETCHES: list[object] = [
    "yarn",
    [4],
    {"type": "yarn"},
    {"type": "yarn", "factor": "4", "original_max_position_embeddings": 4096},
    {"type": "yarn", "factor": float("nan"), "original_max_position_embeddings": 4096},
    {"type": "yarn", "factor": 4, "original_max_position_embeddings": None},
    {"type": ["yarn"], "factor": 4, "original_max_position_embeddings": 4096},
]


@pytest.mark.parametrize(
    "nonsense",
    [
        *[{"max_position_embeddings": value} for value in NO_LENGTHS],
        *[{"rope_scaling": value} for value in NO_STRETCHES],
        {"text_config": None},
        {"text_config": []},
        {"text_config": "x"},
    ],
)
def test_what_is_no_length_is_none(nonsense: dict[str, Any]) -> None:
    """Nothing is made of values of other types; the length is unknown then."""
    assert find_context_length({"model_type": "no_such_kind", **nonsense}, Bare(), ATTENTION) is None


@pytest.mark.parametrize("name", FILES)
def test_every_model_files_own_argument_is_found(name: str) -> None:
    """Whatever a model file calls it: in the configuration, and as its class's default where transformers has none."""
    module = importlib.import_module(f"mlx_lm.models.{name}")
    fields = {field.name: field.default for field in dataclasses.fields(module.ModelArgs)}
    named = LENGTHS & fields.keys()
    config = dict.fromkeys(named, 256) | {"model_type": name}
    if named:
        assert find_context_length(config, Bare(), ATTENTION) == 256
    defaults = [fields[name] for name in named if isinstance(fields[name], int)]
    if not defaults:
        return
    arguments = SimpleNamespace(**{name: default for name, default in fields.items() if name in named})
    for model in (Bare(arguments), Bare(SimpleNamespace(model_type=name), Bare(arguments))):
        assert find_context_length({"model_type": "no_such_kind"}, model, ATTENTION) == defaults[0]


def test_the_tables_of_model_files_name_every_argument_of_this_kind() -> None:
    """A file of mlx-lm's with another name for it is found here."""
    known = LENGTHS | {"original_max_position_embeddings", "candidate_block_size", "blocksparse_block_size"}
    for name in FILES:
        module = importlib.import_module(f"mlx_lm.models.{name}")
        fields = {field.name for field in dataclasses.fields(module.ModelArgs)}
        like = {
            field
            for field in fields
            if any(
                part in field for part in ("max_pos", "max_seq", "n_ctx", "n_pos", "seq_len", "_length", "block_size")
            )
        }
        assert like <= known, name


def test_recurrent_state_alone_has_no_positions() -> None:
    """Whatever the class's default says."""
    assert find_context_length({"max_position_embeddings": 2056}, Bare(), [ArraysCache(2), ArraysCache(2)]) is None
    mixed = [ArraysCache(2), KVCache()]
    assert find_context_length({"max_position_embeddings": 2056}, Bare(), mixed) == 2056


def test_who_asks_for_a_length_gets_it() -> None:
    """Shorter and longer than the files say; a table of positions is the end of it."""
    for asked in (10, 1 << 20):
        assert find_context_length(QWEN_25_7B, Bare(), ATTENTION, asked=asked) == asked
    model, _ = build("gpt2")
    assert find_context_length({"n_ctx": 1024}, model, ATTENTION) == 256
    assert find_context_length({}, model, ATTENTION, asked=256) == 256
    with pytest.raises(InvalidParameter, match="context_length must be at most 256"):
        find_context_length({}, model, ATTENTION, asked=257)


async def test_a_runtime_takes_a_context_length() -> None:
    """The bundled model with another one: prompts are refused by it, and outputs end at it."""
    async with Runtime(context_length=24) as runtime:
        assert runtime.model.context_length == 24
        with pytest.raises(PromptTooLong, match="24"):
            await runtime.generate([5] * 24, max_tokens=1).collect()
        result = await runtime.generate([5] * 20, temperature=0.0, default_stops=False).collect()
        assert (result.info.stop_detail, result.info.generation_tokens) == ("context", 4)


async def test_a_model_without_a_length_has_kvs_budget() -> None:
    """A prompt of more than 4,096 tokens is run."""
    backend = MlxBackend.from_model(mamba2, name="recurrent")
    async with Runtime(backend=backend) as runtime:
        assert runtime.model.context_length is None
        prompt = [token % VOCAB for token in range(4200)]
        stream, task = await runtime.generate_tokens_task(prompt, max_tokens=2, temperature=0.0)
        assert len([event async for event in stream]) >= 1
        assert (await task).prompt_tokens == 4200


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "4096", float("nan")])
def test_a_length_that_is_none_is_refused_at_once(value: Any) -> None:
    """By name, before anything is loaded."""
    with pytest.raises(InvalidParameter, match="context_length must be None or an integer of at least 1"):
        Runtime(context_length=value)


def test_every_small_model_says_a_length_or_none() -> None:
    """Models that were built in the process, too."""
    lengths = {}
    for name, builder in MODELS.items():
        model, _ = builder()
        config = {key: value for key, value in vars(model.args).items() if value is not None}
        lengths[name] = find_context_length(config, model, model.make_cache() if name == "mamba2" else ATTENTION)
    assert lengths["mamba2"] is None
    assert (lengths["qwen3"], lengths["deepseek_v3"], lengths["gpt_oss"]) == (2048, 2048, 131072)
